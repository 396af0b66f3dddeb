//! Decides which instance of a plugin something goes to. Pure.

use crate::plugin::status::State;

/// One instance that a source or a sink could run in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) instance: u32,
    pub(super) state: State,
    /// The sources and sinks that it runs.
    pub(super) uses: usize,
}

/// Where the next source or sink runs: of those that are best off, in the one with the fewest uses.
pub(super) fn seat(candidates: impl Iterator<Item = Candidate>) -> Option<u32> {
    candidates
        .min_by_key(|candidate| (rank(candidate.state), candidate.uses, candidate.instance))
        .map(|candidate| candidate.instance)
}

/// Whether a symbol can be opened there as things are, or soon.
pub(super) fn is_fit(state: State) -> bool {
    rank(state) == 0
}

fn rank(state: State) -> u8 {
    match state {
        // One that is starting is waited for; else all uses would be in the one that was quickest.
        State::Running | State::Starting => 0,
        State::Unhealthy | State::Restarting => 1,
        _ => 2,
    }
}

/// How busy the channel of a function to one instance is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Calls can be put in.
    pub(super) open: bool,
    /// Somebody is at the other end just now.
    pub(super) connected: bool,
    /// Calls without an answer.
    pub(super) calls: usize,
}

/// Which channel the next call goes to: of those that are open the least busy one.
pub(super) fn call(loads: impl Iterator<Item = Load>) -> Option<usize> {
    loads
        .enumerate()
        .filter(|(_, load)| load.open)
        .min_by_key(|(_, load)| (!load.connected, load.calls))
        .map(|(index, _)| index)
}

/// How many of these calls each channel gets, when one after the other goes to the one that is the least busy then.
/// None are given out when no channel is open.
pub(super) fn shares(mut loads: Vec<Load>, calls: usize) -> Vec<usize> {
    let mut shares = vec![0; loads.len()];
    for _ in 0..calls {
        let Some(index) = call(loads.iter().copied()) else {
            break;
        };
        shares[index] += 1;
        loads[index].calls += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_goes_to_the_fewest_uses_among_those_that_are_best_off() {
        use State::{Failed, Restarting, Running, Starting, Stopped, Unhealthy};
        let chosen = |all: &[(State, usize)]| {
            let candidates = (0..).zip(all).map(|(instance, (state, uses))| Candidate {
                instance,
                state: *state,
                uses: *uses,
            });
            seat(candidates)
        };
        for (all, expected) in [
            (&[][..], None),
            (&[(Running, 7)], Some(0)),
            (&[(Running, 1), (Running, 0), (Running, 0)], Some(1)),
            (&[(Running, 1), (Starting, 0)], Some(1)),
            (&[(Running, 5), (Restarting, 0), (Unhealthy, 0)], Some(0)),
            (&[(Failed, 0), (Restarting, 2), (Unhealthy, 1)], Some(2)),
            (&[(Failed, 1), (Stopped, 0)], Some(1)),
        ] {
            assert_eq!(chosen(all), expected, "{all:?}");
        }
    }

    #[test]
    fn a_call_goes_to_the_fewest_calls_among_those_that_are_connected() {
        let chosen = |all: &[(bool, bool, usize)]| {
            call(all.iter().map(|(open, connected, calls)| Load {
                open: *open,
                connected: *connected,
                calls: *calls,
            }))
        };
        for (all, expected) in [
            (&[][..], None),
            (&[(false, true, 0)], None),
            (&[(true, true, 3), (true, true, 2), (true, true, 2)], Some(1)),
            (&[(true, true, 3), (false, true, 0)], Some(0)),
            (&[(true, false, 0), (true, true, 900)], Some(1)),
            (&[(true, false, 4), (true, false, 1)], Some(1)),
        ] {
            assert_eq!(chosen(all), expected, "{all:?}");
        }
    }

    #[test]
    fn calls_that_are_made_together_even_out_what_the_channels_owe() {
        let load = |open, calls| Load {
            open,
            connected: true,
            calls,
        };
        assert_eq!(
            shares(vec![load(true, 4), load(true, 0), load(false, 0)], 10),
            [3, 7, 0]
        );
        assert_eq!(shares(vec![load(true, 9), load(true, 0)], 5), [0, 5]);
        assert_eq!(shares(vec![load(false, 0)], 5), [0]);
        assert!(shares(Vec::new(), 5).is_empty());
    }
}
