//! A new version that takes over while everything is in use.

use std::collections::BTreeMap;
use std::time::Duration;

use mangrove_protocol::native::function::ResultWriter;
use mangrove_protocol::{Object, address};
use serde_json::{Value, json};
use sp_proto::{Pull, Push};
use testkit::within;

use super::{Peer, batch, calls, context, environment, numbers, results, scene, taken};
use crate::home::meta;

/// What the process of a plugin's next version has been given.
async fn next_environment(name: &str, old: Option<u32>) -> BTreeMap<String, String> {
    // The next process is not shown before it has taken over: it is found by what it was given.
    within("the next process", async {
        loop {
            let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
                let environment = environment(pid);
                let is_it = environment
                    .get("MANGROVE_PLUGIN")
                    .is_some_and(|plugin| plugin == name)
                    && Some(pid) != old
                    && std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() == "sleep";
                is_it.then_some(environment)
            });
            if let Some(environment) = found {
                return environment;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn an_update_moves_every_symbol_and_loses_nothing() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, _, push) = scene.open_source(&peer).await;
    let (mut sink, _, pull) = scene.open_sink(&peer, true).await;
    let (function, _, _pair) = scene.open_function(&peer).await;
    let old = scene.host.status(&scene.name).pid;
    sink.put(results(&["1"])).await;
    taken(&pull).await;
    push.send(batch(1, 0..1, None)).await.unwrap();
    let name = &scene.name;
    scene.write_next_version();
    let next = next_environment(name, old).await;
    let new = Peer::with(&scene, &next).await.open().await;
    // The source overlaps.
    let (_, new_push) = new.start_source().await;
    let (id, _) = peer.stop().await;
    push.send(batch(2, 1..2, None)).await.unwrap();
    peer.answer(id, Ok(json!({"seq": 2}))).await;
    new_push.send(batch(1, 2..3, None)).await.unwrap();
    // The sink does not.
    let (id, stop) = peer.stop().await;
    assert_eq!(stop.seq, Some(1));
    peer.ack(stop.number, 1, Vec::new()).await;
    peer.answer(id, Ok(Value::Null)).await;
    let (_, new_pull) = new.start_sink().await;
    let (_, new_pair) = new.start_function().await;
    scene
        .host
        .until("the new version", name, |status| {
            status.version == "2.0" && status.pid != old
        })
        .await;
    let mut read = Vec::new();
    while read.len() < 3 {
        read.extend(numbers(&mut source).await);
    }
    read.sort_unstable();
    assert_eq!(read, [0, 1, 2]);
    let settled = within("the old one's acknowledgement", sink.settle()).await;
    assert_eq!(settled.delivered, 1);
    sink.put(results(&["2"])).await;
    assert_eq!(taken(&new_pull).await, (1, vec![json!(2)]));
    let call = function.exec(vec![json!(1)], context("r"));
    let answering = async {
        let (id, _) = calls(&new_pair).await.remove(0);
        let mut writer = ResultWriter::default();
        writer.push(id, &json!(2)).unwrap();
        new_pair.send(writer.finish()).await.unwrap();
    };
    let (outcome, ()) = within("a call", async { tokio::join!(call, answering) }).await;
    assert_eq!(outcome.unwrap(), Some(json!(2)));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_new_version_may_speak_our_own_contract_where_the_old_one_did_not() {
    let scene = scene(|_| ()).await;
    let mut old = crate::peer::Peer::control(&scene.name).await;
    scene.host.running(&scene.name).await;
    let plugins = &scene.host.plugins;
    let data = address::data(&scene.rule.parse().unwrap(), &"op".parse().unwrap(), 0).unwrap();
    let opening = plugins.open_sink(&scene.sink, meta(&scene.rule), Object::new(), false);
    let speaking = async {
        old.command().await;
        let pull = Pull::new();
        pull.listen(&data).await.unwrap();
        old.say("ok").await;
        pull
    };
    let (sink, pull) = within("the sink", async { tokio::join!(opening, speaking) }).await;
    let mut sink = sink.unwrap();
    assert_eq!(sink.put(results(&["1"])).await.delivered, 1);
    assert_eq!(&*within("a result", pull.recv()).await.unwrap(), b"1");
    let opening = plugins.function(&scene.function, &scene.rule);
    let speaking = async {
        old.command().await;
        let peer = crate::peer::Peer::function(&scene.function).await;
        old.say("ok").await;
        peer
    };
    let (function, _old_function) = within("the function", async { tokio::join!(opening, speaking) }).await;
    let function = function.unwrap();

    let pid = scene.host.status(&scene.name).pid;
    scene.write_next_version();
    let next = next_environment(&scene.name, pid).await;
    let new = Peer::with(&scene, &next).await.open().await;
    old.command().await;
    pull.close().await;
    old.say("ok").await;
    let (_, new_pull) = new.start_sink().await;
    let (_, pair) = new.start_function().await;
    scene
        .host
        .until("the new version", &scene.name, |status| status.version == "2.0")
        .await;
    assert_eq!(sink.put(results(&["2"])).await.delivered, 1);
    assert_eq!(taken(&new_pull).await, (1, vec![json!(2)]));
    let call = function.exec(vec![json!(1)], context("r"));
    let answering = async {
        let (id, _) = calls(&pair).await.remove(0);
        let mut writer = ResultWriter::default();
        writer.push(id, &json!(2)).unwrap();
        pair.send(writer.finish()).await.unwrap();
    };
    let (outcome, ()) = within("a call", async { tokio::join!(call, answering) }).await;
    assert_eq!(outcome.unwrap(), Some(json!(2)));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_new_version_may_speak_ekuipers_contract_where_the_old_one_did_not() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, _, push) = scene.open_source(&peer).await;
    let data = address::data(&scene.rule.parse().unwrap(), &"op".parse().unwrap(), 0).unwrap();
    let pid = scene.host.status(&scene.name).pid;
    scene.write_next_version();
    next_environment(&scene.name, pid).await;
    let mut new = crate::peer::Peer::control(&scene.name).await;
    new.command().await;
    let new_push = Push::new();
    new_push.dial(&data).await.unwrap();
    new.say("ok").await;
    let (id, _) = peer.stop().await;
    push.send(batch(1, 0..1, None)).await.unwrap();
    peer.answer(id, Ok(json!({"seq": 1}))).await;
    new_push.send(r#"{"message":{"n":1},"meta":null}"#).await.unwrap();
    scene
        .host
        .until("the new version", &scene.name, |status| status.version == "2.0")
        .await;
    let mut read = numbers(&mut source).await;
    while read.len() < 2 {
        read.extend(numbers(&mut source).await);
    }
    read.sort_unstable();
    assert_eq!(read, [0, 1]);
    scene.host.shutdown().await;
}
