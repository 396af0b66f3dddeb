//! Owns which plugins there are, which symbols they define, and who comes first when two define the same one.
//! Pure; the manager drives it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mangrove_protocol::manifest::{Manifest, SymbolKind};
use mangrove_protocol::name::{PluginName, SymbolName};

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
    /// Somebody stopped it.
    Stopped,
    /// It is being removed.
    Leaving,
}

/// What is known of one folder below `plugins/portable`.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// Its symbols may be used.
    Accepted(Arc<Manifest>),
    /// Its symbols are nobody else's, but may not be used.
    Held(Arc<Manifest>, Hold),
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
            Self::Unreadable(_) => None,
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
    plugin: PluginName,
    /// The version that no longer defines it; `None` when the plugin is gone.
    dropped_by: Option<String>,
}

/// Every folder by name. Names that are no plugin names can only be `Unreadable`.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    entries: BTreeMap<String, Entry>,
    /// At most [`MEMORY`], the latest at the end; each symbol once.
    departed: VecDeque<Departed>,
}

impl Catalog {
    /// Whether `manifest` could be accepted beside all *other* plugins.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), Conflict> {
        for kind in SymbolKind::ALL {
            for symbol in manifest.symbols(kind) {
                if let Some(owner) = self.owner(kind, symbol.as_str())
                    && owner.name != manifest.name
                {
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

    /// Enters a plugin, as accepted when no other one defines its symbols and as refused otherwise.
    pub(super) fn accept(&mut self, manifest: Arc<Manifest>) -> Result<(), Conflict> {
        let verdict = self.check(&manifest);
        let name = manifest.name.to_string();
        let entry = match &verdict {
            Ok(()) => Entry::Accepted(Arc::clone(&manifest)),
            Err(conflict) => Entry::Refused(Arc::clone(&manifest), conflict.to_string()),
        };
        if let Some(old) = self.entries.insert(name, entry) {
            self.remember(&old, Some(&manifest));
        }
        verdict
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

    /// Enters something that is not accepted.
    pub(super) fn refuse(&mut self, folder: String, manifest: Option<Arc<Manifest>>, reason: String) {
        let entry = match manifest {
            Some(manifest) => Entry::Refused(manifest, reason),
            None => Entry::Unreadable(reason),
        };
        self.entries.insert(folder, entry);
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Entry> {
        let entry = self.entries.remove(name)?;
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
                    dropped_by: new.map(|new| new.version.clone()),
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
                Entry::Accepted(manifest) if is_defined_by(manifest) => return None,
                Entry::Held(manifest, Hold::Stopped) => (manifest, "is stopped".to_owned()),
                Entry::Held(manifest, Hold::Leaving) => (manifest, "is being removed".to_owned()),
                Entry::Refused(manifest, reason) => (manifest, format!("is refused: {reason}")),
                Entry::Accepted(_) | Entry::Unreadable(_) => continue,
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
            let reason = match &departed.dropped_by {
                Some(version) => {
                    format!(
                        "version {version} of the plugin \"{plugin}\" does not define the {kind} {symbol:?}"
                    )
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
            Entry::Refused(manifest, reason)
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
            Entry::Refused(..) | Entry::Unreadable(_) => None,
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
        catalog.refuse(
            "bus".to_owned(),
            Some(manifest("bus", r#""sources":["json"]"#)),
            "no program".to_owned(),
        );
        assert_eq!(
            reason(&catalog).unwrap(),
            r#"the plugin "bus" is refused: no program"#
        );
        catalog.accept(manifest("car", r#""sources":["json"]"#)).unwrap();
        assert_eq!(reason(&catalog), None);
        assert!(catalog.hold("car", Hold::Stopped));
        assert_eq!(reason(&catalog).unwrap(), r#"the plugin "car" is stopped"#);
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
        catalog.refuse("what ever".to_owned(), None, "no manifest".to_owned());
        assert!(catalog.entry("what ever").unwrap().manifest().is_none());
        assert_eq!(catalog.entries().count(), 1);
    }
}
