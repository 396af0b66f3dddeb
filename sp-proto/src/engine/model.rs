//! The engine under loom: real sockets' states, senders, receivers and pipes' tasks on threads that meet in
//! every order, up to a bounded number of preemptions. Loom fails a model in which everybody waits, so each
//! test says by coming to its end that no wake-up was lost.
//!
//! Only in a build with `--cfg sp_loom`; `cargo verify` makes one:
//!
//! ```text
//! RUSTFLAGS="--cfg sp_loom" cargo test -p sp-proto --lib --release --target-dir target/loom engine::model
//! ```
//!
//! What tokio shares between threads itself is taken for right; its channels count as one step per operation.

use crate::engine::core::{Attached, Core, State};
use crate::engine::greeting::Greeted;
use crate::engine::owner::Owner;
use crate::engine::send::{Attempt, Sends};
use crate::engine::waiters::{Place, Waiters};
use crate::engine::{Unattached, pipe};
use crate::pattern::{self, ContextId, Key, Pattern, RecvLimits};
use crate::sync::mpsc;
use crate::transport::Duplex;
use crate::{Message, Overflow, RecvError, SendErrorKind, SocketOptions};
use bytes::Bytes;
use loom::thread::{JoinHandle, Thread};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Runs `model` in every order with at most this many preemptions; `LOOM_MAX_PREEMPTIONS` sets another bound.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    builder.preemption_bound.get_or_insert(preemptions);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    // Shown by `cargo test -- --nocapture`.
    println!("{} orders", runs.load(Ordering::Relaxed));
}

/// Wakes a thread of the model. Not loom's own: that one takes a step when it is cloned, which tokio does
/// under its locks.
struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn parked() -> Arc<Parked> {
    Arc::new(Parked {
        thread: loom::thread::current(),
        woken: AtomicBool::new(false),
    })
}

fn block_on<F: Future>(future: F) -> F::Output {
    let parked = parked();
    let waker = Waker::from(Arc::clone(&parked));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !parked.woken.swap(false, Ordering::SeqCst) {
            loom::thread::park();
        }
    }
}

/// Polls once and gives up.
fn poll_and_cancel<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(&parked().into())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// The smallest queues: everybody has to wait for everybody.
fn tight() -> SocketOptions {
    SocketOptions {
        send_queue: 1,
        recv_queue: 1,
        ..SocketOptions::default()
    }
}

const LIMITS: RecvLimits = RecvLimits {
    messages: 1,
    bytes: 1024,
};

fn push() -> Arc<Core<pattern::Push>> {
    push_with(tight())
}

fn push_with(options: SocketOptions) -> Arc<Core<pattern::Push>> {
    Arc::new(Core::new(pattern::Push::default(), options))
}

fn pull() -> Arc<Core<pattern::Pull>> {
    Arc::new(Core::new(pattern::Pull::new(LIMITS), tight()))
}

/// Both ends of a connection that takes so many messages.
fn connection(capacity: usize) -> (Duplex, Duplex) {
    let (sender, their_receiver) = mpsc::channel(capacity);
    let (their_sender, receiver) = mpsc::channel(capacity);
    let theirs = Duplex {
        sender: their_sender,
        receiver: their_receiver,
    };
    (Duplex { sender, receiver }, theirs)
}

fn attach<P: Pattern>(core: &Arc<Core<P>>, link: Duplex) -> Result<Attached<P>, Unattached> {
    let greeted = Greeted {
        link: link.into(),
        peer: core.protocol.peer(),
        peer_address: String::new(),
        credentials: None,
        recv_max_size: None,
    };
    core.attach(greeted, None)
}

/// The task of a new pipe, on a thread of its own.
fn spawn_pipe<P: Pattern>(core: &Arc<Core<P>>, link: Duplex) -> JoinHandle<()> {
    let attached = attach(core, link).unwrap();
    spawn(move || block_on(pipe::run(attached)))
}

fn spawn<R: 'static>(run: impl FnOnce() -> R + 'static) -> JoinHandle<R> {
    loom::thread::spawn(run)
}

struct Turn;

impl Sends<pattern::Push> for Turn {
    fn attempt(&mut self, state: &mut State<pattern::Push>, message: Message) -> Attempt {
        state.pattern.send(&mut state.pipes, message).into()
    }
}

fn send(core: &Core<pattern::Push>, message: &'static str) -> Result<(), SendErrorKind> {
    block_on(core.send(Turn, message.into())).map_err(|error| error.kind)
}

fn recv(core: &Core<pattern::Pull>) -> Result<Bytes, RecvError> {
    block_on(core.recv(|state| state.pattern.recv(&mut state.pipes))).map(Message::into_bytes)
}

/// Nobody may overtake, and nothing may be lost or come twice.
fn assert_in_order(got: &[Bytes], sent: &[&[&str]]) {
    assert_eq!(
        got.len(),
        sent.iter().map(|own| own.len()).sum::<usize>(),
        "{got:?}"
    );
    for own in sent {
        let of_this: Vec<_> = got
            .iter()
            .filter(|message| own.iter().any(|own| own == message))
            .collect();
        assert_eq!(of_this, *own, "{got:?}");
    }
}

#[test]
fn senders_and_the_pipes_task_write_one_after_the_other() {
    explore(2, || {
        // Room for another message while one is being written: who else might write it meanwhile?
        let core = push_with(SocketOptions {
            send_queue: 2,
            ..tight()
        });
        let (ours, mut theirs) = connection(2);
        let pipe = spawn_pipe(&core, ours);
        let sender = Arc::clone(&core);
        let first = spawn(move || {
            send(&sender, "a1").unwrap();
            send(&sender, "a2").unwrap();
        });
        let sender = Arc::clone(&core);
        let second = spawn(move || send(&sender, "b1").unwrap());
        let got: Vec<_> = (0..3)
            .map(|_| block_on(theirs.receiver.recv()).unwrap())
            .collect();
        assert_in_order(&got, &[&["a1", "a2"], &["b1"]]);
        first.join().unwrap();
        second.join().unwrap();
        core.close();
        pipe.join().unwrap();
        assert_eq!(
            block_on(theirs.receiver.recv()),
            None,
            "closed, and nothing twice"
        );
    });
}

#[test]
fn a_sender_that_waits_is_woken_by_what_the_pipe_writes() {
    explore(3, || {
        let core = push();
        let (ours, mut theirs) = connection(1);
        let pipe = spawn_pipe(&core, ours);
        let sender = Arc::clone(&core);
        let sender = spawn(move || {
            for message in ["1", "2", "3", "4"] {
                send(&sender, message).unwrap();
            }
            sender.close();
        });
        let mut got = Vec::new();
        while let Some(message) = block_on(theirs.receiver.recv()) {
            got.push(message);
        }
        // What was queued when the socket was closed is written all the same.
        assert_in_order(&got, &[&["1", "2", "3", "4"]]);
        sender.join().unwrap();
        pipe.join().unwrap();
    });
}

#[test]
fn a_message_comes_through_both_sockets_and_back_pressure_is_released() {
    explore(2, || {
        let (push, pull) = (push(), pull());
        let (left, right) = connection(1);
        let left = spawn_pipe(&push, left);
        let right = spawn_pipe(&pull, right);
        let sender = Arc::clone(&push);
        let sender = spawn(move || {
            for message in ["1", "2"] {
                send(&sender, message).unwrap();
            }
        });
        let got: Vec<_> = (0..2).map(|_| recv(&pull).unwrap()).collect();
        assert_in_order(&got, &[&["1", "2"]]);
        sender.join().unwrap();
        push.close();
        // The peer hangs up, which ends this pipe.
        left.join().unwrap();
        right.join().unwrap();
        assert_eq!((push.pipes().len(), pull.pipes().len()), (0, 0));
    });
}

#[test]
fn a_sender_that_gives_up_makes_way_for_the_next() {
    explore(2, || {
        let core = push();
        let (ours, mut theirs) = connection(1);
        let attached = attach(&core, ours).unwrap();
        // One fills the connection, one the queue.
        send(&core, "1").unwrap();
        send(&core, "2").unwrap();
        let sender = Arc::clone(&core);
        let gives_up = spawn(move || poll_and_cancel(sender.send(Turn, "x".into())).is_some());
        let sender = Arc::clone(&core);
        let stays = spawn(move || send(&sender, "3").unwrap());
        let pipe = spawn(move || block_on(pipe::run(attached)));
        let mut got = Vec::new();
        while got.last().is_none_or(|last| last != "3") {
            got.push(block_on(theirs.receiver.recv()).unwrap());
        }
        let sent = gives_up.join().unwrap();
        stays.join().unwrap();
        core.close();
        while let Some(message) = block_on(theirs.receiver.recv()) {
            got.push(message);
        }
        pipe.join().unwrap();
        let cancelled: &[&str] = if sent { &["x"] } else { &[] };
        assert_in_order(&got, &[&["1", "2", "3"], cancelled]);
    });
}

#[test]
fn a_receiver_that_gives_up_takes_nothing_along() {
    explore(3, || {
        let core = pull();
        let (ours, theirs) = connection(1);
        let pipe = spawn_pipe(&core, ours);
        let receiver = Arc::clone(&core);
        let gives_up = spawn(move || {
            poll_and_cancel(receiver.recv(|state| state.pattern.recv(&mut state.pipes))).is_some()
        });
        let receiver = Arc::clone(&core);
        let stays = spawn(move || recv(&receiver));
        block_on(theirs.sender.send("1".into())).unwrap();
        let taken = gives_up.join().unwrap();
        if taken {
            core.close();
            assert!(matches!(stays.join().unwrap(), Err(RecvError::Closed)));
        } else {
            assert_eq!(stays.join().unwrap().unwrap(), "1");
            core.close();
        }
        pipe.join().unwrap();
    });
}

/// Waits as a stream does, and is left alone after its first step for as long as the caller has what this gives.
fn left_alone(core: &Core<pattern::Pull>) -> impl Future<Output = Result<Message, RecvError>> {
    let mut stream = Box::pin(
        core.recv(|state| state.pattern.recv(&mut state.pipes))
            .with(Place::Yielded),
    );
    let mut context = Context::from_waker(Waker::noop());
    assert!(stream.as_mut().poll(&mut context).is_pending());
    stream
}

#[test]
fn a_stream_that_is_left_alone_lets_a_receiver_past() {
    explore(3, || {
        let core = pull();
        let stream = left_alone(&core);
        let (ours, theirs) = connection(1);
        let pipe = spawn_pipe(&core, ours);
        let receiver = Arc::clone(&core);
        let receiver = spawn(move || recv(&receiver));
        block_on(theirs.sender.send("1".into())).unwrap();
        assert_eq!(receiver.join().unwrap().unwrap(), "1");
        drop(stream);
        core.close();
        pipe.join().unwrap();
    });
}

#[test]
fn whoever_looks_after_streams_passes_that_on_when_its_pipe_ends() {
    explore(3, || {
        let core = pull();
        let stream = left_alone(&core);
        let (ours, theirs) = connection(1);
        block_on(theirs.sender.send("1".into())).unwrap();
        drop(theirs);
        let receiver = Arc::clone(&core);
        let receiver = spawn(move || recv(&receiver));
        // Its task ends soon after it has delivered.
        spawn_pipe(&core, ours).join().unwrap();
        assert_eq!(receiver.join().unwrap().unwrap(), "1");
        drop(stream);
    });
}

#[test]
fn closing_wakes_everybody() {
    explore(3, || {
        let core = Arc::new(Core::new(
            pattern::Pair::new(pattern::Version::V0, LIMITS),
            tight(),
        ));
        let (ours, theirs) = connection(2);
        let pipe = spawn_pipe(&core, ours);
        let sender = Arc::clone(&core);
        let sender = spawn(move || {
            // Nobody reads, so sooner or later it waits.
            loop {
                if let Err(error) = block_on(sender.send(ToPeer, "x".into())) {
                    break error.kind;
                }
            }
        });
        let receiver = Arc::clone(&core);
        let receiver =
            spawn(move || block_on(receiver.recv(|state| state.pattern.recv(&mut state.pipes))).map(drop));
        core.close();
        assert!(matches!(receiver.join().unwrap(), Err(RecvError::Closed)));
        assert_eq!(sender.join().unwrap(), SendErrorKind::Closed);
        // The rest is not written before the peer reads or goes.
        drop(theirs);
        pipe.join().unwrap();
    });
}

struct ToPeer;

impl Sends<pattern::Pair> for ToPeer {
    fn attempt(&mut self, state: &mut State<pattern::Pair>, message: Message) -> Attempt {
        state.pattern.send(&mut state.pipes, message).into()
    }
}

#[test]
fn each_context_is_woken_for_what_is_its_own() {
    explore(2, || {
        let core = Arc::new(Core::new(
            pattern::Sub::new(LIMITS, Overflow::DropOldest),
            tight(),
        ));
        let (ours, theirs) = connection(1);
        let contexts = ["a", "b"].map(|topic| {
            let context = core.with(|state| state.pattern.open());
            core.with(|state| state.pattern.subscribe(context, topic.into()));
            context
        });
        let pipe = spawn_pipe(&core, ours);
        let readers = contexts.map(|context| {
            let core = Arc::clone(&core);
            spawn(move || recv_in(&core, context))
        });
        for message in ["b", "a"] {
            block_on(theirs.sender.send(message.into())).unwrap();
        }
        for (reader, own) in readers.into_iter().zip(["a", "b"]) {
            assert_eq!(reader.join().unwrap().unwrap(), own);
        }
        let reader = Arc::clone(&core);
        let [context, _] = contexts;
        let reader = spawn(move || recv_in(&reader, context));
        core.close();
        assert!(matches!(reader.join().unwrap(), Err(RecvError::Closed)));
        pipe.join().unwrap();
    });
}

fn recv_in(core: &Core<pattern::Sub>, context: ContextId) -> Result<Bytes, RecvError> {
    block_on(core.recv_in(context, |state| state.pattern.recv(context))).map(Message::into_bytes)
}

/// As a reply goes: to one pipe and no other.
struct To(Key);

impl Sends<pattern::Push> for To {
    const IN_TURN: bool = false;

    fn attempt(&mut self, state: &mut State<pattern::Push>, message: Message) -> Attempt {
        if !state.pipes.contains(self.0) {
            Attempt::Failed(SendErrorKind::Closed, message)
        } else if state.pipes.has_room(self.0) {
            state.pipes.push(self.0, &[], message.into_bytes());
            Attempt::Sent(Some(self.0))
        } else {
            Attempt::Full(message)
        }
    }

    fn queue<'a>(&self, state: &'a mut State<pattern::Push>) -> Option<&'a mut Waiters> {
        state.writers(self.0)
    }
}

#[test]
fn those_who_wait_for_one_pipe_are_woken_by_its_room_and_by_its_end() {
    explore(2, || {
        let core = push();
        let (ours, theirs) = connection(1);
        let attached = attach(&core, ours).unwrap();
        let key = attached.key;
        let pipe = spawn(move || block_on(pipe::run(attached)));
        let writers = [0, 1].map(|_| {
            let core = Arc::clone(&core);
            spawn(move || {
                for _ in 0..2 {
                    if block_on(core.send(To(key), "x".into())).is_err() {
                        break;
                    }
                }
            })
        });
        // Not everything fits, and nobody reads.
        core.disconnect(key.id);
        pipe.join().unwrap();
        for writer in writers {
            writer.join().unwrap();
        }
        drop(theirs);
        assert!(core.pipes().is_empty());
    });
}

#[test]
fn a_new_pipe_wakes_the_sender_that_has_none() {
    explore(3, || {
        let core = push();
        let (gone, their_gone) = connection(1);
        let (ours, mut theirs) = connection(1);
        let sender = Arc::clone(&core);
        let sender = spawn(move || send(&sender, "1").unwrap());
        drop(their_gone);
        let first = spawn_pipe(&core, gone);
        let second = spawn_pipe(&core, ours);
        sender.join().unwrap();
        // The peer that was gone may have got it: nothing acknowledges delivery.
        first.join().unwrap();
        core.close();
        let got: BTreeSet<_> = std::iter::from_fn(|| block_on(theirs.receiver.recv())).collect();
        assert!(got.is_empty() || got == BTreeSet::from(["1".into()]));
        second.join().unwrap();
    });
}

#[test]
fn dropping_the_last_handle_ends_every_pipe_also_one_that_just_comes() {
    explore(3, || {
        let owner = Owner::new(Core::new(pattern::Push::default(), tight()));
        let core = Arc::clone(&owner.core);
        let (ours, mut theirs) = connection(2);
        let pipe = spawn_pipe(&core, ours);
        let (late, _their_late) = connection(1);
        let joins = Arc::clone(&core);
        let late = spawn(move || match attach(&joins, late) {
            Ok(attached) => block_on(pipe::run(attached)),
            Err(error) => assert!(matches!(error, Unattached::Closed)),
        });
        core.try_send(Turn, "1".into()).unwrap();
        drop(owner);
        let (too_late, _theirs) = connection(1);
        assert!(matches!(attach(&core, too_late), Err(Unattached::Closed)));
        pipe.join().unwrap();
        late.join().unwrap();
        assert!(core.pipes().is_empty());
        drop(core);
        drop(block_on(theirs.receiver.recv()));
    });
}

/// A pull socket whose receiver reads by itself after the first message, and the runtime of the timer that is then
/// set. It never goes off, so nobody can rely on it.
fn flooded(model: impl Fn(Arc<Core<pattern::Pull>>, Duplex, JoinHandle<()>) + Send + Sync + 'static) {
    static FLOOD: [u8; 128 * 1024] = [0; 128 * 1024];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    explore(3, move || {
        let limits = RecvLimits {
            messages: 8,
            bytes: 1024 * 1024,
        };
        let core = Arc::new(Core::new(pattern::Pull::new(limits), tight()));
        let (ours, theirs) = connection(4);
        block_on(theirs.sender.send(Bytes::from_static(&FLOOD))).unwrap();
        let pipe = spawn_pipe(&core, ours);
        model(core, theirs, pipe);
    });
}

/// Receives until the socket is closed.
fn receive_all(core: &Arc<Core<pattern::Pull>>) -> JoinHandle<Vec<usize>> {
    let core = Arc::clone(core);
    spawn(move || std::iter::from_fn(|| recv(&core).ok().map(|message| message.len())).collect())
}

#[test]
fn a_receiver_that_reads_by_itself_passes_the_end_on() {
    flooded(|core, theirs, pipe| {
        let receiver = receive_all(&core);
        block_on(theirs.sender.send("1".into())).unwrap();
        drop(theirs);
        pipe.join().unwrap();
        assert!(core.pipes().is_empty());
        core.close();
        let got = receiver.join().unwrap();
        assert!([128 * 1024, 1].starts_with(&got), "{got:?}");
    });
}

#[test]
fn a_pipe_that_a_receiver_reads_ends_with_its_socket() {
    flooded(|core, theirs, pipe| {
        let receiver = receive_all(&core);
        block_on(theirs.sender.send("1".into())).unwrap();
        core.close();
        pipe.join().unwrap();
        let got = receiver.join().unwrap();
        assert!([128 * 1024, 1].starts_with(&got), "{got:?}");
        drop(theirs);
    });
}
