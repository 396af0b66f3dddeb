//! Owns which plugins there are, which symbols they define, and who comes first when two define the same one.
//! Pure; the manager drives it.

use std::collections::BTreeMap;
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

/// What is known of one folder below `plugins/portable`.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// Its symbols may be used.
    Accepted(Arc<Manifest>),
    /// Its manifest is fine, something else is not.
    Refused(Arc<Manifest>, String),
    /// It has no manifest that can be read.
    Unreadable(String),
}

impl Entry {
    /// The manifest, when there is one that can be read.
    pub(super) fn manifest(&self) -> Option<&Arc<Manifest>> {
        match self {
            Self::Accepted(manifest) | Self::Refused(manifest, _) => Some(manifest),
            Self::Unreadable(_) => None,
        }
    }
}

/// Every folder by name. Names that are no plugin names can only be `Unreadable`.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    entries: BTreeMap<String, Entry>,
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
            Ok(()) => Entry::Accepted(manifest),
            Err(conflict) => Entry::Refused(manifest, conflict.to_string()),
        };
        self.entries.insert(name, entry);
        verdict
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
        self.entries.remove(name)
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// All entries by name.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The accepted plugin that defines the symbol.
    pub(super) fn owner(&self, kind: SymbolKind, symbol: &str) -> Option<&Arc<Manifest>> {
        self.accepted()
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

    /// Every usable symbol of a kind, by plugin.
    pub(super) fn symbols(&self, kind: SymbolKind) -> impl Iterator<Item = (&SymbolName, &Arc<Manifest>)> {
        self.accepted().flat_map(move |manifest| {
            manifest
                .symbols(kind)
                .iter()
                .map(move |symbol| (symbol, manifest))
        })
    }

    fn accepted(&self) -> impl Iterator<Item = &Arc<Manifest>> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::Accepted(manifest) => Some(manifest),
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
    fn a_folder_without_a_manifest_has_only_a_reason() {
        let mut catalog = Catalog::default();
        catalog.refuse("what ever".to_owned(), None, "no manifest".to_owned());
        assert!(catalog.entry("what ever").unwrap().manifest().is_none());
        assert_eq!(catalog.entries().count(), 1);
    }
}
