//! Users who do odd things: options at their ends, runtimes that go away, addresses that come and go in a
//! storm of dialers.
#![allow(missing_docs)]

mod support;

use sp_proto::{
    Bus, Event, ListenError, Pair1, Pub, Pull, Push, Rep, Req, Respondent, SocketOptions, Sub, Surveyor,
};
use std::time::Duration;
use support::{Transport, bounded, event, pipe_added, pipe_removed};
use tokio::runtime::Runtime;

fn transports() -> Vec<Transport> {
    vec![
        Transport::inproc(),
        Transport::ipc(),
        Transport::tcp(),
        #[cfg(feature = "tls")]
        Transport::tls(),
        #[cfg(feature = "ws")]
        Transport::ws(),
    ]
}

/// Every queue of this size, every time of this length.
fn extreme(transport: &Transport, size: usize, time: Duration) -> SocketOptions {
    SocketOptions {
        send_queue: size,
        send_queue_bytes: size,
        recv_queue: size,
        recv_queue_bytes: size,
        rep_backlog: size,
        ttl: u8::try_from(size).unwrap_or(u8::MAX),
        reconnect_min: time,
        reconnect_max: time,
        resend_time: Some(time),
        ..transport.options()
    }
}

/// With the times that say when somebody gives up at their longest.
fn patient(transport: &Transport, size: usize) -> SocketOptions {
    SocketOptions {
        send_timeout: Some(Duration::MAX),
        recv_timeout: Some(Duration::MAX),
        handshake_timeout: Duration::MAX,
        linger: Duration::MAX,
        survey_time: Duration::MAX,
        ..extreme(transport, size, Duration::MAX)
    }
}

async fn every_pattern(transport: &Transport, options: &SocketOptions) {
    macro_rules! pair_of {
        ($listener:ident, $dialer:ident) => {{
            let listener = $listener::with_options(options.clone());
            let dialer = $dialer::with_options(options.clone());
            let mut events = listener.events();
            let at = listener.listen(&transport.address).await.unwrap();
            dialer.dial(&at.address).await.unwrap();
            pipe_added(&mut events).await;
            (listener, dialer)
        }};
    }
    let (pull, push) = pair_of!(Pull, Push);
    let sizes = || (0..500).map(|at| at % 3 * 5000);
    let send = async {
        for size in sizes() {
            push.send(vec![0; size]).await.unwrap();
        }
    };
    let receive = async {
        for size in sizes() {
            assert_eq!(pull.recv().await.unwrap().len(), size);
        }
    };
    tokio::join!(send, receive);
    push.close().await;
    pull.close().await;

    let (left, right) = pair_of!(Pair1, Pair1);
    let (rep, req) = pair_of_request(transport, options).await;
    for _ in 0..10 {
        left.send("").await.unwrap();
        assert_eq!(right.recv().await.unwrap().len(), 0);
        let (reply, ()) = tokio::join!(req.request(""), async {
            rep.recv().await.unwrap().reply("").await.unwrap();
        });
        assert_eq!(reply.unwrap().len(), 0);
    }
    left.close().await;
    rep.close().await;

    let (surveyor, respondent) = pair_of!(Surveyor, Respondent);
    for _ in 0..10 {
        let mut survey = surveyor.survey("").await.unwrap();
        respondent.recv().await.unwrap().reply("").await.unwrap();
        assert_eq!(survey.recv().await.unwrap().len(), 0);
    }
    surveyor.close().await;

    let (publisher, sub) = pair_of!(Pub, Sub);
    sub.subscribe("");
    for _ in 0..10 {
        publisher.send("").await.unwrap();
        assert_eq!(sub.recv().await.unwrap().len(), 0);
    }
    publisher.close().await;

    let (bus, neighbour) = pair_of!(Bus, Bus);
    for _ in 0..10 {
        bus.send("").await.unwrap();
        assert_eq!(neighbour.recv().await.unwrap().len(), 0);
    }
    bus.close().await;
}

/// On a transport of their own, as the other is in use.
async fn pair_of_request(transport: &Transport, options: &SocketOptions) -> (Rep, Req) {
    let own = Transport::ipc();
    let address = if transport.address.ends_with(":0") {
        &transport.address
    } else {
        &own.address
    };
    let (rep, req) = (
        Rep::with_options(options.clone()),
        Req::with_options(options.clone()),
    );
    let at = rep.listen(address).await.unwrap();
    req.dial(&at.address).await.unwrap();
    (rep, req)
}

#[tokio::test]
async fn options_at_their_ends_work() {
    for transport in transports() {
        for options in [
            extreme(&transport, 0, Duration::ZERO),
            extreme(&transport, usize::MAX, Duration::ZERO),
            patient(&transport, 0),
            patient(&transport, usize::MAX),
        ] {
            bounded(every_pattern(&transport, &options)).await;
        }
    }
}

#[tokio::test]
async fn a_dialer_with_endless_delays_lives_on_after_a_failure() {
    bounded(async {
        let (at, pull) = (Transport::ipc(), Pull::new());
        let push = Push::with_options(patient(&at, 1));
        let mut events = push.events();
        let endpoint = push.dial_in_background(&at.address).unwrap();
        let failed = event(&mut events, |event| match event {
            Event::DialFailed { retry_in, .. } => Some(retry_in),
            _ => None,
        });
        assert!(failed.await > Duration::from_secs(3600));
        push.close_endpoint(endpoint.id).await;
        pull.listen(&at.address).await.unwrap();
        push.dial(&at.address).await.unwrap();
        push.send("x").await.unwrap();
        assert_eq!(&pull.recv().await.unwrap()[..], b"x");
    })
    .await;
}

#[tokio::test]
async fn a_message_may_be_exactly_as_long_as_the_limit() {
    for transport in transports() {
        for size in [1, 100, 64 * 1024, 1 << 20] {
            bounded(async {
                let push = Push::with_options(transport.options());
                let pull = Pull::with_options(SocketOptions {
                    recv_max_size: size,
                    ..transport.options()
                });
                let mut events = pull.events();
                let at = pull.listen(&transport.address).await.unwrap();
                push.dial(&at.address).await.unwrap();
                push.send(vec![1; size]).await.unwrap();
                assert_eq!(pull.recv().await.unwrap().len(), size);
                push.send(vec![1; size + 1]).await.unwrap();
                let reason = pipe_removed(&mut events).await;
                assert!(reason.contains(&format!("at most {size}")), "{reason}");
                pull.close().await;
            })
            .await;
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_socket_is_used_from_several_runtimes_and_outlives_them() {
    const COUNT: u32 = 1000;
    for transport in transports() {
        let (first, second) = (runtime(), runtime());
        let pull = Pull::with_options(transport.options());
        let push = Push::with_options(transport.options());
        let at = first.block_on(pull.listen(&transport.address)).unwrap();
        second.block_on(push.dial(&at.address)).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    runtime().block_on(async {
                        for _ in 0..COUNT {
                            bounded(push.send("x")).await.unwrap();
                        }
                    });
                });
            }
            scope.spawn(|| {
                runtime().block_on(async {
                    for _ in 0..2 * COUNT {
                        bounded(pull.recv()).await.unwrap();
                    }
                });
            });
        });
        // Its pipes and dialers go with the runtime that drove them, and new ones can be made.
        drop(second);
        assert!(push.pipes().is_empty());
        push.try_send("nobody is there").unwrap_err();
        first.block_on(bounded(async {
            push.dial(&at.address).await.unwrap();
            push.send("again").await.unwrap();
            assert_eq!(&pull.recv().await.unwrap()[..], b"again");
        }));
        drop(first);
        drop(push);
        runtime().block_on(bounded(async {
            pull.close().await;
            let next = Pull::with_options(transport.options());
            next.listen(&at.address).await.unwrap();
        }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_comes_and_goes_in_a_storm_of_dialers() {
    const DIALERS: usize = 200;
    for transport in transports() {
        bounded(async {
            let eager = SocketOptions {
                reconnect_min: Duration::from_millis(1),
                reconnect_max: Duration::from_millis(20),
                ..transport.options()
            };
            let pull = Pull::with_options(transport.options());
            let mut at = pull.listen(&transport.address).await.unwrap();
            let pushes: Vec<_> = (0..DIALERS).map(|_| Push::with_options(eager.clone())).collect();
            for push in &pushes {
                push.dial_in_background(&at.address).unwrap();
            }
            for _ in 0..20 {
                pull.close_endpoint(at.id).await;
                at = pull.listen(&at.address).await.unwrap();
                let second = Pull::with_options(transport.options());
                let refused = second.listen(&at.address).await;
                assert!(matches!(refused, Err(ListenError::InUse { .. })), "{refused:?}");
            }
            while pull.pipes().len() < DIALERS {
                tokio::task::yield_now().await;
            }
            for push in &pushes {
                push.send("x").await.unwrap();
            }
            for _ in &pushes {
                pull.recv().await.unwrap();
            }
            assert_eq!(pull.pipes().len(), DIALERS);
            drop(pushes);
            while !pull.pipes().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
