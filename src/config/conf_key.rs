//! Owns conf keys: the named sets of properties in `etc/{sources,sinks,functions}/<symbol>.yaml`.
//!
//! A file maps keys to properties. Those of `default` hold for every use of the symbol; those of the key that a
//! stream or an action names are laid over them, property by property. Callers ask when a rule is planned or
//! started; the file is read each time, so an edit holds from the next start on.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use mangrove_protocol::Object;
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::{self, NameError};

use super::yaml::{self, YamlError};

/// The key whose properties hold for every use.
const DEFAULT: &str = "default";

/// Why a conf key gives no properties.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfKeyError {
    /// The symbol's name could lead out of the folder.
    #[error("no file can be named after the symbol: {0}")]
    Symbol(#[source] NameError),
    /// The file is there and is no set of conf keys.
    #[error(transparent)]
    File(#[from] YamlError),
    /// A key was asked for, and there is no file.
    #[error("there is no conf key {key:?}: {} does not exist", path.display())]
    NoFile {
        /// The key that was asked for.
        key: String,
        /// Where the file would be.
        path: PathBuf,
    },
    /// A key was asked for that the file does not have.
    #[error("there is no conf key {key:?} in {}; it has {}", path.display(), listed(known))]
    NoKey {
        /// The key that was asked for.
        key: String,
        /// The file.
        path: PathBuf,
        /// The keys that it has.
        known: Vec<String>,
    },
}

/// The properties of conf key `key` of a symbol, laid over those of `default`; without a key, `default` alone,
/// which may be absent together with the file.
///
/// Keys are compared exactly, then without regard to ASCII case, since eKuiper lower-cases them. Reads one small
/// file, blocking.
///
/// # Errors
/// The symbol is no name, the file is broken, or it has no such key.
pub fn conf_key(
    home: &Path,
    kind: SymbolKind,
    symbol: &str,
    key: Option<&str>,
) -> Result<Object, ConfKeyError> {
    conf_key_in(&home.join("etc"), kind, symbol, key)
}

/// As [`conf_key`], from the files below `etc` itself, or below another folder that is laid out like it.
///
/// # Errors
/// As those of [`conf_key`].
pub fn conf_key_in(
    etc: &Path,
    kind: SymbolKind,
    symbol: &str,
    key: Option<&str>,
) -> Result<Object, ConfKeyError> {
    name::check(symbol).map_err(ConfKeyError::Symbol)?;
    let path = etc.join(folder(kind)).join(format!("{symbol}.yaml"));
    // An empty file and a key with nothing below it are null.
    let Some(file) = yaml::read::<Option<IndexMap<String, Option<Object>>>>(&path)? else {
        return match key {
            Some(key) => Err(ConfKeyError::NoFile {
                key: key.to_owned(),
                path,
            }),
            None => Ok(Object::new()),
        };
    };
    let mut keys = file.unwrap_or_default();
    let named = match key {
        None => Object::new(),
        Some(key) => match find(&keys, key) {
            Some(index) => keys
                .get_index(index)
                .and_then(|(_, properties)| properties.clone()),
            None => {
                return Err(ConfKeyError::NoKey {
                    key: key.to_owned(),
                    path,
                    known: keys.into_keys().collect(),
                });
            }
        }
        .unwrap_or_default(),
    };
    let mut properties = keys.swap_remove(DEFAULT).flatten().unwrap_or_default();
    properties.extend(named);
    Ok(properties)
}

fn find(keys: &IndexMap<String, Option<Object>>, key: &str) -> Option<usize> {
    keys.get_index_of(key)
        .or_else(|| keys.keys().position(|known| known.eq_ignore_ascii_case(key)))
}

fn folder(kind: SymbolKind) -> &'static str {
    match kind {
        SymbolKind::Source => "sources",
        SymbolKind::Sink => "sinks",
        SymbolKind::Function => "functions",
    }
}

fn listed(known: &[String]) -> String {
    if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tempfile::TempDir;

    fn home(yaml: &str) -> TempDir {
        let home = TempDir::new().unwrap();
        let folder = home.path().join("etc/sources");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("json.yaml"), yaml).unwrap();
        home
    }

    fn properties(home: &TempDir, key: Option<&str>) -> Result<serde_json::Value, String> {
        conf_key(home.path(), SymbolKind::Source, "json", key)
            .map(serde_json::Value::Object)
            .map_err(|error| error.to_string())
    }

    const FILE: &str = "default:\n  interval: 1000\n  loop: true\n  mode: on\nFast:\n  interval: 10\n  items: [{a: 1.5}]\nbare:\n";

    #[test]
    fn a_keys_properties_are_laid_over_the_defaults() {
        let home = home(FILE);
        let default = json!({"interval": 1000, "loop": true, "mode": "on"});
        assert_eq!(properties(&home, None).unwrap(), default);
        assert_eq!(properties(&home, Some("default")).unwrap(), default);
        assert_eq!(properties(&home, Some("bare")).unwrap(), default);
        let fast = json!({"interval": 10, "loop": true, "mode": "on", "items": [{"a": 1.5}]});
        assert_eq!(properties(&home, Some("Fast")).unwrap(), fast);
        assert_eq!(properties(&home, Some("fast")).unwrap(), fast);
    }

    #[test]
    fn nothing_there_is_fine_until_a_key_is_asked_for() {
        let empty = home("");
        assert_eq!(properties(&empty, None).unwrap(), json!({}));
        assert!(
            properties(&empty, Some("x"))
                .unwrap_err()
                .ends_with("it has none")
        );

        let none = TempDir::new().unwrap();
        assert_eq!(properties(&none, None).unwrap(), json!({}));
        let error = properties(&none, Some("x")).unwrap_err();
        assert!(error.starts_with(r#"there is no conf key "x": "#), "{error}");
        assert!(error.ends_with("etc/sources/json.yaml does not exist"), "{error}");
    }

    #[test]
    fn a_missing_key_is_answered_with_those_that_exist() {
        let error = properties(&home(FILE), Some("slow")).unwrap_err();
        assert!(error.contains(r#"no conf key "slow" in "#), "{error}");
        assert!(
            error.ends_with("json.yaml; it has default, Fast, bare"),
            "{error}"
        );
    }

    #[test]
    fn a_broken_file_is_an_error_with_file_and_line() {
        for (yaml, place) in [
            ("default:\n  a: [1\n", "line 2, column 6"),
            ("default:\n  a: 1\nfast: 7\n", "line 3, column 7"),
            ("- a\n", "line 1, column 1"),
            ("default: {a: 1}\ndefault: {a: 2}\n", "line 2, column 1"),
        ] {
            let error = properties(&home(yaml), None).unwrap_err();
            assert!(
                error.contains("/json.yaml: ") && error.contains(place),
                "{yaml:?}: {error}"
            );
        }
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        let home = home(FILE);
        for symbol in ["../json", "/etc/passwd", "", ".json", "a/b"] {
            let error = conf_key(home.path(), SymbolKind::Sink, symbol, None).unwrap_err();
            assert!(matches!(error, ConfKeyError::Symbol(_)), "{symbol:?}: {error}");
        }
    }
}
