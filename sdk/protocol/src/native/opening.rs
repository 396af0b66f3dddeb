//! Owns how a control channel is opened: the plugin's `hello`, and the host's `welcome` or `refused`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limited;
use crate::manifest::SymbolKind;
use crate::name::{PluginName, SymbolName};

/// The first message of a plugin's process, and the first after its control connection broke.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions of the contract that it speaks.
    #[serde(deserialize_with = "limited::list")]
    pub versions: Vec<u32>,
    /// What it was given in `MANGROVE_TOKEN`.
    pub token: String,
    /// What it was given in `MANGROVE_PLUGIN`.
    pub plugin: PluginName,
    /// What it was made with, such as `mangrove-python/0.1.0`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sdk: String,
    /// What it has.
    #[serde(default)]
    pub symbols: Symbols,
    /// How it can write messages; empty: as JSON.
    #[serde(
        default,
        deserialize_with = "limited::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub encodings: Vec<String>,
}

/// Everything but the token, which is nobody's business.
impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello")
            .field("versions", &self.versions)
            .field("plugin", &self.plugin)
            .field("sdk", &self.sdk)
            .field("symbols", &self.symbols)
            .field("encodings", &self.encodings)
            .finish_non_exhaustive()
    }
}

/// The symbols that a plugin has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbols {
    /// Its sources.
    #[serde(default, deserialize_with = "limited::list")]
    pub sources: Vec<SymbolName>,
    /// Its sinks.
    #[serde(default, deserialize_with = "limited::list")]
    pub sinks: Vec<SymbolName>,
    /// Its functions.
    #[serde(default, deserialize_with = "limited::list")]
    pub functions: Vec<FunctionSymbol>,
}

impl Symbols {
    /// Whether there is a symbol of this kind and name.
    pub fn contains(&self, kind: SymbolKind, name: &SymbolName) -> bool {
        match kind {
            SymbolKind::Source => self.sources.contains(name),
            SymbolKind::Sink => self.sinks.contains(name),
            SymbolKind::Function => self.functions.iter().any(|function| function.name == *name),
        }
    }

    /// Whether there is a function of this name and it works on groups.
    pub fn is_aggregate(&self, name: &SymbolName) -> bool {
        self.functions
            .iter()
            .any(|function| function.name == *name && function.aggregate)
    }
}

/// One function: its name, or `{"name":…,"aggregate":true}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSymbol {
    /// Its name.
    pub name: SymbolName,
    /// It works on groups: each argument is the list of a column's values.
    pub aggregate: bool,
}

impl Serialize for FunctionSymbol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Long<'a> {
            name: &'a SymbolName,
            aggregate: bool,
        }
        let (name, aggregate) = (&self.name, self.aggregate);
        if aggregate {
            Long { name, aggregate }.serialize(serializer)
        } else {
            name.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for FunctionSymbol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a name or {\"name\":…,\"aggregate\":true}")]
        enum Either {
            Short(SymbolName),
            Long {
                name: SymbolName,
                #[serde(default)]
                aggregate: bool,
            },
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Short(name) => Self {
                name,
                aggregate: false,
            },
            Either::Long { name, aggregate } => Self { name, aggregate },
        })
    }
}

/// The host takes the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome {
    /// The version of the contract from now on.
    pub version: u32,
    /// The host, such as `mangrove/0.1.0`.
    #[serde(default)]
    pub host: String,
    /// Which of the plugin's processes this is, from 0.
    #[serde(default)]
    pub instance: u32,
    /// How messages are written from now on.
    #[serde(default = "json")]
    pub encoding: String,
    /// What either side accepts.
    #[serde(default)]
    pub limits: Limits,
    /// How often the host pings while nothing else is heard, in milliseconds.
    #[serde(default)]
    pub ping_interval: u64,
}

fn json() -> String {
    "json".to_owned()
}

/// The limits of one control channel and the data channels that belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// The longest message that either side accepts, in bytes.
    pub message: usize,
    /// The most tuples, results or calls in one message; at most [`MAX_ITEMS`](super::MAX_ITEMS).
    pub batch: usize,
}

/// 32 MiB, 1,024 items.
impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 32 << 20,
            batch: 1024,
        }
    }
}

/// The host does not take the plugin, and closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, for people.
    pub reason: String,
    /// The versions that the host speaks.
    #[serde(default, deserialize_with = "limited::list")]
    pub versions: Vec<u32>,
}

/// The highest version that is in both lists.
pub fn agree(ours: &[u32], theirs: &[u32]) -> Option<u32> {
    ours.iter()
        .filter(|version| theirs.contains(version))
        .max()
        .copied()
}
