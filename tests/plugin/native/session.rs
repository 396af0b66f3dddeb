//! The control channel: who is let in, what a plugin says and keeps there, and how it ends.

use std::path::Path;
use std::time::Duration;

use mangrove::plugin::State;
use mangrove_protocol::native::control::{
    Level, Log, Metric, MetricKind, StateOperation, StateRequest, ToHost, ToPlugin,
};
use mangrove_protocol::{Object, address};
use serde_json::{Value, json};
use testkit::within;

use super::{Peer, batch, environment, numbers, scene};

fn state(number: u64, rule: Option<&str>, key: &str, operation: StateOperation) -> ToHost {
    ToHost::State(
        1,
        StateRequest {
            number,
            rule: rule.map(|rule| rule.parse().unwrap()),
            key: key.to_owned(),
            operation,
        },
    )
}

#[tokio::test]
async fn state_survives_the_process_and_belongs_to_one_rule() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (_function, start, _pair) = scene.open_function(&peer).await;
    let use_of = start.number;
    let put = StateOperation::Put(json!({"a": 1}));
    assert_eq!(
        peer.ask(state(use_of, Some(&scene.rule), "k", put)).await,
        Ok(Value::Null)
    );
    let add = || StateOperation::Add(2.into());
    assert_eq!(
        peer.ask(state(use_of, Some(&scene.rule), "n", add())).await,
        Ok(json!(2))
    );
    assert_eq!(
        peer.ask(state(use_of, Some(&scene.rule), "n", add())).await,
        Ok(json!(4))
    );
    let _other = scene.host.plugins.function(&scene.function, "r2").await.unwrap();
    assert_eq!(
        peer.ask(state(use_of, Some("r2"), "n", StateOperation::Get))
            .await,
        Ok(Value::Null)
    );
    let error = peer
        .ask(state(use_of, Some(&scene.rule), "k", add()))
        .await
        .unwrap_err();
    assert!(error.contains("expected a number"), "{error}");
    let error = peer
        .ask(state(use_of, None, "k", StateOperation::Get))
        .await
        .unwrap_err();
    assert_eq!(error, "a function has to say for which \"rule\"");
    let error = peer
        .ask(state(99, None, "k", StateOperation::Get))
        .await
        .unwrap_err();
    assert_eq!(error, "there is no use 99");
    let old = scene.kill().await;
    drop(peer);
    let peer = Peer::dial(&scene, Some(old)).await.open().await;
    let (start, _pair) = peer.start_function().await;
    let found = peer
        .ask(state(start.number, Some(&scene.rule), "k", StateOperation::Get))
        .await;
    assert_eq!(found, Ok(json!({"a": 1})));
    assert_eq!(
        peer.ask(state(
            start.number,
            Some(&scene.rule),
            "k",
            StateOperation::Delete
        ))
        .await,
        Ok(Value::Null)
    );
    let found = peer
        .ask(state(start.number, Some(&scene.rule), "k", StateOperation::Get))
        .await;
    assert_eq!(found, Ok(Value::Null));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_function_keeps_nothing_for_a_rule_that_does_not_use_it() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (function, start, _pair) = scene.open_function(&peer).await;
    let other = scene.host.plugins.function(&scene.function, "r2").await.unwrap();
    let add = |rule: &str| state(start.number, Some(rule), "n", StateOperation::Add(1.into()));
    assert_eq!(peer.ask(add("r2")).await, Ok(json!(1)));
    // It is deleted, and a call of it is still under way.
    drop(other);
    let refused = Err("no rule \"r2\" uses the function".to_owned());
    assert_eq!(peer.ask(add("r2")).await, refused);
    assert_eq!(peer.ask(add(&scene.rule)).await, Ok(json!(1)));
    drop(function);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn who_asks_a_plugin_that_does_not_read_is_told_so() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (function, _start, _pair) = scene.open_function(&peer).await;
    let argument = json!("x".repeat(100_000));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (function, argument) = (function.clone(), argument.clone());
        asking.spawn(async move { function.validate(vec![argument]).await });
    }
    // Nobody has answered anything.
    let refused = within("a refusal", asking.join_next()).await.unwrap().unwrap();
    let refused = refused.unwrap_err().to_string();
    assert_eq!(refused, "the plugin does not read or answer what it is asked");
    asking.shutdown().await;
    drop(peer);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn logs_and_figures_are_kept() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (_sink, start, _pull) = scene.open_sink(&peer, false).await;
    for (kind, value) in [(MetricKind::Counter, 2.0), (MetricKind::Counter, 3.0)] {
        let (number, name) = (start.number, "lines".to_owned());
        peer.say(ToHost::Metric(Metric {
            number,
            name,
            kind,
            value,
        }))
        .await;
    }
    peer.say(ToHost::Log(Log {
        level: Level::Warn,
        message: "hot".to_owned(),
        number: Some(start.number),
        fields: Object::from_iter([("degrees".to_owned(), json!(80))]),
    }))
    .await;
    let line = format!("warn: {}: hot degrees=80", scene.sink);
    scene
        .host
        .heard("the log", &scene.name, |text| text == line)
        .await;
    let status = scene.host.status(&scene.name);
    assert_eq!(status.symbols.sinks[&scene.sink].metrics["lines"], 5.0);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let scene = scene(|_| ()).await;
    let peer = Peer::dial(&scene, None).await;
    let mut hello = peer.hello();
    hello.token = "0".repeat(32);
    peer.say(ToHost::Hello(hello)).await;
    match peer.hear().await {
        ToPlugin::Refused(refused) => {
            assert!(refused.reason.contains("MANGROVE_TOKEN"), "{}", refused.reason);
            assert_eq!(refused.versions, [1]);
        }
        other => panic!("expected to be refused, not {other:?}"),
    }
    let written = scene.host.plugins.output(&scene.name).unwrap();
    assert!(
        written.iter().all(|line| !line.text.contains(&peer.token)),
        "{written:?}"
    );
    assert_eq!(scene.host.status(&scene.name).status, State::Starting);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_that_comes_back_is_started_again() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, first, push) = scene.open_source(&peer).await;
    push.send(batch(1, 0..1, None)).await.unwrap();
    assert_eq!(numbers(&mut source).await, [0]);
    let pid = scene.host.status(&scene.name).pid.unwrap();
    drop((push, peer));
    let peer = Peer::dial_for(&scene, pid).await.open().await;
    let (again, push) = peer.start_source().await;
    assert_ne!(first.number, again.number);
    push.send(batch(1, 1..2, None)).await.unwrap();
    assert_eq!(numbers(&mut source).await, [1]);
    assert_eq!(scene.host.status(&scene.name).restarts, 0);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn garbage_is_counted_and_too_much_of_it_closes_the_connection() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let mut events = peer.control.events();
    for _ in 0..9 {
        peer.say_raw(b"nonsense".to_vec()).await;
    }
    // Something that is understood begins the count anew; what is unknown is answered, or passed over.
    peer.say_raw(br#"{"type":"dance"}"#.to_vec()).await;
    peer.say_raw(br#"{"type":"dance","id":5}"#.to_vec()).await;
    match peer.hear().await {
        ToPlugin::Answer(answer) => assert!(answer.outcome.unwrap_err().contains("\"dance\"")),
        other => panic!("expected an answer, not {other:?}"),
    }
    for _ in 0..10 {
        peer.say_raw(br#"{"type":"answer","id":99}"#.to_vec()).await;
    }
    within("the connection to close", async {
        while !matches!(events.recv().await, Some(sp_proto::Event::PipeRemoved { .. })) {}
    })
    .await;
    let written = scene.host.plugins.output(&scene.name).unwrap();
    assert!(
        written
            .iter()
            .any(|line| line.text.contains("answers the request 99")),
        "{written:?}"
    );
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_that_does_not_answer_a_ping_is_unhealthy_until_it_does() {
    let scene = scene(|home| home.settings.ping_interval = Duration::from_millis(50)).await;
    let peer = scene.peer().await;
    let ping = match peer.hear().await {
        ToPlugin::Ping(id) => id,
        other => panic!("expected a ping, not {other:?}"),
    };
    let status = scene
        .host
        .until("it to be missed", &scene.name, |status| {
            status.status == State::Unhealthy
        })
        .await;
    assert!(
        status.err_msg.contains("not answered a ping"),
        "{}",
        status.err_msg
    );
    peer.answer(ping, Ok(Value::Null)).await;
    scene.host.running(&scene.name).await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn it_is_asked_to_end_before_it_is_told_to() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let pid = scene.host.status(&scene.name).pid.unwrap();
    let ending = async {
        match peer.hear().await {
            ToPlugin::Shutdown(shutdown) => assert!(shutdown.timeout > 0),
            other => panic!("expected the end, not {other:?}"),
        }
        assert!(!environment(pid).is_empty(), "it is still there");
        scene.kill().await;
    };
    let stopping = scene.host.plugins.stop(&scene.name);
    let (stopped, ()) = within("it to stop", async { tokio::join!(stopping, ending) }).await;
    stopped.unwrap();
    scene.host.shutdown().await;
    drop(scene.home);
}

#[tokio::test]
async fn no_address_of_ekuipers_contract_is_taken_for_its_uses() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (_source, ..) = scene.open_source(&peer).await;
    let (_sink, ..) = scene.open_sink(&peer, true).await;
    let (_function, ..) = scene.open_function(&peer).await;
    let (rule, op) = (scene.rule.parse().unwrap(), "op".parse().unwrap());
    for address in [
        address::control(&scene.name.parse().unwrap()),
        address::data(&rule, &op, 0),
        address::acknowledgements(&rule, &op, 0),
        address::function(&scene.function.parse().unwrap()),
    ] {
        let address = address.unwrap();
        let path = Path::new(address.strip_prefix("ipc://").unwrap());
        assert!(!path.exists(), "{}", path.display());
    }
    scene.host.shutdown().await;
}
