//! How a session begins, goes on whatever comes, and ends.

use std::time::Duration;

use mangrove_protocol::native::control::{Answer, Shutdown, ToHost, ToPlugin, Unknown, Validate};
use mangrove_protocol::native::opening::{Refused, Welcome};
use mangrove_sdk::{Options, RunError, Value};
use serde_json::json;
use sp_proto::Pair;

use crate::script::{Host, TOKEN, limits, soon, source_role};

#[tokio::test]
async fn hello_says_who_it_is_and_what_it_has() {
    let (host, hello) = Host::silent(Options::default()).await;
    assert_eq!(
        (hello.versions.as_slice(), hello.token.as_str()),
        (&[1][..], TOKEN)
    );
    assert_eq!(hello.plugin.as_str(), "sdk");
    assert!(hello.sdk.starts_with("mangrove-rust/"));
    assert_eq!(
        json!(hello.symbols),
        json!({"sources": ["range"], "sinks": ["gated", "obedient"],
            "functions": ["do", {"name": "sum", "aggregate": true}]})
    );
    host.shut_down().await;
}

#[tokio::test]
async fn a_host_that_refuses_ends_the_plugin_with_its_reason() {
    let (mut host, _) = Host::silent(Options::default()).await;
    let reason = "who are you?".to_owned();
    host.send(ToPlugin::Refused(Refused {
        reason,
        versions: vec![1],
    }))
    .await;
    let error = host.end().await.unwrap_err();
    assert!(matches!(error, RunError::Refused { .. }));
    assert!(error.to_string().contains("who are you?"), "{error}");
}

#[tokio::test]
async fn a_version_that_it_does_not_speak_ends_the_plugin() {
    let (mut host, _) = Host::silent(Options::default()).await;
    let welcome = Welcome {
        version: 7,
        host: String::new(),
        instance: 0,
        encoding: "json".to_owned(),
        limits: limits(),
        ping_interval: 0,
    };
    host.send(ToPlugin::Welcome(welcome)).await;
    let error = host.end().await.unwrap_err().to_string();
    assert!(error.contains("version 7"), "{error}");
}

#[tokio::test]
async fn a_host_that_stays_silent_or_away_ends_the_plugin() {
    let options = Options {
        host_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let (mut host, _) = Host::silent(options.clone()).await;
    assert!(matches!(host.end().await, Err(RunError::HostGone { .. })));
    let mut host = Host::start_with(options).await;
    host.control.close().await;
    let error = host.end().await.unwrap_err().to_string();
    assert!(error.contains("is the host running?"), "{error}");
}

#[tokio::test]
async fn what_is_not_understood_is_answered_or_left_alone() {
    let mut host = Host::start().await;
    let unknown = |id| {
        ToPlugin::Unknown(Unknown {
            kind: "dance".to_owned(),
            id,
        })
    };
    host.send(unknown(None)).await;
    let error = host.request(|id| unknown(Some(id))).await.unwrap_err();
    assert_eq!(error, "this plugin knows no \"dance\"");
    for garbage in [
        &b"\xff\xfe"[..],
        b"",
        b"[]",
        b"{}",
        br#"{"type":7}"#,
        br#"{"type":"stop"}"#,
    ] {
        host.send_bytes(garbage.to_vec()).await;
    }
    // A request that cannot be read is answered all the same.
    host.send_bytes(br#"{"type":"start","id":77,"symbol":"a/b"}"#.to_vec())
        .await;
    match host.next().await {
        ToHost::Answer(Answer {
            id: 77,
            outcome: Err(error),
        }) => assert!(error.contains("expected"), "{error}"),
        other => panic!("{other:?}"),
    }
    // An answer to nothing.
    host.send(ToPlugin::Answer(Answer {
        id: 9,
        outcome: Ok(Value::Null),
    }))
    .await;
    assert_eq!(host.request(ToPlugin::Ping).await, Ok(Value::Null));
    assert!(
        host.stop_symbol(99, None)
            .await
            .unwrap_err()
            .contains("use 99 does not run")
    );
    host.shut_down().await;
}

#[tokio::test]
async fn a_host_that_talks_nonsense_only_is_left_and_greeted_anew() {
    let mut host = Host::start().await;
    for _ in 0..10 {
        host.send_bytes("nonsense").await;
    }
    host.hello().await;
    host.welcome().await;
    assert_eq!(host.request(ToPlugin::Ping).await, Ok(Value::Null));
    host.shut_down().await;
}

#[tokio::test]
async fn after_a_broken_connection_nothing_of_before_runs() {
    let mut host = Host::start().await;
    let config = json!({"count": 1, "then": "wait"});
    let pull = host.source(4, "range", config.clone()).await;
    soon("a tuple", pull.recv()).await.unwrap();
    host.control.close().await;
    let control = Pair::new();
    control.listen(&host.address).await.unwrap();
    host.control = control;
    host.hello().await;
    host.welcome().await;
    assert!(host.stop_symbol(4, None).await.is_err());
    // The number is free again.
    let pull = host.source(4, "range", config).await;
    soon("a tuple", pull.recv()).await.unwrap();
    host.shut_down().await;
}

#[tokio::test]
async fn shutdown_ends_everything_and_the_plugin() {
    let mut host = Host::start().await;
    let pull = host.source(4, "range", json!({"count": 0, "then": "wait"})).await;
    let _push = host.sink(5, "obedient", true).await;
    let _pair = host.function(6, "do").await;
    host.send(ToPlugin::Shutdown(Shutdown { timeout: 20_000 })).await;
    host.end().await.unwrap();
    let last = soon("the last word", pull.recv()).await.unwrap();
    assert_eq!(last.as_bytes(), br#"{"seq":1,"tuples":[{"last":true}]}"#);
}

#[tokio::test]
async fn a_symbol_that_does_not_stop_does_not_hold_up_the_end() {
    let options = Options {
        stop_grace: Duration::from_millis(20),
        ..Options::default()
    };
    let mut host = Host::start_with(options).await;
    let pull = host
        .source(4, "range", json!({"count": 1, "then": "never stop"}))
        .await;
    assert_eq!(host.stop_symbol(4, None).await, Ok(json!({"seq": 1})));
    soon("the tuple", pull.recv()).await.unwrap();
    let _pull = host
        .source(5, "range", json!({"count": 1, "then": "never stop"}))
        .await;
    host.shut_down().await;
}

#[tokio::test]
async fn validation_and_starts_are_answered_with_their_reasons() {
    let mut host = Host::start().await;
    let validate = |symbol: &str, args: Vec<Value>| {
        let symbol = symbol.parse().unwrap();
        move |id| ToPlugin::Validate(id, Validate { symbol, args })
    };
    assert_eq!(
        host.request(validate("do", vec![json!(1)])).await,
        Ok(Value::Null)
    );
    let errors = [
        (validate("do", vec![]), "do takes an argument"),
        (validate("do", vec![json!(0); 13]), "panicked: thirteen"),
        (
            validate("undo", vec![]),
            "no function \"undo\" in this plugin; it has do, sum",
        ),
    ];
    for (request, error) in errors {
        assert_eq!(host.request(request).await, Err(error.to_owned()));
    }
    for (config, reason) in [
        (json!({"count": 1, "then": "refuse"}), "handles are missing"),
        (
            json!({"count": 1, "then": "panic in open"}),
            "it panicked: no wheels",
        ),
        (json!({"count": "x"}), "the configuration cannot be read"),
        (
            json!({"count": 1, "then": "end"}),
            "cannot reach the host at inproc://nobody",
        ),
    ] {
        let role = source_role(config);
        let error = host
            .start_symbol(4, "range", role, "inproc://nobody")
            .await
            .unwrap_err();
        assert!(error.contains(reason), "{error:?} lacks {reason:?}");
    }
    let role = source_role(json!({"count": 1, "then": "end"}));
    let error = host
        .start_symbol(4, "hidden", role, "inproc://nobody")
        .await
        .unwrap_err();
    assert_eq!(error, "no source \"hidden\" in this plugin; it has range");
    host.shut_down().await;
}

#[tokio::test]
async fn a_symbol_that_takes_long_to_open_holds_up_nothing() {
    let mut host = Host::start().await;
    let role = source_role(json!({"count": 1, "then": "never open"}));
    let start = mangrove_protocol::native::control::Start {
        number: 4,
        symbol: "range".parse().unwrap(),
        role: role.clone(),
        address: "inproc://nobody".to_owned(),
    };
    host.send(ToPlugin::Start(1000, Box::new(start))).await;
    assert_eq!(host.request(ToPlugin::Ping).await, Ok(Value::Null));
    let error = host
        .start_symbol(4, "range", role, "inproc://nobody")
        .await
        .unwrap_err();
    assert_eq!(error, "use 4 runs already");
    host.send_bytes(br#"{"type":"stop","id":1001,"use":4,"timeout":100}"#.to_vec())
        .await;
    for expected in [1000, 1001] {
        match host.next().await {
            ToHost::Answer(answer) => assert_eq!(answer.id, expected),
            other => panic!("{other:?}"),
        }
    }
    host.shut_down().await;
}
