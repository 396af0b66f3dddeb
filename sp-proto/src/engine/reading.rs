//! Who reads from a pipe: its task, or in a flood a receiver that has taken all that was queued. Such a receiver
//! saves the hop between two tasks, which on two processors costs more than reading.
//!
//! The poller always wakes the pipe's task. That reads, and hands the reading over once it has delivered a turn's
//! worth to receivers that are awake; it gets it back when they have read all there is. So with nobody in `recv` a
//! pipe is read on, and its end is noticed, as if there were no such thing.

use crate::engine::core::{Core, State, find};
use crate::engine::intake::Intake;
use crate::pattern::{Key, Pattern};
use crate::sync::MutexGuard;
use std::task::Poll;
use std::time::Duration;

/// A pipe that was handed over and that no receiver has read for so long, or twice that at most, is read by its task:
/// receivers can go away, and futures can be woken and yet not be polled.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// The receiving half of a pipe, by whose turn it is.
///
/// ```text
///   Task ──task takes it──▶ Taken ──a turn's worth delivered, receivers awake──▶ HandedOver
///    ▲                      │   ▲                                                    │
///    └──nothing more to read┘   └────receiver takes it, or task when none comes──────┘
/// ```
pub(crate) enum Reading {
    /// The task's alone: on its connection, reading and writing are one.
    Own,
    /// The task looks whenever it is polled.
    Task(Box<Intake>),
    /// There may be more to read, for the next receiver that finds nothing queued.
    HandedOver {
        intake: Box<Intake>,
        /// Has a receiver read since the task looked after it?
        read: bool,
    },
    /// Somebody reads just now, for as long as one poll. Is the task to be woken after that?
    Taken { wanted: bool },
}

impl<P: Pattern> State<P> {
    /// Gives the pipe's task the receiving half if it is its turn, or if it is `needed` for something else than
    /// reading. When somebody has it just now, the task is woken afterwards.
    pub(crate) fn claim(&mut self, key: Key, needed: bool) -> Option<Box<Intake>> {
        let end = find(&mut self.ends, key)?;
        match std::mem::replace(&mut end.reading, Reading::Taken { wanted: false }) {
            Reading::Task(intake) => return Some(intake),
            Reading::HandedOver { intake, .. } if needed => {
                self.handed_over.retain(|other| *other != key);
                return Some(intake);
            }
            // What the task was woken for may be that there is more to read.
            Reading::Taken { .. } => end.reading = Reading::Taken { wanted: true },
            other => end.reading = other,
        }
        None
    }

    /// Delivers what was read.
    pub(crate) fn deliver(&mut self, key: Key, intake: &mut Intake) {
        let count = intake.frames.len();
        // A pipe that has left its socket meanwhile brings nothing any more.
        if count == 0 || self.end(key).is_none() {
            return;
        }
        let State { pattern, pipes, .. } = self;
        pipes.note_received(key, &intake.frames);
        if let Err(violation) = pattern.handle_frames(pipes, key, &mut intake.frames) {
            intake.end = Some(violation.into());
        }
        intake.shrink(count);
        self.moved = Some(key);
    }

    /// Leaves the receiving half to the pipe's task, or hands it over to receivers. Gives it to the caller when
    /// the pipe is gone: not to be dropped under the lock, for that may wake somebody.
    #[must_use]
    fn give_back(&mut self, key: Key, intake: Box<Intake>, hand_over: bool) -> Option<Box<Intake>> {
        let Some(end) = find(&mut self.ends, key) else {
            return Some(intake);
        };
        // Only the task can end the pipe, or change how the connection is watched.
        let task = intake.end.is_some() || intake.reader.wants_care();
        if task || matches!(end.reading, Reading::Taken { wanted: true }) {
            self.pipes.signal(key);
        }
        end.reading = if hand_over && !task {
            self.handed_over.push_back(key);
            Reading::HandedOver { intake, read: true }
        } else {
            Reading::Task(intake)
        };
        None
    }

    /// The next pipe that was handed over and may be read.
    fn take_over(&mut self) -> Option<(Key, Box<Intake>)> {
        while let Some(key) = self.handed_over.pop_front() {
            let may_read = self.pattern.may_read(key);
            let Some(end) = find(&mut self.ends, key) else {
                continue;
            };
            match std::mem::replace(&mut end.reading, Reading::Taken { wanted: false }) {
                Reading::HandedOver { intake, .. } if may_read => return Some((key, intake)),
                // The pattern signals the pipe once it may be read.
                Reading::HandedOver { intake, .. } => end.reading = Reading::Task(intake),
                other => end.reading = other,
            }
        }
        None
    }
}

impl<P: Pattern> Core<P> {
    /// Ends the turn of the pipe's task. Says whether receivers were left to read: only those that are awake.
    pub(crate) fn end_turn(&self, key: Key, intake: Box<Intake>, more: bool) -> bool {
        let mut state = self.lock();
        let waiting = state.prompt && !state.receivers.is_empty();
        let hand_over =
            more && state.pattern.has_one_queue() && (std::mem::take(&mut state.receiving) || waiting);
        let gone = state.give_back(key, intake, hand_over);
        let wakes = state.settle();
        drop(state);
        wakes.wake();
        drop(gone);
        hand_over
    }

    /// Is the pipe still handed over? Not if no receiver has read it since this was asked last.
    pub(crate) fn is_handed_over(&self, key: Key) -> bool {
        let mut state = self.lock();
        let State {
            ends,
            handed_over,
            prompt,
            ..
        } = &mut *state;
        let Some(end) = find(ends, key) else { return false };
        match std::mem::replace(&mut end.reading, Reading::Own) {
            Reading::HandedOver { intake, read: false } => {
                handed_over.retain(|other| *other != key);
                *prompt = false;
                end.reading = Reading::Task(intake);
                false
            }
            Reading::HandedOver { intake, read: true } => {
                end.reading = Reading::HandedOver { intake, read: false };
                true
            }
            other => {
                let taken = matches!(other, Reading::Taken { .. });
                end.reading = other;
                taken
            }
        }
    }

    /// Takes what is queued or, when that is nothing, reads what was handed over.
    pub(crate) fn take_or_read<'a, T>(
        &'a self,
        mut state: MutexGuard<'a, State<P>>,
        mut take: impl FnMut(&mut State<P>) -> Option<T>,
    ) -> (MutexGuard<'a, State<P>>, Option<T>) {
        loop {
            if let Some(taken) = take(&mut state) {
                state.receiving = true;
                state.prompt = true;
                return (state, Some(taken));
            }
            let Some((key, mut intake)) = state.take_over() else {
                return (state, None);
            };
            drop(state);
            let more = intake.poll(None) == Poll::Ready(());
            state = self.lock();
            state.deliver(key, &mut intake);
            if let Some(gone) = state.give_back(key, intake, more) {
                drop(state);
                drop(gone);
                state = self.lock();
            }
        }
    }
}
