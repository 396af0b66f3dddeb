//! The command line.

use clap::{Parser, ValueEnum};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Measures sockets between two processes and prints one line of JSON.
///
/// The environment variable SPPERF_RUNTIME=current selects tokio's current-thread runtime instead of two
/// worker threads. SPPERF_PEER names another program with this command line to be the dialing side; it gets the
/// address as one more argument.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub(crate) struct Job {
    /// thr: push to pull; lat: ping-pong over pair; rr: req and rep; pub: pub to sub; ctx:N: so many req contexts
    /// at once over one connection; fan:N: one push to so many pulls
    pub(crate) mode: Mode,
    pub(crate) transport: Transport,
    /// Of each message, in bytes, from 8 (each holds its number) to 16 MiB
    #[arg(value_parser = size)]
    pub(crate) size: usize,
    /// How long it runs before it measures
    #[arg(value_name = "WARMUP_MS", default_value = "150", value_parser = milliseconds)]
    pub(crate) warmup: Duration,
    /// How long it measures
    #[arg(value_name = "MEASURE_MS", default_value = "700", value_parser = milliseconds)]
    pub(crate) measure: Duration,
    /// Be the dialing side, which measures nothing: where to connect
    #[arg(hide = true)]
    pub(crate) peer: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Throughput,
    PingPong,
    Requests,
    Contexts(usize),
    Publish,
    Fan(usize),
}

/// Of contexts and of peers.
const MOST: usize = 65_536;

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = |text: &str| {
            let count = text.parse().ok().filter(|count| (1..=MOST).contains(count));
            count.ok_or_else(|| format!("expected a number from 1 to {MOST}"))
        };
        Ok(match (text, text.split_once(':')) {
            ("thr", _) => Self::Throughput,
            ("lat", _) => Self::PingPong,
            ("rr", _) => Self::Requests,
            ("pub", _) => Self::Publish,
            (_, Some(("ctx", number))) => Self::Contexts(count(number)?),
            (_, Some(("fan", number))) => Self::Fan(count(number)?),
            _ => return Err("expected thr, lat, rr, pub, ctx:N or fan:N".to_owned()),
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throughput => f.write_str("thr"),
            Self::PingPong => f.write_str("lat"),
            Self::Requests => f.write_str("rr"),
            Self::Publish => f.write_str("pub"),
            Self::Contexts(count) => write!(f, "ctx:{count}"),
            Self::Fan(peers) => write!(f, "fan:{peers}"),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Transport {
    Ipc,
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipc => "ipc",
            Self::Tcp => "tcp",
        })
    }
}

fn size(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|size| (8..=16 << 20).contains(size));
    size.ok_or_else(|| "expected a number of bytes from 8 to 16777216".to_owned())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number: u32 = text
        .parse()
        .map_err(|_| "expected a number of milliseconds".to_owned())?;
    Ok(Duration::from_millis(number.into()))
}

impl Job {
    /// Where the parent listens.
    pub(crate) fn address(&self) -> String {
        match self.transport {
            Transport::Tcp => "tcp://127.0.0.1:0".to_owned(),
            Transport::Ipc => {
                let folder = std::env::temp_dir();
                format!("ipc://{}/spperf.{}.ipc", folder.display(), std::process::id())
            }
        }
    }

    /// How long the whole run may take; the child's part ends with the parent.
    pub(crate) fn limit(&self) -> Duration {
        match self.peer {
            Some(_) => Duration::MAX,
            None => self.warmup + self.measure + Duration::from_secs(15),
        }
    }

    /// How many messages to handle between two looks at the clock.
    pub(crate) fn step(&self) -> u32 {
        match self.size {
            16_384.. => 1,
            1024.. => 16,
            _ => 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Job::command().debug_assert();
    }

    #[test]
    fn modes_are_printed_as_they_are_typed() {
        for text in ["thr", "lat", "rr", "pub", "ctx:64", "fan:1000"] {
            assert_eq!(text.parse::<Mode>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for line in [
            "spperf thr ipc",
            "spperf thr udp 64",
            "spperf thr ipc 7",
            "spperf thr ipc 16777217",
            "spperf thr ipc 64 -1",
            "spperf fan ipc 64",
            "spperf fan:0 ipc 64",
            "spperf ctx:65537 ipc 64",
        ] {
            assert!(Job::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
