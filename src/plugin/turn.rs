//! Owns whose turn it is on a turned-around channel (control and function), where the plugin sends *requests*
//! and the host's *replies* are commands or calls. Pure: it knows pipes by their ids only; the life cycle and
//! the function channel drive it.
//!
//! Each pipe for itself:
//!
//! ```text
//!          message                sent                 answer
//! (none) ───────────▶ Ready ───────────────▶ Busy ───────────────▶ Ready
//!                       ▲ ▲                   │ │  keep-alive: the command crossed it and was
//!                       │ └───────────────────┘ │  dropped by the plugin → send it again
//!                       │                       ▼ nobody waits for the answer any more
//!                       └─────────────────── Late
//!                           any message
//! ```
//!
//! After a command exactly one new message comes: its answer, or the keep-alive that the plugin had sent
//! before the command reached it. So one message, whatever it says, is enough to leave `Late`, and no answer
//! can ever be taken for the answer to a later command.
//!
//! Of several pipes one is *current*: the one with the highest id, which is the newest; but never another
//! one while an answer is awaited. So when a process takes over from another one, it gets the next command,
//! and the command that is under way is answered by whom it was given to. When the current pipe goes or is
//! *dismissed*, what is left of the others serves again.
//!
//! Old SDKs leave their library's default on, which sends a request *again* when it has not been replied to
//! for a minute. Such a repetition can cross a command, too, and it repeats the answer to the command before:
//! taken for the new one's answer it would be a lie. It is told by its request id, which is the one that was
//! just replied to.

use std::collections::BTreeMap;

/// How many pipes are known at the same time: two processes, and what one that dials anew leaves for a moment.
const PIPES: usize = 8;

/// How one pipe is. The number is the id of the request that the next command replies to, or that the last
/// one replied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The plugin waits for a command.
    Ready(u32),
    /// The host waits for the answer to what it sent.
    Busy(u32),
    /// As `Busy`, but nobody wants the answer any more.
    Late(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peer {
    standing: Standing,
    dismissed: bool,
}

/// Whose turn it is. `P` is the id of a pipe; later pipes have higher ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn<P> {
    pipes: BTreeMap<P, Peer>,
    current: Option<P>,
}

impl<P> Default for Turn<P> {
    fn default() -> Self {
        Self {
            pipes: BTreeMap::new(),
            current: None,
        }
    }
}

/// What a message of the plugin means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The plugin waits for a command; nothing was outstanding.
    Ready,
    /// What is outstanding was dropped by the plugin unread and has to be sent again.
    Again,
    /// This is the answer to what is outstanding.
    Answer,
    /// The answer (or the keep-alive that stands for "never seen") to something that nobody waits for any
    /// more.
    Late,
    /// From a pipe that is not current: it may become so later.
    Aside,
    /// A repetition of what was replied to already.
    Ignored,
}

impl<P: Copy + Ord> Turn<P> {
    /// The message with the request id `id` arrived on `pipe`. It is kept by the caller, and what is sent
    /// next on this pipe replies to it, unless the result is [`Heard::Ignored`].
    pub(super) fn handle_message(&mut self, pipe: P, id: u32, keep_alive: bool) -> Heard {
        let is_current = self.current.is_none_or(|current| current == pipe);
        let before = self.pipes.get(&pipe).map(|peer| peer.standing);
        let heard = match before {
            Some(Standing::Busy(last) | Standing::Late(last)) if id == last => return Heard::Ignored,
            Some(Standing::Busy(_)) if keep_alive => Heard::Again,
            Some(Standing::Busy(_)) => Heard::Answer,
            Some(Standing::Late(_)) => Heard::Late,
            None | Some(Standing::Ready(_)) => Heard::Ready,
        };
        let dismissed = self.pipes.get(&pipe).is_some_and(|peer| peer.dismissed);
        let standing = Standing::Ready(id);
        self.pipes.insert(pipe, Peer { standing, dismissed });
        if self.pipes.len() > PIPES {
            let oldest = self.pipes.keys().find(|old| Some(**old) != self.current).copied();
            oldest.and_then(|oldest| self.pipes.remove(&oldest));
        }
        self.choose();
        match heard {
            Heard::Ready if !is_current && self.current != Some(pipe) => Heard::Aside,
            heard => heard,
        }
    }

    /// The newest message of the current pipe was replied to with a command. Only when it is ready; else
    /// nothing happens.
    pub(super) fn handle_sent(&mut self) {
        self.step(|standing| match standing {
            Standing::Ready(id) => Standing::Busy(id),
            other => other,
        });
    }

    /// Nobody waits for the outstanding answer any more.
    pub(super) fn handle_abandoned(&mut self) {
        self.step(|standing| match standing {
            Standing::Busy(id) => Standing::Late(id),
            other => other,
        });
    }

    /// `pipe` is gone. True when an answer was awaited on it, which will never come.
    pub(super) fn handle_gone(&mut self, pipe: P) -> bool {
        let gone = self.pipes.remove(&pipe);
        self.choose();
        gone.is_some_and(|peer| matches!(peer.standing, Standing::Busy(_)))
    }

    /// Those pipes for which `is_dismissed` is true shall serve only while there is no other one.
    pub(super) fn handle_dismissed(&mut self, is_dismissed: impl Fn(P) -> bool) {
        for (pipe, peer) in &mut self.pipes {
            peer.dismissed = is_dismissed(*pipe);
        }
        self.choose();
    }

    /// The pipe on which a command can be sent now.
    pub(super) fn ready(&self) -> Option<P> {
        let ready = matches!(self.standing(), Some(Standing::Ready(_)));
        self.current.filter(|_| ready)
    }

    /// The pipe that serves, or would if it were not busy.
    pub(super) fn current(&self) -> Option<P> {
        self.current
    }

    /// How the current pipe is; `None` when nobody is connected.
    pub(super) fn standing(&self) -> Option<Standing> {
        Some(self.pipes.get(&self.current?)?.standing)
    }

    /// Whether anything is remembered of `pipe`.
    pub(super) fn knows(&self, pipe: P) -> bool {
        self.pipes.contains_key(&pipe)
    }

    fn step(&mut self, change: impl FnOnce(Standing) -> Standing) {
        if let Some(peer) = self.current.and_then(|current| self.pipes.get_mut(&current)) {
            peer.standing = change(peer.standing);
        }
        self.choose();
    }

    /// The newest pipe becomes current, unless an answer is awaited on the one that is.
    fn choose(&mut self) {
        if !matches!(self.standing(), Some(Standing::Busy(_))) {
            let best = self
                .pipes
                .iter()
                .max_by_key(|(pipe, peer)| (!peer.dismissed, **pipe));
            self.current = best.map(|(pipe, _)| *pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEEP_ALIVE: bool = true;
    const OTHER: bool = false;

    /// A single pipe, 1, in this standing.
    fn alone(standing: Standing) -> Turn<u32> {
        pipes(&[(1, standing)], 1)
    }

    fn pipes(all: &[(u32, Standing)], current: u32) -> Turn<u32> {
        let peer = |standing| Peer {
            standing,
            dismissed: false,
        };
        Turn {
            pipes: all
                .iter()
                .map(|(pipe, standing)| (*pipe, peer(*standing)))
                .collect(),
            current: Some(current),
        }
    }

    #[test]
    fn every_state_and_message() {
        use Standing::{Busy, Late, Ready};
        let none = Turn::default;
        let two = |old, new, current| pipes(&[(1, old), (2, new)], current);
        let table = [
            (none(), (1, 5), KEEP_ALIVE, Heard::Ready, alone(Ready(5))),
            (none(), (1, 5), OTHER, Heard::Ready, alone(Ready(5))),
            (alone(Ready(5)), (1, 6), KEEP_ALIVE, Heard::Ready, alone(Ready(6))),
            (alone(Ready(5)), (1, 5), OTHER, Heard::Ready, alone(Ready(5))),
            (alone(Busy(5)), (1, 6), KEEP_ALIVE, Heard::Again, alone(Ready(6))),
            (alone(Busy(5)), (1, 6), OTHER, Heard::Answer, alone(Ready(6))),
            (alone(Busy(5)), (1, 5), OTHER, Heard::Ignored, alone(Busy(5))),
            (alone(Busy(5)), (1, 5), KEEP_ALIVE, Heard::Ignored, alone(Busy(5))),
            (alone(Late(5)), (1, 6), OTHER, Heard::Late, alone(Ready(6))),
            (alone(Late(5)), (1, 6), KEEP_ALIVE, Heard::Late, alone(Ready(6))),
            (alone(Late(5)), (1, 5), OTHER, Heard::Ignored, alone(Late(5))),
            // A newcomer serves at once, unless an answer is awaited.
            (
                alone(Ready(5)),
                (2, 5),
                KEEP_ALIVE,
                Heard::Ready,
                two(Ready(5), Ready(5), 2),
            ),
            (
                alone(Late(5)),
                (2, 5),
                KEEP_ALIVE,
                Heard::Ready,
                two(Late(5), Ready(5), 2),
            ),
            (
                alone(Busy(5)),
                (2, 5),
                KEEP_ALIVE,
                Heard::Aside,
                two(Busy(5), Ready(5), 1),
            ),
            (
                two(Busy(5), Ready(5), 1),
                (1, 6),
                OTHER,
                Heard::Answer,
                two(Ready(6), Ready(5), 2),
            ),
            (
                two(Busy(5), Ready(5), 1),
                (1, 6),
                KEEP_ALIVE,
                Heard::Again,
                two(Ready(6), Ready(5), 2),
            ),
            // The old one is remembered for the case that the newcomer goes.
            (
                two(Ready(5), Busy(5), 2),
                (1, 6),
                KEEP_ALIVE,
                Heard::Aside,
                two(Ready(6), Busy(5), 2),
            ),
            (
                two(Late(5), Busy(5), 2),
                (1, 6),
                OTHER,
                Heard::Late,
                two(Ready(6), Busy(5), 2),
            ),
        ];
        for (before, (pipe, id), keep_alive, heard, after) in table {
            let mut turn = before.clone();
            assert_eq!(
                turn.handle_message(pipe, id, keep_alive),
                heard,
                "{before:?} hears {id} on {pipe}"
            );
            assert_eq!(turn, after, "{before:?} after {id} on {pipe}");
        }
    }

    #[test]
    fn a_pipe_that_goes_or_is_given_up_makes_way() {
        use Standing::{Busy, Late, Ready};
        let mut turn = pipes(&[(1, Busy(5)), (2, Ready(7))], 1);
        assert!(turn.handle_gone(1), "the answer will never come");
        assert_eq!(turn.ready(), Some(2));
        assert!(!turn.handle_gone(2));
        assert_eq!((turn.current(), turn.standing()), (None, None));

        let mut turn = pipes(&[(1, Busy(5)), (2, Ready(7))], 1);
        turn.handle_abandoned();
        assert_eq!(turn, pipes(&[(1, Late(5)), (2, Ready(7))], 2));

        let mut turn = pipes(&[(1, Ready(5)), (2, Busy(7))], 2);
        turn.handle_dismissed(|pipe| pipe == 2);
        assert_eq!(turn.current(), Some(2), "not while an answer is awaited");
        assert_eq!(turn.handle_message(2, 8, OTHER), Heard::Answer);
        assert_eq!(turn.ready(), Some(1));
        assert!(!turn.handle_gone(1));
        assert_eq!(turn.ready(), Some(2), "better than nobody");
    }

    #[test]
    fn no_more_than_so_many_pipes_are_remembered() {
        let mut turn = Turn::default();
        for pipe in 1..1000 {
            turn.handle_message(pipe, 1, KEEP_ALIVE);
        }
        assert_eq!((turn.pipes.len(), turn.ready()), (PIPES, Some(999)));
        assert!(!turn.knows(1) && turn.knows(998));
    }

    /// A plugin as the SDKs are: it has one request outstanding, drops replies to older ones, and sends a
    /// keep-alive or its request once more when it likes.
    #[derive(Default)]
    struct Plugin {
        request: u32,
        /// What the request says: the answer to this call, or nothing but that it is there.
        says: Option<u32>,
        carried_out: Vec<u32>,
    }

    proptest! {
        /// Any mix of keep-alives, repetitions, slow answers and impatient callers: an answer always belongs
        /// to its call, and no call is carried out twice.
        #[test]
        fn no_answer_goes_to_the_wrong_call(steps in proptest::collection::vec(0u8..6, 1..200)) {
            let mut turn = Turn::default();
            let mut peer = Plugin { request: 1, ..Plugin::default() };
            // What is on its way: (request id, text) to the host, (request id it replies to, call) to the
            // plugin.
            let mut to_host = std::collections::VecDeque::from([(1u32, None)]);
            let mut to_peer: std::collections::VecDeque<(u32, u32)> = [].into();
            let (mut newest, mut call, mut waiting) = (0u32, 0u32, false);
            for step in steps {
                match step {
                    0 => {
                        peer.request += 1;
                        peer.says = None;
                        to_host.push_back((peer.request, None));
                    }
                    1 => if let Some((reply_to, call)) = to_peer.pop_front() && reply_to == peer.request {
                        peer.carried_out.push(call);
                        peer.request += 1;
                        peer.says = Some(call);
                        to_host.push_back((peer.request, Some(call)));
                    },
                    5 => to_host.push_back((peer.request, peer.says)),
                    2 => if let Some((id, answer)) = to_host.pop_front() {
                        let heard = turn.handle_message(1, id, answer.is_none());
                        if heard != Heard::Ignored {
                            newest = id;
                        }
                        match heard {
                            Heard::Again => {
                                turn.handle_sent();
                                to_peer.push_back((newest, call));
                            }
                            Heard::Answer => {
                                prop_assert_eq!(answer, Some(call));
                                prop_assert!(waiting);
                                waiting = false;
                            }
                            Heard::Late | Heard::Ready => prop_assert!(!waiting),
                            Heard::Ignored => {}
                            Heard::Aside => prop_assert!(false, "aside on a single pipe"),
                        }
                    },
                    3 => if turn.ready().is_some() {
                        call += 1;
                        waiting = true;
                        turn.handle_sent();
                        to_peer.push_back((newest, call));
                    },
                    _ => if waiting {
                        waiting = false;
                        turn.handle_abandoned();
                    },
                }
            }
            let mut once = peer.carried_out.clone();
            once.dedup();
            prop_assert_eq!(once, peer.carried_out);
        }
    }
}
