//! Calls of a function, and what comes of them.

use std::time::Duration;

use mangrove::plugin::{CallError, State};
use mangrove_protocol::native::control::ToPlugin;
use mangrove_protocol::native::function::{ResultWriter, ToFunction};
use serde_json::{Value, json};
use sp_proto::Pair;
use testkit::within;

use super::{Peer, calls, context, scene};

#[tokio::test]
async fn calls_are_under_way_together_and_answered_in_any_order() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (function, _, pair) = scene.open_function(&peer).await;
    assert!(within("the answer", function.is_aggregate()).await.unwrap());
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..100u64 {
        let (function, context) = (function.clone(), context(&format!("r{}", n % 3)));
        asking.spawn(async move { (n, function.exec(vec![json!(n)], context).await) });
    }
    let mut got = Vec::new();
    while got.len() < 100 {
        got.extend(calls(&pair).await);
    }
    let mut writer = ResultWriter::default();
    for (id, args) in got.iter().rev() {
        match args[0].as_u64().unwrap() {
            7 => writer.push_error(*id, "seven"),
            n => writer.push(*id, &json!(n * 2)).unwrap(),
        }
    }
    pair.send(writer.finish()).await.unwrap();
    while let Some(asked) = within("an answer", asking.join_next()).await {
        match asked.unwrap() {
            (7, outcome) => assert!(matches!(outcome, Err(CallError::Plugin(text)) if text == "seven")),
            (n, outcome) => assert_eq!(outcome.unwrap(), Some(json!(n * 2))),
        }
    }
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_slow_call_holds_nobody_and_is_cancelled_in_the_end() {
    let scene = scene(|home| home.settings.call_timeout = Duration::from_millis(300)).await;
    let peer = scene.peer().await;
    let (function, _, pair) = scene.open_function(&peer).await;
    let slow = function.exec(vec![json!("slow")], context("r1"));
    let playing = async {
        let slow = calls(&pair).await;
        let quick = function.exec(vec![json!("quick")], context("r2"));
        let answering = async {
            let (id, _) = calls(&pair).await.remove(0);
            let mut writer = ResultWriter::default();
            writer.push(id, &json!("done")).unwrap();
            pair.send(writer.finish()).await.unwrap();
        };
        let (quick, ()) = tokio::join!(quick, answering);
        assert_eq!(quick.unwrap(), Some(json!("done")));
        let message = within("its end", pair.recv()).await.unwrap();
        assert_eq!(
            ToFunction::<Value>::decode(&message).unwrap(),
            ToFunction::Cancel(vec![slow[0].0])
        );
    };
    let (slow, ()) = within("both", async { tokio::join!(slow, playing) }).await;
    assert!(matches!(slow, Err(CallError::TimedOut { .. })), "{slow:?}");
    assert_eq!(scene.host.status(&scene.name).status, State::Running);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn arguments_are_validated_over_the_control_channel() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (function, ..) = scene.open_function(&peer).await;
    let answering = async {
        match peer.hear().await {
            ToPlugin::Validate(id, request) => {
                assert_eq!(
                    (request.symbol.as_str(), request.args),
                    (scene.function.as_str(), vec![json!(1)])
                );
                peer.answer(id, Err("takes a text")).await;
            }
            other => panic!("expected a question, not {other:?}"),
        }
    };
    let (outcome, ()) = within("the answer", async {
        tokio::join!(function.validate(vec![json!(1)]), answering)
    })
    .await;
    assert!(matches!(outcome, Err(CallError::Plugin(text)) if text == "takes a text"));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn calls_that_break_off_say_so_and_later_ones_go_to_the_next_process() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (function, _, pair) = scene.open_function(&peer).await;
    let breaking = async {
        calls(&pair).await;
        let old = scene.kill().await;
        drop((pair, peer));
        old
    };
    let call = function.exec(vec![json!(1)], context("r"));
    let (broken, old) = within("the end", async { tokio::join!(call, breaking) }).await;
    assert!(
        matches!(broken, Err(CallError::Disconnected { .. })),
        "{broken:?}"
    );
    let speaking = async {
        let peer = Peer::dial(&scene, Some(old)).await.open().await;
        let (_, pair) = peer.start_function().await;
        answer_again(&pair).await;
        (peer, pair)
    };
    let call = function.exec(vec![json!(2)], context("r"));
    let (outcome, _peer) = within("the next process", async { tokio::join!(call, speaking) }).await;
    assert_eq!(outcome.unwrap(), Some(json!("again")));
    scene.host.shutdown().await;
}

/// Answers a call with "again".
async fn answer_again(pair: &Pair) {
    let (id, _) = calls(pair).await.remove(0);
    let mut writer = ResultWriter::default();
    writer.push(id, &json!("again")).unwrap();
    pair.send(writer.finish()).await.unwrap();
}

#[tokio::test]
async fn a_function_that_loses_its_connection_is_started_again() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (function, first, pair) = scene.open_function(&peer).await;
    let pid = scene.host.status(&scene.name).pid;
    drop(pair);
    let (id, stop) = peer.stop().await;
    assert_eq!(stop.number, first.number);
    peer.answer(id, Ok(Value::Null)).await;
    let (again, pair) = peer.start_function().await;
    assert_ne!(first.number, again.number);
    let call = function.exec(vec![json!(1)], context("r"));
    let (outcome, ()) = within("a call", async { tokio::join!(call, answer_again(&pair)) }).await;
    assert_eq!(outcome.unwrap(), Some(json!("again")));
    assert_eq!(scene.host.status(&scene.name).pid, pid);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_process_that_cannot_connect_its_function_again_is_replaced() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (function, _, pair) = scene.open_function(&peer).await;
    let old = scene.host.status(&scene.name).pid;
    drop(pair);
    let (id, _) = peer.stop().await;
    peer.answer(id, Ok(Value::Null)).await;
    let (id, _) = peer.start().await;
    peer.answer(id, Err("too many open files")).await;
    scene
        .host
        .until("its end", &scene.name, |status| {
            status.err_msg.contains("too many open files")
        })
        .await;
    drop(peer);
    // The next one says that it is connected, and is not.
    let peer = Peer::dial(&scene, old).await.open().await;
    let old = scene.host.status(&scene.name).pid;
    let (id, _) = peer.start().await;
    peer.answer(id, Ok(Value::Null)).await;
    scene
        .host
        .until("its end, too", &scene.name, |status| {
            status.err_msg.contains("has not connected it")
        })
        .await;
    drop(peer);
    let peer = Peer::dial(&scene, old).await.open().await;
    let (_, pair) = peer.start_function().await;
    let call = function.exec(vec![json!(1)], context("r"));
    let (outcome, ()) = within("a call", async { tokio::join!(call, answer_again(&pair)) }).await;
    assert_eq!(outcome.unwrap(), Some(json!("again")));
    scene.host.shutdown().await;
}
