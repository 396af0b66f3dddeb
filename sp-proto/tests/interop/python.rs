//! pynng, the binding of nng that the published Python SDK stands on, driven command by command.

use std::path::{Path, PathBuf};

use sp_proto::{Message, Pair, Pull, Push, Rep, Req, SocketOptions};
use tokio::process::Command;

use crate::cats::text;
use crate::meeting::{Foreign, KINDS, Kind, Listener, Peer, Transport, WAYS, meet};

/// The sizes of messages, in bytes: none, one, what still fits into a socket's buffer, what doesn't.
const SIZES: [usize; 4] = [0, 1, 64 * 1024, 1024 * 1024];

/// The length of a sequence whose order is checked.
const NUMBERS: usize = 1000;

/// A Python interpreter that has pynng.
pub(crate) struct Pynng(PathBuf);

impl Pynng {
    pub(crate) fn find() -> Option<Self> {
        // The release decides which pynng comes with it.
        testkit::python("2.4.2").map(Self)
    }
}

impl Peer for Pynng {
    fn command(&self, kind: Kind, listen: bool, address: &str) -> Command {
        let kind = match kind {
            Kind::Pair => "pair",
            Kind::Push => "push",
            Kind::Pull => "pull",
            Kind::Req => "req",
            Kind::Rep => "rep",
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/peer.py");
        let mut command = Command::new(&self.0);
        command
            .arg("-u")
            .arg(script)
            .args([kind, if listen { "listen" } else { "dial" }, address]);
        command
    }
}

impl Foreign {
    /// Gives a command and waits for its one line of answer.
    pub(crate) async fn obey(&mut self, command: &str) -> String {
        self.process.write_line(command).await;
        self.answer(command).await
    }

    /// Waits for the answer of a command that was given before.
    pub(crate) async fn answer(&mut self, command: &str) -> String {
        self.process
            .line(&format!("an answer to {command:?}"), |line| line != "ready")
            .await
    }
}

/// The same bytes as `block` of the script.
fn block(size: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(size).collect()
}

fn options() -> SocketOptions {
    SocketOptions {
        recv_max_size: 2 * 1024 * 1024,
        ..SocketOptions::default()
    }
}

#[tokio::test]
async fn pynng_in_every_pattern_direction_and_transport() {
    let Some(python) = Pynng::find() else { return };
    for way in WAYS {
        for kind in KINDS {
            // Captured, and shown when the case fails.
            println!("their {kind:?}, {way:?}");
            match kind {
                Kind::Pair => they_pair(&python, way).await,
                Kind::Push => they_push(&python, way).await,
                Kind::Pull => they_pull(&python, way).await,
                Kind::Req => they_request(&python, way).await,
                Kind::Rep => they_reply(&python, way).await,
            }
        }
    }
}

async fn they_pair(python: &Pynng, way: (Listener, Transport)) {
    let pair = Pair::with_options(options());
    let mut foreign = meet(&pair, way, python, Kind::Pair, &[]).await;
    for size in SIZES {
        foreign.process.write_line(&format!("send-block {size}")).await;
        assert_same(
            &foreign.process.during("a block", pair.recv()).await.unwrap(),
            size,
        );
        assert_eq!(foreign.answer("send-block").await, "sent");
        foreign
            .process
            .during("room for a block", pair.send(block(size)))
            .await
            .unwrap();
        assert_eq!(foreign.obey(&format!("recv-block {size}")).await, "same");
    }
}

async fn they_push(python: &Pynng, way: (Listener, Transport)) {
    let pull = Pull::with_options(options());
    let mut foreign = meet(&pull, way, python, Kind::Push, &[]).await;
    for size in SIZES {
        foreign.process.write_line(&format!("send-block {size}")).await;
        assert_same(
            &foreign.process.during("a block", pull.recv()).await.unwrap(),
            size,
        );
        assert_eq!(foreign.answer("send-block").await, "sent");
    }
    foreign
        .process
        .write_line(&format!("send-numbers {NUMBERS}"))
        .await;
    for number in 0..NUMBERS {
        assert_eq!(
            text(&foreign.process.during("a number", pull.recv()).await.unwrap()),
            number.to_string()
        );
    }
    assert_eq!(foreign.answer("send-numbers").await, "sent");
}

async fn they_pull(python: &Pynng, way: (Listener, Transport)) {
    let push = Push::with_options(options());
    let mut foreign = meet(&push, way, python, Kind::Pull, &[]).await;
    for size in SIZES {
        foreign
            .process
            .during("room for a block", push.send(block(size)))
            .await
            .unwrap();
        assert_eq!(foreign.obey(&format!("recv-block {size}")).await, "same");
    }
    foreign
        .process
        .write_line(&format!("recv-numbers {NUMBERS}"))
        .await;
    for number in 0..NUMBERS {
        foreign
            .process
            .during("room for a number", push.send(number.to_string()))
            .await
            .unwrap();
    }
    assert_eq!(foreign.answer("recv-numbers").await, "same");
}

async fn they_request(python: &Pynng, way: (Listener, Transport)) {
    let rep = Rep::with_options(options());
    let mut foreign = meet(&rep, way, python, Kind::Req, &[]).await;
    for size in SIZES {
        foreign.process.write_line(&format!("send-block {size}")).await;
        let request = foreign.process.during("a request", rep.recv()).await.unwrap();
        assert_same(request.body(), size);
        request.reply(block(size)).await.unwrap();
        assert_eq!(foreign.answer("send-block").await, "sent");
        assert_eq!(foreign.obey(&format!("recv-block {size}")).await, "same");
    }
}

async fn they_reply(python: &Pynng, way: (Listener, Transport)) {
    let req = Req::with_options(options());
    let mut foreign = meet(&req, way, python, Kind::Rep, &[]).await;
    for size in SIZES {
        foreign.process.write_line(&format!("recv-block {size}")).await;
        let mut conversation = req.context();
        foreign
            .process
            .during("room for a request", conversation.send(block(size)))
            .await
            .unwrap();
        assert_eq!(foreign.answer("recv-block").await, "same");
        foreign.process.write_line(&format!("send-block {size}")).await;
        assert_same(
            &foreign
                .process
                .during("a reply", conversation.recv())
                .await
                .unwrap(),
            size,
        );
        assert_eq!(foreign.answer("send-block").await, "sent");
    }
}

fn assert_same(message: &Message, size: usize) {
    assert_eq!(message.len(), size);
    assert!(
        message.as_bytes() == block(size),
        "a block of {size} bytes arrived with other bytes"
    );
}
