//! Owns whose turn it is on a turned-around channel (control and function), where the plugin sends *requests*
//! and the host's *replies* are commands or calls. Pure: it knows pipes by their ids only; the life cycle and
//! the function channel drive it.
//!
//! ```text
//!             message                sent                 answer
//! Absent ───────────────▶ Ready ───────────────▶ Busy ───────────────▶ Ready
//!    ▲                      ▲ ▲                   │ │  keep-alive: the command crossed it and was
//!    │ pipe gone            │ └───────────────────┘ │  dropped by the plugin → send it again
//!    └── from any state     │                       ▼ nobody waits for the answer any more
//!                           └─────────────────── Late
//!                              any message
//! ```
//!
//! After a command exactly one new message comes: its answer, or the keep-alive that the plugin had sent
//! before the command reached it. So one message, whatever it says, is enough to leave `Late`, and no answer
//! can ever be taken for the answer to a later command. A pipe with a higher id is newer and wins: the plugin
//! has dialed anew.
//!
//! Old SDKs leave their library's default on, which sends a request *again* when it has not been replied to
//! for a minute. Such a repetition can cross a command, too, and it repeats the answer to the command before:
//! taken for the new one's answer it would be a lie. It is told by its request id, which is the one that was
//! just replied to.

/// Whose turn it is. `P` is the id of a pipe; later pipes have higher ids. The number is the id of the
/// request that the next command replies to, or that the last one replied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn<P> {
    /// Nobody is connected.
    Absent,
    /// The plugin waits for a command.
    Ready(P, u32),
    /// The host waits for the answer to what it sent.
    Busy(P, u32),
    /// As `Busy`, but nobody wants the answer any more.
    Late(P, u32),
}

/// What a message of the plugin means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The plugin waits for a command; nothing was outstanding.
    Ready,
    /// What is outstanding was dropped by the plugin unread and has to be sent again, to this message.
    Again,
    /// This is the answer to what is outstanding.
    Answer,
    /// The answer (or the keep-alive that stands for "never seen") to something that nobody waits for any
    /// more.
    Late,
    /// The plugin has connected anew: whether what was outstanding was carried out is unknown.
    Lost,
    /// From a connection that a newer one has replaced, or a repetition of what was replied to already.
    Ignored,
}

impl<P: Copy + Ord> Turn<P> {
    /// The message with the request id `id` arrived on `pipe`. It is kept by the caller, and what is sent
    /// next replies to it, unless the result is [`Heard::Ignored`].
    pub(super) fn handle_message(&mut self, pipe: P, id: u32, keep_alive: bool) -> Heard {
        let heard = match *self {
            Self::Ready(current, _) | Self::Busy(current, _) | Self::Late(current, _) if pipe < current => {
                return Heard::Ignored;
            }
            Self::Busy(current, last) | Self::Late(current, last) if pipe == current && id == last => {
                return Heard::Ignored;
            }
            Self::Busy(current, _) if pipe != current => Heard::Lost,
            Self::Busy(..) if keep_alive => Heard::Again,
            Self::Busy(..) => Heard::Answer,
            Self::Late(current, _) if pipe == current => Heard::Late,
            Self::Absent | Self::Ready(..) | Self::Late(..) => Heard::Ready,
        };
        *self = Self::Ready(pipe, id);
        heard
    }

    /// The newest message was replied to with a command. Only in `Ready`; elsewhere nothing happens.
    pub(super) fn handle_sent(&mut self) {
        if let Self::Ready(pipe, id) = *self {
            *self = Self::Busy(pipe, id);
        }
    }

    /// Nobody waits for the outstanding answer any more.
    pub(super) fn handle_abandoned(&mut self) {
        if let Self::Busy(pipe, id) = *self {
            *self = Self::Late(pipe, id);
        }
    }

    /// `pipe` is gone. True when an answer was awaited on it, which will never come.
    pub(super) fn handle_gone(&mut self, pipe: P) -> bool {
        match *self {
            Self::Busy(current, _) if current == pipe => {
                *self = Self::Absent;
                true
            }
            Self::Ready(current, _) | Self::Late(current, _) if current == pipe => {
                *self = Self::Absent;
                false
            }
            _ => false,
        }
    }

    /// Can a command be sent now?
    pub(super) fn is_ready(self) -> bool {
        matches!(self, Self::Ready(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEEP_ALIVE: bool = true;
    const OTHER: bool = false;

    #[test]
    fn every_state_and_message() {
        use Turn::{Absent, Busy, Late, Ready};
        let table = [
            (Absent, (1, 5), KEEP_ALIVE, Heard::Ready, Ready(1, 5)),
            (Absent, (1, 5), OTHER, Heard::Ready, Ready(1, 5)),
            (Ready(1, 5), (1, 6), KEEP_ALIVE, Heard::Ready, Ready(1, 6)),
            (Ready(1, 5), (1, 5), OTHER, Heard::Ready, Ready(1, 5)),
            (Ready(1, 5), (2, 5), KEEP_ALIVE, Heard::Ready, Ready(2, 5)),
            (Ready(2, 5), (1, 6), KEEP_ALIVE, Heard::Ignored, Ready(2, 5)),
            (Busy(1, 5), (1, 6), KEEP_ALIVE, Heard::Again, Ready(1, 6)),
            (Busy(1, 5), (1, 6), OTHER, Heard::Answer, Ready(1, 6)),
            (Busy(1, 5), (1, 5), OTHER, Heard::Ignored, Busy(1, 5)),
            (Busy(1, 5), (1, 5), KEEP_ALIVE, Heard::Ignored, Busy(1, 5)),
            (Busy(1, 5), (2, 5), KEEP_ALIVE, Heard::Lost, Ready(2, 5)),
            (Busy(1, 5), (2, 5), OTHER, Heard::Lost, Ready(2, 5)),
            (Busy(2, 5), (1, 6), OTHER, Heard::Ignored, Busy(2, 5)),
            (Late(1, 5), (1, 6), OTHER, Heard::Late, Ready(1, 6)),
            (Late(1, 5), (1, 6), KEEP_ALIVE, Heard::Late, Ready(1, 6)),
            (Late(1, 5), (1, 5), OTHER, Heard::Ignored, Late(1, 5)),
            (Late(1, 5), (2, 5), KEEP_ALIVE, Heard::Ready, Ready(2, 5)),
            (Late(2, 5), (1, 6), OTHER, Heard::Ignored, Late(2, 5)),
        ];
        for (before, (pipe, id), keep_alive, heard, after) in table {
            let mut turn = before;
            assert_eq!(
                turn.handle_message(pipe, id, keep_alive),
                heard,
                "{before:?} hears {id} on {pipe}"
            );
            assert_eq!(turn, after, "{before:?} after {id} on {pipe}");
        }
    }

    #[test]
    fn only_the_pipe_in_use_matters_when_it_goes() {
        for (before, pipe, lost, after) in [
            (Turn::Busy(2, 5), 2, true, Turn::Absent),
            (Turn::Busy(2, 5), 1, false, Turn::Busy(2, 5)),
            (Turn::Ready(2, 5), 2, false, Turn::Absent),
            (Turn::Late(2, 5), 2, false, Turn::Absent),
            (Turn::Absent, 2, false, Turn::Absent),
        ] {
            let mut turn = before;
            assert_eq!((turn.handle_gone(pipe), turn), (lost, after), "{before:?}");
        }
    }

    /// A plugin as the SDKs are: it has one request outstanding, drops replies to older ones, and sends a
    /// keep-alive or its request once more when it likes.
    #[derive(Default)]
    struct Peer {
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
            let mut turn = Turn::Absent;
            let mut peer = Peer { request: 1, ..Peer::default() };
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
                            Heard::Lost => prop_assert!(false, "lost on a single pipe"),
                        }
                    },
                    3 => if turn.is_ready() {
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
