//! Owns what processes use, as the system counts it: a host's memory, and the processors' time of the host with
//! everything that it has started.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;

/// What a host and its plugins use.
pub(super) struct Usage {
    /// The host's resident memory, in bytes.
    pub(super) memory: u64,
    /// The processors' time of all processes together.
    pub(super) all: Duration,
}

/// What this host uses, and everything that it has started.
pub(super) fn usage(host: Pid) -> Result<Usage> {
    let host = host.as_raw_nonzero().get();
    let status = std::fs::read_to_string(format!("/proc/{host}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());

    let mut processes = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let pid = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok());
        // One that has ended meanwhile has no stat.
        if let Some(pid) = pid
            && let Some(stat) = stat(pid)
        {
            processes.insert(pid, stat);
        }
    }
    let is_ours = |mut pid: i32| {
        while pid != host {
            match processes.get(&pid) {
                Some((parent, _)) => pid = *parent,
                None => return false,
            }
        }
        true
    };
    let ours = processes.iter().filter(|(pid, _)| is_ours(**pid));
    let all = ours.map(|(_, (_, time))| *time).sum();
    Ok(Usage {
        memory: kib.context("no memory in the status of the host")? * 1024,
        all,
    })
}

/// The parent of a process, and the processors' time that it has used.
fn stat(pid: i32) -> Option<(i32, Duration)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)?;
    let each = 1_000_000 / rustix::param::clock_ticks_per_second();
    Some((fields.get(1)?.parse().ok()?, Duration::from_micros(ticks * each)))
}
