//! Owns the list of settings: name, unit, range and place in [`Config`] of each, so that the file, the
//! environment, the messages and the documentation agree. It reads nothing itself.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{Config, PREFIX};

/// The words that `log.level` knows, from few to many lines.
pub const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The words that `portable.contract` knows: eKuiper's contract alone, or our own beside it.
pub const CONTRACTS: [&str; 2] = ["ekuiper", "both"];

/// The words that `portable.peers` knows: the plugin's own processes, or every process of the host's user.
pub const PEERS: [&str; 2] = ["plugin", "user"];

/// One key of one section.
pub(super) struct Setting {
    pub(super) section: &'static str,
    pub(super) key: &'static str,
    kind: Kind,
}

/// What a setting accepts, and the field that it sets.
enum Kind {
    Address(fn(&mut Config) -> &mut SocketAddr),
    Command(fn(&mut Config) -> &mut String),
    /// Where plugins of other machines connect; empty for nowhere.
    Remote(fn(&mut Config) -> &mut String),
    /// Empty for none.
    File(fn(&mut Config) -> &mut Option<PathBuf>),
    Word(&'static [&'static str], fn(&mut Config) -> &mut String),
    Milliseconds(RangeInclusive<u64>, fn(&mut Config) -> &mut Duration),
    /// With its unit.
    Number(&'static str, RangeInclusive<u64>, fn(&mut Config) -> &mut usize),
    /// With its unit.
    Count(&'static str, RangeInclusive<u64>, fn(&mut Config) -> &mut u32),
}

use Kind::{Address, Command, Count, File, Milliseconds, Number, Remote, Word};

/// One hour is longer than anybody should wait for a plugin.
const WAIT: RangeInclusive<u64> = 1..=3_600_000;
/// Well below what the host takes for all plugins together when it shuts down.
const GRACE: RangeInclusive<u64> = 1..=15_000;
/// More often than once a second it would do little else.
const RESCAN: RangeInclusive<u64> = 1_000..=3_600_000;
const MANY: RangeInclusive<u64> = 1..=1_000_000;
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const TIB: u64 = 1024 * 1024 * MIB;

/// Every setting, sections together.
#[rustfmt::skip]
pub(super) const SETTINGS: &[Setting] = &[
    setting("rest", "address", Address(|c| &mut c.rest.address)),
    setting("rest", "maxBody", Number("bytes", KIB..=64 * MIB, |c| &mut c.rest.max_body)),
    setting("portable", "pythonBin", Command(|c| &mut c.portable.python_bin)),
    setting("portable", "condaBin", Command(|c| &mut c.portable.conda_bin)),
    setting("portable", "uvBin", Command(|c| &mut c.portable.uv_bin)),
    setting("portable", "caFile", File(|c| &mut c.portable.ca_file)),
    setting("portable", "installTimeout", Milliseconds(WAIT, |c| &mut c.portable.install_timeout)),
    setting("portable", "sendTimeout", Milliseconds(WAIT, |c| &mut c.portable.send_timeout)),
    setting("portable", "startTimeout", Milliseconds(WAIT, |c| &mut c.portable.start_timeout)),
    setting("portable", "commandTimeout", Milliseconds(WAIT, |c| &mut c.portable.command_timeout)),
    setting("portable", "callTimeout", Milliseconds(WAIT, |c| &mut c.portable.call_timeout)),
    setting("portable", "ackTimeout", Milliseconds(WAIT, |c| &mut c.portable.ack_timeout)),
    setting("portable", "checkpointInterval", Milliseconds(WAIT, |c| &mut c.portable.checkpoint_interval)),
    setting("portable", "ackWindow", Number("results", MANY, |c| &mut c.portable.ack_window)),
    setting("portable", "pingInterval", Milliseconds(WAIT, |c| &mut c.portable.ping_interval)),
    setting("portable", "settle", Milliseconds(WAIT, |c| &mut c.portable.settle)),
    setting("portable", "rescan", Milliseconds(RESCAN, |c| &mut c.portable.rescan)),
    setting("portable", "parallelStarts", Number("plugins", 0..=1000, |c| &mut c.portable.parallel_starts)),
    setting("portable", "stopGrace", Milliseconds(GRACE, |c| &mut c.portable.stop_grace)),
    setting("portable", "restartDelayMin", Milliseconds(WAIT, |c| &mut c.portable.restart_delay_min)),
    setting("portable", "restartDelayMax", Milliseconds(WAIT, |c| &mut c.portable.restart_delay_max)),
    setting("portable", "restartLimit", Count("failures", MANY, |c| &mut c.portable.restart_limit)),
    setting("portable", "logLines", Number("lines", MANY, |c| &mut c.portable.log_lines)),
    setting("portable", "maxMessage", Number("bytes", KIB..=1024 * MIB, |c| &mut c.portable.max_message)),
    setting("portable", "limitMemory", Number("bytes", 0..=TIB, |c| &mut c.portable.limit_memory)),
    setting("portable", "limitOpenFiles", Number("files", 0..=1_000_000, |c| &mut c.portable.limit_open_files)),
    setting("portable", "limitCpuShare", Count("percent", 1..=100, |c| &mut c.portable.limit_cpu_share)),
    setting("portable", "remote", Remote(|c| &mut c.portable.remote)),
    setting("portable", "remoteCert", File(|c| &mut c.portable.remote_cert)),
    setting("portable", "remoteKey", File(|c| &mut c.portable.remote_key)),
    setting("portable", "contract", Word(&CONTRACTS, |c| &mut c.portable.contract)),
    setting("portable", "peers", Word(&PEERS, |c| &mut c.portable.peers)),
    setting("rule", "bufferLength", Number("tuples", MANY, |c| &mut c.rule.buffer_length)),
    setting("log", "level", Word(&LEVELS, |c| &mut c.log.level)),
];

const fn setting(section: &'static str, key: &'static str, kind: Kind) -> Setting {
    Setting { section, key, kind }
}

impl Setting {
    /// `section.key`.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// `MANGROVE__SECTION__KEY`.
    pub(super) fn variable(&self) -> String {
        format!("{PREFIX}{}__{}", self.section, self.key).to_uppercase()
    }

    /// What the file would say for what the variable says.
    pub(super) fn value_of(&self, text: &str) -> Value {
        match self.kind {
            Milliseconds(..) | Number(..) | Count(..) => text
                .parse::<u64>()
                .map_or_else(|_| Value::from(text), Value::from),
            Address(_) | Command(_) | Remote(_) | File(_) | Word(..) => Value::from(text),
        }
    }

    /// Sets the field, or says what was expected.
    pub(super) fn set(&self, config: &mut Config, value: &Value) -> Result<(), String> {
        self.try_set(config, value).ok_or_else(|| self.expected())
    }

    fn try_set(&self, config: &mut Config, value: &Value) -> Option<()> {
        let within = |range: &RangeInclusive<u64>| value.as_u64().filter(|number| range.contains(number));
        match &self.kind {
            Address(field) => *field(config) = value.as_str()?.parse().ok()?,
            Command(field) => {
                let command = value.as_str()?;
                if command.is_empty() || command.contains('\0') {
                    return None;
                }
                command.clone_into(field(config));
            }
            Remote(field) => {
                let address = value.as_str()?;
                if !address.is_empty() {
                    let (scheme, rest) = address.split_once("://")?;
                    let (host, port) = rest.rsplit_once(':')?;
                    let is_known = ["tcp", "tls+tcp"].contains(&scheme);
                    if !is_known || host.is_empty() || port.parse::<u16>().is_err() {
                        return None;
                    }
                }
                address.clone_into(field(config));
            }
            File(field) => {
                let path = value.as_str().filter(|path| !path.contains('\0'))?;
                *field(config) = (!path.is_empty()).then(|| path.into());
            }
            Word(words, field) => {
                let word = value.as_str()?;
                words.iter().find(|known| **known == word)?;
                word.clone_into(field(config));
            }
            Milliseconds(range, field) => *field(config) = Duration::from_millis(within(range)?),
            Number(_, range, field) => *field(config) = within(range)?.try_into().ok()?,
            Count(_, range, field) => *field(config) = within(range)?.try_into().ok()?,
        }
        Some(())
    }

    /// Type, range and unit in words.
    pub(super) fn expected(&self) -> String {
        let integer = |range: &RangeInclusive<u64>, unit: &str| {
            format!("an integer from {} to {} ({unit})", range.start(), range.end())
        };
        match &self.kind {
            Address(_) => "an IP address with a port, such as 127.0.0.1:9081".to_owned(),
            Command(_) => "a command".to_owned(),
            Remote(_) => "empty, tcp://host:port or tls+tcp://host:port".to_owned(),
            File(_) => "a path".to_owned(),
            Word(words, _) => format!("one of {}", words.join(", ")),
            Milliseconds(range, _) => integer(range, "milliseconds"),
            Number(unit, range, _) | Count(unit, range, _) => integer(range, unit),
        }
    }

    /// What the file would say for what the field holds.
    #[cfg(test)]
    pub(super) fn value(&self, config: &mut Config) -> Value {
        match &self.kind {
            Address(field) => field(config).to_string().into(),
            Command(field) | Remote(field) | Word(_, field) => field(config).clone().into(),
            File(field) => {
                let path = field(config).as_deref();
                path.map_or("", |path| path.to_str().unwrap()).into()
            }
            Milliseconds(_, field) => u64::try_from(field(config).as_millis()).unwrap().into(),
            Number(_, _, field) => (*field(config)).into(),
            Count(_, _, field) => (*field(config)).into(),
        }
    }
}
