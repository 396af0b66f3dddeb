//! A plugin with several processes beside each other: who is given what, and what happens when one of them goes.

mod foreign;
mod functions;
mod sinks;
mod sources;
mod updates;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_zip::base::write::ZipFileWriter;
use async_zip::{Compression, ZipEntryBuilder};
use futures_util::future::join_all;
use mangrove::plugin::{Function, InstallRequest, Source, State, Status};
use mangrove_protocol::Object;
use mangrove_protocol::data::FunctionContext;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::within;

use crate::home::{Home, Host, SLEEP, meta, unique};
use crate::peer::Peer;

const SCRIPT: &str = include_str!("plugin.py");

struct Scene {
    home: Home,
    host: Host,
    name: String,
    source: String,
    sink: String,
    function: String,
}

/// What a call came back with: instance, process, and what it was given.
type Answer = (u64, u64, u64);

fn context() -> Arc<FunctionContext> {
    Arc::new(FunctionContext {
        rule_id: "r1".parse().unwrap(),
        op_id: "op".parse().unwrap(),
        instance_id: 0,
        func_id: 0,
    })
}

fn answer(value: &Value) -> Answer {
    let number = |at: usize| value[at].as_u64().unwrap();
    (number(0), number(1), number(2))
}

async fn scene(instances: u32) -> Option<Scene> {
    scene_of(instances, 10, SCRIPT).await
}

async fn scene_of(instances: u32, restart_limit: u32, script: &str) -> Option<Scene> {
    let interpreter = testkit::program("python3")?;
    Some(scene_on(&interpreter, instances, restart_limit, script).await)
}

async fn scene_on(interpreter: &Path, instances: u32, restart_limit: u32, script: &str) -> Scene {
    let mut home = Home::new();
    home.settings.python_bin = interpreter.to_string_lossy().into_owned();
    home.settings.contract = "both".to_owned();
    home.settings.peers = "plugin".to_owned();
    home.settings.restart_limit = restart_limit;
    let scene = Scene {
        host: home.start().await,
        home,
        name: unique("hin"),
        source: unique("isrc"),
        sink: unique("isnk"),
        function: unique("ifn"),
    };
    let script = script.replace("HOME", &scene.home.path().to_string_lossy());
    let request = scene.package("1.0", instances, &script).await;
    let installed = within("the installation", scene.host.plugins.install(request)).await;
    installed.unwrap();
    scene
}

impl Scene {
    async fn package(&self, version: &str, instances: u32, script: &str) -> InstallRequest {
        let sdk = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/python/src");
        let manifest = json!({
            "version": version, "language": "python", "executable": "run", "instances": instances,
            "args": [self.source, self.sink, self.function], "environment": {"PYTHONPATH": sdk},
            "sources": [self.source], "sinks": [self.sink], "functions": [self.function],
        });
        let mut zip = ZipFileWriter::new(Vec::new());
        for (path, text) in [
            (format!("{}.json", self.name), manifest.to_string()),
            ("run".to_owned(), script.to_owned()),
        ] {
            let entry = ZipEntryBuilder::new(path.into(), Compression::Stored).unix_permissions(0o755);
            zip.write_entry_whole(entry, text.as_bytes()).await.unwrap();
        }
        let path: PathBuf = self.home.path().join(format!("{}.zip", unique("pkg")));
        std::fs::write(&path, zip.close().await.unwrap()).unwrap();
        InstallRequest::new(self.name.parse().unwrap(), format!("file://{}", path.display()))
    }

    async fn update(&self, version: &str, instances: u32, script: &str) -> Result<(), String> {
        let request = self.package(version, instances, script).await;
        let updated = within("the update", self.host.plugins.update(request)).await;
        updated.map_err(|error| error.to_string())
    }

    fn status(&self) -> Status {
        self.host.status(&self.name)
    }

    /// The process of each instance.
    fn pids(&self) -> BTreeMap<u32, u32> {
        let instances = self.status().instances.into_iter();
        instances
            .filter_map(|one| Some((one.instance, one.pid?)))
            .collect()
    }

    fn kill(&self, instance: u32) -> u32 {
        let pid = self.pids()[&instance];
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
        pid
    }

    async fn function(&self) -> Function {
        self.host.plugins.function(&self.function, "r1").await.unwrap()
    }

    /// A function that so many instances answer.
    async fn function_in(&self, instances: usize) -> Function {
        let function = self.function().await;
        until_answered_by(&function, |seen| seen.len() == instances).await;
        function
    }

    async fn source(&self) -> Source {
        let rule = unique("ir");
        let plugins = &self.host.plugins;
        let opened = plugins.open_source(&self.source, meta(&rule), "", Object::new());
        within("the source to open", opened).await.unwrap()
    }
}

/// Calls until the processes that have answered are as wanted.
async fn until_answered_by(function: &Function, wanted: impl Fn(&BTreeMap<u64, u64>) -> bool) {
    within("answers of all processes", async {
        let mut seen = BTreeMap::new();
        while !wanted(&seen) {
            let calls = (0..16).map(|n: u64| function.exec(vec![json!(n)], context()));
            for outcome in join_all(calls).await {
                let (instance, pid, _) = answer(&outcome.unwrap().unwrap());
                seen.insert(instance, pid);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_all_and_starting_brings_all_back() {
    let Some(scene) = scene(3).await else { return };
    let function = scene.function_in(3).await;
    let pids = scene.pids();
    let shown = serde_json::to_value(scene.status()).unwrap();
    assert_eq!(shown["pid"], pids[&0]);
    for (instance, pid) in &pids {
        let one = &shown["instances"][*instance as usize];
        assert_eq!(
            (&one["instance"], &one["pid"], &one["status"], &one["restarts"]),
            (&json!(instance), &json!(pid), &json!("running"), &json!(0))
        );
        assert!(one["uptimeSeconds"].is_u64());
    }
    within("the stop", scene.host.plugins.stop(&scene.name))
        .await
        .unwrap();
    for pid in pids.values() {
        let gone = Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
        assert!(rustix::process::test_kill_process(gone).is_err(), "{pid} is left");
    }
    let status = scene.status();
    assert_eq!(
        (status.status, status.err_msg.as_str()),
        (State::Stopped, "stopped by hand")
    );
    within("the start", scene.host.plugins.start(&scene.name))
        .await
        .unwrap();
    assert_eq!((scene.status().status, scene.pids().len()), (State::Running, 3));
    until_answered_by(&function, |seen| seen.len() == 3).await;
    within("the removal", scene.host.plugins.remove(&scene.name))
        .await
        .unwrap();
    assert!(scene.host.plugins.status(&scene.name).is_none());
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_of_the_other_contract_is_told_that_it_can_have_one_process() {
    let mut home = Home::new();
    home.settings.contract = "both".to_owned();
    home.settings.restart_limit = 1;
    let name = unique("hin");
    let fields = format!(r#""instances":2,"functions":["{}"]"#, unique("ifn"));
    home.add(&name, "rust", &fields, SLEEP);
    let host = home.start().await;
    host.until("its processes", &name, |status| {
        status.pid.is_some() && status.instances.iter().all(|one| one.pid.is_some())
    })
    .await;
    // It shakes hands in the other contract.
    let _peer = Peer::control(&name).await;
    let failed = |status: &Status| status.status == State::Failed;
    let status = host.until("it to be given up", &name, failed).await;
    let reason =
        "it speaks eKuiper's contract, of which only one process can run; its manifest asks for 2 instances";
    assert!(status.err_msg.contains(reason), "{}", status.err_msg);
    let ended = |status: &Status| status.instances.iter().all(|one| one.pid.is_none());
    host.until("its processes to end", &name, ended).await;
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_instances_are_refused_where_only_the_other_contract_is_offered() {
    let mut home = Home::new();
    home.settings.contract = "ekuiper".to_owned();
    let name = unique("hin");
    let fields = format!(r#""instances":2,"functions":["{}"]"#, unique("ifn"));
    home.add(&name, "rust", &fields, SLEEP);
    let host = home.start().await;
    let refused = |status: &Status| status.status == State::Refused;
    let status = host
        .look("the refusal", |plugins| plugins.status(&name).filter(refused))
        .await;
    assert!(
        status.err_msg.contains("its manifest asks for 2 instances"),
        "{}",
        status.err_msg
    );
    host.shutdown().await;
}
