//! Push: deals messages out, round-robin over the pipes that can take one.
//!
//! With many pipes, a flood is dealt out in runs: what a pipe has not yet written is joined by a few more
//! messages before the next pipe has its turn. Each run is one write, where else each message would be. A
//! message that finds its pipe idle is never part of a run, so without a flood each pipe gets one in turn.

use crate::pattern::{Key, Pattern, Pipes, Refusal, Violation};
use crate::{Message, Protocol};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Instant;

/// The state of a push socket.
#[derive(Debug, Default)]
pub(crate) struct Push {
    /// The pipes with room, the one whose turn it is first.
    turns: VecDeque<Key>,
    /// How many messages the first of them has got in its turn.
    run: usize,
}

/// Up to so many pipes are served strictly in turn.
const FEW: usize = 31;

/// With more, a run has one message for so many pipes.
const PIPES_PER_MESSAGE: usize = 8;

/// The longest run.
const LONGEST_RUN: usize = 128;

impl Push {
    /// Hands the message to the next pipe with room, or gives it back when there is none.
    pub(crate) fn send(&mut self, pipes: &mut Pipes, message: Message) -> Result<Key, Message> {
        let longest = match self.turns.len() {
            ..=FEW => 1,
            many => (many / PIPES_PER_MESSAGE).min(LONGEST_RUN),
        };
        if self.run > 0
            && let Some(&key) = self.turns.front()
            && (self.run >= longest || !pipes.has_queued(key))
        {
            self.turns.rotate_left(1);
            self.run = 0;
        }
        let Some(&key) = self.turns.front() else {
            return Err(message);
        };
        self.run += 1;
        if !pipes.push(key, &[], message.into_bytes()) {
            self.turns.pop_front();
            self.run = 0;
        }
        Ok(key)
    }
}

impl Pattern for Push {
    fn protocol(&self) -> Protocol {
        Protocol::Push
    }

    fn attach(&mut self, _: &mut Pipes, key: Key, _: Instant) -> Result<(), Refusal> {
        self.turns.push_back(key);
        Ok(())
    }

    fn detach(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        if self.turns.front() == Some(&key) {
            self.run = 0;
        }
        self.turns.retain(|turn| *turn != key);
    }

    /// Nobody receives on a push socket: what a peer sends all the same is dropped.
    fn handle_frames(&mut self, pipes: &mut Pipes, _: Key, frames: &mut Vec<Bytes>) -> Result<(), Violation> {
        pipes.drops.unexpected += frames.drain(..).len() as u64;
        Ok(())
    }

    fn may_read(&mut self, _: Key) -> bool {
        true
    }

    fn handle_room(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        self.turns.push_back(key);
    }

    fn can_recv(&self) -> bool {
        false
    }

    fn can_send(&self) -> bool {
        !self.turns.is_empty()
    }

    fn has_ready(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PipeId;
    use crate::pattern::SendLimits;
    use crate::wire::Framing;

    fn socket(count: usize) -> (Push, Pipes, Vec<Key>) {
        let (mut push, mut pipes) = (
            Push::default(),
            Pipes::new(SendLimits {
                messages: 1000,
                bytes: usize::MAX,
            }),
        );
        let keys: Vec<_> = (0..count)
            .map(|_| pipes.insert(PipeId::next(), Framing::Tcp))
            .collect();
        for key in &keys {
            push.attach(&mut pipes, *key, Instant::now()).unwrap();
        }
        (push, pipes, keys)
    }

    fn send(push: &mut Push, pipes: &mut Pipes) -> Key {
        push.send(pipes, "x".into()).unwrap()
    }

    #[test]
    fn a_few_pipes_are_served_strictly_in_turn() {
        let (mut push, mut pipes, keys) = socket(31);
        for key in keys.iter().cycle().take(310) {
            assert_eq!(send(&mut push, &mut pipes), *key);
        }
    }

    #[test]
    fn a_flood_over_many_pipes_is_dealt_out_in_runs_that_are_equally_long() {
        let (mut push, mut pipes, keys) = socket(64);
        let runs = keys.iter().cycle().flat_map(|key| [key; 8]);
        for key in runs.take(8 * 64 * 3) {
            assert_eq!(send(&mut push, &mut pipes), *key);
        }
    }

    #[test]
    fn without_a_flood_many_pipes_are_served_strictly_in_turn() {
        let (mut push, mut pipes, keys) = socket(1000);
        for key in &keys {
            assert_eq!(send(&mut push, &mut pipes), *key);
            pipes.begin(*key).unwrap();
        }
    }

    #[test]
    fn a_pipe_that_goes_or_fills_up_ends_its_run() {
        let (mut push, mut pipes, keys) = socket(64);
        assert_eq!(send(&mut push, &mut pipes), keys[0]);
        pipes.remove(keys[0]);
        push.detach(&mut pipes, keys[0], Instant::now());
        for _ in 0..7 {
            assert_eq!(send(&mut push, &mut pipes), keys[1], "63 pipes: runs of seven");
        }
        assert_eq!(send(&mut push, &mut pipes), keys[2]);
    }
}
