//! Owns `check.json`: what an author tells of a plugin so that more of it can be tried. Everything in it is optional.

use std::collections::BTreeMap;
use std::path::Path;

use mangrove_protocol::Object;
use mangrove_protocol::manifest::{Manifest, SymbolKind};
use mangrove_protocol::name::SymbolName;
use serde::Deserialize;
use serde_json::Value;

use super::CheckError;
use crate::config::conf_key_in;

/// Its name in the plugin's folder.
const FILE: &str = "check.json";

/// In texts of configurations: a folder that is made for the check.
const SCRATCH: &str = "{scratch}";

/// What is tried of the symbols that the manifest names.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) sources: BTreeMap<SymbolName, SourcePlan>,
    pub(super) sinks: BTreeMap<SymbolName, SinkPlan>,
    pub(super) functions: BTreeMap<SymbolName, FunctionPlan>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    sources: BTreeMap<SymbolName, SourcePlan>,
    sinks: BTreeMap<SymbolName, SinkPlan>,
    functions: BTreeMap<SymbolName, FunctionPlan>,
}

/// A source.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SourcePlan {
    /// With which it goes on for long, as fast as it may.
    pub(super) config: Option<Object>,
    pub(super) data_source: String,
    /// With which it must not start.
    pub(super) invalid: Option<Object>,
    pub(super) ends: Option<EndsPlan>,
    /// With which a tuple of it has 16 MiB or more.
    pub(super) large: Option<Object>,
    /// It keeps something in the state of its rule, and asks for it when it starts again.
    pub(super) state: bool,
}

/// How a source ends by itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndsPlan {
    pub(super) config: Object,
    /// How many tuples it brings.
    pub(super) tuples: usize,
    /// How many errors it reports before its end.
    #[serde(default)]
    pub(super) errors: usize,
}

/// A sink.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SinkPlan {
    pub(super) config: Option<Object>,
    /// Results that it takes; rows of a number by default.
    pub(super) results: Vec<Value>,
    /// With which it must not start.
    pub(super) invalid: Option<Object>,
    pub(super) fails: Option<FailsPlan>,
    /// It keeps something in the state of its rule, and asks for it when it starts again.
    pub(super) state: bool,
}

/// A result that a sink does not take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FailsPlan {
    /// If it needs another one.
    #[serde(default)]
    pub(super) config: Option<Object>,
    pub(super) result: Value,
    /// Part of the error.
    #[serde(default)]
    pub(super) error: String,
}

/// A function.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FunctionPlan {
    pub(super) calls: Vec<CallPlan>,
    /// It returns its only argument, whatever that is.
    pub(super) echo: bool,
    /// Whether it works on groups, and must say so; by default what it says is taken for true.
    pub(super) aggregate: Option<bool>,
    /// It works with the state of its rule. Its calls are made in order, and what it keeps outlives its process.
    pub(super) state: bool,
}

/// A call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CallPlan {
    pub(super) args: Vec<Value>,
    /// What it returns; null: not looked at.
    pub(super) result: Value,
    /// It fails, with an error that has this in it.
    pub(super) error: Option<String>,
    /// It is refused before it is made, with an error that has this in it.
    pub(super) invalid: Option<String>,
    /// It takes a while.
    pub(super) slow: bool,
    /// It makes the function panic, or throw what nobody expects.
    pub(super) panics: bool,
}

impl CallPlan {
    /// Whether it returns something.
    pub(super) fn succeeds(&self) -> bool {
        self.error.is_none() && self.invalid.is_none() && !self.panics
    }
}

impl Plan {
    /// Reads what there is in the plugin's folder. Blocking.
    ///
    /// # Errors
    /// A file cannot be read, or names a symbol that the manifest does not.
    pub(super) fn read(folder: &Path, manifest: &Manifest) -> Result<Self, CheckError> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
            Err(error) => return Err(CheckError::Plan(error.to_string())),
        };
        let mut plan = Self::parse(&text, manifest)?;
        // What is left out comes from the plugin's own conf keys, as in a host.
        for (symbol, source) in &mut plan.sources {
            default_config(folder, SymbolKind::Source, symbol, &mut source.config)?;
        }
        for (symbol, sink) in &mut plan.sinks {
            default_config(folder, SymbolKind::Sink, symbol, &mut sink.config)?;
        }
        Ok(plan)
    }

    fn parse(text: &str, manifest: &Manifest) -> Result<Self, CheckError> {
        let file: File = serde_json::from_str(text).map_err(|error| CheckError::Plan(error.to_string()))?;
        Ok(Self {
            sources: only_known(file.sources, manifest, SymbolKind::Source)?,
            sinks: only_known(file.sinks, manifest, SymbolKind::Sink)?,
            functions: only_known(file.functions, manifest, SymbolKind::Function)?,
        })
    }
}

/// Every symbol of the manifest, with what is told of it.
fn only_known<T: Default>(
    mut told: BTreeMap<SymbolName, T>,
    manifest: &Manifest,
    kind: SymbolKind,
) -> Result<BTreeMap<SymbolName, T>, CheckError> {
    let symbols = manifest.symbols(kind);
    if let Some(stranger) = told.keys().find(|name| !symbols.contains(name)) {
        return Err(CheckError::Plan(format!(
            "it tells of the {kind} {:?}, which the manifest does not name",
            stranger.as_str()
        )));
    }
    let all = symbols.iter();
    Ok(all
        .map(|name| (name.clone(), told.remove(name).unwrap_or_default()))
        .collect())
}

fn default_config(
    folder: &Path,
    kind: SymbolKind,
    symbol: &SymbolName,
    config: &mut Option<Object>,
) -> Result<(), CheckError> {
    if config.is_none() {
        let found = conf_key_in(folder, kind, symbol.as_str(), None);
        *config = Some(found.map_err(|error| CheckError::Plan(error.to_string()))?);
    }
    Ok(())
}

/// `config` with `folder` wherever it speaks of [`SCRATCH`].
pub(super) fn placed(config: &Object, folder: &Path) -> Object {
    let folder = folder.to_string_lossy();
    let place = |value: &Value| match value {
        Value::String(text) => text.replace(SCRATCH, &folder).into(),
        other => other.clone(),
    };
    config
        .iter()
        .map(|(key, value)| (key.clone(), place(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(text: &str) -> Result<Plan, CheckError> {
        let manifest =
            br#"{"version":"1","language":"go","executable":"x","sources":["s"],"functions":["f"]}"#;
        Plan::parse(text, &Manifest::parse(&"car".parse().unwrap(), manifest).unwrap())
    }

    #[test]
    fn every_symbol_of_the_manifest_is_in_the_plan() {
        let plan =
            parse(r#"{"functions":{"f":{"calls":[{"args":[1]},{"args":[],"invalid":"one"}]}}}"#).unwrap();
        let source = &plan.sources[&"s".parse::<SymbolName>().unwrap()];
        assert!(source.config.is_none() && plan.sinks.is_empty());
        let calls = &plan.functions[&"f".parse::<SymbolName>().unwrap()].calls;
        assert!(calls[0].succeeds() && !calls[1].succeeds());
    }

    #[test]
    fn what_it_does_not_understand_is_refused() {
        for (text, part) in [
            (
                r#"{"sinks":{"x":{}}}"#,
                "the sink \"x\", which the manifest does not name",
            ),
            (r#"{"sources":{"s":{"conf":{}}}}"#, "unknown field `conf`"),
            ("[", "EOF"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_scratch_folder_is_put_in() {
        let config = json!({"path": "{scratch}/kept", "count": 1});
        let placed = placed(config.as_object().unwrap(), Path::new("/t"));
        assert_eq!(Value::Object(placed), json!({"path": "/t/kept", "count": 1}));
    }
}
