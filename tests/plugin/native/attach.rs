//! Processes that the author starts, here or on another machine.

use std::collections::BTreeMap;

use mangrove::plugin::State;
use mangrove_protocol::Object;
use mangrove_protocol::native::address::resolve;
use serde_json::{Value, json};
use sp_proto::Push;
use testkit::within;

use super::{Peer, Scene, batch, numbers, scene};
use crate::home::meta;

/// Speaks for a process that the author has started, twice: it may go and come back.
async fn attaches(scene: &Scene, scheme: &str) {
    scene
        .host
        .until("a process", &scene.name, |status| status.pid.is_some())
        .await;
    let variables = within("it to wait", scene.host.plugins.attach(&scene.name))
        .await
        .unwrap();
    let environment: BTreeMap<String, String> = variables.into_iter().collect();
    assert!(
        environment["MANGROVE_CONTROL"].starts_with(scheme),
        "{environment:?}"
    );
    for _ in 0..2 {
        let peer = Peer::with(scene, &environment).await.open().await;
        let status = scene.host.running(&scene.name).await;
        assert!(status.attached);
        let opening = scene
            .host
            .plugins
            .open_source(&scene.source, meta(&scene.rule), "", Object::new());
        let speaking = async {
            let (id, start) = peer.start().await;
            let push = Push::new();
            push.dial(&resolve(&start.address, &environment["MANGROVE_CONTROL"]))
                .await
                .unwrap();
            peer.answer(id, Ok(Value::Null)).await;
            push.send(batch(1, 0..1, None)).await.unwrap();
            push
        };
        let (source, _push) = within("the source", async { tokio::join!(opening, speaking) }).await;
        let mut source = source.unwrap();
        assert_eq!(numbers(&mut source).await, [0]);
        let stopping = async {
            let (id, _) = peer.stop().await;
            peer.answer(id, Ok(json!({"seq": 1}))).await;
        };
        within("its end", async { tokio::join!(source.close(), stopping) }).await;
        drop(peer);
        scene
            .host
            .until("it to be gone", &scene.name, |status| {
                status.status == State::Starting
            })
            .await;
    }
}

#[tokio::test]
async fn a_process_that_the_author_starts_is_told_where_to_dial() {
    let scene = scene(|_| ()).await;
    attaches(&scene, "ipc://").await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_process_on_another_machine_needs_the_token() {
    let scene = scene(|home| home.settings.remote = "tcp://127.0.0.1:0".to_owned()).await;
    attaches(&scene, "tcp://127.0.0.1:").await;
    scene.host.shutdown().await;
}
