//! Owns who descends from whom, by what the system tells of each process. Used by the guard to find everything
//! that a plugin has started, and by the host to know whose process a peer is.

use std::collections::{HashMap, HashSet};
use std::io;

use rustix::process::{Pid, PidfdFlags, Signal};

/// The longest line of ancestors that is followed.
const GENERATIONS: usize = 64;

/// Sends SIGKILL to every descendant of `ancestor` that has not ended, and says how many they were. Nobody may reap
/// the ancestor meanwhile.
pub(in crate::plugin) fn kill_descendants(ancestor: Pid) -> io::Result<usize> {
    let parents = parents()?;
    let mut killed = 0;
    for pid in family(&parents, ancestor) {
        // Held by the descriptor, the pid cannot become another process's while it is looked at again.
        let Ok(held) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let found = stat(pid);
        if found.as_ref().and_then(|found| found.parent) == parents.get(&pid).copied() {
            killed += usize::from(found.is_some_and(|found| found.state != b'Z'));
            let _ended = rustix::process::pidfd_send_signal(&held, Signal::KILL);
        }
    }
    Ok(killed)
}

/// Every process that descends from `ancestor`.
pub(in crate::plugin) fn descendants(ancestor: Pid) -> io::Result<Vec<Pid>> {
    Ok(family(&parents()?, ancestor).into_iter().collect())
}

/// Those of `parents` who descend from `ancestor`.
fn family(parents: &HashMap<Pid, Pid>, ancestor: Pid) -> HashSet<Pid> {
    let mut family = HashSet::from([ancestor]);
    // As often as somebody is found: a child's number may be lower than its parent's.
    loop {
        let before = family.len();
        for (pid, parent) in parents {
            if family.contains(parent) {
                family.insert(*pid);
            }
        }
        if family.len() == before {
            break;
        }
    }
    family.remove(&ancestor);
    family
}

/// Sends SIGKILL to every process that was started with this variable, `NAME=value`, in its environment and has
/// not ended. Returns how many there were.
pub(in crate::plugin) fn kill_marked(variable: &str) -> io::Result<usize> {
    let us = rustix::process::getpid();
    let mut killed = 0;
    for pid in parents()?.into_keys().filter(|pid| *pid != us) {
        // Held by the descriptor, as above.
        let Ok(held) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // Empty when it has ended; closed to us when it is another user's.
        let environment =
            std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
        let is_marked = environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == variable.as_bytes());
        if is_marked && rustix::process::pidfd_send_signal(&held, Signal::KILL).is_ok() {
            killed += 1;
        }
    }
    Ok(killed)
}

/// Is `pid` the process `ancestor`, or does it descend from it?
pub(in crate::plugin) fn descends(pid: u32, ancestor: u32) -> bool {
    let known = |pid: u32| Pid::from_raw(i32::try_from(pid).ok()?);
    let Some(ancestor) = known(ancestor) else {
        return false;
    };
    std::iter::successors(known(pid), |pid| parent(*pid))
        .take(GENERATIONS)
        .any(|pid| pid == ancestor)
}

/// Is the process stopped by a signal, or by a debugger?
pub(in crate::plugin) fn is_halted(pid: Pid) -> bool {
    stat(pid).is_some_and(|stat| matches!(stat.state, b'T' | b't'))
}

/// Every process that can be seen, with its parent.
fn parents() -> io::Result<HashMap<Pid, Pid>> {
    let mut parents = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = number.and_then(Pid::from_raw)
            && let Some(parent) = parent(pid)
        {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}

/// The parent of a process that exists and has one.
fn parent(pid: Pid) -> Option<Pid> {
    stat(pid)?.parent
}

/// What the system tells of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    parent: Option<Pid>,
}

fn stat(pid: Pid) -> Option<Stat> {
    Stat::parse(&std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
}

impl Stat {
    /// The fields behind the name, which is in parentheses and may hold any bytes.
    fn parse(stat: &[u8]) -> Option<Self> {
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(stat.get(name_end + 1..)?)
            .ok()?
            .split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent: i32 = fields.next()?.parse().ok()?;
        Some(Self {
            state,
            parent: Pid::from_raw(parent),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_fields() {
        let of = |state, parent| {
            Some(Stat {
                state,
                parent: Pid::from_raw(parent),
            })
        };
        let stat = b"77 (a) S 1 (b) R) T 42 77 77 0 -1 4194304";
        assert_eq!(Stat::parse(stat), of(b'T', 42));
        assert_eq!(Stat::parse(b"1 (init) S 0 1"), of(b'S', 0));
        for stat in ["", "77", "77 (sh)", "77 (sh) S", "77 (sh) S x"] {
            assert_eq!(Stat::parse(stat.as_bytes()), None, "{stat:?}");
        }
    }

    #[test]
    fn a_child_descends_from_its_ancestors_and_not_the_reverse() {
        let us = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id();
        assert!(descends(pid, us) && descends(us, us));
        assert!(descends(pid, std::os::unix::process::parent_id()));
        assert!(!descends(us, pid) && !descends(pid, 0) && !descends(0, us));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descends(pid, us), "it is gone");
    }
}
