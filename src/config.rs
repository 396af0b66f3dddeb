//! Owns the host's settings: their defaults, `etc/mangrove.yaml`, `MANGROVE__SECTION__KEY` variables and what
//! the command line overrides, later ones winning. Read once, at start, by the composition root; every part
//! gets its section. The same folder holds the properties of symbols, [`conf_key()`].
//!
//! What is not known or out of range is refused, never guessed: a host with a typing error in its settings
//! does not start.

mod conf_key;
mod setting;
mod yaml;

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::Value;
use serde_saphyr::Spanned;

pub use self::conf_key::{ConfKeyError, conf_key, conf_key_in};
pub use self::setting::{CONTRACTS, LEVELS, PEERS};
use self::setting::{SETTINGS, Setting};
pub use self::yaml::YamlError;

/// Where the settings lie below the home folder.
const FILE: &str = "etc/mangrove.yaml";

/// How the variables of the environment begin.
const PREFIX: &str = "MANGROVE__";

/// All settings of a host. `docs/operations.md` has their units, ranges and defaults as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The home folder, absolute: plugins run in folders of their own.
    pub home: PathBuf,
    /// The REST API.
    pub rest: Rest,
    /// Portable plugins.
    pub portable: Portable,
    /// Rules.
    pub rule: Rule,
    /// The log.
    pub log: Log,
}

/// Section `rest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Where the API listens; port 0 takes a free one. Not on loopback, it is open to the network.
    pub address: SocketAddr,
    /// The largest body of a request, bytes.
    pub max_body: usize,
}

/// Section `portable`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portable {
    /// The command that runs Python plugins.
    pub python_bin: String,
    /// The command that runs Python plugins of `virtualEnvType` `conda`.
    pub conda_bin: String,
    /// The command that builds environments of `virtualEnvType` `uv`.
    pub uv_bin: String,
    /// Certificate authorities, in PEM, that are trusted beside the well-known ones when packages are fetched.
    pub ca_file: Option<PathBuf>,
    /// How long each step of an installation may take: the download, the package's `install.sh`, a Python
    /// environment.
    pub install_timeout: Duration,
    /// How long a plugin may take to send, handed to its SDK; and how long a result waits for a sink that has no
    /// connection.
    pub send_timeout: Duration,
    /// How long a process may take until its first handshake; the manifest's `startTimeout` wins.
    pub start_timeout: Duration,
    /// How long a plugin may take over a command, such as the start of a symbol. Longer than the 5 s after
    /// which the SDKs repeat their handshake, since a command that crosses one is sent again.
    pub command_timeout: Duration,
    /// How long a function call may take.
    pub call_timeout: Duration,
    /// How long a sink may take to acknowledge.
    pub ack_timeout: Duration,
    /// How long what a plugin's symbols remember may stay in memory before it is forced to the disk.
    pub checkpoint_interval: Duration,
    /// How many results may be on their way to a sink without its acknowledgement.
    pub ack_window: usize,
    /// How often a plugin that says nothing is asked whether it is there.
    pub ping_interval: Duration,
    /// How long a plugin's folder has to stay as it is until the host acts on it.
    pub settle: Duration,
    /// How often the host looks at all folders even if nothing says that they have changed.
    pub rescan: Duration,
    /// How many plugins may be starting at the same time; 0: twice as many as there are processors. As many again may
    /// take longer than 2 s over it.
    pub parallel_starts: usize,
    /// Between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// Until the first restart after a failure; it grows from there.
    pub restart_delay_min: Duration,
    /// What it grows to.
    pub restart_delay_max: Duration,
    /// Failures in a row until the host gives a plugin up; a stable minute starts the count again.
    pub restart_limit: u32,
    /// How many lines of its output are kept per plugin.
    pub log_lines: usize,
    /// The largest message that is accepted from a plugin, bytes.
    pub max_message: usize,
    /// The most memory for data that each process of a plugin may have, bytes; 0 = no limit. The lower one of this
    /// and of the manifest's `limits` wins.
    pub limit_memory: usize,
    /// The most files that each process of a plugin may have open; 0 = no limit of its own.
    pub limit_open_files: usize,
    /// What plugins get of busy processors beside other processes, percent of the usual weight.
    pub limit_cpu_share: u32,
    /// Where plugins that are attached may connect from other machines: `tcp://host:port` or `tls+tcp://host:port`,
    /// port 0 for a free one each; empty: nowhere.
    pub remote: String,
    /// The host's certificate chain for `tls+tcp`, in PEM.
    pub remote_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    pub remote_key: Option<PathBuf>,
    /// Which contracts plugins may speak, one of [`CONTRACTS`].
    pub contract: String,
    /// Which processes may connect to a plugin's channels, one of [`PEERS`].
    pub peers: String,
    /// This program, which guards the plugins' processes. Not a setting.
    pub guard: PathBuf,
}

impl Portable {
    /// May plugins speak our own contract?
    pub(crate) fn offers_own_contract(&self) -> bool {
        self.contract == CONTRACTS[1]
    }

    /// May every process of the host's user connect to a plugin's channels?
    pub(crate) fn admits_any_peer(&self) -> bool {
        self.peers == PEERS[1]
    }
}

/// Section `rule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How many tuples wait between two nodes of a rule; then the one before waits.
    pub buffer_length: usize,
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// One of [`LEVELS`].
    pub level: String,
}

/// What the command line says, which wins over everything.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Instead of `rest.address`.
    pub rest: Option<SocketAddr>,
    /// Instead of `log.level`; one of [`LEVELS`].
    pub log: Option<String>,
}

/// Why the host has no settings to start with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The path of the home folder cannot be made absolute.
    #[error("{home:?} cannot be the home folder: {source}")]
    Home {
        /// The path as given.
        home: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be read or is no mapping of sections.
    #[error(transparent)]
    File(#[from] YamlError),
    /// A section or key that the host does not know.
    #[error("{place}: unknown setting {name:?}; expected one of {}", expected.join(", "))]
    Unknown {
        /// File and line.
        place: String,
        /// The section, or section and key.
        name: String,
        /// What is known there.
        expected: Vec<String>,
    },
    /// Variables that begin like settings and are none.
    #[error(
        "unknown variables in the environment: {}; expected some of {}",
        names.join(", "),
        expected.join(", ")
    )]
    UnknownVariables {
        /// Their names.
        names: Vec<String>,
        /// The known ones.
        expected: Vec<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("{place}: {name} is {found}; expected {expected}")]
    Value {
        /// File and line, or variable.
        place: String,
        /// Section and key.
        name: String,
        /// What it says.
        found: String,
        /// Type, range and unit.
        expected: String,
    },
    /// Two values that do not go together.
    #[error("portable.restartDelayMin ({min:?}) is larger than portable.restartDelayMax ({max:?})")]
    RestartDelays {
        /// The shorter one, as set.
        min: Duration,
        /// The longer one, as set.
        max: Duration,
    },
}

impl Config {
    /// The settings of a host that nobody has configured.
    pub fn new(home: PathBuf) -> Self {
        Self {
            home,
            rest: Rest {
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9081)),
                max_body: 1024 * 1024,
            },
            portable: Portable {
                python_bin: "python3".to_owned(),
                conda_bin: "conda".to_owned(),
                uv_bin: "uv".to_owned(),
                ca_file: None,
                install_timeout: Duration::from_secs(600),
                send_timeout: Duration::from_secs(1),
                start_timeout: Duration::from_secs(10),
                command_timeout: Duration::from_secs(10),
                call_timeout: Duration::from_secs(5),
                ack_timeout: Duration::from_secs(5),
                checkpoint_interval: Duration::from_secs(1),
                ack_window: 1024,
                ping_interval: Duration::from_secs(10),
                settle: Duration::from_millis(500),
                rescan: Duration::from_secs(30),
                parallel_starts: 0,
                stop_grace: Duration::from_secs(5),
                restart_delay_min: Duration::from_millis(200),
                restart_delay_max: Duration::from_secs(30),
                restart_limit: 10,
                log_lines: 1000,
                max_message: 32 * 1024 * 1024,
                limit_memory: 0,
                limit_open_files: 0,
                limit_cpu_share: 100,
                remote: String::new(),
                remote_cert: None,
                remote_key: None,
                contract: CONTRACTS[1].to_owned(),
                peers: "plugin".to_owned(),
                guard: PathBuf::from("/proc/self/exe"),
            },
            rule: Rule { buffer_length: 1024 },
            log: Log {
                level: "info".to_owned(),
            },
        }
    }

    /// The settings of the host in `home`: defaults, file, environment, `overrides`. Neither the folder nor the
    /// file need to be there. Reads one small file, blocking.
    ///
    /// # Errors
    /// The first thing that is unknown, of the wrong type or out of range, with its place and what was expected.
    pub fn load(home: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        Self::load_with(home, std::env::vars_os(), overrides)
    }

    fn load_with(
        home: &Path,
        variables: impl Iterator<Item = (OsString, OsString)>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let absolute = std::path::absolute(home).map_err(|source| ConfigError::Home {
            home: home.to_owned(),
            source,
        })?;
        let mut config = Self::new(absolute);
        config.apply_file()?;
        config.apply_variables(variables)?;
        let portable = &mut config.portable;
        let files = [
            &mut portable.ca_file,
            &mut portable.remote_cert,
            &mut portable.remote_key,
        ];
        for path in files.into_iter().flatten() {
            *path = config.home.join(&path);
        }
        if let Some(address) = overrides.rest {
            config.rest.address = address;
        }
        if let Some(level) = &overrides.log {
            config.log.level.clone_from(level);
        }
        let (min, max) = (
            config.portable.restart_delay_min,
            config.portable.restart_delay_max,
        );
        if min > max {
            return Err(ConfigError::RestartDelays { min, max });
        }
        Ok(config)
    }

    fn apply_file(&mut self) -> Result<(), ConfigError> {
        let path = self.home.join(FILE);
        let place = |line: u64| format!("{}, line {line}", path.display());
        // Once for the shape of the sections and once for what is in them: only what is expected has lines.
        let sections: Sections<Value> = yaml::read::<Option<_>>(&path)?.flatten().unwrap_or_default();
        for (section, value) in sections {
            let place = place(section.referenced.line());
            let name = section.value;
            if !SETTINGS.iter().any(|setting| setting.section == name) {
                return Err(ConfigError::Unknown {
                    place,
                    name,
                    expected: known(|setting| Some(setting.section.to_owned())),
                });
            }
            if !matches!(value, Value::Object(_) | Value::Null) {
                return Err(ConfigError::Value {
                    place,
                    name,
                    found: value.to_string(),
                    expected: "the section's keys".to_owned(),
                });
            }
        }
        let sections: Sections<Option<IndexMap<Spanned<String>, Value>>> =
            yaml::read::<Option<_>>(&path)?.flatten().unwrap_or_default();
        for (section, keys) in sections {
            let section = section.value;
            for (key, value) in keys.unwrap_or_default() {
                let place = place(key.referenced.line());
                let found = SETTINGS
                    .iter()
                    .find(|setting| setting.section == section && setting.key == key.value);
                let Some(setting) = found else {
                    return Err(ConfigError::Unknown {
                        place,
                        name: format!("{section}.{}", key.value),
                        expected: known(|setting| (setting.section == section).then(|| setting.name())),
                    });
                };
                self.apply(setting, &value, place)?;
            }
        }
        Ok(())
    }

    fn apply_variables(
        &mut self,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        let mut unknown = Vec::new();
        for (name, text) in variables {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(PREFIX) {
                continue;
            }
            match SETTINGS.iter().find(|setting| setting.variable() == name) {
                Some(setting) => {
                    let place = format!("the variable {name}");
                    let Some(text) = text.to_str() else {
                        return Err(ConfigError::Value {
                            place,
                            name: setting.name(),
                            found: format!("{text:?}, which is no UTF-8"),
                            expected: setting.expected(),
                        });
                    };
                    self.apply(setting, &setting.value_of(text), place)?;
                }
                None => unknown.push(name),
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        unknown.sort();
        Err(ConfigError::UnknownVariables {
            names: unknown,
            expected: known(|setting| Some(setting.variable())),
        })
    }

    fn apply(&mut self, setting: &Setting, value: &Value, place: String) -> Result<(), ConfigError> {
        setting.set(self, value).map_err(|expected| ConfigError::Value {
            place,
            name: setting.name(),
            found: value.to_string(),
            expected,
        })
    }
}

/// What the file maps sections to.
type Sections<T> = IndexMap<Spanned<String>, T>;

fn known(name: impl Fn(&Setting) -> Option<String>) -> Vec<String> {
    let mut names: Vec<_> = SETTINGS.iter().filter_map(name).collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn home(yaml: &str) -> TempDir {
        let home = TempDir::new().unwrap();
        std::fs::create_dir(home.path().join("etc")).unwrap();
        std::fs::write(home.path().join(FILE), yaml).unwrap();
        home
    }

    fn load(yaml: &str, variables: &[(&str, &str)], overrides: &Overrides) -> Result<Config, String> {
        let variables = variables
            .iter()
            .map(|(name, text)| (OsString::from(name), OsString::from(text)));
        Config::load_with(home(yaml).path(), variables, overrides).map_err(|error| error.to_string())
    }

    fn refusal(yaml: &str) -> String {
        load(yaml, &[], &Overrides::default()).unwrap_err()
    }

    #[test]
    fn without_a_file_the_defaults_hold() {
        let home = TempDir::new().unwrap();
        let config = Config::load_with(home.path(), std::iter::empty(), &Overrides::default()).unwrap();
        assert_eq!(config, Config::new(home.path().to_owned()));
    }

    #[test]
    fn a_relative_home_is_made_absolute() {
        let config =
            Config::load_with(Path::new("target"), std::iter::empty(), &Overrides::default()).unwrap();
        assert_eq!(config.home, std::env::current_dir().unwrap().join("target"));
    }

    #[test]
    fn the_file_yields_to_the_environment_and_that_to_the_command_line() {
        let yaml = "rest:\n  address: 127.0.0.1:1\nportable:\n  stopGrace: 1\n  pythonBin: py1\nlog:\n";
        let config = load(yaml, &[], &Overrides::default()).unwrap();
        assert_eq!(config.rest.address.port(), 1);
        assert_eq!(config.portable.stop_grace, Duration::from_millis(1));

        let variables = [
            ("MANGROVE__REST__ADDRESS", "[::1]:2"),
            ("MANGROVE__PORTABLE__STOPGRACE", "2"),
            ("MANGROVE__LOG__LEVEL", "warn"),
            ("MANGROVE_HOME", "not ours"),
        ];
        let config = load(yaml, &variables, &Overrides::default()).unwrap();
        assert_eq!(config.rest.address, "[::1]:2".parse().unwrap());
        assert_eq!(config.portable.stop_grace, Duration::from_millis(2));
        assert_eq!(
            (config.portable.python_bin.as_str(), config.log.level.as_str()),
            ("py1", "warn")
        );

        let overrides = Overrides {
            rest: Some("127.0.0.1:3".parse().unwrap()),
            log: Some("debug".to_owned()),
        };
        let config = load(yaml, &variables, &overrides).unwrap();
        assert_eq!(
            (config.rest.address.port(), config.log.level.as_str()),
            (3, "debug")
        );
    }

    #[test]
    fn what_is_unknown_is_refused_with_line_and_what_is_known() {
        let error = refusal("rest:\n  address: 127.0.0.1:1\n\nrests:\n  address: 1\n");
        assert!(
            error.ends_with(
                r#"mangrove.yaml, line 4: unknown setting "rests"; expected one of rest, portable, rule, log"#
            ),
            "{error}"
        );
        let error = refusal("rest:\n  adress: x\n");
        assert!(
            error.ends_with(
                r#", line 2: unknown setting "rest.adress"; expected one of rest.address, rest.maxBody"#
            ),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_value_is_refused_with_line_and_what_is_expected() {
        for (yaml, end) in [
            (
                "portable:\n  stopGrace: soon\n",
                r#"line 2: portable.stopGrace is "soon"; expected an integer from 1 to 15000 (milliseconds)"#,
            ),
            (
                "portable:\n  stopGrace: 0\n",
                "portable.stopGrace is 0; expected an integer from 1 to 15000 (milliseconds)",
            ),
            (
                "rule:\n  bufferLength: 1.5\n",
                "rule.bufferLength is 1.5; expected an integer from 1 to 1000000 (tuples)",
            ),
            (
                "portable:\n  restartLimit: -1\n",
                "portable.restartLimit is -1; expected an integer from 1 to 1000000 (failures)",
            ),
            (
                "portable:\n  pythonBin: ''\n",
                r#"portable.pythonBin is ""; expected a command"#,
            ),
            (
                "log:\n  level: loud\n",
                r#"log.level is "loud"; expected one of error, warn, info, debug, trace"#,
            ),
            (
                "rest:\n  address: localhost\n",
                r#"rest.address is "localhost"; expected an IP address with a port, such as 127.0.0.1:9081"#,
            ),
            ("rest: 7\n", "line 1: rest is 7; expected the section's keys"),
            (
                "portable:\n  restartDelayMin: 5\n  restartDelayMax: 4\n",
                "portable.restartDelayMin (5ms) is larger than portable.restartDelayMax (4ms)",
            ),
            ("- rest\n", "expected mapping start at line 1, column 1"),
            ("rest:\nrest:\n", "at line 2, column 1"),
        ] {
            let error = refusal(yaml);
            assert!(error.ends_with(end), "{yaml:?}: {error}");
        }
    }

    #[test]
    fn unknown_and_wrong_variables_are_named() {
        let variables = [
            ("MANGROVE__REST__PORT", "1"),
            ("MANGROVE__LOG", "1"),
            ("MANGROVE__LOG__LEVEL", "info"),
        ];
        let error = load("", &variables, &Overrides::default()).unwrap_err();
        assert!(
            error.starts_with(
                "unknown variables in the environment: MANGROVE__LOG, MANGROVE__REST__PORT; expected some of \
                 MANGROVE__REST__ADDRESS, "
            ),
            "{error}"
        );
        let error = load(
            "",
            &[("MANGROVE__PORTABLE__LOGLINES", "many")],
            &Overrides::default(),
        )
        .unwrap_err();
        assert_eq!(
            error,
            "the variable MANGROVE__PORTABLE__LOGLINES: portable.logLines is \"many\"; expected an integer \
             from 1 to 1000000 (lines)"
        );
    }

    #[test]
    fn a_variable_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let variable = (
            OsString::from("MANGROVE__PORTABLE__PYTHONBIN"),
            OsString::from_vec(b"/opt/py\xff".to_vec()),
        );
        let variables = std::iter::once(variable);
        let error = Config::load_with(home("").path(), variables, &Overrides::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the variable MANGROVE__PORTABLE__PYTHONBIN: portable.pythonBin is \"/opt/py\\xFF\", which is no \
             UTF-8; expected a command"
        );
    }

    /// In the shipped file every setting stands commented out, as `#key: value` without a blank.
    #[test]
    fn the_shipped_file_shows_every_default() {
        let shipped = include_str!("../etc/mangrove.yaml");
        let read = load(shipped, &[], &Overrides::default()).unwrap();
        assert_eq!(read, Config::new(read.home.clone()));

        let uncommented: String = shipped
            .lines()
            .map(|line| match line.split_once("  #") {
                Some(("", setting)) if !setting.starts_with(' ') => format!("  {setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let read = load(&uncommented, &[], &Overrides::default()).unwrap();
        assert_eq!(read, Config::new(read.home.clone()));

        let mut defaults = Config::new(PathBuf::new());
        let values: IndexMap<String, IndexMap<String, Value>> = serde_saphyr::from_str(&uncommented).unwrap();
        for setting in SETTINGS {
            assert_eq!(
                values.get(setting.section).and_then(|keys| keys.get(setting.key)),
                Some(&setting.value(&mut defaults)),
                "{}",
                setting.name()
            );
        }
    }

    #[test]
    fn the_documentation_has_a_true_row_for_every_setting() {
        let page = include_str!("../docs/operations.md");
        let mut defaults = Config::new(PathBuf::new());
        for setting in SETTINGS {
            let default = match setting.value(&mut defaults) {
                Value::String(text) if text.is_empty() => "''".to_owned(),
                Value::String(text) => text,
                value => value.to_string(),
            };
            let row = format!(
                "| `{}` | `{}` | `{default}` | {} |",
                setting.name(),
                setting.variable(),
                setting.expected()
            );
            assert!(page.contains(&row), "docs/operations.md lacks the row {row}");
        }
    }
}
