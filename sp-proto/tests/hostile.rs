//! Peers that misbehave: none may crash a socket, hold it up, or fill its memory.
#![allow(missing_docs)]

mod support;

use sp_proto::{
    Event, Listener, ListenerOptions, Pair, Pair1, Protocol, Pull, Push, Rep, Respondent, SocketOptions,
    Surveyor,
};
use std::time::Duration;
use support::{Transport, bounded, event, peer_refused, pipe_added, pipe_removed, resident};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const PUSH: [u8; 8] = [0, b'S', b'P', 0, 0, 0x50, 0, 0];
const PULL: [u8; 8] = [0, b'S', b'P', 0, 0, 0x51, 0, 0];
const REQ: [u8; 8] = [0, b'S', b'P', 0, 0, 0x30, 0, 0];
const PAIR1: [u8; 8] = [0, b'S', b'P', 0, 0, 0x11, 0, 0];
const SURVEYOR: [u8; 8] = [0, b'S', b'P', 0, 0, 0x62, 0, 0];
const RESPONDENT: [u8; 8] = [0, b'S', b'P', 0, 0, 0x63, 0, 0];

/// A pull socket on tcp, and where it listens.
async fn pull(options: SocketOptions) -> (Pull, String) {
    let pull = Pull::with_options(options);
    let at = pull.listen("tcp://127.0.0.1:0").await.unwrap();
    let address = at.address.strip_prefix("tcp://").unwrap().to_owned();
    (pull, address)
}

async fn greeted(address: &str, greeting: [u8; 8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&greeting).await.unwrap();
    let mut theirs = [0; 8];
    stream.read_exact(&mut theirs).await.unwrap();
    stream
}

/// Proof that the socket is alive: a good peer gets through.
async fn still_works(pull: &Pull, address: &str) {
    let push = Push::new();
    push.dial(&format!("tcp://{address}")).await.unwrap();
    push.send("good").await.unwrap();
    assert_eq!(&pull.recv().await.unwrap()[..], b"good");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_dropped_in_time() {
    bounded(async {
        let options = SocketOptions {
            handshake_timeout: Duration::from_millis(20),
            ..Default::default()
        };
        let (pull, address) = pull(options).await;
        let mut events = pull.events();
        let mut silent = TcpStream::connect(&address).await.unwrap();
        assert!(
            peer_refused(&mut events)
                .await
                .contains("did not greet within 20ms")
        );
        let mut all = Vec::new();
        silent.read_to_end(&mut all).await.unwrap();
        assert_eq!(
            all,
            [0, b'S', b'P', 0, 0, 0x51, 0, 0],
            "our greeting, then the end"
        );
        still_works(&pull, &address).await;
    })
    .await;
}

#[tokio::test]
async fn strangers_are_refused_with_the_reason() {
    bounded(async {
        let (pull, address) = pull(SocketOptions::default()).await;
        let mut events = pull.events();
        for (greeting, reason) in [
            (*b"GET / HT", "does not speak SP"),
            ([0, b'S', b'P', 1, 0, 0x50, 0, 0], "does not speak SP"),
            ([0, b'S', b'P', 0, 0, 0x50, 0, 1], "reserved field"),
            (
                [0, b'S', b'P', 0, 0x12, 0x34, 0, 0],
                "unknown protocol number 0x1234",
            ),
            (REQ, "the peer speaks req, expected push"),
        ] {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(&greeting).await.unwrap();
            let refused = peer_refused(&mut events).await;
            assert!(refused.contains(reason), "{refused:?} does not say {reason:?}");
            let mut all = Vec::new();
            // The connection ends, in order or with a reset because our bytes were not read.
            let _ = stream.read_to_end(&mut all).await;
        }
        assert!(pull.pipes().is_empty());
        still_works(&pull, &address).await;
    })
    .await;
}

#[tokio::test]
async fn strangers_on_ipc_are_refused_with_the_reason() {
    bounded(async {
        let at = Transport::ipc();
        let path = at.address.strip_prefix("ipc://").unwrap();
        let options = SocketOptions {
            handshake_timeout: Duration::from_millis(200),
            recv_max_size: 1024,
            ..Default::default()
        };
        let pull = Pull::with_options(options);
        pull.listen(&at.address).await.unwrap();
        let mut events = pull.events();
        for (bytes, reason) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "does not speak SP"),
            (&REQ, "the peer speaks req, expected push"),
            (&PUSH[..7], "did not greet within 200ms"),
            (b"", "did not greet within 200ms"),
        ] {
            let mut stream = UnixStream::connect(path).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let refused = peer_refused(&mut events).await;
            assert!(refused.contains(reason), "{refused:?} does not say {reason:?}");
        }
        let claim = [&[1][..], &(1_u64 << 63).to_be_bytes()].concat();
        for (bytes, reason) in [
            (&claim[..], "9223372036854775808 bytes"),
            (b"\x02\0\0\0\0\0\0\0\x01x", "0x02"),
            (b"\x01\0\0\0\0\0\0\0\x0apart", "in the middle of a message"),
            (b"\x01\0\0", "in the middle of a message"),
        ] {
            let mut stream = UnixStream::connect(path).await.unwrap();
            let good = b"\x01\0\0\0\0\0\0\0\x04good";
            stream
                .write_all(&[&PUSH[..], good, bytes].concat())
                .await
                .unwrap();
            stream.shutdown().await.unwrap();
            let removed = pipe_removed(&mut events).await;
            assert!(removed.contains(reason), "{removed:?} does not say {reason:?}");
            assert_eq!(
                &pull.recv().await.unwrap()[..],
                b"good",
                "what came before is good"
            );
        }
        let push = Push::new();
        push.dial(&at.address).await.unwrap();
        push.send("good").await.unwrap();
        assert_eq!(&pull.recv().await.unwrap()[..], b"good");
        assert_eq!(pull.stats().dropped, Default::default());
    })
    .await;
}

#[tokio::test]
async fn a_reset_ends_its_pipe_only_while_sending_and_while_receiving() {
    bounded(async {
        let (pull, address) = pull(SocketOptions::default()).await;
        let mut events = pull.events();
        let mut stream = greeted(&address, PUSH).await;
        stream.write_all(&10_u64.to_be_bytes()).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
        let reason = pipe_removed(&mut events).await;
        assert!(reason.contains("the connection broke"), "{reason}");
        still_works(&pull, &address).await;

        let push = Push::new();
        let mut events = push.events();
        let at = push.listen("tcp://127.0.0.1:0").await.unwrap();
        let address = at.address.strip_prefix("tcp://").unwrap();
        let stream = greeted(address, PULL).await;
        pipe_added(&mut events).await;
        while push.try_send(vec![0; 100_000]).is_ok() {
            tokio::task::yield_now().await;
        }
        let waits = push.send("waits");
        let reset = async {
            stream.set_zero_linger().unwrap();
            drop(stream);
            let reason = pipe_removed(&mut events).await;
            assert!(reason.contains("the connection broke"), "{reason}");
            let pull = Pull::new();
            pull.dial(&at.address).await.unwrap();
            assert_eq!(&pull.recv().await.unwrap()[..], b"waits");
        };
        let (sent, ()) = tokio::join!(waits, reset);
        sent.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_reset_that_a_sender_is_told_is_no_end_in_order() {
    bounded(async {
        let push = Push::new();
        let mut events = push.events();
        let at = push.listen("tcp://127.0.0.1:0").await.unwrap();
        let stream = greeted(at.address.strip_prefix("tcp://").unwrap(), PULL).await;
        pipe_added(&mut events).await;
        stream.set_zero_linger().unwrap();
        drop(stream);
        // The pipe's task has had no turn since, so it is the sender whom the system tells.
        push.try_send("late").unwrap();
        let removed = event(&mut events, |event| match event {
            Event::PipeRemoved {
                reason, is_orderly, ..
            } => Some((reason, is_orderly)),
            _ => None,
        });
        let (reason, is_orderly) = removed.await;
        assert!(!is_orderly, "{reason}");
        assert!(reason.contains("the connection broke"), "{reason}");
    })
    .await;
}

/// Time stands still but for what the test lets pass, also in the next one. So over a Unix socket: what is written to one is
/// there at once, and no timer is due before it has been read.
#[tokio::test(start_paused = true)]
async fn one_byte_a_second_is_slow_but_legal() {
    bounded(async {
        let options = SocketOptions {
            handshake_timeout: Duration::from_secs(10),
            ..Default::default()
        };
        let (at, pull) = (Transport::ipc(), Pull::with_options(options));
        pull.listen(&at.address).await.unwrap();
        let mut stream = UnixStream::connect(at.address.strip_prefix("ipc://").unwrap())
            .await
            .unwrap();
        let bytes = [
            &PUSH[..],
            &[1],
            &5_u64.to_be_bytes(),
            b"hello",
            &[1],
            &0_u64.to_be_bytes(),
            &[1],
            &2_u64.to_be_bytes(),
            b"ok",
        ];
        for byte in bytes.concat() {
            stream.write_all(&[byte]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        for expected in ["hello", "", "ok"] {
            assert_eq!(&pull.recv().await.unwrap()[..], expected.as_bytes());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_greeting_of_one_byte_a_second_is_over_at_the_time_limit_all_the_same() {
    bounded(async {
        let options = SocketOptions {
            handshake_timeout: Duration::from_millis(6500),
            ..Default::default()
        };
        let (at, pull) = (Transport::ipc(), Pull::with_options(options));
        pull.listen(&at.address).await.unwrap();
        let mut events = pull.events();
        let begun = tokio::time::Instant::now();
        let mut stream = UnixStream::connect(at.address.strip_prefix("ipc://").unwrap())
            .await
            .unwrap();
        // The last byte would come half a second too late.
        let drip = async {
            for byte in PUSH {
                stream.write_all(&[byte]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            refused = peer_refused(&mut events) => {
                assert!(refused.contains("did not greet within 6.5s"), "{refused}");
            }
            () = drip => panic!("it was waited for"),
        }
        assert_eq!(begun.elapsed().as_secs(), 6, "by the clock of the test");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, PULL, "our greeting, then the end");
        assert!(pull.pipes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_claim_of_2_to_the_63_bytes_ends_the_pipe() {
    bounded(async {
        for limit in [1024, 0] {
            let options = SocketOptions {
                recv_max_size: limit,
                ..Default::default()
            };
            let (pull, address) = pull(options).await;
            let mut events = pull.events();
            let mut stream = greeted(&address, PUSH).await;
            stream
                .write_all(&[&1_u64.to_be_bytes()[..], b"x", &(1_u64 << 63).to_be_bytes()].concat())
                .await
                .unwrap();
            let reason = pipe_removed(&mut events).await;
            assert!(reason.contains("9223372036854775808 bytes"), "{reason}");
            assert_eq!(&pull.recv().await.unwrap()[..], b"x", "what came before is good");
            still_works(&pull, &address).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_message_is_told() {
    bounded(async {
        let (pull, address) = pull(SocketOptions::default()).await;
        let mut events = pull.events();
        for (length, part) in [(10_u64, 3), (1_000_000, 500_000)] {
            let mut stream = greeted(&address, PUSH).await;
            stream.write_all(&length.to_be_bytes()).await.unwrap();
            stream.write_all(&vec![0; part]).await.unwrap();
            drop(stream);
            assert!(
                pipe_removed(&mut events)
                    .await
                    .contains("in the middle of a message")
            );
        }
        assert_eq!(pull.try_recv().unwrap(), None);
        still_works(&pull, &address).await;
    })
    .await;
}

#[tokio::test]
async fn a_malformed_request_ends_its_pipe_only() {
    bounded(async {
        let rep = Rep::new();
        let mut events = rep.events();
        let at = rep.listen("tcp://127.0.0.1:0").await.unwrap();
        let address = at.address.strip_prefix("tcp://").unwrap();
        let mut stream = greeted(address, REQ).await;
        stream
            .write_all(&[&6_u64.to_be_bytes()[..], &[0, 0, 0, 1, b'x', b'y']].concat())
            .await
            .unwrap();
        assert!(pipe_removed(&mut events).await.contains("malformed backtrace"));
        let req = sp_proto::Req::new();
        req.dial(&at.address).await.unwrap();
        let (reply, ()) = tokio::join!(req.request("?"), async {
            rep.recv().await.unwrap().reply("!").await.unwrap();
        });
        assert_eq!(&reply.unwrap()[..], b"!");
    })
    .await;
}

#[tokio::test]
async fn a_malformed_header_ends_its_pipe_only() {
    let frame = |payload: &[u8]| [&(payload.len() as u64).to_be_bytes()[..], payload].concat();
    let pair = Pair1::new();
    let mut events = pair.events();
    let at = pair.listen("tcp://127.0.0.1:0").await.unwrap();
    let address = at.address.strip_prefix("tcp://").unwrap();
    for bad in [&b"abc"[..], &[0, 0, 1, 1, b'x'], &[0xff; 9]] {
        let mut stream = greeted(address, PAIR1).await;
        pipe_added(&mut events).await;
        stream
            .write_all(&[frame(b"\0\0\0\x01good"), frame(bad)].concat())
            .await
            .unwrap();
        let reason = bounded(pipe_removed(&mut events)).await;
        assert!(reason.contains("malformed hop count"), "{reason}");
        assert_eq!(&bounded(pair.recv()).await.unwrap()[..], b"good");
    }

    let respondent = Respondent::new();
    let mut events = respondent.events();
    let at = respondent.listen("tcp://127.0.0.1:0").await.unwrap();
    let address = at.address.strip_prefix("tcp://").unwrap();
    let mut stream = greeted(address, SURVEYOR).await;
    stream.write_all(&frame(b"abc")).await.unwrap();
    let reason = bounded(pipe_removed(&mut events)).await;
    assert!(reason.contains("malformed backtrace"), "{reason}");

    // A surveyor cannot blame a respondent for what a device may have done to its response.
    let surveyor = Surveyor::new();
    let mut events = surveyor.events();
    let at = surveyor.listen("tcp://127.0.0.1:0").await.unwrap();
    let mut stream = greeted(at.address.strip_prefix("tcp://").unwrap(), RESPONDENT).await;
    pipe_added(&mut events).await;
    stream
        .write_all(&[frame(b"abc"), frame(b"\x80\0\0\0who asked?")].concat())
        .await
        .unwrap();
    bounded(async {
        while surveyor.stats().dropped.unexpected < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(surveyor.pipes().len(), 1);
}

/// As many as come in fifty minutes, one every five milliseconds, and at once. That a month of them leaves nothing else is
/// what the pattern's own test shows: each finds the state that the one before it has found.
#[tokio::test]
async fn keep_alives_in_masses_against_an_idle_rep_leave_the_newest_and_no_memory() {
    bounded(async {
        const COUNT: u32 = 600_000;
        let rep = Rep::with_options(SocketOptions {
            rep_backlog: 1,
            ..Default::default()
        });
        let at = rep.listen("tcp://127.0.0.1:0").await.unwrap();
        let mut events = rep.events();
        let mut stream = greeted(at.address.strip_prefix("tcp://").unwrap(), REQ).await;
        let request = |number: u32| {
            let frame = [
                &17_u64.to_be_bytes()[..],
                &(number | 1 << 31).to_be_bytes(),
                b"handshake",
                &number.to_be_bytes(),
            ];
            frame.concat()
        };
        let before = resident();
        for first in (0..COUNT).step_by(1000) {
            let requests: Vec<u8> = (first..first + 1000).flat_map(request).collect();
            // Returns because the socket reads: more than any buffer holds is written here.
            stream.write_all(&requests).await.unwrap();
        }
        // The end of the stream is met after everything before it was read.
        stream
            .write_all(&[&4_u64.to_be_bytes()[..], &(COUNT | 1 << 31).to_be_bytes()].concat())
            .await
            .unwrap();
        let mut received = 0;
        let newest = loop {
            let request = rep.recv().await.unwrap();
            received += 1;
            if request.body().is_empty() {
                break request;
            }
        };
        assert!(rep.try_recv().unwrap().is_none(), "older requests are gone");
        let stats = rep.stats();
        assert_eq!(stats.received.messages, u64::from(COUNT) + 1);
        assert_eq!(stats.dropped.superseded + received, u64::from(COUNT) + 1);
        newest.reply("!").await.unwrap();
        let mut reply = [0; 13];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[8..12], (COUNT | 1 << 31).to_be_bytes());
        let grown = resident().saturating_sub(before);
        assert!(grown < 8 << 20, "memory grew by {grown} bytes");
        drop(stream);
        pipe_removed(&mut events).await;
    })
    .await;
}

#[tokio::test]
async fn silent_connections_in_masses_keep_nobody_out() {
    bounded(async {
        // More than may greet at a time, and with a limit that does not help.
        let options = SocketOptions {
            handshake_timeout: Duration::from_secs(3600),
            ..Default::default()
        };
        let (pull, address) = pull(options).await;
        let mut events = pull.events();
        let mut silent = Vec::new();
        for _ in 0..300 {
            silent.push(TcpStream::connect(&address).await.unwrap());
        }
        let refused = peer_refused(&mut events).await;
        assert!(refused.contains("handshakes were under way"), "{refused}");
        still_works(&pull, &address).await;
    })
    .await;
}

#[tokio::test]
async fn dialing_a_stranger_fails_with_the_reason() {
    bounded(async {
        let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", stranger.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = stranger.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        };
        let push = Push::new();
        let (dialed, ()) = tokio::join!(push.dial(&address), serve);
        assert!(
            matches!(dialed, Err(sp_proto::DialError::Greeting { .. })),
            "{dialed:?}"
        );
        let other = Pair::new();
        let at = other.listen("tcp://127.0.0.1:0").await.unwrap();
        let error = push.dial(&at.address).await.unwrap_err();
        assert!(
            error.to_string().contains("speaks pair, expected pull"),
            "{error}"
        );
        assert!(push.pipes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_listener_tells_protocols_apart_and_strangers_away() {
    bounded(async {
        let at = Transport::ipc();
        let welcome = [Protocol::Pair0, Protocol::Req];
        let listener = Listener::bind(&at.address, &welcome, ListenerOptions::default())
            .await
            .unwrap();
        let mut events = listener.events();
        let (pair, req, push) = (Pair::new(), sp_proto::Req::new(), Push::new());
        assert!(push.dial(listener.local_address()).await.is_err());
        assert!(
            peer_refused(&mut events)
                .await
                .contains("speaks push, which is not welcome")
        );

        pair.dial(listener.local_address()).await.unwrap();
        let connection = listener.accept().await.unwrap();
        assert_eq!(connection.peer_protocol(), Protocol::Pair0);
        let credentials = connection.credentials().unwrap();
        assert_eq!(credentials.pid, Some(std::process::id()));
        assert!(
            Rep::new().attach(connection).is_err(),
            "a rep is no peer of a pair"
        );

        req.dial(listener.local_address()).await.unwrap();
        let connection = listener.accept().await.unwrap();
        assert_eq!(connection.peer_protocol(), Protocol::Req);
        let rep = Rep::new();
        let pipe = rep.attach(connection).unwrap();
        let path = at.address.strip_prefix("ipc://").unwrap();
        drop(listener);
        assert!(!std::path::Path::new(path).exists());
        let (reply, ()) = tokio::join!(req.request("?"), async {
            let request = rep.recv().await.unwrap();
            assert_eq!(request.pipe(), pipe);
            request.reply("!").await.unwrap();
        });
        assert_eq!(
            &reply.unwrap()[..],
            b"!",
            "an accepted connection outlives its listener"
        );
    })
    .await;
}

#[tokio::test]
async fn a_listener_keeps_to_its_limits() {
    bounded(async {
        #[allow(clippy::needless_update, reason = "with TLS there is one more field")]
        let options = ListenerOptions {
            recv_max_size: 10,
            backlog: 1,
            handshake_timeout: Duration::from_millis(20),
            ..Default::default()
        };
        let listener = Listener::bind("tcp://127.0.0.1:0", &[Protocol::Push], options)
            .await
            .unwrap();
        let address = listener
            .local_address()
            .strip_prefix("tcp://")
            .unwrap()
            .to_owned();
        let mut events = listener.events();
        let mut silent = TcpStream::connect(&address).await.unwrap();
        assert!(
            peer_refused(&mut events)
                .await
                .contains("did not greet within 20ms")
        );
        assert_eq!(
            silent.read(&mut [0; 8]).await.unwrap(),
            0,
            "nothing is said to those who say nothing"
        );
        let mut stream = greeted(&address, PUSH).await;
        let pull = Pull::new();
        let mut events = pull.events();
        pull.attach(listener.accept().await.unwrap()).unwrap();
        assert_eq!(pipe_added(&mut events).await.endpoint, None);
        stream.write_all(&11_u64.to_be_bytes()).await.unwrap();
        let reason = event(&mut events, |event| match event {
            Event::PipeRemoved { reason, .. } => Some(reason),
            _ => None,
        });
        assert!(reason.await.contains("at most 10"));
    })
    .await;
}
