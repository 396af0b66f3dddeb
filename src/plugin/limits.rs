//! Owns what a plugin may use of the machine, and how the system is told. Set in the plugin's own process before
//! its program begins; everything that it starts inherits it.

use std::io;

use mangrove_protocol::manifest::Manifest;
use rustix::process::{Resource, Rlimit};

use crate::config::Portable;

/// What one plugin's processes may use, each. `None` = what the host itself may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Memory for data, in bytes.
    pub(super) memory: Option<u64>,
    /// Open files.
    pub(super) open_files: Option<u64>,
    /// The weight against other processes when the processors are busy, in percent of the usual one.
    pub(super) cpu_share: Option<u8>,
}

impl Limits {
    /// What the plugin's author says.
    pub(super) fn of(manifest: &Manifest) -> Self {
        Self {
            memory: manifest.limits.memory,
            open_files: manifest.limits.open_files,
            cpu_share: manifest.limits.cpu_share,
        }
    }

    /// What the host's settings say of all plugins.
    pub(super) fn at_most(settings: &Portable) -> Self {
        fn number(setting: usize) -> Option<u64> {
            u64::try_from(setting).ok().filter(|number| *number > 0)
        }
        Self {
            memory: number(settings.limit_memory),
            open_files: number(settings.limit_open_files),
            cpu_share: u8::try_from(settings.limit_cpu_share)
                .ok()
                .filter(|share| *share < 100),
        }
    }

    /// The lower of both.
    pub(super) fn min(self, other: Self) -> Self {
        fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.into_iter().chain(other).min()
        }
        Self {
            memory: lower(self.memory, other.memory),
            open_files: lower(self.open_files, other.open_files),
            cpu_share: lower(self.cpu_share, other.cpu_share),
        }
    }

    /// As one argument of the guard.
    pub(super) fn encode(self) -> String {
        fn field(limit: Option<u64>) -> String {
            limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string())
        }
        format!(
            "{},{},{}",
            field(self.memory),
            field(self.open_files),
            field(self.cpu_share.map(u64::from))
        )
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        fn field<T: std::str::FromStr>(text: &str) -> Option<Option<T>> {
            match text {
                "-" => Some(None),
                number => number.parse().ok().map(Some),
            }
        }
        let mut fields = text.split(',');
        let limits = Self {
            memory: field(fields.next()?)?,
            open_files: field(fields.next()?)?,
            cpu_share: field(fields.next()?)?,
        };
        fields.next().is_none().then_some(limits)
    }

    /// Limits this process. Async-signal-safe: for use between fork and exec.
    pub(super) fn apply(self) -> io::Result<()> {
        let limit = |resource, value: Option<u64>| match value {
            None => Ok(()),
            Some(value) => {
                // Nobody can raise what the host itself has.
                let most = rustix::process::getrlimit(resource).maximum;
                let value = Some(most.map_or(value, |most| most.min(value)));
                let (current, maximum) = (value, value);
                rustix::process::setrlimit(resource, Rlimit { current, maximum })
            }
        };
        limit(Resource::Data, self.memory)?;
        limit(Resource::Nofile, self.open_files)?;
        if let Some(share) = self.cpu_share {
            let usual = rustix::process::getpriority_process(None)?;
            rustix::process::setpriority_process(None, usual.max(niceness(share)))?;
        }
        Ok(())
    }
}

/// The scheduler gives each step of niceness about four fifths of the weight of the one before.
fn niceness(share: u8) -> i32 {
    /// The weight in percent at which each niceness from 1 begins.
    const STEPS: [u8; 19] = [80, 64, 51, 41, 33, 27, 21, 17, 13, 11, 9, 7, 5, 4, 3, 2, 2, 1, 1];
    let steps = STEPS.iter().take_while(|weight| share <= **weight);
    i32::try_from(steps.count()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Limits = Limits {
        memory: Some(1 << 30),
        open_files: None,
        cpu_share: Some(50),
    };

    #[test]
    fn the_guard_reads_what_the_host_writes() {
        for limits in [Limits::default(), SOME] {
            assert_eq!(Limits::decode(&limits.encode()), Some(limits));
        }
        for text in ["", "-", "-,-", "-,-,-,-", "x,-,-", "-,-,300", "-1,-,-"] {
            assert_eq!(Limits::decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_lower_limit_wins_and_none_is_the_highest() {
        let other = Limits {
            memory: Some(1 << 20),
            open_files: Some(64),
            cpu_share: Some(90),
        };
        let both = Limits {
            memory: Some(1 << 20),
            open_files: Some(64),
            cpu_share: Some(50),
        };
        assert_eq!(SOME.min(other), both);
        assert_eq!(Limits::default().min(SOME), SOME);
    }

    #[test]
    fn a_smaller_share_is_never_less_nice() {
        assert_eq!(
            (niceness(100), niceness(81), niceness(80), niceness(50)),
            (0, 0, 1, 3)
        );
        assert!((1..100).all(|share| niceness(share) >= niceness(share + 1)));
        assert_eq!(niceness(1), 19);
    }
}
