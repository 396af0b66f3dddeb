//! Decides how a plugin is whose instances are so and so. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::plugin::status::{Snapshot, State};

/// The plugin, of which `wanted` instances are to run.
pub(super) fn whole(wanted: u32, instances: &BTreeMap<u32, Snapshot>) -> Snapshot {
    let unknown = || Snapshot::new(State::Stopped, "not started");
    let of = |instance: u32| instances.get(&instance).cloned().unwrap_or_else(unknown);
    let mut whole = of(0);
    let all: Vec<Snapshot> = (0..wanted).map(of).collect();
    let numbered = || (0_u32..).zip(&all);
    // Of equals the first.
    let worst = numbered().min_by_key(|(_, one)| Reverse(severity(one.state)));
    let Some((instance, worst)) = worst else {
        return whole;
    };
    whole.restarts = all.iter().map(|one| one.restarts).sum();
    let note = numbered().find(|(_, one)| !one.note.is_empty());
    if let Some((instance, one)) = note.filter(|_| wanted > 1) {
        whole.note = format!("instance {instance}: {}", one.note);
    }
    let key = |one: &Snapshot| (one.state, one.reason.clone());
    if all.iter().all(|one| key(one) == key(worst)) {
        (whole.state, whole.reason) = key(worst);
        return whole;
    }
    let running = all.iter().filter(|one| one.state == State::Running).count();
    whole.state = worst.state;
    whole.reason = match running {
        0 => format!("none of {wanted} instances runs; instance {instance} is {worst}"),
        running => format!("{running} of {wanted} instances run; instance {instance} is {worst}"),
    };
    whole
}

/// Which state says most about the whole.
fn severity(state: State) -> u8 {
    match state {
        State::Running => 0,
        State::Stopped => 1,
        State::Starting => 2,
        State::Unhealthy => 3,
        State::Restarting => 4,
        State::Failed => 5,
        // No worker says that of itself.
        State::Installing | State::Incomplete | State::Refused | State::Removed => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(wanted: u32, all: &[(State, &str)]) -> String {
        let instances = all
            .iter()
            .map(|(state, reason)| Snapshot::new(*state, reason))
            .map(|one| Snapshot { restarts: 2, ..one });
        let whole = whole(wanted, &(0..).zip(instances).collect());
        format!("{whole}, {} restarts", whole.restarts)
    }

    #[test]
    fn a_plugin_runs_when_all_its_instances_do() {
        use State::{Failed, Restarting, Running, Starting, Stopped};
        for (wanted, all, expected) in [
            (1, &[(Restarting, "why")][..], "restarting (why), 2 restarts"),
            (2, &[(Running, ""), (Running, "")], "running, 4 restarts"),
            // One that is one too many does not count.
            (1, &[(Running, ""), (Failed, "why")], "running, 2 restarts"),
            (2, &[(Starting, ""), (Starting, "")], "starting, 4 restarts"),
            (
                2,
                &[(Stopped, "by hand"), (Stopped, "by hand")],
                "stopped (by hand), 4 restarts",
            ),
            (
                3,
                &[(Running, ""), (Restarting, "why"), (Running, "")],
                "restarting (2 of 3 instances run; instance 1 is restarting (why)), 6 restarts",
            ),
            (
                3,
                &[(Failed, "a"), (Failed, "b"), (Running, "")],
                "failed (1 of 3 instances run; instance 0 is failed (a)), 6 restarts",
            ),
            (
                2,
                &[(Running, "")],
                "stopped (1 of 2 instances run; instance 1 is stopped (not started)), 2 restarts",
            ),
            (
                2,
                &[(Failed, "a"), (Failed, "b")],
                "failed (none of 2 instances runs; instance 0 is failed (a)), 4 restarts",
            ),
        ] {
            assert_eq!(shown(wanted, all), expected);
        }
    }
}
