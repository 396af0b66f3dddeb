//! A new version speaks eKuiper's contract, so that there is one process of it alone.

use bytes::Bytes;
use mangrove::plugin::{ChannelError, Handle, Status};
use mangrove_protocol::Object;
use mangrove_protocol::manifest::SymbolKind;
use serde_json::{Value, json};
use testkit::within;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{SCRIPT, Scene, scene_on};
use crate::home::{meta, unique};

/// A plugin on the published `ekuiper` package.
const FOREIGN: &str = include_str!("../pysdk.py");

/// Waits until the symbol can be used, or cannot any more.
async fn until_usable(plugins: &Handle, kind: SymbolKind, symbol: &str, usable: bool) {
    let mut changes = plugins.changes();
    while plugins.missing(kind, symbol).is_none() != usable {
        changes.changed().await.expect("the host lives");
    }
}

/// Uses of the plugin's symbols that are closed while these cannot be used and opened again then, as rules do it.
struct Uses {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Uses {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            stop: watch::Sender::new(false),
        }
    }

    /// A source. Returns the process that the last tuple was of.
    fn read(&mut self, scene: &Scene) -> watch::Receiver<u64> {
        let (plugins, symbol, rule) = (scene.host.plugins.clone(), scene.source.clone(), unique("ir"));
        let config = Object::from_iter([
            ("count".to_owned(), json!(1_000_000)),
            ("pause".to_owned(), json!(0.002)),
        ]);
        let mut stopped = self.stop.subscribe();
        let (seen, pid) = watch::channel(0);
        self.tasks.spawn(async move {
            while !*stopped.borrow() {
                until_usable(&plugins, SymbolKind::Source, &symbol, true).await;
                let opened = plugins.open_source(&symbol, meta(&rule), "", config.clone());
                let mut source = opened.await.unwrap();
                loop {
                    let next = tokio::select! {
                        () = until_usable(&plugins, SymbolKind::Source, &symbol, false) => break,
                        _ = stopped.changed() => break,
                        next = source.recv() => next,
                    };
                    match next.expect("the source goes on") {
                        Ok(tuple) => {
                            let message = tuple.message.into_object().unwrap();
                            seen.send_replace(message["pid"].as_u64().unwrap());
                        }
                        Err(ChannelError::Down { .. } | ChannelError::Closed { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                source.close().await;
            }
        });
        pid
    }

    /// A sink, which has to acknowledge numbers one after the other. Returns how many it has, and where they are.
    fn write(&mut self, scene: &Scene) -> (watch::Receiver<u64>, std::path::PathBuf) {
        let (plugins, symbol, rule) = (scene.host.plugins.clone(), scene.sink.clone(), unique("ir"));
        let path = scene.home.path().join(&rule);
        let config = Object::from_iter([
            ("path".to_owned(), json!(path)),
            ("requireAck".to_owned(), json!(true)),
        ]);
        let stopped = self.stop.subscribe();
        let (count, done) = watch::channel(0);
        self.tasks.spawn(async move {
            while !*stopped.borrow() {
                until_usable(&plugins, SymbolKind::Sink, &symbol, true).await;
                let opened = plugins.open_sink(&symbol, meta(&rule), config.clone(), true);
                let mut sink = opened.await.unwrap();
                while plugins.missing(SymbolKind::Sink, &symbol).is_none() && !*stopped.borrow() {
                    let result = Bytes::from(json!([*count.borrow(), null]).to_string());
                    sink.send(result).await.unwrap();
                    count.send_modify(|count| *count += 1);
                }
                sink.close().await;
            }
        });
        (done, path)
    }

    async fn finish(mut self) {
        self.stop.send_replace(true);
        within("the uses to end", async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_in_an_instance_that_cannot_be_goes_on_in_the_one_process() {
    let Some(interpreter) = testkit::python("2.4.2") else {
        return;
    };
    let scene = scene_on(&interpreter, 2, 10, SCRIPT).await;
    let mut uses = Uses::new();
    // One after the other, so that there is a source and a sink in each instance.
    let mut pids = Vec::new();
    for pid in scene.pids().into_values().map(u64::from) {
        let mut seen = uses.read(&scene);
        within("a tuple", seen.wait_for(|seen| *seen == pid))
            .await
            .unwrap();
        pids.push(seen);
    }
    let mut written = Vec::new();
    for _ in 0..2 {
        let (mut done, path) = uses.write(&scene);
        within("results", done.wait_for(|done| *done > 5)).await.unwrap();
        written.push((done, path));
    }
    scene.update("2.0", 1, FOREIGN).await.unwrap();
    let alone = |status: &Status| status.instances.is_empty() && status.note.is_empty();
    let status = scene.host.until("the other's end", &scene.name, alone).await;
    let new = status.pid.map(u64::from).unwrap();
    for pid in &mut pids {
        within("a tuple of the one process", pid.wait_for(|pid| *pid == new))
            .await
            .unwrap();
    }
    for (done, _) in &mut written {
        let before = *done.borrow_and_update();
        within("results", done.wait_for(|done| *done > before + 5))
            .await
            .unwrap();
    }
    uses.finish().await;
    for (done, path) in written {
        let text = std::fs::read_to_string(path).unwrap();
        // The one says besides which process it was given to.
        let number = |line: &str| match serde_json::from_str::<Vec<Value>>(line).unwrap().as_slice() {
            [_, _, number] | [number, Value::Null] => number.as_u64().unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(text.lines().map(number).eq(0..*done.borrow()));
    }
    scene.host.shutdown().await;
}
