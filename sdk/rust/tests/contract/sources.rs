//! Sources, as the host sees them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::host::{Host, data_address, soon, source};
use mangrove_protocol::control::{Request, Symbol};
use mangrove_protocol::data::SourceMessage;
use mangrove_sdk::{Context, Object, Options, Output, Result, SendError, Source, Tuple};
use serde::Deserialize;
use serde_json::json;
use sp_proto::{Pull, SocketOptions};

/// Says what it was opened with, then what `then` says.
struct Scripted {
    data_source: String,
    config: Script,
}

#[derive(Deserialize)]
struct Script {
    then: String,
}

impl Source for Scripted {
    type Config = Script;

    async fn open(data_source: String, config: Script, _: &Context) -> Result<Self> {
        match config.then.as_str() {
            "refuse" => Err("handles are missing".into()),
            "panic in open" => panic!("no wheels"),
            _ => Ok(Self { data_source, config }),
        }
    }

    async fn run(self, output: Output, context: Context) -> Result {
        let first = json!({
            "dataSource": self.data_source,
            "rule": context.rule_id(),
            "op": context.op_id(),
            "instance": context.instance(),
        });
        output
            .send(Tuple::new(&first)?.with_meta(&json!({"n": 1}))?)
            .await?;
        output.report("a bad record").await?;
        match self.config.then.as_str() {
            "fail" => Err("the road ends".into()),
            "panic" => panic!("the wheel fell off"),
            "wait" => {
                context.cancelled().await;
                let last = json!({"last": true});
                Ok(output.send(Tuple::new(&last)?).await?)
            }
            "never stop" => std::future::pending().await,
            other => Err(other.into()),
        }
    }
}

async fn pull(symbol: &Symbol) -> Pull {
    let pull = Pull::new();
    pull.listen(&data_address(symbol)).await.unwrap();
    pull
}

async fn recv(pull: &Pull) -> SourceMessage {
    let message = soon("a message of the source", pull.recv()).await.unwrap();
    SourceMessage::decode(&message).unwrap()
}

fn error(text: &str) -> SourceMessage {
    SourceMessage::Error(text.to_owned())
}

#[tokio::test]
async fn a_source_sends_until_it_is_stopped_and_says_its_last_word() {
    let mut host = Host::start("src", |plugin| plugin.source::<Scripted>("wait")).await;
    assert_eq!(Request::decode(host.request().await.body()), Request::Handshake);
    let symbol = source("wait", "topic", json!({"then": "wait", "sendSingle": true}));
    let pull = pull(&symbol).await;
    assert_eq!(host.start_symbol(&symbol).await, Request::Done);
    let SourceMessage::Tuple { message, meta } = recv(&pull).await else {
        panic!("no tuple");
    };
    let expected = json!({"dataSource": "topic", "rule": symbol.meta.rule_id, "op": "op1", "instance": 3});
    assert_eq!(json!(message), expected);
    assert_eq!(json!(meta), json!({"n": 1}));
    assert_eq!(recv(&pull).await, error("a bad record"));
    assert_eq!(host.stop_symbol(&symbol).await, Request::Done);
    let SourceMessage::Tuple { message, .. } = recv(&pull).await else {
        panic!("no tuple");
    };
    assert_eq!(json!(message), json!({"last": true}));
    // Stopped twice is stopped.
    assert_eq!(host.stop_symbol(&symbol).await, Request::Done);
    host.shut_down().await;
}

#[tokio::test]
async fn failures_and_panics_become_errors_and_the_plugin_goes_on() {
    let mut host = Host::start("srcerr", |plugin| plugin.source::<Scripted>("fails")).await;
    for (then, last_word) in [
        ("fail", "the road ends"),
        ("panic", "panicked: the wheel fell off"),
    ] {
        let symbol = source("fails", "", json!({ "then": then }));
        let pull = pull(&symbol).await;
        assert_eq!(host.start_symbol(&symbol).await, Request::Done);
        assert!(matches!(recv(&pull).await, SourceMessage::Tuple { .. }));
        assert_eq!(recv(&pull).await, error("a bad record"));
        assert_eq!(recv(&pull).await, error(last_word));
        assert_eq!(host.stop_symbol(&symbol).await, Request::Done);
        pull.close().await;
    }
    host.shut_down().await;
}

#[tokio::test]
async fn what_cannot_start_is_answered_with_the_reason() {
    let mut host = Host::start("srcbad", |plugin| plugin.source::<Scripted>("picky")).await;
    let cases = [
        (
            json!({"then": "refuse"}),
            "source \"picky\" cannot be started: handles are missing",
        ),
        (
            json!({"then": "panic in open"}),
            "cannot be started: it panicked: no wheels",
        ),
        (
            json!({"then": 7}),
            "the configuration cannot be read: invalid type: integer `7`",
        ),
        (json!({}), "missing field `then`"),
        // Nobody listens at its address.
        (json!({"then": "wait"}), "cannot reach the host at ipc:///tmp/"),
    ];
    for (config, reason) in cases {
        match host.start_symbol(&source("picky", "", config)).await {
            Request::Failed(text) => assert!(text.contains(reason), "{text:?} lacks {reason:?}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
    let unknown = host.start_symbol(&source("hidden", "", json!({}))).await;
    let expected = "no source \"hidden\" in this plugin; it has picky";
    assert_eq!(unknown, Request::Failed(expected.to_owned()));
    for garbage in [&b"\xff"[..], b"", b"{}", br#"{"cmd":"hop","arg":"{}"}"#] {
        assert!(
            matches!(host.send(garbage).await, Request::Failed(_)),
            "{garbage:?}"
        );
    }
    host.shut_down().await;
}

#[tokio::test]
async fn a_source_that_does_not_stop_is_dropped() {
    let options = Options {
        stop_grace: Duration::from_millis(50),
        ..Options::default()
    };
    let mut host = Host::start_with("srcstuck", options, |plugin| plugin.source::<Scripted>("stuck")).await;
    let symbol = source("stuck", "", json!({"then": "never stop"}));
    let pull = pull(&symbol).await;
    assert_eq!(host.start_symbol(&symbol).await, Request::Done);
    assert!(matches!(recv(&pull).await, SourceMessage::Tuple { .. }));
    // Started again while it runs: the old one makes way.
    assert_eq!(host.start_symbol(&symbol).await, Request::Done);
    assert_eq!(recv(&pull).await, error("a bad record"));
    assert!(matches!(recv(&pull).await, SourceMessage::Tuple { .. }));
    assert_eq!(host.stop_symbol(&symbol).await, Request::Done);
    host.shut_down().await;
}

static LEAKED: OnceLock<Output> = OnceLock::new();

/// Ends while somebody else still holds its output.
struct Leaky;

impl Source for Leaky {
    type Config = Object;

    async fn open(_: String, _: Object, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    async fn run(self, output: Output, _: Context) -> Result {
        output.send(Tuple::new(&json!({"n": 1}))?).await?;
        LEAKED.set(output).map_err(|_| "opened twice")?;
        Err("the end".into())
    }
}

#[tokio::test]
async fn a_source_that_has_ended_is_over_whoever_holds_its_output() {
    let mut host = Host::start("srcleak", |plugin| plugin.source::<Leaky>("leaky")).await;
    let symbol = source("leaky", "", json!({}));
    let pull = pull(&symbol).await;
    assert_eq!(host.start_symbol(&symbol).await, Request::Done);
    assert!(matches!(recv(&pull).await, SourceMessage::Tuple { .. }));
    assert_eq!(recv(&pull).await, error("the end"));
    let late = LEAKED.get().unwrap().send(Tuple::default()).await;
    assert!(matches!(late, Err(SendError::Closed)), "{late:?}");
    assert_eq!(host.stop_symbol(&symbol).await, Request::Done);
    host.shut_down().await;
}

static SENT: AtomicU64 = AtomicU64::new(0);

/// Sends large tuples as fast as it may.
struct Flood;

impl Source for Flood {
    type Config = Object;

    async fn open(_: String, _: Object, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    async fn run(self, output: Output, context: Context) -> Result {
        let tuple = Tuple::new(&json!({"text": "x".repeat(64 * 1024)}))?;
        while !context.is_cancelled() {
            output.send(tuple.clone()).await?;
            SENT.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_never_far_ahead_of_the_host() {
    let options = Options {
        source_queue: 4,
        // So long that waiting for it would fail the test.
        stop_grace: Duration::from_secs(600),
        ..Options::default()
    };
    let mut host = Host::start_with("flood", options, |plugin| plugin.source::<Flood>("flood")).await;
    let symbol = source("flood", "", json!({}));
    let pull = Pull::with_options(SocketOptions {
        recv_queue: 4,
        ..SocketOptions::default()
    });
    pull.listen(&data_address(&symbol)).await.unwrap();
    assert_eq!(host.start_symbol(&symbol).await, Request::Done);
    let mut furthest = 0;
    for received in 0..500 {
        soon("a tuple", pull.recv()).await.unwrap();
        furthest = furthest.max(SENT.load(Ordering::SeqCst).saturating_sub(received));
    }
    let bound = 4 + 4 + SocketOptions::default().send_queue as u64 + 64;
    assert!(
        furthest <= bound,
        "{furthest} tuples ahead of the host; at most {bound} may be queued"
    );
    // A host that is not interested any more hangs up first.
    pull.close().await;
    assert_eq!(host.stop_symbol(&symbol).await, Request::Done);
    host.shut_down().await;
}
