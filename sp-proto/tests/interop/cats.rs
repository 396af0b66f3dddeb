//! The command-line programs of nng and nanomsg. They send one fixed text, over and over when asked, and
//! print what they receive, one quoted line per message.

#[cfg(feature = "tls")]
use std::path::Path;
use std::path::PathBuf;

use sp_proto::{Bus, Message, Pair, Pair1, Pub, Pull, Push, Rep, Req, Respondent, Sub, Surveyor};
use tokio::process::Command;

use crate::meeting::{
    ABSTRACT_WAYS, Duplex, KINDS, Kind, Listener, Peer, SECURE_WAYS, Transport, WAYS, meet, meet_connected,
};
use crate::scripted::{options as ours, patient};

/// How many messages go each way.
const MESSAGES: usize = 20;

/// `nngcat` or `nanocat`; they differ in the spelling of a few options.
pub(crate) struct Cat {
    program: PathBuf,
    spelling: Spelling,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Nng,
    Nanomsg,
}

impl Cat {
    pub(crate) fn nng() -> Option<Self> {
        let program = testkit::program("nngcat")?;
        Some(Self {
            program,
            spelling: Spelling::Nng,
        })
    }

    pub(crate) fn nanomsg() -> Option<Self> {
        let program = testkit::program("nanocat")?;
        Some(Self {
            program,
            spelling: Spelling::Nanomsg,
        })
    }

    /// nngcat has no bus, and nanomsg no pair of version 1.
    fn speaks(&self, kind: Kind) -> bool {
        match self.spelling {
            Spelling::Nng => kind != Kind::Bus,
            Spelling::Nanomsg => kind != Kind::Pair1,
        }
    }

    /// nanomsg has no TLS and no names without files.
    fn ways(&self) -> Vec<(Listener, Transport)> {
        match self.spelling {
            Spelling::Nng => [&WAYS, SECURE_WAYS, ABSTRACT_WAYS].concat(),
            Spelling::Nanomsg => WAYS.to_vec(),
        }
    }

    /// The options to send again and again without a pause that matters.
    fn repeat(&self) -> &'static [&'static str] {
        match self.spelling {
            Spelling::Nng => &["--interval", "0"],
            Spelling::Nanomsg => &["--interval", "0.01"],
        }
    }
}

impl Peer for Cat {
    fn command(&self, kind: Kind, listen: bool, address: &str) -> Command {
        let name = match (kind, self.spelling) {
            (Kind::Pair, Spelling::Nng) => "--pair0",
            (Kind::Pair, Spelling::Nanomsg) => "--pair",
            (Kind::Push, _) => "--push",
            (Kind::Pull, _) => "--pull",
            (Kind::Req, _) => "--req",
            (Kind::Rep, _) => "--rep",
            (Kind::Pair1, _) => "--pair1",
            (Kind::Pub, _) => "--pub",
            (Kind::Sub, _) => "--sub",
            (Kind::Surveyor, _) => "--surveyor",
            (Kind::Respondent, _) => "--respondent",
            (Kind::Bus, _) => "--bus",
        };
        let endpoint = match (listen, self.spelling) {
            (true, Spelling::Nng) => "--listen",
            (true, Spelling::Nanomsg) => "--bind",
            (false, Spelling::Nng) => "--dial",
            (false, Spelling::Nanomsg) => "--connect",
        };
        let mut command = Command::new(&self.program);
        command.args([name, endpoint, address]);
        // What only sends knows no format.
        if !matches!(kind, Kind::Push | Kind::Pub) {
            command.arg("--quoted");
        }
        command
    }

    #[cfg(feature = "tls")]
    fn secure(&self, command: &mut Command, listen: bool, folder: &Path) {
        let (option, file) = if listen {
            ("--cert", "both.pem")
        } else {
            ("--cacert", "authority.pem")
        };
        command.arg(option).arg(folder.join(file));
    }
}

#[tokio::test]
async fn nngcat_in_every_pattern_direction_and_transport() {
    let Some(cat) = Cat::nng() else { return };
    every_way(&cat).await;
}

#[tokio::test]
async fn nanocat_in_every_pattern_direction_and_transport() {
    let Some(cat) = Cat::nanomsg() else { return };
    every_way(&cat).await;
}

async fn every_way(cat: &Cat) {
    for way in cat.ways() {
        for kind in KINDS.into_iter().filter(|kind| cat.speaks(*kind)) {
            // Captured, and shown when the case fails.
            println!("their {kind:?}, {way:?}");
            match kind {
                Kind::Pair => they_pair(cat, way, kind, Pair::with_options(ours()), &[]).await,
                Kind::Pair1 => they_pair(cat, way, kind, Pair1::with_options(ours()), &[]).await,
                // It does not wait for a neighbour when it sends.
                Kind::Bus => they_pair(cat, way, kind, Bus::with_options(ours()), cat.repeat()).await,
                Kind::Push => they_push(cat, way).await,
                Kind::Pull => they_pull(cat, way).await,
                Kind::Req => they_request(cat, way).await,
                Kind::Rep => they_reply(cat, way).await,
                Kind::Pub => they_publish(cat, way).await,
                Kind::Sub => they_subscribe(cat, way).await,
                Kind::Surveyor => they_survey(cat, way).await,
                Kind::Respondent => they_respond(cat, way).await,
            }
        }
    }
}

async fn they_pair(cat: &Cat, way: (Listener, Transport), kind: Kind, ours: impl Duplex, repeat: &[&str]) {
    let options = [&["--data", "ping"], repeat].concat();
    let mut foreign = meet(&ours, way, cat, kind, &options).await;
    let ping = foreign.process.during("their message", ours.take()).await;
    assert_eq!(text(&ping), "ping");
    for number in 0..MESSAGES {
        let pong = format!("pong {number}");
        foreign
            .process
            .during("room for a message", ours.give(pong.clone().into()))
            .await;
        foreign.process.line(&pong, |line| next_is(line, &pong)).await;
    }
}

async fn they_push(cat: &Cat, way: (Listener, Transport)) {
    let pull = Pull::with_options(ours());
    let options = [&["--data", "work"], cat.repeat()].concat();
    let mut foreign = meet(&pull, way, cat, Kind::Push, &options).await;
    for _ in 0..MESSAGES {
        let message = foreign
            .process
            .during("their message", pull.recv())
            .await
            .expect("a message");
        assert_eq!(text(&message), "work");
    }
}

async fn they_pull(cat: &Cat, way: (Listener, Transport)) {
    let push = Push::with_options(ours());
    let mut foreign = meet(&push, way, cat, Kind::Pull, &[]).await;
    for number in 0..MESSAGES {
        foreign
            .process
            .during("room for a message", push.send(format!("work {number}")))
            .await
            .expect("sent");
    }
    foreign
        .process
        .during("room for a message", push.send(""))
        .await
        .expect("sent");
    for number in 0..MESSAGES {
        foreign
            .process
            .line(&format!("work {number}"), |line| {
                next_is(line, &format!("work {number}"))
            })
            .await;
    }
    foreign
        .process
        .line("an empty message", |line| next_is(line, ""))
        .await;
}

async fn they_request(cat: &Cat, way: (Listener, Transport)) {
    let rep = Rep::with_options(ours());
    let (repeat, count) = match cat.spelling {
        // With an interval of 0 it fails after the first answer, and there is nothing between that and a
        // second.
        Spelling::Nng => (&[][..], 1),
        Spelling::Nanomsg => (cat.repeat(), MESSAGES),
    };
    let options = [&["--data", "question"], repeat].concat();
    let mut foreign = meet(&rep, way, cat, Kind::Req, &options).await;
    // A requester that repeats gives an answer up that comes later than its interval, as it may on a busy machine; so
    // every request is answered until enough answers have arrived, in order.
    let (mut asked, mut next) = (0, 0);
    let mut arrived = 0;
    while arrived < count {
        tokio::select! {
            request = rep.recv() => {
                let request = request.expect("a request");
                assert_eq!(text(request.body()), "question");
                request.reply(format!("answer {asked}")).await.expect("a requester that waits");
                asked += 1;
            }
            line = foreign.process.line("an answer", |_| true) => {
                let number = line.strip_prefix("\"answer ").and_then(|rest| rest.strip_suffix('"'));
                let number: usize = number.and_then(|number| number.parse().ok()).expect("an answer");
                assert!((next..asked).contains(&number), "{line} after {next} of {asked} answers");
                next = number + 1;
                arrived += 1;
            }
        }
    }
}

async fn they_reply(cat: &Cat, way: (Listener, Transport)) {
    let req = Req::with_options(ours());
    let mut foreign = meet(&req, way, cat, Kind::Rep, &["--data", "answer"]).await;
    for number in 0..MESSAGES {
        let question = format!("question {number}");
        let answer = foreign
            .process
            .during("their answer", req.request(question.clone()))
            .await
            .expect("an answer");
        assert_eq!(text(&answer), "answer");
        foreign
            .process
            .line(&question, |line| next_is(line, &question))
            .await;
    }
}

async fn they_publish(cat: &Cat, way: (Listener, Transport)) {
    let sub = Sub::with_options(ours());
    sub.subscribe("ne");
    let mut other = sub.context();
    other.subscribe("old");
    let options = [&["--data", "news"], cat.repeat()].concat();
    let mut foreign = meet(&sub, way, cat, Kind::Pub, &options).await;
    for _ in 0..MESSAGES {
        let message = foreign.process.during("their message", sub.recv()).await;
        assert_eq!(text(&message.expect("a message")), "news");
    }
    assert_eq!(other.try_recv(), Ok(None));
}

async fn they_subscribe(cat: &Cat, way: (Listener, Transport)) {
    let publisher = Pub::with_options(ours());
    let options = ["--subscribe", "wanted"];
    let mut foreign = meet_connected(&publisher, way, cat, Kind::Sub, &options).await;
    for number in 0..MESSAGES {
        let wanted = format!("wanted {number}");
        publisher.send("unwanted").await.expect("an open socket");
        publisher.send(wanted.clone()).await.expect("an open socket");
        foreign.process.line(&wanted, |line| next_is(line, &wanted)).await;
    }
}

async fn they_survey(cat: &Cat, way: (Listener, Transport)) {
    let respondent = Respondent::with_options(ours());
    // A survey is lost when nobody is connected yet, so they repeat it.
    let options = ["--data", "question", "--interval", "1"];
    let mut foreign = meet(&respondent, way, cat, Kind::Surveyor, &options).await;
    let survey = foreign.process.during("their survey", respondent.recv()).await;
    let survey = survey.expect("a survey");
    assert_eq!(text(survey.body()), "question");
    survey.reply("answer").await.expect("a surveyor that waits");
    foreign
        .process
        .line("our answer", |line| next_is(line, "answer"))
        .await;
}

async fn they_respond(cat: &Cat, way: (Listener, Transport)) {
    let surveyor = Surveyor::with_options(patient());
    let options = ["--data", "answer"];
    let mut foreign = meet_connected(&surveyor, way, cat, Kind::Respondent, &options).await;
    for number in 0..MESSAGES {
        let question = format!("question {number}");
        let mut survey = surveyor.survey(question.clone()).await.expect("an open socket");
        let answer = foreign.process.during("their answer", survey.recv()).await;
        assert_eq!(text(&answer.expect("an answer")), "answer");
        foreign
            .process
            .line(&question, |line| next_is(line, &question))
            .await;
    }
}

/// Whether the quoted line is `expected`; no other message may come before it.
pub(crate) fn next_is(line: &str, expected: &str) -> bool {
    assert_eq!(line, format!("\"{expected}\""), "another message came first");
    true
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8_lossy(message).into_owned()
}
