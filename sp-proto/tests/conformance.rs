//! One battery of behaviour, applied to every pattern over every transport, with this crate at both ends.
#![allow(missing_docs)]

#[path = "conformance/broadcast.rs"]
mod broadcast;
#[path = "conformance/raw.rs"]
mod raw;
mod support;

use broadcast::{cancelled_readers, neighbours, slow_subscriber, surveys, topics};
use raw::{
    cancelled_devices, ends, headers, not_forwarded, one_way, pairs, reflector, requests as forward_requests,
    surveys as forward_surveys,
};
use sp_proto::{
    DialError, Event, ListenError, Pair, Pair1, Pull, Push, RecvError, Rep, Req, SendErrorKind, SocketOptions,
};
use std::time::Duration;
use support::{Transport, bounded, event, peer_refused, pipe_added, pipe_removed};

/// Runs the test body for every transport.
macro_rules! for_every_transport {
    ($($name:ident => $body:ident;)*) => { $(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn ipc() {
                bounded($body(&Transport::ipc())).await;
            }

            #[tokio::test]
            async fn tcp() {
                bounded($body(&Transport::tcp())).await;
            }

            #[tokio::test]
            async fn inproc() {
                bounded($body(&Transport::inproc())).await;
            }

            #[cfg(target_os = "linux")]
            #[tokio::test]
            async fn abstract_name() {
                bounded($body(&Transport::abstract_name())).await;
            }

            #[cfg(feature = "tls")]
            #[tokio::test]
            async fn tls() {
                bounded($body(&Transport::tls())).await;
            }

            #[cfg(feature = "ws")]
            #[tokio::test]
            async fn ws() {
                bounded($body(&Transport::ws())).await;
            }

            #[cfg(all(feature = "ws", feature = "tls"))]
            #[tokio::test]
            async fn wss() {
                bounded($body(&Transport::wss())).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn ipc_on_two_threads() {
                bounded($body(&Transport::ipc())).await;
            }
        }
    )* };
}

for_every_transport! {
    pair_talks_both_ways => pair_both_ways;
    pair1_talks_both_ways => pair1_both_ways;
    push_arrives_in_order => push_in_order;
    large_and_empty_messages_arrive => sizes;
    requests_are_answered => requests;
    work_is_dealt_out_and_collected_fairly => fan_out;
    a_full_queue_holds_the_sender_back => back_pressure;
    cancelled_calls_lose_and_double_nothing => cancellation;
    a_second_peer_is_refused_while_the_first_lives => second_peer;
    deadlines_give_the_message_back => deadlines;
    close_writes_what_was_queued => linger;
    a_closed_socket_says_so => closed;
    a_dialer_comes_back => reconnect;
    a_request_survives_its_peer => resend;
    a_reply_to_a_gone_peer_comes_back => peer_gone;
    endpoints_come_and_go => endpoints;
    an_address_is_used_once => in_use;
    a_message_beyond_the_limit_ends_its_pipe => too_long;
    traffic_is_counted => traffic;
    subscribers_get_their_topics => topics;
    a_slow_subscriber_holds_up_nobody => slow_subscriber;
    cancelled_readers_lose_and_double_nothing => cancelled_readers;
    surveys_are_answered_in_time => surveys;
    a_bus_reaches_the_neighbours => neighbours;
    raw_headers_are_checked_and_lead_home => headers;
    a_device_forwards_requests => forward_requests;
    a_device_forwards_surveys => forward_surveys;
    a_device_forwards_one_way => one_way;
    a_device_counts_hops => pairs;
    a_reflector_makes_a_star_of_a_bus => reflector;
    a_device_counts_what_it_cannot_send => not_forwarded;
    a_device_ends_clearly => ends;
    a_cancelled_device_doubles_nothing => cancelled_devices;
}

async fn pair_both_ways(transport: &Transport) {
    let (left, right) = (
        Pair::with_options(transport.options()),
        Pair::with_options(transport.options()),
    );
    let at = left.listen(&transport.address).await.unwrap();
    right.dial(&at.address).await.unwrap();
    for round in 0..100 {
        right.send(format!("ping {round}")).await.unwrap();
        assert_eq!(
            &left.recv().await.unwrap()[..],
            format!("ping {round}").as_bytes()
        );
        left.send(format!("pong {round}")).await.unwrap();
        assert_eq!(
            &right.recv().await.unwrap()[..],
            format!("pong {round}").as_bytes()
        );
    }
}

async fn pair1_both_ways(transport: &Transport) {
    let (left, right) = (
        Pair1::with_options(transport.options()),
        Pair1::with_options(transport.options()),
    );
    let at = left.listen(&transport.address).await.unwrap();
    right.dial(&at.address).await.unwrap();
    for size in [0, 1, 5000, 1_000_000] {
        let message = vec![size as u8; size];
        right.send(message.clone()).await.unwrap();
        assert!(left.recv().await.unwrap()[..] == message);
        left.send(message.clone()).await.unwrap();
        assert!(right.recv().await.unwrap()[..] == message);
    }
    let mut events = left.events();
    let version_0 = Pair::with_options(transport.options());
    let error = version_0.dial(&at.address).await.unwrap_err();
    let wrong = matches!(error, DialError::WrongProtocol { .. });
    // A websocket's listener refuses the sub-protocol and does not say what it speaks.
    #[cfg(feature = "ws")]
    let wrong = wrong || matches!(error, DialError::Upgrade { .. });
    assert!(wrong, "{error}");
    peer_refused(&mut events).await;
    let second = Pair1::with_options(transport.options());
    second.dial_in_background(&at.address).unwrap();
    assert!(peer_refused(&mut events).await.contains("already has a peer"));
    right.send("still here").await.unwrap();
    assert_eq!(&left.recv().await.unwrap()[..], b"still here");
}

async fn push_in_order(transport: &Transport) {
    const COUNT: u32 = 20_000;
    let (push, pull) = (
        Push::with_options(transport.options()),
        Pull::with_options(transport.options()),
    );
    let at = pull.listen(&transport.address).await.unwrap();
    push.dial(&at.address).await.unwrap();
    let send = async {
        for number in 0..COUNT {
            push.send(number.to_be_bytes().to_vec()).await.unwrap();
        }
    };
    let receive = async {
        for number in 0..COUNT {
            assert_eq!(pull.recv().await.unwrap()[..], number.to_be_bytes());
        }
    };
    tokio::join!(send, receive);
}

async fn sizes(transport: &Transport) {
    let (push, pull) = (
        Push::with_options(transport.options()),
        Pull::with_options(transport.options()),
    );
    let at = push.listen(&transport.address).await.unwrap();
    pull.dial(&at.address).await.unwrap();
    let sizes = [
        0, 1, 63, 2048, 2049, 4096, 4097, 65_536, 100_000, 1_048_576, 5_000_000, 0, 3,
    ];
    let message = |size: usize| (0..size).map(|at| (at * 7 + size) as u8).collect::<Vec<_>>();
    let send = async {
        for size in sizes {
            push.send(message(size)).await.unwrap();
        }
    };
    let receive = async {
        for size in sizes {
            let got = pull.recv().await.unwrap();
            assert!(
                got[..] == message(size),
                "the message of {size} bytes came back changed"
            );
        }
    };
    tokio::join!(send, receive);
}

async fn requests(transport: &Transport) {
    let (req, rep) = (
        Req::with_options(transport.options()),
        Rep::with_options(SocketOptions {
            rep_backlog: 64,
            ..transport.options()
        }),
    );
    let at = rep.listen(&transport.address).await.unwrap();
    req.dial(&at.address).await.unwrap();
    let answer = async {
        for _ in 0..40 {
            let request = rep.recv().await.unwrap();
            let reply = format!("re: {}", String::from_utf8_lossy(request.body()));
            request.reply(reply).await.unwrap();
        }
    };
    let ask = async {
        for _ in 0..10 {
            let (a, b, c, d) = tokio::join!(
                req.request("a"),
                req.request("b"),
                req.request("c"),
                req.request("d")
            );
            let replies = [a, b, c, d].map(|reply| reply.unwrap());
            assert_eq!(
                replies.each_ref().map(sp_proto::Message::as_bytes),
                [b"re: a", b"re: b", b"re: c", b"re: d"]
            );
        }
    };
    tokio::join!(answer, ask);
}

async fn fan_out(transport: &Transport) {
    let (push, collected) = (
        Push::with_options(transport.options()),
        Pull::with_options(transport.options()),
    );
    let work = push.listen(&transport.address).await.unwrap();
    let mut joined = push.events();
    let pulls = [
        Pull::with_options(transport.options()),
        Pull::with_options(transport.options()),
        Pull::with_options(transport.options()),
    ];
    for pull in &pulls {
        pull.dial(&work.address).await.unwrap();
        pipe_added(&mut joined).await;
    }
    for number in 0..30_u8 {
        push.send(vec![number]).await.unwrap();
    }
    for pull in &pulls {
        for _ in 0..10 {
            pull.recv().await.unwrap();
        }
        assert_eq!(pull.try_recv().unwrap(), None, "each got its share");
    }
    let back = Transport::ipc();
    let back = collected.listen(&back.address).await.unwrap();
    let pushes = [
        Push::with_options(transport.options()),
        Push::with_options(transport.options()),
    ];
    for push in &pushes {
        push.dial(&back.address).await.unwrap();
        push.send("result").await.unwrap();
    }
    for _ in &pushes {
        assert_eq!(&collected.recv().await.unwrap()[..], b"result");
    }
}

async fn back_pressure(transport: &Transport) {
    let send_timeout = Some(Duration::from_millis(200));
    let small = SocketOptions {
        send_queue: 2,
        recv_queue: 2,
        send_timeout,
        ..transport.options()
    };
    let (push, pull) = (Push::with_options(small.clone()), Pull::with_options(small));
    let at = pull.listen(&transport.address).await.unwrap();
    push.dial(&at.address).await.unwrap();
    // Large messages fill the system's buffers soon.
    let message = |number: u32| [&number.to_be_bytes()[..], &[0; 60_000]].concat();
    let mut sent = 0;
    let refused = loop {
        match push.send(message(sent)).await {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 10_000, "nothing holds the sender back");
    };
    assert_eq!(refused.kind, SendErrorKind::TimedOut);
    assert!(
        refused.message[..] == message(sent),
        "the message came back changed"
    );
    for expected in 0..sent {
        assert_eq!(pull.recv().await.unwrap()[..4], expected.to_be_bytes());
    }
    push.send("room again").await.unwrap();
    assert_eq!(&pull.recv().await.unwrap()[..], b"room again");
}

async fn cancellation(transport: &Transport) {
    const COUNT: u32 = 1000;
    let small = SocketOptions {
        send_queue: 1,
        recv_queue: 1,
        ..transport.options()
    };
    let (push, pull) = (Push::with_options(small.clone()), Pull::with_options(small));
    let at = pull.listen(&transport.address).await.unwrap();
    push.dial(&at.address).await.unwrap();
    let send = async {
        for number in 0..COUNT {
            loop {
                let message = [&number.to_be_bytes()[..], &[0; 20_000]].concat();
                tokio::select! {
                    biased;
                    result = push.send(message) => break result.unwrap(),
                    () = tokio::task::yield_now() => {}
                }
            }
        }
    };
    let receive = async {
        let mut expected = 0;
        while expected < COUNT {
            tokio::select! {
                biased;
                message = pull.recv() => {
                    assert_eq!(message.unwrap()[..4], expected.to_be_bytes());
                    expected += 1;
                }
                () = tokio::task::yield_now() => {}
            }
        }
    };
    tokio::join!(send, receive);
}

async fn second_peer(transport: &Transport) {
    let eager = SocketOptions {
        reconnect_min: Duration::from_millis(1),
        ..transport.options()
    };
    let (left, first, second) = (
        Pair::with_options(transport.options()),
        Pair::with_options(transport.options()),
        Pair::with_options(eager),
    );
    let mut events = left.events();
    let at = left.listen(&transport.address).await.unwrap();
    first.dial(&at.address).await.unwrap();
    pipe_added(&mut events).await;
    second.dial_in_background(&at.address).unwrap();
    assert!(peer_refused(&mut events).await.contains("already has a peer"));
    first.send("still here").await.unwrap();
    assert_eq!(&left.recv().await.unwrap()[..], b"still here");
    first.close().await;
    pipe_removed(&mut events).await;
    pipe_added(&mut events).await;
    left.send("your turn").await.unwrap();
    assert_eq!(&second.recv().await.unwrap()[..], b"your turn");
}

async fn deadlines(transport: &Transport) {
    let soon = Some(Duration::from_millis(20));
    let hasty = SocketOptions {
        send_timeout: soon,
        recv_timeout: soon,
        ..transport.options()
    };
    let push = Push::with_options(hasty.clone());
    let error = push.send("to nobody").await.unwrap_err();
    assert_eq!(
        (error.kind, error.message),
        (SendErrorKind::TimedOut, "to nobody".into())
    );
    let error = push.try_send("at once").unwrap_err();
    assert_eq!(
        (error.kind, error.message),
        (SendErrorKind::WouldBlock, "at once".into())
    );
    assert_eq!(
        Pull::with_options(hasty.clone()).recv().await,
        Err(RecvError::TimedOut)
    );

    let (req, rep) = (Req::with_options(hasty), Rep::with_options(transport.options()));
    let at = rep.listen(&transport.address).await.unwrap();
    req.dial(&at.address).await.unwrap();
    let mut context = req.context();
    assert_eq!(context.recv().await, Err(RecvError::State));
    context.send("?").await.unwrap();
    assert_eq!(context.recv().await, Err(RecvError::TimedOut));
    rep.recv().await.unwrap().reply("late").await.unwrap();
    let reply = loop {
        match context.recv().await {
            Err(RecvError::TimedOut) => {}
            result => break result.unwrap(),
        }
    };
    assert_eq!(&reply[..], b"late", "the request stayed outstanding");
}

async fn linger(transport: &Transport) {
    let patient = SocketOptions {
        send_queue: 1000,
        send_queue_bytes: usize::MAX,
        linger: Duration::from_secs(60),
        ..transport.options()
    };
    let (push, pull) = (
        Push::with_options(patient),
        Pull::with_options(transport.options()),
    );
    let at = pull.listen(&transport.address).await.unwrap();
    push.dial(&at.address).await.unwrap();
    for number in 0..200_u32 {
        push.try_send([&number.to_be_bytes()[..], &[0; 50_000]].concat())
            .unwrap();
    }
    let receive = async {
        for number in 0..200_u32 {
            assert_eq!(pull.recv().await.unwrap()[..4], number.to_be_bytes());
        }
    };
    tokio::join!(push.close(), receive);
    assert!(push.pipes().is_empty());
}

async fn closed(transport: &Transport) {
    let pair = Pair::with_options(transport.options());
    let mut events = pair.events();
    let at = pair.listen(&transport.address).await.unwrap();
    let (received, ()) = tokio::join!(pair.recv(), async {
        tokio::join!(pair.close(), pair.close());
    });
    assert_eq!(received, Err(RecvError::Closed));
    assert_eq!(pair.try_recv(), Err(RecvError::Closed));
    let error = pair.send("x").await.unwrap_err();
    assert_eq!((error.kind, error.message), (SendErrorKind::Closed, "x".into()));
    assert!(matches!(pair.listen(&at.address).await, Err(ListenError::Closed)));
    assert!(events.recv().await.is_none());
    let other = Pair::with_options(transport.options());
    other
        .listen(&at.address)
        .await
        .expect("a closed socket's address is free");
    assert!(matches!(pair.dial(&at.address).await, Err(DialError::Closed)));
}

async fn reconnect(transport: &Transport) {
    let eager = SocketOptions {
        reconnect_min: Duration::from_millis(1),
        reconnect_max: Duration::from_millis(5),
        ..transport.options()
    };
    let push = Push::with_options(eager);
    let mut events = push.events();
    let mut address = transport.address.clone();
    for round in 0..5_u8 {
        let pull = Pull::with_options(transport.options());
        address = pull.listen(&address).await.unwrap().address;
        if round == 0 {
            push.dial(&address).await.unwrap();
        }
        pipe_added(&mut events).await;
        push.send(vec![round]).await.unwrap();
        assert_eq!(pull.recv().await.unwrap()[..], [round]);
        pull.close().await;
        pipe_removed(&mut events).await;
        let failed = |event| matches!(event, Event::DialFailed { .. }).then_some(());
        event(&mut events, failed).await;
    }
}

async fn resend(transport: &Transport) {
    let eager = SocketOptions {
        reconnect_min: Duration::from_millis(1),
        ..transport.options()
    };
    let req = Req::with_options(eager);
    let first = Rep::with_options(transport.options());
    let at = first.listen(&transport.address).await.unwrap();
    req.dial(&at.address).await.unwrap();
    let peers = async {
        assert_eq!(&first.recv().await.unwrap().body()[..], b"?");
        first.close().await;
        let second = Rep::with_options(transport.options());
        second.listen(&at.address).await.unwrap();
        let request = second.recv().await.unwrap();
        assert_eq!(&request.body()[..], b"?");
        request.reply("!").await.unwrap();
        second
    };
    let (reply, _second) = tokio::join!(req.request("?"), peers);
    assert_eq!(&reply.unwrap()[..], b"!");
}

async fn peer_gone(transport: &Transport) {
    let (req, rep) = (
        Req::with_options(transport.options()),
        Rep::with_options(transport.options()),
    );
    let mut events = rep.events();
    let at = rep.listen(&transport.address).await.unwrap();
    req.dial(&at.address).await.unwrap();
    let mut context = req.context();
    context.send("?").await.unwrap();
    let request = rep.recv().await.unwrap();
    assert_eq!(request.pipe(), pipe_added(&mut events).await.id);
    req.close().await;
    pipe_removed(&mut events).await;
    let error = request.reply("!").await.unwrap_err();
    assert_eq!((error.kind, error.message), (SendErrorKind::PeerGone, "!".into()));
}

async fn endpoints(transport: &Transport) {
    let (pull, other) = (Pull::with_options(transport.options()), Transport::tcp());
    let mut events = pull.events();
    let one = pull.listen(&transport.address).await.unwrap();
    let two = pull.listen(&other.address).await.unwrap();
    let (push_one, push_two) = (
        Push::with_options(transport.options()),
        Push::with_options(transport.options()),
    );
    push_one.dial(&one.address).await.unwrap();
    assert_eq!(pipe_added(&mut events).await.endpoint, Some(one.id));
    push_two.dial(&two.address).await.unwrap();
    let info = pipe_added(&mut events).await;
    assert_eq!(info.endpoint, Some(two.id));
    assert_eq!(pull.pipes().len(), 2);

    pull.close_endpoint(one.id).await;
    pipe_removed(&mut events).await;
    push_two.send("still open").await.unwrap();
    assert_eq!(&pull.recv().await.unwrap()[..], b"still open");
    pull.listen(&one.address)
        .await
        .expect("the address is free again");

    pull.disconnect(info.id);
    pipe_removed(&mut events).await;
    let reconnected = event(&mut events, |event| match event {
        Event::PipeAdded(info) if info.endpoint == Some(two.id) => Some(info.id),
        _ => None,
    });
    assert_ne!(reconnected.await, info.id);
}

async fn in_use(transport: &Transport) {
    let (first, second) = (
        Pull::with_options(transport.options()),
        Pull::with_options(transport.options()),
    );
    let at = first.listen(&transport.address).await.unwrap();
    assert!(
        matches!(second.listen(&at.address).await, Err(ListenError::InUse { address }) if address == at.address)
    );
    first.close().await;
    second.listen(&at.address).await.unwrap();
    second.close().await;
    let error = Push::with_options(transport.options())
        .dial(&at.address)
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::Refused { address, .. } if address == at.address));
}

async fn too_long(transport: &Transport) {
    let strict = SocketOptions {
        recv_max_size: 1000,
        ..transport.options()
    };
    let (push, pull) = (
        Push::with_options(transport.options()),
        Pull::with_options(strict),
    );
    let mut events = pull.events();
    let at = pull.listen(&transport.address).await.unwrap();
    push.dial(&at.address).await.unwrap();
    push.send(vec![1; 1000]).await.unwrap();
    push.send(vec![2; 1001]).await.unwrap();
    assert_eq!(pull.recv().await.unwrap().len(), 1000);
    assert!(
        pipe_removed(&mut events)
            .await
            .contains("a message of 1001 bytes was announced; at most 1000")
    );
}

async fn traffic(transport: &Transport) {
    let (push, pull) = (
        Push::with_options(transport.options()),
        Pull::with_options(transport.options()),
    );
    let at = pull.listen(&transport.address).await.unwrap();
    push.dial(&at.address).await.unwrap();
    for message in ["", "four", "sixsix"] {
        push.send(message).await.unwrap();
        pull.recv().await.unwrap();
    }
    let (sent, received) = (push.stats(), pull.stats());
    assert_eq!((sent.sent.messages, sent.sent.bytes), (3, 10));
    assert_eq!(received.received, sent.sent);
    assert_eq!(received.pipes[0].received, sent.sent);
    assert_eq!(received.pipes[0].pipe, pull.pipes()[0].id);
    assert_eq!(sent.received, received.sent);
    assert_eq!(sent.dropped, received.dropped);
    push.close().await;
    assert_eq!((push.stats().sent, push.stats().pipes.len()), (sent.sent, 0));
}

/// What is queued here, and what waits in the system, is told until the peer has read it.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[tokio::test]
async fn what_a_peer_has_not_read_is_told() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    bounded(async {
        let push = Push::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("push.ipc");
        push.listen(&format!("ipc://{}", path.display())).await.unwrap();
        let mut peer = tokio::net::UnixStream::connect(&path).await.unwrap();
        peer.write_all(&[0, b'S', b'P', 0, 0, 0x51, 0, 0]).await.unwrap();
        let mut greeting = [0; 8];
        peer.read_exact(&mut greeting).await.unwrap();
        // More than the system holds, so some of it stays here.
        for _ in 0..32 {
            push.send(vec![7; 32 * 1024]).await.unwrap();
        }
        let stats = push.stats().pipes[0];
        assert!(stats.unsent > 0 && stats.unread.unwrap() > 0, "{stats:?}");
        let mut frames = vec![0; 32 * (9 + 32 * 1024)];
        peer.read_exact(&mut frames).await.unwrap();
        // The task that has written the last of it notes that a moment later.
        while push.stats().pipes[0].unsent > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(push.stats().pipes[0].unread, Some(0));
    })
    .await;
}
