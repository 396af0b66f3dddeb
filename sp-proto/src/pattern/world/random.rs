//! Random operations on every pattern: whatever peers and callers do, in whatever order, nothing panics, queues stay
//! within their bounds, and what is ready can be had.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Join,
    Leave(usize),
    Deliver(usize, Vec<u8>),
    Flush(usize),
    Send(Vec<u8>),
    Receive,
    Wait(u16),
}

fn operation() -> impl Strategy<Value = Operation> {
    let bytes = || {
        proptest::collection::vec(
            prop_oneof![3 => Just(0_u8), 2 => Just(0x80), 1 => any::<u8>()],
            0..24,
        )
    };
    prop_oneof![
        2 => Just(Operation::Join),
        1 => any::<usize>().prop_map(Operation::Leave),
        4 => (any::<usize>(), bytes()).prop_map(|(pipe, bytes)| Operation::Deliver(pipe, bytes)),
        2 => any::<usize>().prop_map(Operation::Flush),
        4 => bytes().prop_map(Operation::Send),
        4 => Just(Operation::Receive),
        1 => any::<u16>().prop_map(Operation::Wait),
    ]
}

/// What the operations need of a pattern beyond [`Pattern`].
trait Subject: Pattern {
    fn send(&mut self, _: &mut Pipes, _: Vec<u8>, _: Instant) {}

    /// Takes what there is for every receiver; says whether that was anything.
    fn receive(&mut self, _: &mut Pipes, _: Instant) -> bool {
        false
    }
}

fn run(mut end: End<impl Subject>, operations: Vec<Operation>) {
    let mut keys: Vec<Key> = Vec::new();
    for operation in operations {
        let pipe = |at: usize| keys.get(at % keys.len().max(1)).copied();
        match operation {
            Operation::Join => keys.extend(end.join()),
            Operation::Leave(at) => {
                if let Some(key) = pipe(at) {
                    end.leave(key);
                    keys.retain(|other| *other != key);
                }
            }
            Operation::Deliver(at, bytes) => {
                if let Some(key) = pipe(at).filter(|key| end.pattern.may_read(*key))
                    && end.handle(key, vec![bytes.into()]).is_err()
                {
                    end.leave(key);
                    keys.retain(|other| *other != key);
                }
            }
            Operation::Flush(at) => {
                if let Some(key) = pipe(at) {
                    assert!(end.flush(key).len() <= 2 * SEND.messages);
                }
            }
            Operation::Send(body) => Subject::send(&mut end.pattern, &mut end.pipes, body, end.now),
            Operation::Receive => {
                let ready = end.pattern.can_recv();
                let received = end.pattern.receive(&mut end.pipes, end.now);
                assert!(received || !ready, "what is ready can be had");
            }
            Operation::Wait(milliseconds) => end.now += Duration::from_millis(milliseconds.into()),
        }
        while end.pattern.pop_ready().is_some() {}
        end.signalled();
    }
    let keys_left = keys.len();
    assert_eq!(end.pipes.stats().pipes.len(), keys_left);
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
    fn send(&mut self, _: &mut Pipes, body: Vec<u8>, _: Instant) {
        if !self.unsubscribe(FIRST, &body) {
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
        matches!(self.recv(pipes, FIRST, now), Progress::Reply(_))
    }
}

impl Subject for Surveyor {
    fn send(&mut self, pipes: &mut Pipes, body: Vec<u8>, now: Instant) {
        self.send(pipes, FIRST, body.into(), SECOND, now);
    }

    fn receive(&mut self, _: &mut Pipes, now: Instant) -> bool {
        matches!(self.recv(FIRST, now), Responses::Response(_))
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

proptest! {
    #[test]
    fn nothing_panics_or_gets_stuck(
        operations in proptest::collection::vec(operation(), 0..200),
        subject in 0..20_usize,
    ) {
        match subject {
            0 => run(End::new(Push::default()), operations),
            1 => run(End::new(Pull::new(RECV)), operations),
            2 => run(End::new(Pair::new(Version::V0, RECV)), operations),
            3 => run(End::new(Pair::new(Version::V1 { ttl: 8 }, RECV)), operations),
            4 => run(End::new(Bus::new(RECV)), operations),
            5 => run(End::new(Pub::default()), operations),
            6 => {
                let mut end = End::new(Sub::new(RECV, Overflow::DropOldest));
                end.pattern.open();
                run(end, operations);
            }
            7 => run(End::new(Rep::new(Protocol::Rep, 2, DEFAULT_TTL)), operations),
            8 => {
                let mut end = End::new(Req::new(Some(SECOND), 0));
                end.pattern.open();
                run(end, operations);
            }
            9 => {
                let mut end = End::new(Surveyor::new(RECV, 0));
                end.pattern.open();
                run(end, operations);
            }
            _ => {
                let protocol = Protocol::ALL[subject % Protocol::ALL.len()];
                run(End::new(Raw::new(protocol, DEFAULT_TTL, RECV, 0)), operations);
            }
        }
    }
}
