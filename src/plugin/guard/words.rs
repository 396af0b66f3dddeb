//! Owns what host and guard say to each other. Pure but for reading and writing the whole of it.
//!
//! Host to guard: one byte per [`Order`]. Guard to host: one line per [`Report`].

use std::io::{self, Write};

use rustix::process::{Pid, WaitStatus};

/// What the host wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin) enum Order {
    /// Start the plugin: the host knows the guard now. The first order.
    Start,
    /// SIGTERM to the plugin's process group.
    Terminate,
    /// SIGKILL to everybody.
    Kill,
}

impl Order {
    pub(in crate::plugin) fn encode(self) -> u8 {
        match self {
            Self::Start => b'S',
            Self::Terminate => b'T',
            Self::Kill => b'K',
        }
    }

    pub(super) fn decode(byte: u8) -> Option<Self> {
        match byte {
            b'S' => Some(Self::Start),
            b'T' => Some(Self::Terminate),
            b'K' => Some(Self::Kill),
            _ => None,
        }
    }
}

/// What the guard has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin) enum Report {
    /// The plugin runs, as this process.
    Started(Pid),
    /// The plugin could not be started; the system's error number, 0 when there is none.
    Failed(i32),
    /// The plugin's process has ended with this code, and everything that it had started has ended too.
    Exited(i32),
    /// The same, by this signal.
    Signalled(i32),
}

impl Report {
    pub(super) fn failed(error: &io::Error) -> Self {
        Self::Failed(error.raw_os_error().unwrap_or(0))
    }

    pub(super) fn ended(status: WaitStatus) -> Self {
        match status.terminating_signal() {
            Some(signal) => Self::Signalled(signal),
            None => Self::Exited(status.exit_status().unwrap_or_default()),
        }
    }

    pub(super) fn write(self, to: &mut impl Write) -> io::Result<()> {
        let line = match self {
            Self::Started(pid) => format!("started {}\n", pid.as_raw_nonzero()),
            Self::Failed(number) => format!("failed {number}\n"),
            Self::Exited(code) => format!("exited {code}\n"),
            Self::Signalled(signal) => format!("signalled {signal}\n"),
        };
        to.write_all(line.as_bytes())
    }

    pub(in crate::plugin) fn decode(line: &str) -> Option<Self> {
        let (word, number) = line.trim_end().split_once(' ')?;
        let number: i32 = number.parse().ok()?;
        match word {
            "started" => Pid::from_raw(number).map(Self::Started),
            "failed" => Some(Self::Failed(number)),
            "exited" => Some(Self::Exited(number)),
            "signalled" => Some(Self::Signalled(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for order in [Order::Start, Order::Terminate, Order::Kill] {
            assert_eq!(Order::decode(order.encode()), Some(order));
        }
        let pid = Pid::from_raw(4711).unwrap();
        for report in [
            Report::Started(pid),
            Report::Failed(2),
            Report::Exited(3),
            Report::Signalled(9),
        ] {
            let mut line = Vec::new();
            report.write(&mut line).unwrap();
            assert_eq!(Report::decode(std::str::from_utf8(&line).unwrap()), Some(report));
        }
        for line in ["", "started", "started 0", "exited x", "gone 1"] {
            assert_eq!(Report::decode(line), None, "{line:?}");
        }
        assert_eq!(Order::decode(b'?'), None);
    }
}
