//! Owns the manifest `<plugin>/<plugin>.json`: its fields, and what makes one acceptable on its own.
//!
//! Whether the executable exists, or another plugin already defines a symbol, is for the host to find out.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::name::{NameError, PluginName, SymbolName};

/// The largest manifest that is read, in bytes.
pub const MAX_SIZE: usize = 256 * 1024;

/// The longest `startTimeout`, in milliseconds: one hour is longer than anybody should wait for a plugin.
pub const MAX_START_TIMEOUT: u64 = 3_600_000;

/// The most processes that one plugin can have.
pub const MAX_INSTANCES: u32 = 64;

/// What a plugin folder says of itself.
///
/// ```
/// use mangrove_protocol::manifest::Manifest;
///
/// let json = br#"{"version": "v1.0.0", "language": "go", "executable": "server", "sources": ["json"]}"#;
/// let manifest = Manifest::parse(&"car".parse()?, json)?;
/// assert_eq!(manifest.name.as_str(), "car");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The plugin's name: that of its folder.
    pub name: PluginName,
    /// The author's version, free text.
    pub version: String,
    /// How `executable` is run: `python` through an interpreter, anything else by itself.
    pub language: Language,
    /// The program, relative to the plugin's folder.
    pub executable: String,
    /// Programs per platform (`linux-x86_64`, …), relative to the folder; the host's own platform wins over
    /// `executable`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub executables: BTreeMap<String, String>,
    /// The sources that it defines.
    pub sources: Vec<SymbolName>,
    /// The sinks that it defines.
    pub sinks: Vec<SymbolName>,
    /// The functions that it defines.
    pub functions: Vec<SymbolName>,
    /// The kind of Python environment, if it wants one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_env_type: Option<VirtualEnvType>,
    /// The environment's name, for `conda`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// More arguments for the program, behind the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables for the process.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// How long the process may take until its first handshake, in milliseconds, from 1 to [`MAX_START_TIMEOUT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timeout: Option<u64>,
    /// What each of its processes may use at most.
    #[serde(skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// How many processes of it run beside each other, from 1 to [`MAX_INSTANCES`].
    #[serde(skip_serializing_if = "is_one")]
    pub instances: u32,
    /// What it is for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What each process of a plugin may use at most; the host's settings may say less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Memory for data, in bytes; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Open files; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// The weight beside other processes when the processors are busy, in percent of the usual one, from 1 to
    /// 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_share: Option<u8>,
}

impl Limits {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

fn is_one(instances: &u32) -> bool {
    *instances == 1
}

/// How a plugin's program is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Language {
    /// Through the Python interpreter.
    Python,
    /// By itself; the word is free (`go`, `rust`, `binary`, …).
    Executable(String),
}

/// The kind of environment that a Python plugin runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtualEnvType {
    /// `conda run -n <env>`.
    Conda,
    /// A `venv` inside the plugin's folder.
    Venv,
    /// The same, made by `uv`.
    Uv,
}

/// The kinds of symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SymbolKind {
    /// Brings data in.
    Source,
    /// Takes results out.
    Sink,
    /// Is called inside SQL.
    Function,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// More than [`MAX_SIZE`] bytes.
    #[error("the manifest has {size} bytes; at most {MAX_SIZE} are read")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// Not JSON, or a field of the wrong kind; the source says where and what.
    #[error("the manifest cannot be read: {0}")]
    Json(#[source] serde_json::Error),
    /// `name` differs from the folder.
    #[error("the manifest's name {found:?} is not \"{expected}\", the name of its folder")]
    Name {
        /// The folder's name.
        expected: PluginName,
        /// What the manifest says.
        found: String,
    },
    /// A field that has to say something is absent or empty.
    #[error("the manifest's field {field:?} is missing or empty")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// No source, no sink, no function.
    #[error(
        "the manifest defines no symbol; expected at least one in \"sources\", \"sinks\" or \"functions\""
    )]
    NoSymbol,
    /// A symbol's name that is no name.
    #[error("in {field:?}: {source}")]
    SymbolName {
        /// `sources`, `sinks` or `functions`.
        field: &'static str,
        /// What is wrong.
        source: NameError,
    },
    /// One name twice in one list.
    #[error("{field:?} names \"{symbol}\" twice")]
    SymbolTwice {
        /// `sources`, `sinks` or `functions`.
        field: &'static str,
        /// The symbol.
        symbol: SymbolName,
    },
    /// A program outside of the plugin's folder.
    #[error("{field:?} is {path:?}; expected a path inside the plugin's folder, without \"..\"")]
    Path {
        /// `executable` or `executables`.
        field: &'static str,
        /// What it says.
        path: String,
    },
    /// An unknown word in `virtualEnvType`.
    #[error("\"virtualEnvType\" is {found:?}; expected conda, venv or uv")]
    VirtualEnvType {
        /// What it says.
        found: String,
    },
    /// A `startTimeout` that nobody can wait for.
    #[error("\"startTimeout\" is {found}; expected an integer from 1 to {MAX_START_TIMEOUT} (milliseconds)")]
    StartTimeout {
        /// What it says, in milliseconds.
        found: u64,
    },
    /// A limit that nothing can run under, or that is none.
    #[error("\"limits\": {field:?} is {found}; expected {expected}")]
    Limit {
        /// `memory`, `openFiles` or `cpuShare`.
        field: &'static str,
        /// What it says.
        found: u64,
        /// What was expected.
        expected: &'static str,
    },
    /// A number of processes that no plugin can have.
    #[error("\"instances\" is {found}; expected an integer from 1 to {MAX_INSTANCES} (processes)")]
    Instances {
        /// What it says.
        found: serde_json::Number,
    },
    /// A NUL byte or a `=` where the system's environment can't hold it.
    #[error("{field:?} holds {text:?}, which cannot be handed to a process")]
    Unpassable {
        /// `args` or `environment`.
        field: &'static str,
        /// The text.
        text: String,
    },
}

impl Manifest {
    /// Reads the manifest of the plugin in the folder `folder`.
    ///
    /// # Errors
    /// The first thing that is wrong with it: no JSON, unknown or missing fields, a name that isn't the
    /// folder's, no symbols, bad or repeated symbol names, a program outside of the folder.
    pub fn parse(folder: &PluginName, json: &[u8]) -> Result<Self, ManifestError> {
        if json.len() > MAX_SIZE {
            return Err(ManifestError::TooLarge { size: json.len() });
        }
        // Editors on some systems put a byte order mark in front.
        let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
        let raw: Raw = serde_json::from_slice(json).map_err(ManifestError::Json)?;
        raw.check(folder)
    }

    /// The symbols of one kind.
    pub fn symbols(&self, kind: SymbolKind) -> &[SymbolName] {
        match kind {
            SymbolKind::Source => &self.sources,
            SymbolKind::Sink => &self.sinks,
            SymbolKind::Function => &self.functions,
        }
    }

    /// The program for `platform` (`<os>-<arch>`, as in `linux-x86_64`), relative to the plugin's folder.
    pub fn executable_for(&self, platform: &str) -> &str {
        self.executables.get(platform).unwrap_or(&self.executable)
    }
}

impl SymbolKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Source, Self::Sink, Self::Function];

    /// The manifest's field (and the folder of `etc`) that lists symbols of this kind.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Source => "sources",
            Self::Sink => "sinks",
            Self::Function => "functions",
        }
    }
}

impl fmt::Display for SymbolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Sink => "sink",
            Self::Function => "function",
        })
    }
}

impl Language {
    /// The word as the manifest says it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Python => "python",
            Self::Executable(word) => word,
        }
    }
}

impl Serialize for Language {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The manifest as JSON has it, before any check. Absent and `null` are the same, as in the published host.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    name: Option<String>,
    version: Option<String>,
    language: Option<String>,
    executable: Option<String>,
    executables: Option<BTreeMap<String, String>>,
    sources: Option<Vec<String>>,
    sinks: Option<Vec<String>>,
    functions: Option<Vec<String>>,
    virtual_env_type: Option<String>,
    env: Option<String>,
    args: Option<Vec<String>>,
    environment: Option<BTreeMap<String, String>>,
    start_timeout: Option<u64>,
    limits: Option<Limits>,
    instances: Option<serde_json::Number>,
    description: Option<String>,
}

impl Raw {
    fn check(self, folder: &PluginName) -> Result<Manifest, ManifestError> {
        if let Some(found) = self
            .name
            .filter(|name| !name.is_empty() && name != folder.as_str())
        {
            return Err(ManifestError::Name {
                expected: folder.clone(),
                found,
            });
        }
        let executables = self.executables.unwrap_or_default();
        for path in executables.values() {
            check_inside("executables", path)?;
        }
        let executable = match self.executable.filter(|path| !path.is_empty()) {
            Some(path) => path,
            None => executables
                .values()
                .next()
                .cloned()
                .ok_or(missing("executable"))?,
        };
        check_inside("executable", &executable)?;
        let manifest = Manifest {
            name: folder.clone(),
            version: filled("version", self.version)?,
            language: match filled("language", self.language)?.as_str() {
                "python" => Language::Python,
                word => Language::Executable(word.to_owned()),
            },
            executable,
            executables,
            sources: check_symbols("sources", self.sources)?,
            sinks: check_symbols("sinks", self.sinks)?,
            functions: check_symbols("functions", self.functions)?,
            virtual_env_type: check_virtual_env_type(self.virtual_env_type)?,
            env: self.env.filter(|env| !env.is_empty()),
            args: self.args.unwrap_or_default(),
            environment: self.environment.unwrap_or_default(),
            start_timeout: check_start_timeout(self.start_timeout)?,
            limits: check_limits(self.limits.unwrap_or_default())?,
            instances: check_instances(self.instances)?,
            description: self.description,
        };
        if SymbolKind::ALL
            .iter()
            .all(|kind| manifest.symbols(*kind).is_empty())
        {
            return Err(ManifestError::NoSymbol);
        }
        if manifest.virtual_env_type == Some(VirtualEnvType::Conda) && manifest.env.is_none() {
            return Err(missing("env"));
        }
        check_passable(&manifest)?;
        Ok(manifest)
    }
}

fn missing(field: &'static str) -> ManifestError {
    ManifestError::Missing { field }
}

fn filled(field: &'static str, text: Option<String>) -> Result<String, ManifestError> {
    text.filter(|text| !text.is_empty()).ok_or(missing(field))
}

fn check_symbols(field: &'static str, names: Option<Vec<String>>) -> Result<Vec<SymbolName>, ManifestError> {
    let mut seen = HashSet::new();
    names
        .unwrap_or_default()
        .into_iter()
        .map(|name| {
            let symbol: SymbolName = name
                .parse()
                .map_err(|source| ManifestError::SymbolName { field, source })?;
            if seen.insert(symbol.clone()) {
                Ok(symbol)
            } else {
                Err(ManifestError::SymbolTwice { field, symbol })
            }
        })
        .collect()
}

fn check_virtual_env_type(word: Option<String>) -> Result<Option<VirtualEnvType>, ManifestError> {
    match word.as_deref() {
        None | Some("") => Ok(None),
        Some("conda") => Ok(Some(VirtualEnvType::Conda)),
        Some("venv") => Ok(Some(VirtualEnvType::Venv)),
        Some("uv") => Ok(Some(VirtualEnvType::Uv)),
        Some(found) => Err(ManifestError::VirtualEnvType {
            found: found.to_owned(),
        }),
    }
}

fn check_start_timeout(milliseconds: Option<u64>) -> Result<Option<u64>, ManifestError> {
    match milliseconds {
        Some(found) if !(1..=MAX_START_TIMEOUT).contains(&found) => {
            Err(ManifestError::StartTimeout { found })
        }
        milliseconds => Ok(milliseconds),
    }
}

fn check_instances(instances: Option<serde_json::Number>) -> Result<u32, ManifestError> {
    let Some(found) = instances else { return Ok(1) };
    let count = found.as_u64().and_then(|count| u32::try_from(count).ok());
    match count {
        Some(count) if (1..=MAX_INSTANCES).contains(&count) => Ok(count),
        _ => Err(ManifestError::Instances { found }),
    }
}

fn check_limits(limits: Limits) -> Result<Limits, ManifestError> {
    let check = |field, found: Option<u64>, expected, most| match found {
        Some(found) if !(1..=most).contains(&found) => Err(ManifestError::Limit {
            field,
            found,
            expected,
        }),
        _ => Ok(()),
    };
    check("memory", limits.memory, "at least 1 (bytes)", u64::MAX)?;
    check("openFiles", limits.open_files, "at least 1 (files)", u64::MAX)?;
    let share = limits.cpu_share.map(u64::from);
    check("cpuShare", share, "an integer from 1 to 100 (percent)", 100)?;
    Ok(limits)
}

/// Only plain components: nothing absolute, no `..`, no NUL.
fn check_inside(field: &'static str, path: &str) -> Result<(), ManifestError> {
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if plain && !path.is_empty() && !path.contains('\0') {
        Ok(())
    } else {
        Err(ManifestError::Path {
            field,
            path: path.to_owned(),
        })
    }
}

fn check_passable(manifest: &Manifest) -> Result<(), ManifestError> {
    let unpassable = |field, text: &str| ManifestError::Unpassable {
        field,
        text: text.to_owned(),
    };
    if let Some(text) = manifest
        .args
        .iter()
        .chain(&manifest.env)
        .find(|text| text.contains('\0'))
    {
        return Err(unpassable("args", text));
    }
    for (key, value) in &manifest.environment {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(unpassable("environment", key));
        }
        if value.contains('\0') {
            return Err(unpassable("environment", value));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(json: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(&"car".parse().unwrap(), json.as_bytes())
    }

    fn refusal(json: &str) -> String {
        parse(json).unwrap_err().to_string()
    }

    #[test]
    fn the_designs_own_example_is_read() {
        let manifest = parse(
            r#"{"name": "car", "version": "v1.0.0", "language": "go", "executable": "server",
                "sources": ["json", "udp", "sync"], "sinks": ["command"], "functions": ["link", "rank"]}"#,
        )
        .unwrap();
        assert_eq!(manifest.language, Language::Executable("go".to_owned()));
        assert_eq!(manifest.symbols(SymbolKind::Source).len(), 3);
        assert_eq!(manifest.executable_for("linux-x86_64"), "server");
    }

    #[test]
    fn nulls_count_as_absent_and_a_byte_order_mark_is_skipped() {
        let json =
            "\u{feff}{\"version\":\"1\",\"language\":\"python\",\"executable\":\"main.py\",\"sources\":null,
                    \"functions\":[\"revert\"],\"virtualEnvType\":\"\"}";
        let manifest = parse(json).unwrap();
        assert_eq!(
            (manifest.language, manifest.virtual_env_type),
            (Language::Python, None)
        );
    }

    #[test]
    fn one_package_serves_several_platforms() {
        let manifest = parse(
            r#"{"version": "1", "language": "rust", "executables": {"linux-x86_64": "bin/x", "linux-aarch64": "bin/a"},
                "sinks": ["s"]}"#,
        )
        .unwrap();
        assert_eq!(manifest.executable_for("linux-x86_64"), "bin/x");
        assert_eq!(manifest.executable_for("linux-aarch64"), "bin/a");
    }

    #[test]
    fn refusals_name_the_field_and_what_was_expected() {
        let with = |fields: &str| {
            format!(r#"{{"version":"1","language":"go","executable":"x","functions":["f"]{fields}}}"#)
        };
        assert!(refusal("{").contains("EOF while parsing an object at line 1"));
        assert!(refusal(&with(r#","colour":"red""#)).contains("unknown field `colour`"));
        assert_eq!(
            refusal(&with(r#","name":"bus""#)),
            r#"the manifest's name "bus" is not "car", the name of its folder"#
        );
        assert!(refusal(&with(r#","sources":["../up"]"#)).starts_with(r#"in "sources": the name "../up""#));
        assert_eq!(
            refusal(&with(r#","sinks":["a","a"]"#)),
            r#""sinks" names "a" twice"#
        );
        assert!(refusal(&with(r#","virtualEnvType":"nix""#)).contains("expected conda, venv or uv"));
        assert!(refusal(&with(r#","virtualEnvType":"conda""#)).contains(r#""env" is missing"#));
        assert!(refusal(&with(r#","environment":{"A=B":"c"}"#)).contains("environment"));
        for milliseconds in [0, MAX_START_TIMEOUT + 1, u64::MAX] {
            let said = refusal(&with(&format!(r#","startTimeout":{milliseconds}"#)));
            assert!(
                said.starts_with(&format!(r#""startTimeout" is {milliseconds}; expected"#)),
                "{said}"
            );
        }
        for instances in ["0", "65", "-1", "2.5", "99999999999999999999"] {
            let said = refusal(&with(&format!(r#","instances":{instances}"#)));
            assert!(
                said.starts_with(r#""instances" is "#)
                    && said.ends_with("; expected an integer from 1 to 64 (processes)"),
                "{said}"
            );
        }
        assert_eq!(
            refusal(&with(r#","instances":65"#)),
            r#""instances" is 65; expected an integer from 1 to 64 (processes)"#
        );
        assert!(refusal(&with(r#","instances":"2""#)).contains("expected a JSON number"));
        assert_eq!(
            refusal(&with(r#","limits":{"cpuShare":101}"#)),
            r#""limits": "cpuShare" is 101; expected an integer from 1 to 100 (percent)"#
        );
        assert!(refusal(&with(r#","limits":{"memory":0}"#)).contains("at least 1 (bytes)"));
        assert!(refusal(&with(r#","limits":{"disk":1}"#)).contains("unknown field `disk`"));
        assert!(refusal(r#"{"version":"1","language":"go","executable":"x"}"#).contains("no symbol"));
        assert!(refusal(r#"{"language":"go","executable":"x","functions":["f"]}"#).contains(r#""version""#));
    }

    #[test]
    fn several_instances_are_kept_and_one_is_not_worth_a_word() {
        let with = |fields: &str| {
            let json =
                format!(r#"{{"version":"1","language":"go","executable":"x","functions":["f"]{fields}}}"#);
            let manifest = parse(&json).unwrap();
            let again = parse(&serde_json::to_string(&manifest).unwrap()).unwrap();
            assert_eq!(manifest, again);
            (
                manifest.instances,
                serde_json::to_value(again).unwrap()["instances"].as_u64(),
            )
        };
        assert_eq!(with(r#","instances":64"#), (64, Some(64)));
        assert_eq!(with(r#","instances":1"#), (1, None));
        assert_eq!(with(r#","instances":null"#), (1, None));
        assert_eq!(with(""), (1, None));
    }

    #[test]
    fn programs_outside_of_the_folder_are_refused() {
        for path in ["/bin/sh", "../x", "bin/../../x", "", "a\\u0000b"] {
            let json =
                format!(r#"{{"version":"1","language":"go","executable":"{path}","functions":["f"]}}"#);
            assert!(parse(&json).is_err(), "{path:?} was accepted");
        }
    }

    #[test]
    fn deep_nesting_and_large_files_are_refused() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(matches!(
            parse(&" ".repeat(MAX_SIZE + 1)),
            Err(ManifestError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Manifest::parse(&"car".parse().unwrap(), &bytes);
        }

        #[test]
        fn a_truncated_manifest_is_refused(cut in 0usize..120) {
            let whole = r#"{"version": "v1.0.0", "language": "go", "executable": "server", "sources": ["json", "udp", "sync"], "sinks": []}"#;
            prop_assume!(cut < whole.len());
            prop_assert!(parse(&whole[..cut]).is_err());
        }
    }
}
