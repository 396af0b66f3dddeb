//! Foreign programs with one socket each that are driven command by command: what `peer.py` describes.

use std::time::Duration;

use sp_proto::{
    Bus, Message, Pair, Pair1, Protocol, Pub, Pull, Push, Raw, Rep, Req, Respondent, SocketOptions, Sub,
    Surveyor, device,
};

use crate::cats::text;
#[cfg(feature = "tls")]
use crate::meeting::certificates;
use crate::meeting::{
    ABSTRACT_WAYS, Duplex, Foreign, KINDS, Kind, Listener, Peer, SECURE_WAYS, Transport, WAYS, meet,
    meet_connected,
};

/// The sizes of messages, in bytes: none, one, what still fits into a socket's buffer, what doesn't.
const SIZES: [usize; 4] = [0, 1, 64 * 1024, 1024 * 1024];

/// The length of a sequence whose order is checked.
const NUMBERS: usize = 1000;

/// What the programs call this kind of socket.
pub(crate) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Pair => "pair",
        Kind::Push => "push",
        Kind::Pull => "pull",
        Kind::Req => "req",
        Kind::Rep => "rep",
        Kind::Pair1 => "pair1",
        Kind::Pub => "pub",
        Kind::Sub => "sub",
        Kind::Surveyor => "surveyor",
        Kind::Respondent => "respondent",
        Kind::Bus => "bus",
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

pub(crate) fn options() -> SocketOptions {
    SocketOptions {
        recv_max_size: 2 * 1024 * 1024,
        #[cfg(feature = "tls")]
        tls: certificates().0.clone(),
        ..SocketOptions::default()
    }
}

/// The same, with surveys that end with their test.
pub(crate) fn patient() -> SocketOptions {
    SocketOptions {
        survey_time: Duration::from_secs(600),
        ..options()
    }
}

pub(crate) async fn every_way(peer: &impl Peer) {
    for way in [&WAYS, SECURE_WAYS, ABSTRACT_WAYS].concat() {
        for kind in KINDS {
            // Captured, and shown when the case fails.
            println!("their {kind:?}, {way:?}");
            match kind {
                Kind::Pair => they_pair(peer, way, kind, Pair::with_options(options())).await,
                Kind::Pair1 => they_pair(peer, way, kind, Pair1::with_options(options())).await,
                Kind::Bus => they_pair(peer, way, kind, Bus::with_options(options())).await,
                Kind::Push => they_push(peer, way).await,
                Kind::Pull => they_pull(peer, way).await,
                Kind::Req => they_request(peer, way).await,
                Kind::Rep => they_reply(peer, way).await,
                Kind::Pub => they_publish(peer, way).await,
                Kind::Sub => they_subscribe(peer, way).await,
                Kind::Surveyor => they_survey(peer, way).await,
                Kind::Respondent => they_respond(peer, way).await,
            }
        }
    }
}

async fn they_pair(peer: &impl Peer, way: (Listener, Transport), kind: Kind, ours: impl Duplex) {
    let mut foreign = meet(&ours, way, peer, kind, &[]).await;
    assert_eq!(foreign.obey("connected").await, "connected");
    for size in SIZES {
        foreign.process.write_line(&format!("send-block {size}")).await;
        assert_same(&foreign.process.during("a block", ours.take()).await, size);
        assert_eq!(foreign.answer("send-block").await, "sent");
        foreign
            .process
            .during("room for a block", ours.give(block(size).into()))
            .await;
        assert_eq!(foreign.obey(&format!("recv-block {size}")).await, "same");
    }
}

async fn they_push(peer: &impl Peer, way: (Listener, Transport)) {
    let pull = Pull::with_options(options());
    let mut foreign = meet(&pull, way, peer, Kind::Push, &[]).await;
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

async fn they_pull(peer: &impl Peer, way: (Listener, Transport)) {
    let push = Push::with_options(options());
    let mut foreign = meet(&push, way, peer, Kind::Pull, &[]).await;
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

async fn they_request(peer: &impl Peer, way: (Listener, Transport)) {
    let rep = Rep::with_options(options());
    let mut foreign = meet(&rep, way, peer, Kind::Req, &[]).await;
    for size in SIZES {
        foreign.process.write_line(&format!("send-block {size}")).await;
        let request = foreign.process.during("a request", rep.recv()).await.unwrap();
        assert_same(request.body(), size);
        request.reply(block(size)).await.unwrap();
        assert_eq!(foreign.answer("send-block").await, "sent");
        assert_eq!(foreign.obey(&format!("recv-block {size}")).await, "same");
    }
}

async fn they_reply(peer: &impl Peer, way: (Listener, Transport)) {
    let req = Req::with_options(options());
    let mut foreign = meet(&req, way, peer, Kind::Rep, &[]).await;
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

async fn they_publish(peer: &impl Peer, way: (Listener, Transport)) {
    let sub = Sub::with_options(options());
    let mut wanted = sub.context();
    wanted.subscribe("wanted");
    let mut foreign = meet(&sub, way, peer, Kind::Pub, &[]).await;
    assert_eq!(foreign.obey("connected").await, "connected");
    for text in ["unwanted", "wanted"] {
        assert_eq!(foreign.obey(&format!("send {text}")).await, "sent");
    }
    let message = foreign.process.during("a message", wanted.recv()).await;
    assert_eq!(text(&message.unwrap()), "wanted");
    sub.subscribe("");
    for size in SIZES {
        assert_eq!(foreign.obey(&format!("send-block {size}")).await, "sent");
        assert_same(
            &foreign.process.during("a block", sub.recv()).await.unwrap(),
            size,
        );
    }
}

async fn they_subscribe(peer: &impl Peer, way: (Listener, Transport)) {
    let publisher = Pub::with_options(options());
    let mut foreign = meet_connected(&publisher, way, peer, Kind::Sub, &[]).await;
    assert_eq!(foreign.obey("subscribe wanted").await, "subscribed");
    for text in ["unwanted", "wanted"] {
        publisher.send(text).await.unwrap();
    }
    assert_eq!(foreign.obey("recv").await, "got wanted");
    assert_eq!(foreign.obey("subscribe ").await, "subscribed");
    for size in SIZES {
        publisher.send(block(size)).await.unwrap();
        assert_eq!(foreign.obey(&format!("recv-block {size}")).await, "same");
    }
}

async fn they_survey(peer: &impl Peer, way: (Listener, Transport)) {
    let respondent = Respondent::with_options(options());
    let mut foreign = meet(&respondent, way, peer, Kind::Surveyor, &[]).await;
    assert_eq!(foreign.obey("connected").await, "connected");
    assert_eq!(foreign.obey("survey-time 600000").await, "set");
    for size in SIZES {
        assert_eq!(foreign.obey(&format!("send-block {size}")).await, "sent");
        let survey = foreign.process.during("a survey", respondent.recv()).await;
        let survey = survey.unwrap();
        assert_same(survey.body(), size);
        survey.reply(block(size)).await.unwrap();
        assert_eq!(foreign.obey(&format!("recv-block {size}")).await, "same");
    }
}

async fn they_respond(peer: &impl Peer, way: (Listener, Transport)) {
    let surveyor = Surveyor::with_options(patient());
    let mut foreign = meet_connected(&surveyor, way, peer, Kind::Respondent, &[]).await;
    for size in SIZES {
        let mut survey = surveyor.survey(block(size)).await.unwrap();
        assert_eq!(foreign.obey(&format!("recv-block {size}")).await, "same");
        assert_eq!(foreign.obey(&format!("send-block {size}")).await, "sent");
        let response = foreign.process.during("a response", survey.recv()).await;
        assert_same(&response.unwrap(), size);
    }
}

/// Two foreign sockets talk through a device of ours: `near` asks, `far` answers.
pub(crate) async fn through_devices(near: &impl Peer, far: &impl Peer) {
    for (asking, answering) in [
        (Kind::Req, Kind::Rep),
        (Kind::Surveyor, Kind::Respondent),
        (Kind::Pair1, Kind::Pair1),
    ] {
        for ways in [(WAYS[0], WAYS[1]), (WAYS[2], WAYS[3])] {
            // Captured, and shown when the case fails.
            println!("{asking:?} to {answering:?}, {ways:?}");
            let (front, back) = match asking {
                Kind::Req => (Protocol::Rep, Protocol::Req),
                Kind::Surveyor => (Protocol::Respondent, Protocol::Surveyor),
                _ => (Protocol::Pair1, Protocol::Pair1),
            };
            let (front, back) = (Raw::new(front), Raw::new(back));
            let mut far = meet_connected(&back, ways.0, far, answering, &[]).await;
            let mut near = meet(&front, ways.1, near, asking, &[]).await;
            let conversation = async {
                assert_eq!(near.obey("connected").await, "connected");
                if asking == Kind::Surveyor {
                    assert_eq!(near.obey("survey-time 600000").await, "set");
                }
                for round in 0..3 {
                    assert_eq!(near.obey(&format!("send question {round}")).await, "sent");
                    assert_eq!(far.obey("recv").await, format!("got question {round}"));
                    assert_eq!(far.obey(&format!("send answer {round}")).await, "sent");
                    assert_eq!(near.obey("recv").await, format!("got answer {round}"));
                }
            };
            tokio::select! {
                end = device(&front, &back) => panic!("the device ended: {end:?}"),
                () = conversation => {}
            }
        }
    }
}

fn assert_same(message: &Message, size: usize) {
    assert_eq!(message.len(), size);
    assert!(
        message.as_bytes() == block(size),
        "a block of {size} bytes arrived with other bytes"
    );
}
