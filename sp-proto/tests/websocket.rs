//! Websocket peers that misbehave, and those that only do what is unusual.
#![cfg(feature = "ws")]
#![allow(missing_docs)]

mod support;

use sp_proto::wire::websocket::{FrameKind, UpgradeRequest, accept_upgrade, encode_header};
use sp_proto::{DialError, Listener, ListenerOptions, Pair, Protocol, Pull, Push, Rep, Req, SocketOptions};
use std::error::Error;
use std::time::Duration;
use support::{bounded, peer_refused, pipe_added, pipe_removed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A pull socket, and the host and port where it listens for `/sp`.
async fn pull(options: SocketOptions) -> (Pull, String) {
    let pull = Pull::with_options(options);
    let at = pull.listen("ws://127.0.0.1:0/sp").await.unwrap();
    let host = at.address.strip_prefix("ws://").unwrap().strip_suffix("/sp");
    (pull, host.unwrap().to_owned())
}

const UPGRADE: &str = "GET /sp HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                       Sec-WebSocket-Protocol: pull.sp.nanomsg.org\r\n\r\n";

/// A connection that was upgraded by hand, and bytes that went along with the request.
async fn upgraded(host: &str, along: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream
        .write_all(&[UPGRADE.as_bytes(), along].concat())
        .await
        .unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 101 "));
    stream
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A masked frame, with a mask that changes nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let whole = FrameKind::Data {
        first: true,
        last: true,
    };
    encode_header(&mut bytes, whole, payload.len(), Some([0; 4]));
    bytes[0] = first;
    bytes.extend_from_slice(payload);
    bytes
}

async fn still_works(pull: &Pull, host: &str) {
    let push = Push::new();
    push.dial(&format!("ws://{host}/sp")).await.unwrap();
    push.send("good").await.unwrap();
    assert_eq!(&pull.recv().await.unwrap()[..], b"good");
}

#[tokio::test]
async fn hostile_upgrades_are_refused_with_a_status_and_a_reason() {
    bounded(async {
        let (pull, host) = pull(SocketOptions::default()).await;
        let mut events = pull.events();
        for (from, to, status, reason) in [
            ("GET /sp", "GET /", "404", "asks for the path \"/\""),
            ("GET", "POST", "400", "the method is not GET"),
            (
                "pull.sp",
                "rep.sp",
                "400",
                "offers the sub-protocols \"rep.sp.nanomsg.org\"",
            ),
            ("Upgrade: websocket\r\n", "", "426", "its Upgrade field"),
            (
                "AAAAAAAAAAAAAAAAAAAAAA==",
                "AAAA",
                "426",
                "its Sec-WebSocket-Key field",
            ),
            (
                "GET /sp HTTP/1.1",
                "\0SP\0\0\x50\0\0",
                "400",
                "does not speak HTTP",
            ),
        ] {
            let mut stream = TcpStream::connect(&host).await.unwrap();
            stream
                .write_all(UPGRADE.replace(from, to).as_bytes())
                .await
                .unwrap();
            let head = head(&mut stream).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{to}: {head}");
            let refused = peer_refused(&mut events).await;
            assert!(refused.contains(reason), "{refused:?} does not say {reason:?}");
        }
        assert!(pull.pipes().is_empty());
        still_works(&pull, &host).await;
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_without_end_is_ended() {
    bounded(async {
        let hasty = SocketOptions {
            handshake_timeout: Duration::from_millis(200),
            ..Default::default()
        };
        let (pull, host) = pull(hasty).await;
        let mut events = pull.events();
        let mut endless = TcpStream::connect(&host).await.unwrap();
        endless.write_all(b"GET /sp HTTP/1.1\r\nX: ").await.unwrap();
        endless.write_all(&[b'x'; 9000]).await.unwrap();
        assert!(peer_refused(&mut events).await.contains("longer than 8192 bytes"));
        let mut slow = TcpStream::connect(&host).await.unwrap();
        slow.write_all(b"GET /sp HTTP/1.1\r\n").await.unwrap();
        assert!(
            peer_refused(&mut events)
                .await
                .contains("did not greet within 200ms")
        );
        let gone = TcpStream::connect(&host).await.unwrap();
        drop(gone);
        assert!(
            peer_refused(&mut events)
                .await
                .contains("broke during the upgrade")
        );
        still_works(&pull, &host).await;
    })
    .await;
}

#[tokio::test]
async fn frames_that_break_the_rules_end_their_pipe_only() {
    bounded(async {
        let strict = SocketOptions {
            recv_max_size: 100,
            ..Default::default()
        };
        let (pull, host) = pull(strict).await;
        let mut events = pull.events();
        let huge = [&[0x82, 0xff][..], &(1_u64 << 63).to_be_bytes(), &[0; 4]].concat();
        let in_parts = [frame(0x02, &[0; 60]), frame(0x80, &[0; 41])].concat();
        for (bytes, reason) in [
            (b"\x82\x01x".to_vec(), "not masked"),
            (frame(0x81, b"text"), "opcode 0x1"),
            (frame(0xc2, b"compressed"), "reserved bits"),
            (frame(0x80, b"continued"), "out of sequence"),
            (frame(0x09, b"half a ping"), "control frame"),
            (
                frame(0x82, &[0; 101]),
                "a message of 101 bytes was announced; at most 100",
            ),
            (in_parts, "a message of 101 bytes was announced; at most 100"),
            (huge, "a message of 9223372036854775808 bytes was announced"),
        ] {
            let good = frame(0x82, b"before");
            let mut stream = upgraded(&host, &[good, bytes].concat()).await;
            let ended = pipe_removed(&mut events).await;
            assert!(ended.contains(reason), "{ended:?} does not say {reason:?}");
            assert_eq!(
                &pull.recv().await.unwrap()[..],
                b"before",
                "what came before is good"
            );
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        still_works(&pull, &host).await;
    })
    .await;
}

#[tokio::test]
async fn a_message_in_parts_with_pings_between_is_one_message() {
    bounded(async {
        let (pull, host) = pull(SocketOptions::default()).await;
        let mut events = pull.events();
        let mut stream = upgraded(&host, &frame(0x02, b"Hel")).await;
        assert!(
            pipe_added(&mut events)
                .await
                .peer_address
                .starts_with("ws://127.0.0.1:")
        );
        stream.write_all(&frame(0x89, b"there?")).await.unwrap();
        let mut pong = [0; 8];
        stream.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"\x8a\x06there?");
        let rest = [frame(0, b""), frame(0x8a, b"unasked"), frame(0x80, b"lo")];
        stream.write_all(&rest.concat()).await.unwrap();
        assert_eq!(&pull.recv().await.unwrap()[..], b"Hello");

        stream.write_all(&frame(0x88, &[3, 232])).await.unwrap();
        assert!(
            pipe_removed(&mut events)
                .await
                .contains("the peer closed the connection")
        );
        let mut goodbye = Vec::new();
        stream.read_to_end(&mut goodbye).await.unwrap();
        assert_eq!(goodbye, [0x88, 2, 3, 232]);
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_pings_that_nobody_reads_the_answers_of_fills_nothing() {
    bounded(async {
        let (pull, host) = pull(SocketOptions::default()).await;
        let mut stream = upgraded(&host, &[]).await;
        let ping = frame(0x89, &[7; 125]).repeat(1000);
        for _ in 0..200 {
            // 26 MB of answers would be due: far more than any buffer holds.
            stream.write_all(&ping).await.unwrap();
        }
        stream.write_all(&frame(0x82, b"after")).await.unwrap();
        assert_eq!(&pull.recv().await.unwrap()[..], b"after");
        still_works(&pull, &host).await;
    })
    .await;
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_message_is_told() {
    bounded(async {
        let (pull, host) = pull(SocketOptions::default()).await;
        let mut events = pull.events();
        for part in [&frame(0x02, b"Hel")[..], &frame(0x82, b"Hello")[..8], &[0x82]] {
            drop(upgraded(&host, part).await);
            let reason = pipe_removed(&mut events).await;
            assert!(reason.contains("in the middle of a message"), "{reason}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_listener_tells_protocols_apart_by_their_sub_protocol() {
    bounded(async {
        let welcome = [Protocol::Pair0, Protocol::Req];
        let listener = Listener::bind("ws://127.0.0.1:0/x", &welcome, ListenerOptions::default()).await;
        let listener = listener.unwrap();
        let mut events = listener.events();
        let (pair, req, push) = (Pair::new(), Req::new(), Push::new());
        let error = push.dial(listener.local_address()).await.unwrap_err();
        assert!(matches!(error, DialError::Upgrade { .. }), "{error:?}");
        let reason = peer_refused(&mut events).await;
        assert!(
            reason.contains("expected \"pair.sp.nanomsg.org, rep.sp.nanomsg.org\""),
            "{reason}"
        );

        pair.dial(listener.local_address()).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().peer_protocol(), Protocol::Pair0);
        req.dial(listener.local_address()).await.unwrap();
        let connection = listener.accept().await.unwrap();
        assert_eq!(connection.peer_protocol(), Protocol::Req);
        let rep = Rep::new();
        rep.attach(connection).unwrap();
        let (reply, ()) = tokio::join!(req.request("?"), async {
            rep.recv().await.unwrap().reply("!").await.unwrap();
        });
        assert_eq!(&reply.unwrap()[..], b"!");
    })
    .await;
}

#[tokio::test]
async fn dialing_a_stranger_fails_with_the_reason() {
    bounded(async {
        let reason = |error: &DialError| format!("{error}: {}", error.source().unwrap());
        let answers = [
            ("HTTP/1.1 200 OK\r\n\r\n", "refused with status 200"),
            ("HTTP/1.1 101 Switching\r\n\r\n", "wrong Upgrade field"),
            ("SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
            ("", "unexpected end of file"),
        ];
        for (answer, expected) in answers {
            let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("ws://{}", stranger.local_addr().unwrap());
            let serve = async {
                let (mut stream, _) = stranger.accept().await.unwrap();
                assert!(
                    head(&mut stream)
                        .await
                        .starts_with("GET / HTTP/1.1\r\nHost: 127.0.0.1:")
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let push = Push::new();
            let (dialed, ()) = tokio::join!(push.dial(&address), serve);
            let error = dialed.unwrap_err();
            assert!(reason(&error).contains(expected), "{}", reason(&error));
        }
        let (pull, host) = pull(SocketOptions::default()).await;
        let mut events = pull.events();
        let error = Pair::new().dial(&format!("ws://{host}/sp")).await.unwrap_err();
        assert!(
            reason(&error).contains("refused with status 400"),
            "{}",
            reason(&error)
        );
        peer_refused(&mut events).await;
        assert!(pull.pipes().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_message_that_comes_with_the_response_is_received() {
    bounded(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("ws://{}", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = head(&mut stream).await;
            let (request, _) = UpgradeRequest::parse(request.as_bytes()).unwrap().unwrap();
            let response = accept_upgrade(&request, Protocol::Push);
            let together = [&response[..], b"\x82\x07at once"].concat();
            stream.write_all(&together).await.unwrap();
            stream
        };
        let pull = Pull::new();
        let (dialed, _stream) = tokio::join!(pull.dial(&address), serve);
        dialed.unwrap();
        assert_eq!(&pull.recv().await.unwrap()[..], b"at once");
    })
    .await;
}
