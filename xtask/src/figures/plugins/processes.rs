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
    /// The processors' time of all processes together, in steps of the system's clock.
    pub(super) all: Duration,
    /// That of Python's interpreters among them.
    pub(super) python: Duration,
}

/// What this host uses, and everything that it has started.
pub(super) fn usage(host: Pid) -> Result<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let family = family(host)?;
    let python = family.values().filter(|stat| stat.is_python);
    Ok(Usage {
        memory: kib.context("no memory in the status of the host")? * 1024,
        all: family.values().map(|stat| stat.time).sum(),
        python: python.map(|stat| stat.time).sum(),
    })
}

/// The processors' time of the threads that this host and everything that it has started now have, to the nanosecond.
pub(super) fn exact_time(host: Pid) -> Result<Duration> {
    let mut all = 0_u64;
    for pid in family(host)?.into_keys() {
        // One that has ended meanwhile has no threads.
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let times = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let nanoseconds: Option<u64> = times.split(' ').next().and_then(|time| time.parse().ok());
            all += nanoseconds.unwrap_or_default();
        }
    }
    Ok(Duration::from_nanos(all))
}

/// What the system tells of a process.
struct Stat {
    parent: i32,
    /// The processors' time that it has used.
    time: Duration,
    is_python: bool,
}

/// This process and all that descend from it.
fn family(ancestor: Pid) -> Result<HashMap<i32, Stat>> {
    let ancestor = ancestor.as_raw_nonzero().get();
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
    let descends = |mut pid: i32| {
        while pid != ancestor {
            match processes.get(&pid) {
                Some(stat) => pid = stat.parent,
                None => return false,
            }
        }
        true
    };
    let others: Vec<i32> = processes.keys().copied().filter(|pid| !descends(*pid)).collect();
    for pid in others {
        processes.remove(&pid);
    }
    Ok(processes)
}

fn stat(pid: i32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)?;
    let each = 1_000_000 / rustix::param::clock_ticks_per_second();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        time: Duration::from_micros(ticks * each),
        is_python: name.contains("(python"),
    })
}
