//! Processes that the author starts, here or on another machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mangrove::plugin::State;
use mangrove_protocol::Object;
use mangrove_protocol::native::address::resolve;
use mangrove_protocol::native::control::{ToHost, ToPlugin};
use serde_json::{Value, json};
use sp_proto::{Event, Push, SocketOptions, TlsAuthorities, TlsOptions};
use testkit::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::{Peer, Scene, batch, numbers, scene};
use crate::home::meta;

/// Waits until a process that the author starts can dial, and what it has to find in its environment.
async fn attachable(scene: &Scene, scheme: &str) -> BTreeMap<String, String> {
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
    environment
}

/// Dials until it is let in: somebody else may have the place.
async fn opens(scene: &Scene, environment: &BTreeMap<String, String>, tls: &TlsOptions) -> Peer {
    loop {
        let peer = Peer::over(scene, environment, tls).await;
        let mut events = peer.control.events();
        peer.say(ToHost::Hello(peer.hello())).await;
        loop {
            let event = tokio::select! {
                welcome = peer.hear() => {
                    assert!(matches!(welcome, ToPlugin::Welcome(_)), "{welcome:?}");
                    return peer;
                }
                event = events.recv() => event,
            };
            if matches!(event, Some(Event::PipeRemoved { .. })) {
                break;
            }
        }
        // As any plugin does it; the strangers do not.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Speaks for a process that the author has started, twice: it may go and come back.
async fn attaches(scene: &Scene, environment: &BTreeMap<String, String>, tls: &TlsOptions) {
    for _ in 0..2 {
        let peer = within("it to be let in", opens(scene, environment, tls)).await;
        let status = scene.host.running(&scene.name).await;
        assert!(status.attached);
        let opening = scene
            .host
            .plugins
            .open_source(&scene.source, meta(&scene.rule), "", Object::new());
        let speaking = async {
            let (id, start) = peer.start().await;
            let push = Push::with_options(SocketOptions {
                tls: tls.clone(),
                ..SocketOptions::default()
            });
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
    let environment = attachable(&scene, "ipc://").await;
    attaches(&scene, &environment, &TlsOptions::default()).await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_process_on_another_machine_needs_the_token() {
    let scene = scene(|home| home.settings.remote = "tcp://127.0.0.1:0".to_owned()).await;
    let environment = attachable(&scene, "tcp://127.0.0.1:").await;
    let mut wrong = Peer::with(&scene, &environment).await;
    wrong.token = "5f0d8c3a9be24716a0c1d2e3f4051627".to_owned();
    wrong.say(ToHost::Hello(wrong.hello())).await;
    match wrong.hear().await {
        ToPlugin::Refused(refused) => {
            assert_eq!(refused.reason, "the token is not the one in MANGROVE_TOKEN");
        }
        other => panic!("expected a refusal, not {other:?}"),
    }
    drop(wrong);
    assert_eq!(scene.host.status(&scene.name).status, State::Starting);
    attaches(&scene, &environment, &TlsOptions::default()).await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_process_on_another_machine_may_come_over_tls() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let scene = scene(|home| {
        let [cert, secret] = ["cert.pem", "key.pem"].map(|name| home.path().join(name));
        std::fs::write(&cert, key.cert.pem()).unwrap();
        std::fs::write(&secret, key.signing_key.serialize_pem()).unwrap();
        home.settings.remote = "tls+tcp://127.0.0.1:0".to_owned();
        (home.settings.remote_cert, home.settings.remote_key) = (Some(cert), Some(secret));
    })
    .await;
    let tls = TlsOptions {
        authorities: TlsAuthorities::from_pem(key.cert.pem().as_bytes()).unwrap(),
        ..TlsOptions::default()
    };
    let environment = attachable(&scene, "tls+tcp://127.0.0.1:").await;
    attaches(&scene, &environment, &tls).await;
    scene.host.shutdown().await;
}

/// Takes the place at the door whenever it is free, and says nothing.
async fn loiters(address: SocketAddr, has_it: Arc<Notify>) {
    loop {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // Another machine.
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let mut greeting = [0, b'S', b'P', 0, 0, 16, 0, 0];
        let _ = stream.write_all(&greeting).await;
        // A pipe as long as nothing more can be read.
        if stream.read_exact(&mut greeting).await.is_ok() {
            has_it.notify_one();
        }
        let _ = stream.read(&mut greeting).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn strangers_do_not_keep_the_process_out() {
    let scene = scene(|home| home.settings.remote = "tcp://127.0.0.1:0".to_owned()).await;
    let environment = attachable(&scene, "tcp://127.0.0.1:").await;
    let address = environment["MANGROVE_CONTROL"].trim_start_matches("tcp://");
    let mut strangers = tokio::task::JoinSet::new();
    let has_it = Arc::<Notify>::default();
    for _ in 0..4 {
        strangers.spawn(loiters(address.parse().unwrap(), Arc::clone(&has_it)));
    }
    within("a stranger to be there", has_it.notified()).await;
    attaches(&scene, &environment, &TlsOptions::default()).await;
    strangers.shutdown().await;
    scene.host.shutdown().await;
}
