//! The control channel: handshakes, commands that cross them, a host that goes away and comes back.

use std::time::Duration;

use crate::host::{Host, source};
use mangrove_protocol::control::{Command, HANDSHAKE, Request};
use mangrove_sdk::{Context, Function, Object, Options, Plugin, Result, RunError, Value};
use serde_json::json;

struct Nothing;

impl Function for Nothing {
    async fn exec(&self, _: Vec<Value>, _: &Context) -> Result<Value> {
        Ok(Value::Null)
    }
}

fn with_nothing(plugin: Plugin) -> Plugin {
    plugin.function("nothing", Nothing)
}

fn hurried() -> Options {
    Options {
        keep_alive: Duration::from_millis(20),
        ..Options::default()
    }
}

#[tokio::test]
async fn a_command_that_a_keep_alive_has_overtaken_is_dropped_and_not_carried_out() {
    let mut host = Host::start_with("ctlcross", hurried(), with_nothing).await;
    host.request().await;
    let stale = host.take_request();
    host.request().await;
    // An answer to it would come as the next message.
    let unknown = source("unknown", "", json!({}));
    let _ = stale.reply(Command::Start(unknown.clone()).encode()).await;
    for _ in 0..3 {
        assert_eq!(&**host.request().await.body(), HANDSHAKE);
    }
    assert!(matches!(host.start_symbol(&unknown).await, Request::Failed(_)));
    host.shut_down().await;
}

#[tokio::test]
async fn a_host_that_comes_back_is_greeted_and_served() {
    // So slow that no keep-alive takes part.
    let options = Options {
        keep_alive: Duration::from_secs(600),
        ..Options::default()
    };
    let mut host = Host::start_with("ctlback", options, with_nothing).await;
    for _ in 0..3 {
        assert_eq!(&**host.request().await.body(), HANDSHAKE);
        assert_eq!(host.stop_symbol(&source("x", "", json!({}))).await, Request::Done);
        host.go_away().await;
        host.come_back().await;
    }
    host.shut_down().await;
}

#[tokio::test]
async fn a_host_that_stays_away_ends_the_plugin() {
    let options = Options {
        host_timeout: Duration::from_millis(100),
        ..hurried()
    };
    let mut host = Host::start_with("ctlgone", options, with_nothing).await;
    host.request().await;
    host.go_away().await;
    let error = host.end().await.unwrap_err();
    assert!(matches!(error, RunError::HostGone { .. }), "{error}");
    assert!(error.to_string().contains("is the host running?"), "{error}");
}

/// A start that takes its time while the host goes away.
struct Slow;

static OPENING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(0);
static OPENED: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(0);

impl mangrove_sdk::Source for Slow {
    type Config = Object;

    async fn open(_: String, _: Object, _: &Context) -> Result<Self> {
        OPENING.add_permits(1);
        OPENED.acquire().await?.forget();
        Err("too late".into())
    }

    async fn run(self, _: mangrove_sdk::Output, _: Context) -> Result {
        Ok(())
    }
}

#[tokio::test]
async fn the_answer_to_a_host_that_is_gone_is_not_given_to_the_next_one() {
    let mut host = Host::start("ctllate", |plugin| plugin.source::<Slow>("slow")).await;
    host.request().await;
    let command = Command::Start(source("slow", "", json!({}))).encode();
    host.take_request().reply(command).await.unwrap();
    crate::host::soon("the start", OPENING.acquire())
        .await
        .unwrap()
        .forget();
    host.go_away().await;
    host.come_back().await;
    OPENED.add_permits(1);
    assert_eq!(&**host.request().await.body(), HANDSHAKE);
    host.shut_down().await;
}
