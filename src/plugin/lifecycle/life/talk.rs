//! What is said over the control channel: which message means what, and which command goes out next.

use std::time::Instant;

use mangrove_protocol::control::{Command, Request};
use mangrove_protocol::name::SymbolName;

use super::super::uses::Verb;
use super::super::{Action, Refusal};
use super::{Lifecycle, Outstanding, Phase};
use crate::plugin::turn::{Heard, Standing};

impl<P: Copy + Ord> Lifecycle<P> {
    pub(super) fn handle_message(
        &mut self,
        pipe: P,
        id: u32,
        request: Request,
        now: Instant,
        actions: &mut Vec<Action<P>>,
    ) {
        match &mut self.phase {
            // Whatever its first message says: the published hosts take anything for the handshake.
            Phase::Starting { .. } | Phase::Awaiting => {
                self.phase = Phase::Running {
                    since: now,
                    disconnected: None,
                }
            }
            Phase::Running { disconnected, .. } => *disconnected = None,
            _ => return,
        }
        let was_waiting = self.turn.ready() == Some(pipe) && self.outstanding.is_none();
        let is_handshake = request == Request::Handshake;
        let heard = self.turn.handle_message(pipe, id, is_handshake);
        if heard != Heard::Ignored {
            self.health.note_message(now, is_handshake, was_waiting);
        }
        match heard {
            Heard::Again => {
                if let (Some(sent), Some(pipe)) = (&self.outstanding, self.turn.ready()) {
                    actions.push(Action::Send(pipe, sent.command.clone()));
                    self.turn.handle_sent();
                }
            }
            Heard::Answer => {
                let verdict = match request {
                    Request::Failed(text) => Err(Refusal::Plugin(text)),
                    Request::Done | Request::Handshake => Ok(()),
                };
                self.settle(verdict, now, actions);
            }
            Heard::Ready | Heard::Late | Heard::Aside | Heard::Ignored => {}
        }
    }

    pub(super) fn handle_heard(&mut self, pipe: P, id: u32, now: Instant) {
        if !matches!(self.phase, Phase::Running { .. }) || self.turn.current() != Some(pipe) {
            return;
        }
        self.health.note_heard(now);
        // An answer that nobody waits for any more keeps nobody from the next command.
        if matches!(self.turn.standing(), Some(Standing::Late(_))) {
            self.turn.handle_message(pipe, id, true);
        }
    }

    pub(super) fn handle_gone(&mut self, pipe: P, now: Instant, actions: &mut Vec<Action<P>>) {
        let was_connected = self.turn.current().is_some();
        if self.turn.handle_gone(pipe) {
            self.interrupt(actions);
        }
        if !was_connected || self.turn.current().is_some() {
            return;
        }
        match &mut self.phase {
            Phase::Running { .. } if self.attached => self.lose_attached(actions),
            Phase::Running { disconnected, .. } => *disconnected = Some(now),
            _ => {}
        }
    }

    /// What was sent last has come to an end.
    pub(super) fn settle(
        &mut self,
        verdict: Result<(), Refusal>,
        now: Instant,
        actions: &mut Vec<Action<P>>,
    ) {
        let Some(sent) = self.outstanding.take() else {
            return;
        };
        match verdict {
            // It may have missed a limit of its own while it was stopped, such as that for a connection.
            Err(Refusal::Plugin(_)) if sent.halted && sent.order.verb == Verb::Start => {
                actions.extend(self.uses.interrupt(&sent.order));
            }
            // The next process may do what this one cannot.
            Err(refusal) if self.uses.is_mending(&sent.order) => {
                let name = self.uses.name(sent.order.id).map_or("", SymbolName::as_str);
                let reason = format!("the function \"{name}\" has lost its connection: {refusal}");
                self.handle_condemned(reason, now, actions);
            }
            verdict => actions.extend(self.uses.settle(&sent.order, verdict)),
        }
    }

    /// The connection broke before the answer. Mostly the process has ended, and will be heard of next; if
    /// not, what has to run is started (once more, perhaps) when the plugin has connected anew.
    fn interrupt(&mut self, actions: &mut Vec<Action<P>>) {
        if let Some(sent) = self.outstanding.take() {
            actions.extend(self.uses.interrupt(&sent.order));
        }
    }

    pub(super) fn send_next(&mut self, now: Instant, actions: &mut Vec<Action<P>>) {
        if !matches!(self.phase, Phase::Running { .. }) || self.outstanding.is_some() {
            return;
        }
        if let Some(pipe) = self.turn.ready()
            && let Some((order, symbol)) = self.uses.next_order()
        {
            let command = match order.verb {
                Verb::Start => Command::Start(symbol),
                Verb::Stop => Command::Stop(symbol),
            };
            actions.push(Action::Send(pipe, command.clone()));
            self.turn.handle_sent();
            self.outstanding = Some(Outstanding {
                order,
                command,
                deadline: now + self.limits.command,
                halted: self.health.is_halted(),
            });
        }
    }
}
