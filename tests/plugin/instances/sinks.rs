//! Which process a sink runs in, and what becomes of its results when that goes.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use mangrove::plugin::{Settled, Sink, State};
use mangrove_protocol::Object;
use serde_json::{Value, json};
use testkit::within;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Answer, SCRIPT, Scene, answer, scene};
use crate::home::{meta, unique};

/// A rule's sink, whose results are numbered, and the file that the plugin writes them to.
struct Kept {
    sink: Sink,
    path: PathBuf,
    put: u64,
    delivered: u64,
}

impl Kept {
    async fn open(scene: &Scene) -> Self {
        let rule = unique("ir");
        let path = scene.home.path().join(&rule);
        let config = Object::from_iter([("path".to_owned(), json!(path))]);
        let opened = scene
            .host
            .plugins
            .open_sink(&scene.sink, meta(&rule), config, true);
        Self {
            sink: within("the sink to open", opened).await.unwrap(),
            path,
            put: 0,
            delivered: 0,
        }
    }

    /// Puts the next result, which is not taken before the gate is there.
    async fn put(&mut self, gate: Option<&Path>) {
        let result = Bytes::from(json!([self.put, gate]).to_string());
        self.put += 1;
        let settled = within("room for a result", self.sink.put(vec![result])).await;
        self.note(&settled);
    }

    /// Waits until everything is acknowledged.
    async fn settle(&mut self) {
        while self.delivered < self.put {
            let settled = within("an acknowledgement", self.sink.settle()).await;
            self.note(&settled);
        }
    }

    fn note(&mut self, settled: &Settled) {
        assert!(settled.failed.is_empty(), "{settled:?}");
        self.delivered += settled.delivered;
    }

    /// Which instance and process was given which result.
    fn lines(&self) -> Vec<Answer> {
        let written = std::fs::read_to_string(&self.path).unwrap();
        let line = |line| answer(&serde_json::from_str::<Value>(line).unwrap());
        written.lines().map(line).collect()
    }

    /// Each result has come once, in its order.
    fn is_whole(&self) -> bool {
        self.lines().into_iter().map(|(.., n)| n).eq(0..self.put)
    }
}

/// A rule that puts one result after the other.
struct Putting {
    task: JoinSet<Kept>,
    stop: watch::Sender<bool>,
}

impl Putting {
    fn start(mut kept: Kept) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while !*stopped.borrow() {
                kept.put(None).await;
                kept.settle().await;
            }
            kept
        });
        Self { task, stop }
    }

    async fn finish(mut self) -> Kept {
        self.stop.send_replace(true);
        let kept = within("the last result", self.task.join_next()).await;
        kept.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_run_where_there_are_fewest_and_lose_nothing_with_their_process() {
    let Some(scene) = scene(2).await else { return };
    let (mut first, mut second) = (Kept::open(&scene).await, Kept::open(&scene).await);
    let pids = scene.pids().into_iter();
    let pids: Vec<(u64, u64)> = pids.map(|(at, pid)| (at.into(), pid.into())).collect();
    for (kept, (instance, pid)) in [&mut first, &mut second].into_iter().zip(&pids) {
        kept.put(None).await;
        kept.settle().await;
        assert_eq!(kept.lines(), [(*instance, *pid, 0)]);
    }
    // Its process ends while it has results that it has not acknowledged.
    let gate = scene.home.path().join("gate");
    second.put(Some(&gate)).await;
    second.put(None).await;
    scene.kill(1);
    // The other one notices nothing.
    for _ in 0..20 {
        first.put(None).await;
    }
    first.settle().await;
    let is_back = |status: &mangrove::plugin::Status| {
        status.status == State::Running && status.instances[1].restarts == 1
    };
    scene.host.until("it to come back", &scene.name, is_back).await;
    assert!(second.delivered == 1 && second.lines().len() == 1);
    std::fs::write(&gate, "").unwrap();
    second.put(None).await;
    second.settle().await;
    let new = scene.pids()[&1].into();
    assert_ne!(new, pids[1].1);
    assert_eq!(
        second.lines(),
        [(1, pids[1].1, 0), (1, new, 1), (1, new, 2), (1, new, 3)]
    );
    assert!(first.is_whole() && first.lines().iter().all(|(_, pid, _)| *pid == pids[0].1));
    // The place of one that is closed is free again.
    first.sink.close().await;
    let mut third = Kept::open(&scene).await;
    third.put(None).await;
    third.settle().await;
    assert_eq!(third.lines(), [(0, pids[0].1, 0)]);
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_follow_to_the_new_version_in_their_instance_and_lose_nothing() {
    let Some(scene) = scene(2).await else { return };
    let mut kept = [Kept::open(&scene).await, Kept::open(&scene).await];
    for kept in &mut kept {
        kept.put(None).await;
        kept.settle().await;
    }
    let before = scene.pids();
    let putting = kept.map(Putting::start);
    scene.update("2.0", 2, SCRIPT).await.unwrap();
    let after = scene.pids();
    for (instance, putting) in (0..).zip(putting) {
        let mut kept = putting.finish().await;
        kept.put(None).await;
        kept.settle().await;
        assert!(kept.is_whole());
        let seen = kept.lines().into_iter().map(|(instance, pid, _)| (instance, pid));
        let mut seen: Vec<(u64, u64)> = seen.collect();
        seen.dedup();
        let at = |pids: &std::collections::BTreeMap<u32, u32>| (instance.into(), pids[&instance].into());
        assert_eq!(seen, [at(&before), at(&after)]);
    }
    scene.host.shutdown().await;
}
