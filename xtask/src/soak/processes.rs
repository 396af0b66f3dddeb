//! Owns what `/proc` says: which processes there are of a run, whatever they did to hide, and what the host uses.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::Pid;

/// The variable that every process of a run inherits from its host.
pub(super) const MARK: &str = "SOAK_MARK";

/// A living process of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) pid: i32,
    /// Program and arguments.
    pub(super) command: String,
}

impl Marked {
    /// Whether it is the host's own, between it and a plugin.
    pub(super) fn is_guard(&self) -> bool {
        self.command.split(' ').nth(1) == Some("guard")
    }
}

/// All processes that have inherited this mark. Those that have ended and await their parent are none.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn marked(mark: &str) -> Result<Vec<Marked>> {
    let variable = format!("{MARK}={mark}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
        let path = entry.context("cannot read /proc")?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
            continue;
        };
        // It may end while we look.
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|text| text == variable.as_bytes())
        {
            let command = words(&std::fs::read(path.join("cmdline")).unwrap_or_default());
            found.push(Marked { pid, command });
        }
    }
    Ok(found)
}

fn words(command_line: &[u8]) -> String {
    let text = String::from_utf8_lossy(command_line);
    text.trim_end_matches('\0').replace('\0', " ")
}

/// Whether this process is there; one that awaits its parent is not.
pub(super) fn is_alive(pid: u64) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// What a process uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) descriptors: u64,
    /// Resident memory.
    pub(super) kibibytes: u64,
}

/// What the process uses now.
///
/// # Errors
/// It has ended.
pub(super) fn used_by(pid: Pid) -> Result<Use> {
    let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    let gone = || format!("cannot read {}", proc.display());
    let status = std::fs::read_to_string(proc.join("status")).with_context(gone)?;
    let kibibytes = resident(&status).with_context(|| format!("{}/status has no VmRSS", proc.display()))?;
    let descriptors = std::fs::read_dir(proc.join("fd")).with_context(gone)?.count() as u64;
    Ok(Use {
        descriptors,
        kibibytes,
    })
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1234));
        assert_eq!(resident("Name:\tx\n"), None);
        assert_eq!(words(b"sh\0run\0{}\0"), "sh run {}");
        assert!(used_by(rustix::process::getpid()).unwrap().descriptors > 0);
        assert!(is_alive(std::process::id().into()));
        assert_eq!(marked("nobody has this").unwrap(), []);
    }

    #[test]
    fn a_guard_is_told_by_its_first_argument() {
        let marked = |command: &str| Marked {
            pid: 1,
            command: command.to_owned(),
        };
        assert!(marked("/proc/self/exe guard - /x/run {}").is_guard());
        assert!(!marked("/x/mangrove serve").is_guard());
    }
}
