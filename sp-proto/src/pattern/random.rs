//! Random operations on every pattern: whatever peers and callers do, in whatever order, nothing panics,
//! queues stay within their bounds, and what is ready can be had. Only in tests and fuzz targets.

use super::end::{End, RECV, SEND, newest};
use super::{
    Bus, ContextId, Key, Overflow, Pair, Pattern, Pipes, Progress, Pub, Pull, Push, Raw, Rep, Req, Responses,
    Sub, Surveyor, Version,
};
use crate::Protocol;
use crate::wire::DEFAULT_TTL;
use bytes::Bytes;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// Reads operations from `input` and carries them out on the pattern that its first byte names.
///
/// # Panics
/// When a pattern does not hold what it promises.
pub fn operations(input: &[u8]) {
    let Some((&subject, input)) = input.split_first() else {
        return;
    };
    let first_open = |mut end: End<Sub>| {
        end.pattern.open();
        end
    };
    match subject % 21 {
        0 => run(End::new(Push::default()), input),
        1 => run(End::new(Pull::new(RECV)), input),
        2 => run(End::new(Pair::new(Version::V0, RECV)), input),
        3 => run(End::new(Pair::new(Version::V1 { ttl: 8 }, RECV)), input),
        4 => run(End::new(Bus::new(RECV)), input),
        5 => run(End::new(Pub::default()), input),
        6 => run(first_open(End::new(Sub::new(RECV, Overflow::DropOldest))), input),
        7 => run(End::new(Rep::new(Protocol::Rep, newest(2), DEFAULT_TTL)), input),
        8 => {
            let mut end = End::new(Req::new(Some(SECOND), 0));
            end.pattern.open();
            run(end, input);
        }
        9 => {
            let mut end = End::new(Surveyor::new(RECV, 0));
            end.pattern.open();
            run(end, input);
        }
        raw => {
            let protocol = Protocol::ALL.get(usize::from(raw) - 10).copied();
            let raw = Raw::new(protocol.unwrap_or(Protocol::Rep), DEFAULT_TTL, RECV, 0);
            run(End::new(raw), input);
        }
    }
}

/// The operations, one after the other; what is missing at the end is 0.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    /// Up to 31 bytes.
    fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte() % 32).min(self.0.len());
        let (bytes, rest) = self.0.split_at_checked(len).unwrap_or_default();
        self.0 = rest;
        bytes.to_vec()
    }
}

/// What the operations need of a pattern beyond [`Pattern`].
trait Subject: Pattern {
    fn send(&mut self, _: &mut Pipes, _: Vec<u8>, _: Instant) {}

    /// Takes what there is for every receiver; says whether that was anything.
    fn receive(&mut self, _: &mut Pipes, _: Instant) -> bool {
        false
    }
}

fn run(mut end: End<impl Subject>, input: &[u8]) {
    let mut script = Script(input);
    let mut keys: Vec<Key> = Vec::new();
    keys.extend(end.join());
    while !script.0.is_empty() {
        let operation = script.byte() % 8;
        let pipe = |script: &mut Script<'_>, keys: &[Key]| {
            let at = usize::from(script.byte()) % keys.len().max(1);
            keys.get(at).copied()
        };
        match operation {
            0 | 1 => {
                let (key, frame) = (pipe(&mut script, &keys), script.bytes());
                if let Some(key) = key.filter(|key| end.pattern.may_read(*key))
                    && end.handle(key, vec![frame.into()]).is_err()
                {
                    end.leave(key);
                    keys.retain(|other| *other != key);
                }
            }
            2 => keys.extend(end.join()),
            3 => {
                if let Some(key) = pipe(&mut script, &keys) {
                    end.leave(key);
                    keys.retain(|other| *other != key);
                }
            }
            4 => {
                if let Some(key) = pipe(&mut script, &keys) {
                    // A request that waited for room goes out while there is some.
                    assert!(end.flush(key).len() <= 2 * SEND.messages);
                }
            }
            5 => Subject::send(&mut end.pattern, &mut end.pipes, script.bytes(), end.now),
            6 => {
                let ready = end.pattern.can_recv();
                let received = end.pattern.receive(&mut end.pipes, end.now);
                assert!(received || !ready, "what is ready can be had");
            }
            _ => end.now += 10 * Duration::from_millis(script.byte().into()),
        }
        while end.pattern.pop_ready().is_some() {}
        end.signalled();
    }
    assert_eq!(end.pipes.stats().pipes.len(), keys.len());
    for key in keys {
        end.leave(key);
    }
    while end.pattern.receive(&mut end.pipes, end.now) {}
    assert!(!end.pattern.can_recv());
}

/// The context that the patterns with contexts use here.
const FIRST: ContextId = ContextId(1);

impl Subject for Push {
    fn send(&mut self, pipes: &mut Pipes, body: Vec<u8>, _: Instant) {
        let _full = self.send(pipes, body.into());
    }
}

impl Subject for Pull {
    fn receive(&mut self, pipes: &mut Pipes, _: Instant) -> bool {
        self.recv(pipes).is_some()
    }
}

impl Subject for Pair {
    fn send(&mut self, pipes: &mut Pipes, body: Vec<u8>, _: Instant) {
        let _full = self.send(pipes, body.into());
    }

    fn receive(&mut self, pipes: &mut Pipes, _: Instant) -> bool {
        self.recv(pipes).is_some()
    }
}

impl Subject for Bus {
    fn send(&mut self, pipes: &mut Pipes, body: Vec<u8>, _: Instant) {
        Bus::send(self, pipes, body.into());
    }

    fn receive(&mut self, pipes: &mut Pipes, _: Instant) -> bool {
        self.recv(pipes).is_some()
    }
}

impl Subject for Pub {
    fn send(&mut self, pipes: &mut Pipes, body: Vec<u8>, _: Instant) {
        Pub::send(self, pipes, body.into());
    }
}

impl Subject for Sub {
    /// Subscribes and unsubscribes: it has nothing to send.
    fn send(&mut self, pipes: &mut Pipes, body: Vec<u8>, _: Instant) {
        if !self.unsubscribe(pipes, FIRST, &body) {
            self.subscribe(FIRST, body.clone().into());
        }
        self.subscribe(Sub::MAIN, body.into());
    }

    fn receive(&mut self, _: &mut Pipes, _: Instant) -> bool {
        self.recv(Sub::MAIN).is_some() | self.recv(FIRST).is_some()
    }
}

impl Subject for Rep {
    fn receive(&mut self, pipes: &mut Pipes, _: Instant) -> bool {
        let Some((origin, body)) = self.recv() else {
            return false;
        };
        let _full = self.reply(pipes, &origin, body);
        true
    }
}

impl Subject for Req {
    fn send(&mut self, pipes: &mut Pipes, body: Vec<u8>, now: Instant) {
        let _full = self.send(pipes, FIRST, body.into(), now);
    }

    fn receive(&mut self, pipes: &mut Pipes, now: Instant) -> bool {
        assert!(self.handle_timeout(pipes, now).is_none_or(|at| at > now));
        matches!(self.recv(FIRST), Progress::Reply(_))
    }
}

impl Subject for Surveyor {
    fn send(&mut self, pipes: &mut Pipes, body: Vec<u8>, now: Instant) {
        self.send(pipes, FIRST, body.into(), SECOND, now);
    }

    fn receive(&mut self, pipes: &mut Pipes, now: Instant) -> bool {
        matches!(self.recv(pipes, FIRST, now), Responses::Response(_))
    }
}

impl Subject for Raw {
    fn send(&mut self, pipes: &mut Pipes, body: Vec<u8>, _: Instant) {
        let _refused = self.send(pipes, &Bytes::copy_from_slice(&body), body.into());
    }

    fn receive(&mut self, pipes: &mut Pipes, _: Instant) -> bool {
        let Some(message) = self.recv(pipes) else {
            return false;
        };
        let _refused = self.send(pipes, &message.header, message.body);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_panics_or_gets_stuck(
            subject in 0..21_u8,
            script in proptest::collection::vec(
                prop_oneof![1 => Just(0_u8), 1 => Just(0x80), 6 => any::<u8>()],
                0..800,
            ),
        ) {
            operations(&[&[subject], &script[..]].concat());
        }
    }
}
