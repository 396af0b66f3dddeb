//! Endpoints with options of their own, and a reader of events that comes late.
#![allow(missing_docs)]

mod support;

use sp_proto::{
    Admission, DialError, EndpointOptions, Event, Listener, ListenerOptions, Protocol, Pull, Push,
    SocketOptions,
};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use support::{Transport, bounded, event, peer_refused, pipe_added, pipe_removed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn at_most(size: usize) -> EndpointOptions {
    EndpointOptions {
        recv_max_size: Some(size),
        ..Default::default()
    }
}

#[tokio::test]
async fn listeners_of_one_socket_have_limits_of_their_own() {
    bounded(async {
        let pull = Pull::new();
        let (wide, strict) = (Transport::tcp(), Transport::ipc());
        let wide = pull.listen(&wide.address).await.unwrap();
        let strict = pull.listen_with(&strict.address, at_most(1000)).await.unwrap();
        let mut events = pull.events();
        for (address, allowed) in [(wide.address, true), (strict.address, false)] {
            let push = Push::new();
            push.dial(&address).await.unwrap();
            push.send(vec![0; 1000]).await.unwrap();
            assert_eq!(pull.recv().await.unwrap().len(), 1000);
            push.send(vec![0; 1001]).await.unwrap();
            if allowed {
                assert_eq!(pull.recv().await.unwrap().len(), 1001);
                drop(push);
                pipe_removed(&mut events).await;
            } else {
                let reason = pipe_removed(&mut events).await;
                assert!(reason.contains("at most 1000"), "{reason}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_dialer_keeps_its_limit_over_reconnections() {
    bounded(async {
        let at = Transport::ipc();
        let push = Push::new();
        let mut others = push.events();
        push.listen(&at.address).await.unwrap();
        let pull = Pull::new();
        let mut events = pull.events();
        pull.dial_with(&at.address, at_most(1000)).await.unwrap();
        for _ in 0..2 {
            pipe_added(&mut others).await;
            push.send(vec![0; 1000]).await.unwrap();
            assert_eq!(pull.recv().await.unwrap().len(), 1000);
            push.send(vec![0; 1001]).await.unwrap();
            let reason = pipe_removed(&mut events).await;
            assert!(reason.contains("at most 1000"), "{reason}");
            pipe_removed(&mut others).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_dialer_gives_up_by_its_own_count() {
    bounded(async {
        let nowhere = Transport::inproc();
        let push = Push::with_options(SocketOptions {
            reconnect_min: Duration::from_secs(3600),
            reconnect_max: Duration::from_secs(3600),
            ..Default::default()
        });
        let mut events = push.events();
        let hasty = EndpointOptions {
            reconnect_min: Some(Duration::from_millis(1)),
            reconnect_max: Some(Duration::from_millis(2)),
            reconnect_attempts: Some(3),
            ..Default::default()
        };
        let endpoint = push.dial_in_background_with(&nowhere.address, hasty).unwrap();
        let mut delays = Vec::new();
        let gave_up = event(&mut events, |event| match event {
            Event::DialFailed { retry_in, .. } => {
                delays.push(retry_in);
                None
            }
            Event::DialerGaveUp { endpoint, .. } => Some(endpoint),
            _ => None,
        });
        assert_eq!(gave_up.await, endpoint.id);
        assert_eq!(delays.len(), 2, "the third failure is the last");
        assert!(
            delays.iter().all(|delay| *delay <= Duration::from_millis(2)),
            "{delays:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_listener_waits_for_greetings_by_its_own_limit() {
    bounded(async {
        let pull = Pull::with_options(SocketOptions {
            handshake_timeout: Duration::from_secs(3600),
            ..Default::default()
        });
        let mut events = pull.events();
        let impatient = EndpointOptions {
            handshake_timeout: Some(Duration::from_millis(1)),
            ..Default::default()
        };
        let at = pull.listen_with("tcp://127.0.0.1:0", impatient).await.unwrap();
        let mut silent = TcpStream::connect(at.address.strip_prefix("tcp://").unwrap())
            .await
            .unwrap();
        let reason = peer_refused(&mut events).await;
        assert!(reason.contains("did not greet within 1ms"), "{reason}");
        silent.read_to_end(&mut Vec::new()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_reader_of_events_that_lags_learns_how_many_it_missed() {
    bounded(async {
        let (pull, push) = (Pull::new(), Push::new());
        let at = pull.listen(&Transport::inproc().address).await.unwrap();
        let mut late = push.events();
        for _ in 0..100 {
            let endpoint = push.dial(&at.address).await.unwrap();
            push.close_endpoint(endpoint.id).await;
        }
        push.close().await;
        assert!(matches!(late.recv().await, Some(Event::Missed(72))));
        for _ in 0..64 {
            assert!(matches!(late.recv().await, Some(Event::PipeAdded(_))));
            assert!(matches!(late.recv().await, Some(Event::PipeRemoved { .. })));
        }
        assert!(late.recv().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_rule_for_peers_may_call_into_the_socket_that_takes_a_connection() {
    bounded(async {
        let at = Transport::inproc();
        let listener = Listener::bind(&at.address, &[Protocol::Push], ListenerOptions::default())
            .await
            .unwrap();
        let socket = Arc::new(OnceLock::<Pull>::new());
        let known = Arc::clone(&socket);
        let admission = Admission::new(move |_| {
            let pull = known.get().ok_or("not yet")?;
            pull.dial_in_background("inproc://nobody-is-there").unwrap();
            Ok(())
        });
        let pull = Pull::with_options(SocketOptions {
            admission,
            ..Default::default()
        });
        socket.set(pull.clone()).unwrap();
        let push = Push::new();
        push.dial(&at.address).await.unwrap();
        pull.attach(listener.accept().await.unwrap()).unwrap();
        push.send("hello").await.unwrap();
        assert_eq!(pull.recv().await.unwrap().as_bytes(), b"hello");
        pull.close().await;
        let late = Push::new();
        late.dial(&at.address).await.unwrap();
        let refused = pull.attach(listener.accept().await.unwrap()).unwrap_err();
        assert!(matches!(refused, DialError::Closed), "{refused:?}");
        assert!(pull.pipes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_pipe_tells_whether_the_peer_closed_it_between_two_messages() {
    bounded(async {
        for at in [Transport::inproc(), Transport::ipc(), Transport::tcp()] {
            let (pull, push) = (Pull::new(), Push::new());
            let mut events = pull.events();
            let mut others = push.events();
            let listener = pull.listen(&at.address).await.unwrap();
            push.dial(&listener.address).await.unwrap();
            pipe_added(&mut events).await;
            push.close().await;
            assert!(is_orderly(&mut events).await, "{}", at.address);
            assert!(!is_orderly(&mut others).await, "{}: its own doing", at.address);
        }
        let pull = Pull::new();
        let mut events = pull.events();
        let listener = pull.listen("tcp://127.0.0.1:0").await.unwrap();
        let address = listener.address.to_string();
        let mut peer = TcpStream::connect(address.trim_start_matches("tcp://"))
            .await
            .unwrap();
        peer.write_all(b"\0SP\0\0\x50\0\0\0\0\0").await.unwrap();
        pipe_added(&mut events).await;
        drop(peer);
        assert!(!is_orderly(&mut events).await, "in the middle of a message");
    })
    .await;
}

async fn is_orderly(events: &mut sp_proto::Events) -> bool {
    event(events, |event| match event {
        Event::PipeRemoved { is_orderly, .. } => Some(is_orderly),
        _ => None,
    })
    .await
}
