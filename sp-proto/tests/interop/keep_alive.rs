//! What the published SDKs do with their req socket: they give up waiting for the host's command after a
//! while and send `handshake` again, for weeks. nng itself also sends an unanswered request again.

use sp_proto::{Rep, Request};

use crate::cats::text;
use crate::meeting::{Foreign, Kind, Listener, Transport, meet};
use crate::python::Pynng;

const WAY: (Listener, Transport) = (Listener::Ours, Transport::Ipc);

#[tokio::test]
async fn a_reply_that_crosses_a_keep_alive_is_dropped_and_the_newer_request_can_be_answered() {
    let Some(python) = Pynng::find() else { return };
    let rep = Rep::new();
    let mut plugin = meet(&rep, WAY, &python, Kind::Req, &[]).await;
    assert_eq!(plugin.obey("send handshake 1").await, "sent");
    let first = plugin
        .process
        .during("the first handshake", rep.recv())
        .await
        .unwrap();
    assert_eq!(text(first.body()), "handshake 1");
    assert_eq!(plugin.obey("recv 50").await, "timed out");

    assert_eq!(plugin.obey("send handshake 2").await, "sent");
    let second = plugin.process.during("the keep-alive", rep.recv()).await.unwrap();
    assert_eq!(text(second.body()), "handshake 2");
    // Its requester has moved on: the pipe takes the reply, the peer drops it.
    first.reply("a stale command").await.unwrap();
    second.reply("a command").await.unwrap();
    assert_eq!(plugin.obey("recv").await, "got a command");
}

#[tokio::test]
async fn an_idle_host_answers_the_newest_of_many_keep_alives() {
    let Some(python) = Pynng::find() else { return };
    let rep = Rep::new();
    // With a queue that fills, a send would hit this limit: "timed out".
    let mut plugin = meet(&rep, WAY, &python, Kind::Req, &["send_timeout=20000"]).await;
    assert_eq!(plugin.obey("send-numbers 5000").await, "sent");
    assert_eq!(plugin.obey("send handshake").await, "sent");
    newest(&mut plugin, &rep, "handshake")
        .await
        .reply("a command")
        .await
        .unwrap();
    assert_eq!(plugin.obey("recv").await, "got a command");
}

#[tokio::test]
async fn a_request_that_nng_sends_again_gets_one_reply() {
    let Some(python) = Pynng::find() else { return };
    let rep = Rep::new();
    let mut plugin = meet(&rep, WAY, &python, Kind::Req, &["resend_time=100"]).await;
    assert_eq!(plugin.obey("send handshake").await, "sent");
    let first = plugin.process.during("the request", rep.recv()).await.unwrap();
    let again = plugin
        .process
        .during("the request once more", rep.recv())
        .await
        .unwrap();
    assert_eq!(text(again.body()), "handshake");
    again.reply("a command").await.unwrap();
    assert_eq!(plugin.obey("recv").await, "got a command");
    drop(first);

    // The old request's copies are no longer the current one.
    assert_eq!(plugin.obey("send ok").await, "sent");
    let next = newest(&mut plugin, &rep, "ok").await;
    next.reply("the next command").await.unwrap();
    assert_eq!(plugin.obey("recv").await, "got the next command");
}

/// Passes over what was still on its way when the request `expected` was sent.
async fn newest(plugin: &mut Foreign, rep: &Rep, expected: &str) -> Request {
    loop {
        let request = plugin.process.during(expected, rep.recv()).await.unwrap();
        if text(request.body()) == expected {
            return request;
        }
    }
}
