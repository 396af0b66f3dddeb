//! Sinks, as the host sees them.

use std::path::Path;

use crate::host::{Host, ack_address, data_address, soon, symbol};
use mangrove_protocol::control::{Request, Symbol, UseAs};
use mangrove_protocol::data::{SinkAck, decode_ack};
use mangrove_sdk::{Context, Message, Result, Sink};
use serde::Deserialize;
use serde_json::{Value, json};
use sp_proto::{Pull, Push};
use tokio::sync::mpsc;

/// Does what the messages say, and tells in a file how many it has taken when it is closed.
struct Obedient {
    settings: Settings,
    taken: u32,
}

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    report: Option<std::path::PathBuf>,
}

impl Sink for Obedient {
    type Config = Settings;

    async fn open(settings: Settings, _: &Context) -> Result<Self> {
        Ok(Self { settings, taken: 0 })
    }

    async fn collect(&mut self, message: Message, context: &Context) -> Result {
        assert!(context.rule_id().starts_with("sdkt-"));
        match message.json()? {
            Value::String(text) if text == "panic" => panic!("out of hands"),
            Value::String(text) => Err(text.into()),
            _ => {
                self.taken += 1;
                Ok(())
            }
        }
    }

    async fn close(self, _: &Context) -> Result {
        if let Some(path) = self.settings.report {
            std::fs::write(path, self.taken.to_string())?;
        }
        Ok(())
    }
}

struct Channels {
    data: Push,
    acks: Pull,
}

impl Channels {
    async fn start(host: &mut Host, sink: &Symbol) -> Self {
        let acks = Pull::new();
        acks.listen(&ack_address(sink)).await.unwrap();
        assert_eq!(host.start_symbol(sink).await, Request::Done);
        let data = Push::new();
        data.dial(&data_address(sink)).await.unwrap();
        Self { data, acks }
    }

    async fn close(self) {
        self.data.close().await;
        self.acks.close().await;
    }

    async fn send(&self, message: &'static str) {
        soon("sending", self.data.send(message)).await.unwrap();
    }

    async fn ack(&self) -> SinkAck {
        let ack = soon("an acknowledgement", self.acks.recv()).await.unwrap();
        decode_ack(&ack).unwrap()
    }
}

#[tokio::test]
async fn every_message_is_acknowledged_with_its_error() {
    let mut host = Host::start("snk", |plugin| plugin.sink::<Obedient>("obey")).await;
    let sink = symbol("obey", UseAs::Sink, json!({"requireAck": true}));
    let channels = Channels::start(&mut host, &sink).await;
    for (message, ack) in [
        (r#"[{"a":1}]"#, Ok(())),
        (r#""disk full""#, Err("disk full".to_owned())),
        (r#""panic""#, Err("panicked: out of hands".to_owned())),
        (r#"[{"a":2}]"#, Ok(())),
    ] {
        channels.send(message).await;
        assert_eq!(channels.ack().await, ack, "to {message}");
    }
    channels.send("nope").await;
    assert!(channels.ack().await.unwrap_err().contains("expected ident"));
    channels.send(r#""""#).await;
    assert!(
        channels.ack().await.is_err(),
        "an error without a text read as success"
    );
    assert_eq!(host.stop_symbol(&sink).await, Request::Done);
    host.shut_down().await;
}

#[tokio::test]
async fn what_was_handed_over_is_taken_before_the_sink_closes() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("taken");
    let mut host = Host::start("snkdrain", |plugin| plugin.sink::<Obedient>("drain")).await;
    let sink = symbol(
        "drain",
        UseAs::Sink,
        json!({"report": report, "requireAck": true}),
    );
    let channels = Channels::start(&mut host, &sink).await;
    for _ in 0..20 {
        channels.send("[]").await;
    }
    // One is seen to arrive; then all have been handed over, for a pipe keeps their order.
    channels.send(r#""mark""#).await;
    while channels.ack().await.is_ok() {}
    assert_eq!(host.stop_symbol(&sink).await, Request::Done);
    assert_eq!(std::fs::read_to_string(&report).unwrap(), "20");
    let path = data_address(&sink);
    let path = Path::new(path.strip_prefix("ipc://").unwrap());
    assert!(!path.exists(), "{} is left behind", path.display());
    channels.close().await;
    // The address is free for the next use.
    let again = Channels::start(&mut host, &sink).await;
    again.send("[]").await;
    assert_eq!(again.ack().await, Ok(()));
    // The end of the process closes its sinks as well.
    std::fs::remove_file(&report).unwrap();
    host.shut_down().await;
    assert_eq!(std::fs::read_to_string(&report).unwrap(), "1");
}

/// Tells of each message through a channel of the test's.
struct Telling;

static TOLD: std::sync::OnceLock<mpsc::Sender<()>> = std::sync::OnceLock::new();

impl Sink for Telling {
    type Config = Value;

    async fn open(_: Value, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    async fn collect(&mut self, _: Message, _: &Context) -> Result {
        Ok(TOLD.get().ok_or("no test")?.send(()).await?)
    }
}

#[tokio::test]
async fn a_host_that_reads_no_acknowledgements_does_not_hold_up_the_sink() {
    let (told, mut tell) = mpsc::channel(16);
    TOLD.set(told).unwrap();
    let mut host = Host::start("snkdeaf", |plugin| plugin.sink::<Telling>("deaf")).await;
    let sink = symbol("deaf", UseAs::Sink, json!({}));
    let channels = Channels::start(&mut host, &sink).await;
    let sending = async {
        for _ in 0..5000 {
            channels.send("[]").await;
        }
    };
    let counting = async {
        for _ in 0..5000 {
            soon("the next message", tell.recv()).await.unwrap();
        }
    };
    tokio::join!(sending, counting);
    assert_eq!(host.stop_symbol(&sink).await, Request::Done);
    host.shut_down().await;
}
