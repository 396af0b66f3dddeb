//! What takes minutes or hours: on a clock that stands still while there is work and jumps to the
//! next timer when there is none.
#![allow(missing_docs)]

mod support;

use sp_proto::{Pub, Pull, Push, Rep, Req, SendErrorKind, SocketOptions, Sub};
use std::time::Duration;
use support::{Transport, event, pipe_added, resident};
use tokio::task::JoinSet;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Timers are due at whole milliseconds.
const TICK: Duration = Duration::from_millis(5);

async fn asking(resend_time: Option<Duration>, transport: &Transport) -> (Req, Rep) {
    let (req, rep) = (
        Req::with_options(SocketOptions {
            resend_time,
            ..transport.options()
        }),
        Rep::with_options(transport.options()),
    );
    let at = rep.listen(&transport.address).await.unwrap();
    req.dial(&at.address).await.unwrap();
    (req, rep)
}

#[tokio::test(start_paused = true)]
async fn a_request_is_sent_again_though_nobody_waits_for_its_reply() {
    for transport in [Transport::inproc(), Transport::ipc()] {
        let (req, rep) = asking(Some(MINUTE), &transport).await;
        let (mut context, mut other) = (req.context(), req.context());
        let start = Instant::now();
        context.send("?").await.unwrap();
        let first = rep.recv().await.unwrap();
        for round in 1..=60 {
            let again = rep.recv().await.unwrap();
            assert_eq!(again.id(), first.id());
            let late = start.elapsed().checked_sub(MINUTE * round).unwrap();
            assert!(late < TICK * round, "copy {round} came {late:?} late");
        }
        // Another one starts when the timer already sleeps.
        tokio::time::sleep(MINUTE / 2).await;
        other.send("other").await.unwrap();
        assert_eq!(&rep.recv().await.unwrap().body()[..], b"other");
        let again = rep.recv().await.unwrap();
        assert_eq!(&again.body()[..], b"?", "it is half a minute older");
        again.reply("!").await.unwrap();
        assert_eq!(&rep.recv().await.unwrap().body()[..], b"other");
        assert_eq!(&context.recv().await.unwrap()[..], b"!");
        drop(other);
        let silence = tokio::time::timeout(HOUR, rep.recv()).await;
        assert!(silence.is_err(), "one is answered, one is given up: {silence:?}");

        context.send("and now?").await.unwrap();
        rep.recv().await.unwrap();
        rep.recv().await.unwrap().reply("!").await.unwrap();
        assert_eq!(&context.recv().await.unwrap()[..], b"!", "the timer starts again");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_resend_time_a_request_is_sent_once() {
    for never in [None, Some(Duration::ZERO)] {
        let (req, rep) = asking(never, &Transport::inproc()).await;
        let mut context = req.context();
        context.send("?").await.unwrap();
        let request = rep.recv().await.unwrap();
        let (silence, waited) = tokio::join!(
            tokio::time::timeout(24 * HOUR, rep.recv()),
            tokio::time::timeout(24 * HOUR, context.recv())
        );
        assert!(silence.is_err() && waited.is_err());
        request.reply("!").await.unwrap();
        assert_eq!(&context.recv().await.unwrap()[..], b"!");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_goes_to_whoever_is_there() {
    let (first, second) = (Transport::inproc(), Transport::ipc());
    let (req, rep) = asking(Some(MINUTE), &first).await;
    let mut context = req.context();
    context.send("?").await.unwrap();
    let unanswered = rep.recv().await.unwrap();
    let helper = Rep::new();
    helper.listen(&second.address).await.unwrap();
    req.dial(&second.address).await.unwrap();
    let request = helper.recv().await.unwrap();
    assert_eq!(request.id(), unanswered.id());
    request.reply("helped").await.unwrap();
    assert_eq!(&context.recv().await.unwrap()[..], b"helped");
    unanswered.reply("late").await.unwrap();
    context.send("next").await.unwrap();
    answer_the_next(&rep).await;
    assert_eq!(&context.recv().await.unwrap()[..], b"in time");
    assert_eq!(
        req.stats().dropped.unexpected,
        1,
        "the late reply is dropped and counted"
    );
}

/// Passes over copies of what came before.
async fn answer_the_next(rep: &Rep) {
    loop {
        let request = rep.recv().await.unwrap();
        if &request.body()[..] == b"next" {
            return request.reply("in time").await.unwrap();
        }
    }
}

#[test]
fn the_time_is_kept_anew_when_the_runtime_that_kept_it_is_gone() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let (req, _rep) = first.block_on(asking(Some(MINUTE), &Transport::inproc()));
    drop(first);
    second.block_on(async {
        let (at, rep) = (Transport::inproc(), Rep::new());
        rep.listen(&at.address).await.unwrap();
        req.dial(&at.address).await.unwrap();
        let mut context = req.context();
        context.send("?").await.unwrap();
        let first = rep.recv().await.unwrap();
        assert_eq!(rep.recv().await.unwrap().id(), first.id());
    });
}

/// A pusher and a puller with small queues, both full, and how many messages that took.
async fn full(transport: &Transport, send_timeout: Option<Duration>) -> (Push, Pull, u32) {
    let small = SocketOptions {
        send_queue: 4,
        recv_queue: 4,
        send_timeout,
        ..transport.options()
    };
    let (push, pull) = (Push::with_options(small.clone()), Pull::with_options(small));
    let at = pull.listen(&transport.address).await.unwrap();
    push.dial(&at.address).await.unwrap();
    let mut queued = 0;
    // Until nothing moves any more for a while, not only until the first refusal.
    let mut still = 0;
    while still < 100 {
        match push.try_send(numbered(queued)) {
            Ok(()) => (queued, still) = (queued + 1, 0),
            Err(error) => {
                assert_eq!(error.kind, SendErrorKind::WouldBlock);
                still += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    (push, pull, queued)
}

/// Long enough that the kernel's buffers are full soon.
fn numbered(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(2048)
}

fn number(message: &[u8]) -> u32 {
    assert_eq!(message.len(), 4 * 2048);
    u32::from_be_bytes(message[..4].try_into().unwrap())
}

const SENDERS: u32 = 64;

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_full_for_an_hour_holds_its_senders_and_then_gives_everything_in_order() {
    for transport in [Transport::inproc(), Transport::ipc(), Transport::tcp()] {
        let (push, pull, queued) = full(&transport, None).await;
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            let push = push.clone();
            senders.spawn(async move { push.send(numbered(queued + sender)).await });
        }
        let before = resident();
        tokio::time::sleep(HOUR).await;
        assert!(senders.try_join_next().is_none(), "there is no room");
        assert_eq!(push.stats().sent.messages, u64::from(queued));
        let grown = resident().saturating_sub(before);
        assert!(grown < 1 << 20, "memory grew by {grown} bytes");
        for expected in 0..queued + SENDERS {
            assert_eq!(number(&pull.recv().await.unwrap()), expected);
        }
        while let Some(sent) = senders.join_next().await {
            sent.unwrap().unwrap();
        }
        assert_eq!(pull.try_recv().unwrap(), None);
        assert_eq!(push.stats().sent.messages, u64::from(queued + SENDERS));
        assert_eq!(pull.stats().received, push.stats().sent);
        assert_eq!(push.stats().dropped, sp_proto::Drops::default());
    }
}

#[tokio::test(start_paused = true)]
async fn senders_that_time_out_for_an_hour_lose_and_double_nothing() {
    for transport in [Transport::inproc(), Transport::ipc(), Transport::tcp()] {
        let (push, pull, queued) = full(&transport, Some(Duration::from_secs(1))).await;
        let start = Instant::now();
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            let push = push.clone();
            senders.spawn(async move {
                let (mut message, mut refused) = (sp_proto::Message::from(numbered(queued + sender)), 0);
                while let Err(error) = push.send(message).await {
                    assert_eq!(error.kind, SendErrorKind::TimedOut);
                    (message, refused) = (error.message, refused + 1);
                }
                refused
            });
        }
        tokio::time::sleep(MINUTE).await;
        let before = resident();
        tokio::time::sleep(HOUR).await;
        let grown = resident().saturating_sub(before);
        assert!(grown < 1 << 20, "memory grew by {grown} bytes");
        let mut got: Vec<u32> = Vec::new();
        for _ in 0..queued + SENDERS {
            got.push(number(&pull.recv().await.unwrap()));
        }
        assert!(
            got[..queued as usize].is_sorted(),
            "what was queued is in its order"
        );
        got.sort_unstable();
        assert!(got.into_iter().eq(0..queued + SENDERS));
        let waited = start.elapsed().as_secs();
        while let Some(refused) = senders.join_next().await {
            let refused = refused.unwrap();
            assert!(
                refused >= waited * 9 / 10,
                "refused {refused} times in {waited} s"
            );
        }
        assert_eq!(pull.stats().received, push.stats().sent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_is_stuck_for_an_hour_costs_its_publisher_nothing_and_is_counted() {
    let at = Transport::inproc();
    let small = SocketOptions {
        send_queue: 4,
        recv_queue: 4,
        ..at.options()
    };
    let (publisher, sub) = (Pub::with_options(small.clone()), Sub::with_options(small));
    sub.subscribe("");
    let mut events = publisher.events();
    publisher.listen(&at.address).await.unwrap();
    sub.dial(&at.address).await.unwrap();
    pipe_added(&mut events).await;
    const SENT: u32 = 3600;
    for number in 0..SENT {
        tokio::time::sleep(Duration::from_secs(1)).await;
        publisher.send(numbered(number)).await.unwrap();
    }
    // The sub's pipe is read all the time; its queue keeps the newest.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for expected in SENT - 4..SENT {
        assert_eq!(number(&sub.recv().await.unwrap()), expected);
    }
    assert!(sub.try_recv().unwrap().is_none());
    let (sent, received) = (publisher.stats(), sub.stats());
    assert_eq!(sent.sent, received.received);
    assert_eq!(sent.sent.messages + sent.dropped.slow_peer, u64::from(SENT));
    assert_eq!(received.dropped.slow_reader, sent.sent.messages - 4);
}

#[tokio::test(start_paused = true)]
async fn a_dialer_tries_for_hours_and_then_connects() {
    let at = Transport::inproc();
    let push = Push::new();
    let mut events = push.events();
    push.dial_in_background(&at.address).unwrap();
    let start = Instant::now();
    let mut failures = 0_u32;
    while start.elapsed() < 12 * HOUR {
        let retry_in = event(&mut events, |event| match event {
            sp_proto::Event::DialFailed { retry_in, .. } => Some(retry_in),
            _ => None,
        });
        assert!(retry_in.await <= Duration::from_secs(5));
        failures += 1;
    }
    assert!(failures >= 12 * 60 * 12, "it tried {failures} times");
    let pull = Pull::new();
    pull.listen(&at.address).await.unwrap();
    push.send("there you are").await.unwrap();
    assert_eq!(&pull.recv().await.unwrap()[..], b"there you are");
}

#[tokio::test(start_paused = true)]
async fn a_context_does_not_wait_for_a_slow_reader_of_its_socket() {
    const COUNT: u32 = 500;
    let at = Transport::inproc();
    let wide = SocketOptions {
        send_queue: COUNT as usize,
        send_queue_bytes: usize::MAX,
        recv_queue_bytes: usize::MAX,
        ..at.options()
    };
    let (publisher, sub) = (Pub::with_options(wide.clone()), Sub::with_options(wide));
    let mut context = sub.context();
    assert!(sub.subscribe("") && context.subscribe(""));
    sub.listen(&at.address).await.unwrap();
    publisher.dial(&at.address).await.unwrap();
    let start = Instant::now();
    let send = async {
        for number in 0..COUNT {
            publisher.send(numbered(number)).await.unwrap();
        }
    };
    let receive = async {
        for expected in 0..COUNT {
            assert_eq!(number(&context.recv().await.unwrap()), expected);
            // It takes one now and then, and leaves the others.
            if expected % 10 == 0 {
                assert_eq!(number(&sub.recv().await.unwrap()), expected / 10);
            }
        }
    };
    tokio::join!(send, receive);
    // Else nobody has read for a while.
    assert_eq!(start.elapsed(), Duration::ZERO);
}
