//! Owns which plugins there are, which symbols they define, and who comes first when two define the same one.
//! Pure; the manager drives it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mangrove_protocol::manifest::{Manifest, SymbolKind};
use mangrove_protocol::name::{PluginName, SymbolName};

use super::diff::Verdict;

/// A symbol that another plugin already defines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {kind} \"{symbol}\" of the plugin \"{plugin}\" is already defined by the plugin \"{owner}\"")]
pub struct Conflict {
    /// Its kind.
    pub kind: SymbolKind,
    /// Its name.
    pub symbol: SymbolName,
    /// The plugin that came later.
    pub plugin: PluginName,
    /// The plugin that has it.
    pub owner: PluginName,
}

/// A symbol that nobody can use now, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The plugin that defines it, or did so last.
    pub plugin: Option<PluginName>,
    /// Such as `the plugin "car" was removed`.
    pub reason: String,
}

/// Why a plugin's symbols may not be used just now, although they are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Something of it is being made, as this says.
    Installing(&'static str),
    /// It is about to be started; this says what it waits for, if it does.
    Starting(&'static str),
    /// Somebody stopped it.
    Stopped,
    /// It is being removed.
    Leaving,
    /// What runs in one of its processes is to run in another one.
    Moving,
}

/// What is known of one folder below `plugins/portable`.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// Its symbols may be used.
    Accepted(Arc<Manifest>),
    /// Its symbols are nobody else's, but may not be used.
    Held(Arc<Manifest>, Hold),
    /// Something of it is not there yet.
    Incomplete(Option<Arc<Manifest>>, String),
    /// Its manifest is fine, something else is not.
    Refused(Arc<Manifest>, String),
    /// It has no manifest that can be read.
    Unreadable(String),
}

impl Entry {
    /// The manifest, when there is one that can be read.
    pub(super) fn manifest(&self) -> Option<&Arc<Manifest>> {
        match self {
            Self::Accepted(manifest) | Self::Held(manifest, _) | Self::Refused(manifest, _) => Some(manifest),
            Self::Incomplete(manifest, _) => manifest.as_ref(),
            Self::Unreadable(_) => None,
        }
    }

    /// Why it does not run, when it is not accepted.
    pub(super) fn unfit(&self) -> Option<Verdict> {
        match self {
            Self::Accepted(_) | Self::Held(..) => None,
            Self::Incomplete(_, reason) => Some(Verdict::Incomplete(reason.clone())),
            Self::Refused(_, reason) | Self::Unreadable(reason) => Some(Verdict::Refused(reason.clone())),
        }
    }
}

/// How many symbols of plugins that are gone are remembered.
const MEMORY: usize = 1024;

/// A symbol that is gone.
#[derive(Debug)]
struct Departed {
    kind: SymbolKind,
    symbol: SymbolName,
    /// Who defined it last.
    plugin: PluginName,
}

/// Every folder by name. Names that are no plugin names can only be `Unreadable`.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    entries: BTreeMap<String, Entry>,
    /// What accepted plugins are about to become: their new symbols are nobody else's any more.
    claims: BTreeMap<PluginName, Arc<Manifest>>,
    /// At most [`MEMORY`], the latest at the end; each symbol once.
    departed: VecDeque<Departed>,
}

impl Catalog {
    /// Whether `manifest` could be accepted beside all *other* plugins.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), Conflict> {
        for kind in SymbolKind::ALL {
            for symbol in manifest.symbols(kind) {
                let mut others = self.owners().chain(self.claims.values());
                let owner =
                    others.find(|other| other.name != manifest.name && other.symbols(kind).contains(symbol));
                if let Some(owner) = owner {
                    return Err(Conflict {
                        kind,
                        symbol: symbol.clone(),
                        plugin: manifest.name.clone(),
                        owner: owner.name.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Keeps the symbols of `manifest` for its plugin, which is to become this.
    pub(super) fn claim(&mut self, manifest: Arc<Manifest>) -> Result<(), Conflict> {
        self.check(&manifest)?;
        self.claims.insert(manifest.name.clone(), manifest);
        Ok(())
    }

    /// It did not become what was claimed.
    pub(super) fn release(&mut self, name: &str) {
        self.claims.remove(name);
    }

    /// Enters a plugin whose symbols nobody else defines, and withholds them.
    pub(super) fn enter(&mut self, manifest: Arc<Manifest>, hold: Hold) -> Result<(), Conflict> {
        self.check(&manifest)?;
        self.put(manifest, |manifest| Entry::Held(manifest, hold));
        Ok(())
    }

    /// Enters a plugin whose symbols nobody else defines.
    pub(super) fn accept(&mut self, manifest: Arc<Manifest>) -> Result<(), Conflict> {
        self.check(&manifest)?;
        self.put(manifest, Entry::Accepted);
        Ok(())
    }

    fn put(&mut self, manifest: Arc<Manifest>, entry: impl FnOnce(Arc<Manifest>) -> Entry) {
        self.claims.remove(&manifest.name);
        let old = self
            .entries
            .insert(manifest.name.to_string(), entry(Arc::clone(&manifest)));
        if let Some(old) = old {
            self.remember(&old, Some(&manifest));
        }
    }

    /// Says how far a plugin is that was entered and not accepted yet. False when it is none.
    pub(super) fn prepare(&mut self, name: &str, hold: Hold) -> bool {
        match self.entries.get_mut(name) {
            Some(Entry::Held(_, held @ (Hold::Installing(_) | Hold::Starting(_)))) => {
                *held = hold;
                true
            }
            _ => false,
        }
    }

    /// Withholds the symbols of an accepted plugin. False when it is none.
    pub(super) fn hold(&mut self, name: &str, hold: Hold) -> bool {
        match self.entries.get_mut(name) {
            Some(entry @ (Entry::Accepted(_) | Entry::Held(..))) => {
                if let Some(manifest) = entry.manifest() {
                    *entry = Entry::Held(Arc::clone(manifest), hold);
                }
                true
            }
            _ => false,
        }
    }

    /// Lets the symbols be used again of a plugin that is [`Hold::Moving`].
    pub(super) fn resume(&mut self, name: &str) {
        if let Some(entry @ Entry::Held(_, Hold::Moving)) = self.entries.get_mut(name)
            && let Some(manifest) = entry.manifest()
        {
            *entry = Entry::Accepted(Arc::clone(manifest));
        }
    }

    /// Enters something that does not run. True when that is news.
    pub(super) fn show(&mut self, folder: &str, manifest: Option<Arc<Manifest>>, verdict: Verdict) -> bool {
        let entry = match (verdict, manifest) {
            (Verdict::Whole, _) => return false,
            (Verdict::Incomplete(reason), manifest) => Entry::Incomplete(manifest, reason),
            (Verdict::Refused(reason), Some(manifest)) => Entry::Refused(manifest, reason),
            (Verdict::Refused(reason), None) => Entry::Unreadable(reason),
        };
        let is = entry.unfit();
        let old = self.entries.insert(folder.to_owned(), entry);
        if let Some(old) = &old {
            self.remember(old, None);
        }
        old.and_then(|old| old.unfit()) != is
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Entry> {
        let entry = self.entries.remove(name)?;
        self.claims.remove(name);
        self.remember(&entry, None);
        Some(entry)
    }

    /// Notes whose the symbols of `old` were, but for those that `new` still defines.
    fn remember(&mut self, old: &Entry, new: Option<&Manifest>) {
        let (Entry::Accepted(old) | Entry::Held(old, _)) = old else {
            return;
        };
        for kind in SymbolKind::ALL {
            for symbol in old.symbols(kind) {
                self.departed
                    .retain(|departed| (departed.kind, &departed.symbol) != (kind, symbol));
                if new.is_some_and(|new| new.symbols(kind).contains(symbol)) {
                    continue;
                }
                if self.departed.len() == MEMORY {
                    self.departed.pop_front();
                }
                self.departed.push_back(Departed {
                    kind,
                    symbol: symbol.clone(),
                    plugin: old.name.clone(),
                });
            }
        }
    }

    /// Why nobody can use the symbol; `None` when it can be used.
    pub(super) fn missing(&self, kind: SymbolKind, symbol: &str) -> Option<Missing> {
        let is_defined_by =
            |manifest: &Manifest| manifest.symbols(kind).iter().any(|name| name.as_str() == symbol);
        let mut refused = None;
        for entry in self.entries.values() {
            let (manifest, state) = match entry {
                Entry::Accepted(manifest) | Entry::Held(manifest, Hold::Starting(_))
                    if is_defined_by(manifest) =>
                {
                    return None;
                }
                Entry::Held(manifest, Hold::Installing(_)) => (manifest, "is being installed".to_owned()),
                Entry::Held(manifest, Hold::Stopped) => (manifest, "is stopped".to_owned()),
                Entry::Held(manifest, Hold::Leaving) => (manifest, "is being removed".to_owned()),
                Entry::Held(manifest, Hold::Moving) => (manifest, "goes on in one process alone".to_owned()),
                Entry::Refused(manifest, reason) => (manifest, format!("is refused: {reason}")),
                Entry::Incomplete(Some(manifest), reason) => (manifest, format!("is incomplete: {reason}")),
                _ => continue,
            };
            if is_defined_by(manifest) {
                refused = Some(Missing {
                    plugin: Some(manifest.name.clone()),
                    reason: format!("the plugin \"{}\" {state}", manifest.name),
                });
            }
        }
        let departed = || {
            let mut departed = self.departed.iter();
            let departed = departed.find(|gone| gone.kind == kind && gone.symbol.as_str() == symbol)?;
            let plugin = &departed.plugin;
            let reason = match self.entry(plugin.as_str()) {
                Some(Entry::Accepted(manifest) | Entry::Held(manifest, _)) => format!(
                    "version {} of the plugin \"{plugin}\" does not define the {kind} {symbol:?}",
                    manifest.version
                ),
                Some(Entry::Refused(_, reason) | Entry::Unreadable(reason)) => {
                    format!("the plugin \"{plugin}\" is refused: {reason}")
                }
                Some(Entry::Incomplete(_, reason)) => {
                    format!("the plugin \"{plugin}\" is incomplete: {reason}")
                }
                None => format!("the plugin \"{plugin}\" was removed"),
            };
            Some(Missing {
                plugin: Some(plugin.clone()),
                reason,
            })
        };
        refused.or_else(departed).or_else(|| {
            Some(Missing {
                plugin: None,
                reason: format!("no plugin defines the {kind} {symbol:?}"),
            })
        })
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// All entries by name.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The plugin whose symbol it is; it may be held.
    pub(super) fn owner(&self, kind: SymbolKind, symbol: &str) -> Option<&Arc<Manifest>> {
        self.owners()
            .find(|manifest| manifest.symbols(kind).iter().any(|name| name.as_str() == symbol))
    }

    /// A refused plugin that would define the symbol, and why it is refused.
    pub(super) fn refused_owner(&self, kind: SymbolKind, symbol: &str) -> Option<(&PluginName, &str)> {
        self.entries.values().find_map(|entry| match entry {
            Entry::Refused(manifest, reason) | Entry::Incomplete(Some(manifest), reason)
                if manifest.symbols(kind).iter().any(|name| name.as_str() == symbol) =>
            {
                Some((&manifest.name, reason.as_str()))
            }
            _ => None,
        })
    }

    /// Every symbol of a kind that is some plugin's own, by plugin.
    pub(super) fn symbols(&self, kind: SymbolKind) -> impl Iterator<Item = (&SymbolName, &Arc<Manifest>)> {
        self.owners().flat_map(move |manifest| {
            manifest
                .symbols(kind)
                .iter()
                .map(move |symbol| (symbol, manifest))
        })
    }

    fn owners(&self) -> impl Iterator<Item = &Arc<Manifest>> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::Accepted(manifest) | Entry::Held(manifest, _) => Some(manifest),
            Entry::Incomplete(..) | Entry::Refused(..) | Entry::Unreadable(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, fields: &str) -> Arc<Manifest> {
        let json = format!(r#"{{"version":"1","language":"go","executable":"x",{fields}}}"#);
        Arc::new(Manifest::parse(&name.parse().unwrap(), json.as_bytes()).unwrap())
    }

    #[test]
    fn the_later_plugin_is_refused_with_both_names() {
        let mut catalog = Catalog::default();
        catalog.accept(manifest("car", r#""sources":["json"]"#)).unwrap();
        let conflict = catalog
            .accept(manifest("bus", r#""sinks":["a"],"sources":["json"]"#))
            .unwrap_err();
        assert_eq!(
            conflict.to_string(),
            r#"the source "json" of the plugin "bus" is already defined by the plugin "car""#
        );
        // None of its symbols is usable, not even those that nobody else defines.
        assert!(catalog.owner(SymbolKind::Sink, "a").is_none());
        let refused = Verdict::Refused(conflict.to_string());
        let bus = || Some(manifest("bus", r#""sinks":["a"],"sources":["json"]"#));
        assert!(catalog.show("bus", bus(), refused.clone()));
        assert!(!catalog.show("bus", bus(), refused));
        assert_eq!(
            catalog.refused_owner(SymbolKind::Sink, "a").unwrap().0.as_str(),
            "bus"
        );
        assert_eq!(
            catalog.owner(SymbolKind::Source, "json").unwrap().name.as_str(),
            "car"
        );
    }

    #[test]
    fn one_name_may_be_a_source_here_and_a_sink_there() {
        let mut catalog = Catalog::default();
        catalog.accept(manifest("car", r#""sources":["json"]"#)).unwrap();
        catalog.accept(manifest("bus", r#""sinks":["json"]"#)).unwrap();
        assert_eq!(
            catalog.owner(SymbolKind::Sink, "json").unwrap().name.as_str(),
            "bus"
        );
    }

    #[test]
    fn a_new_version_does_not_conflict_with_itself() {
        let mut catalog = Catalog::default();
        catalog.accept(manifest("car", r#""sources":["json"]"#)).unwrap();
        catalog
            .accept(manifest("car", r#""sources":["json","udp"]"#))
            .unwrap();
        assert_eq!(catalog.symbols(SymbolKind::Source).count(), 2);
    }

    #[test]
    fn a_removed_plugin_frees_its_symbols() {
        let mut catalog = Catalog::default();
        catalog.accept(manifest("car", r#""sources":["json"]"#)).unwrap();
        assert!(catalog.remove("car").is_some());
        assert!(catalog.check(&manifest("bus", r#""sources":["json"]"#)).is_ok());
    }

    #[test]
    fn why_a_symbol_is_missing_is_said_as_long_as_it_is() {
        let mut catalog = Catalog::default();
        let reason = |catalog: &Catalog| {
            catalog
                .missing(SymbolKind::Source, "json")
                .map(|missing| missing.reason)
        };
        assert_eq!(
            reason(&catalog).unwrap(),
            r#"no plugin defines the source "json""#
        );
        let bus = manifest("bus", r#""sources":["json"]"#);
        catalog.show("bus", Some(bus), Verdict::Refused("no program".to_owned()));
        assert_eq!(
            reason(&catalog).unwrap(),
            r#"the plugin "bus" is refused: no program"#
        );
        catalog.accept(manifest("car", r#""sources":["json"]"#)).unwrap();
        assert_eq!(reason(&catalog), None);
        assert!(catalog.hold("car", Hold::Stopped));
        assert_eq!(reason(&catalog).unwrap(), r#"the plugin "car" is stopped"#);
        // What somebody has stopped, does not go on with this.
        catalog.resume("car");
        assert_eq!(reason(&catalog).unwrap(), r#"the plugin "car" is stopped"#);
        assert!(catalog.hold("car", Hold::Moving));
        assert_eq!(
            reason(&catalog).unwrap(),
            r#"the plugin "car" goes on in one process alone"#
        );
        catalog.resume("car");
        assert_eq!(reason(&catalog), None);
        assert!(catalog.hold("car", Hold::Stopped));
        // Held symbols are not free.
        assert!(catalog.check(&manifest("bus", r#""sources":["json"]"#)).is_err());
        assert!(catalog.hold("car", Hold::Leaving) && !catalog.hold("bus", Hold::Leaving));
        assert_eq!(reason(&catalog).unwrap(), r#"the plugin "car" is being removed"#);
        catalog.remove("bus");
        catalog.remove("car");
        assert_eq!(reason(&catalog).unwrap(), r#"the plugin "car" was removed"#);
        catalog
            .accept(manifest("car", r#""sources":["json","udp"]"#))
            .unwrap();
        assert_eq!(reason(&catalog), None);
        catalog.accept(manifest("car", r#""sources":["udp"]"#)).unwrap();
        assert_eq!(
            reason(&catalog).unwrap(),
            r#"version 1 of the plugin "car" does not define the source "json""#
        );
        // It goes, and comes back without the symbol.
        catalog.remove("car");
        assert_eq!(reason(&catalog).unwrap(), r#"the plugin "car" was removed"#);
        catalog.show("car", None, Verdict::Refused("no manifest".to_owned()));
        assert_eq!(
            reason(&catalog).unwrap(),
            r#"the plugin "car" is refused: no manifest"#
        );
        let without = manifest("car", r#""sources":["udp"]"#);
        catalog.enter(without, Hold::Installing("")).unwrap();
        assert_eq!(
            reason(&catalog).unwrap(),
            r#"version 1 of the plugin "car" does not define the source "json""#
        );
    }

    #[test]
    fn what_a_plugin_is_about_to_become_is_nobody_elses() {
        let mut catalog = Catalog::default();
        catalog.accept(manifest("car", r#""sources":["json"]"#)).unwrap();
        catalog.claim(manifest("car", r#""sources":["udp"]"#)).unwrap();
        // Until it has become that, it is what it was.
        assert!(catalog.owner(SymbolKind::Source, "udp").is_none());
        for taken in ["json", "udp"] {
            let bus = manifest("bus", &format!(r#""sources":["{taken}"]"#));
            assert_eq!(catalog.claim(bus).unwrap_err().owner.as_str(), "car");
        }
        catalog.release("car");
        catalog
            .enter(manifest("bus", r#""sources":["udp"]"#), Hold::Starting(""))
            .unwrap();
        assert_eq!(catalog.missing(SymbolKind::Source, "udp"), None);
        assert!(catalog.accept(manifest("car", r#""sources":["udp"]"#)).is_err());
    }

    #[test]
    fn what_is_remembered_of_plugins_that_are_gone_is_bounded() {
        let mut catalog = Catalog::default();
        for i in 0..MEMORY + 10 {
            catalog
                .accept(manifest("car", &format!(r#""sources":["s{i}"]"#)))
                .unwrap();
        }
        assert_eq!(catalog.departed.len(), MEMORY);
    }

    #[test]
    fn a_folder_without_a_manifest_has_only_a_reason() {
        let mut catalog = Catalog::default();
        catalog.show("what ever", None, Verdict::Refused("no manifest".to_owned()));
        assert!(catalog.entry("what ever").unwrap().manifest().is_none());
        assert_eq!(catalog.entries().count(), 1);
    }
}
