//! A plugin with several processes beside each other: who is given what, and what happens when one of them goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_zip::base::write::ZipFileWriter;
use async_zip::{Compression, ZipEntryBuilder};
use futures_util::future::join_all;
use mangrove::plugin::{CallError, ChannelError, Function, InstallRequest, Source, State, Status};
use mangrove_protocol::Object;
use mangrove_protocol::data::FunctionContext;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::within;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::home::{Home, Host, SLEEP, meta, unique};
use crate::peer::Peer;

const SCRIPT: &str = include_str!("instances.py");

struct Scene {
    home: Home,
    host: Host,
    name: String,
    source: String,
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
    let mut home = Home::new();
    home.settings.python_bin = interpreter.to_string_lossy().into_owned();
    home.settings.contract = "both".to_owned();
    home.settings.peers = "plugin".to_owned();
    home.settings.restart_limit = restart_limit;
    let (name, source, function) = (unique("hin"), unique("isrc"), unique("ifn"));
    let scene = Scene {
        host: home.start().await,
        home,
        name,
        source,
        function,
    };
    let script = script.replace("HOME", &scene.home.path().to_string_lossy());
    let request = scene.package("1.0", instances, &script).await;
    let installed = within("the installation", scene.host.plugins.install(request)).await;
    installed.unwrap();
    Some(scene)
}

impl Scene {
    async fn package(&self, version: &str, instances: u32, script: &str) -> InstallRequest {
        let sdk = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/python/src");
        let manifest = json!({
            "version": version, "language": "python", "executable": "run", "instances": instances,
            "args": [self.source, self.function], "environment": {"PYTHONPATH": sdk},
            "sources": [self.source], "functions": [self.function],
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

/// Where the next tuple comes from: instance, process and number. News of the process are passed over.
async fn tuple(source: &mut Source) -> Answer {
    within("a tuple", async {
        loop {
            match source.recv().await.expect("the source goes on") {
                Ok(tuple) => {
                    let message = tuple.message.into_object().unwrap();
                    let field = |name: &str| message[name].as_u64().unwrap();
                    return (field("instance"), field("pid"), field("n"));
                }
                Err(ChannelError::Down { .. } | ChannelError::Closed { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

/// A rule that takes whatever a source brings.
struct Reading {
    task: JoinSet<Source>,
    stop: watch::Sender<bool>,
    last: watch::Receiver<Answer>,
}

impl Reading {
    fn start(mut source: Source) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let (read, last) = watch::channel((0, 0, 0));
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                tokio::select! {
                    _ = stopped.changed() => return source,
                    next = tuple(&mut source) => read.send_replace(next),
                };
            }
        });
        Self { task, stop, last }
    }

    /// Waits for a tuple of this instance and process.
    async fn until(&mut self, instance: u32, pid: u32) {
        let is_wanted = |last: &Answer| (last.0, last.1) == (instance.into(), pid.into());
        within("a tuple of the process", self.last.wait_for(is_wanted))
            .await
            .unwrap();
    }

    async fn close(mut self) {
        self.stop.send_replace(true);
        let source = within("the reader's end", self.task.join_next()).await;
        source.unwrap().unwrap().close().await;
    }
}

/// Four callers, each of which makes one call after the other.
struct Callers {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    done: watch::Receiver<usize>,
    broken: Arc<AtomicUsize>,
}

impl Callers {
    fn start(function: &Function) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (count, done) = watch::channel(0);
        let broken = Arc::<AtomicUsize>::default();
        let mut tasks = JoinSet::new();
        for caller in 0..4_u64 {
            let (function, stopped) = (function.clone(), stopped.clone());
            let (count, broken) = (count.clone(), Arc::clone(&broken));
            tasks.spawn(async move {
                let mut n = caller;
                while !*stopped.borrow() {
                    let calls = (0..8).map(|at| vec![json!(n + 4 * at)]).collect();
                    let outcomes = function.exec_many(calls, &context()).await;
                    assert_eq!(outcomes.len(), 8);
                    for outcome in outcomes {
                        match outcome {
                            Ok(value) => assert_eq!(answer(&value.unwrap()).2, n),
                            Err(CallError::Disconnected { .. }) => {
                                broken.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => panic!("{error}"),
                        }
                        n += 4;
                    }
                    count.send_modify(|count| *count += 8);
                }
            });
        }
        Self {
            tasks,
            stop,
            done,
            broken,
        }
    }

    /// Waits for so many more outcomes.
    async fn more(&self, calls: usize) {
        let mut done = self.done.clone();
        let wanted = *done.borrow() + calls;
        within("calls", done.wait_for(|done| *done >= wanted))
            .await
            .unwrap();
    }

    /// How many calls were in a process that ended.
    async fn finish(mut self) -> usize {
        self.stop.send_replace(true);
        within("the callers' end", async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        })
        .await;
        self.broken.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_spread_over_all_instances_and_come_back_in_order() {
    let Some(scene) = scene(3).await else { return };
    let function = scene.function_in(3).await;
    let calls = (0..300_u64).map(|n| vec![json!(n)]).collect();
    let outcomes = within("the calls", function.exec_many(calls, &context())).await;
    let answers: Vec<Answer> = outcomes
        .into_iter()
        .map(|outcome| answer(&outcome.unwrap().unwrap()))
        .collect();
    assert!(answers.iter().map(|(.., n)| *n).eq(0..300));
    let seen: BTreeMap<u32, u32> = answers
        .iter()
        .map(|(instance, pid, _)| (u32::try_from(*instance).unwrap(), u32::try_from(*pid).unwrap()))
        .collect();
    assert_eq!(seen, scene.pids());
    for instance in 0..3 {
        let share = answers.iter().filter(|(at, ..)| *at == instance).count();
        assert!((50..150).contains(&share), "instance {instance} has had {share}");
    }
    within("the question", function.validate(vec![json!(1)]))
        .await
        .unwrap();
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_answer_holds_nobody_else_up() {
    let Some(scene) = scene(2).await else { return };
    let function = scene.function_in(2).await;
    let gate = scene.home.path().join("gate");
    let held = function.clone();
    let args = vec![json!(0), json!(gate)];
    let mut holding = JoinSet::new();
    let (begun, mut beginning) = watch::channel(());
    holding.spawn(async move {
        begun.send_replace(());
        held.exec(args, context()).await
    });
    within("the first call", beginning.changed()).await.unwrap();
    // One may have gone where the first one is about to be put; then it waits for the gate, too.
    let mut pids = Vec::new();
    let mut waiting = JoinSet::new();
    for n in 0..200_u64 {
        let function = function.clone();
        waiting.spawn(async move { function.exec(vec![json!(n)], context()).await });
        if n > 0 {
            let outcome = within("an answer", waiting.join_next()).await.unwrap();
            pids.push(answer(&outcome.unwrap().unwrap().unwrap()).1);
        }
    }
    std::fs::write(&gate, "").unwrap();
    let held = within("the first call's answer", holding.join_next())
        .await
        .unwrap();
    let (_, pid, n) = answer(&held.unwrap().unwrap().unwrap());
    // The first ones may have been quicker than the one with the gate.
    assert!(n == 0 && !pids[100..].contains(&pid));
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_when_an_instance_is_killed_and_it_comes_back() {
    let Some(scene) = scene(3).await else { return };
    let function = scene.function_in(3).await;
    let callers = Callers::start(&function);
    callers.more(200).await;
    for (round, victim) in [2, 0].into_iter().enumerate() {
        let old = scene.kill(victim);
        let known = scene.host.until("it to be missed", &scene.name, |status| {
            status.status == State::Restarting || status.instances[victim as usize].restarts > 0
        });
        let status = known.await;
        if status.status == State::Restarting {
            let begin = format!("2 of 3 instances run; instance {victim} is restarting");
            assert!(status.err_msg.starts_with(&begin), "{}", status.err_msg);
        }
        callers.more(200).await;
        let status = scene
            .host
            .until("it to run again", &scene.name, |status| {
                status.status == State::Running && status.instances[victim as usize].restarts == 1
            })
            .await;
        assert_eq!(
            (status.err_msg.as_str(), status.restarts),
            ("", u32::try_from(round).unwrap() + 1)
        );
        let new = scene.pids()[&victim];
        assert_ne!(new, old);
        until_answered_by(&function, |seen| {
            seen.get(&u64::from(victim)) == Some(&u64::from(new))
        })
        .await;
    }
    // No more than were in the two processes.
    let broken = callers.finish().await;
    assert!(broken <= 2 * 4 * 8, "{broken}");
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_run_where_there_are_fewest_and_stay_with_their_instance() {
    let Some(scene) = scene(2).await else { return };
    let (mut first, mut second) = (scene.source().await, scene.source().await);
    let (of_first, of_second) = (tuple(&mut first).await, tuple(&mut second).await);
    assert_eq!((of_first.0, of_second.0), (0, 1));
    // Its instance comes back, and with it the source; the other one notices nothing.
    let old = scene.kill(1);
    let mut last = of_second.2;
    let came_back = loop {
        let (instance, pid, n) = tuple(&mut second).await;
        assert_eq!(instance, 1);
        if pid != u64::from(old) {
            break pid;
        }
        assert_eq!(n, last + 1);
        last = n;
    };
    assert_eq!(came_back, u64::from(scene.pids()[&1]));
    let mut n = of_first.2;
    for _ in 0..50 {
        let (instance, pid, next) = tuple(&mut first).await;
        assert_eq!((instance, pid, next), (0, of_first.1, n + 1));
        n = next;
    }
    // The place of one that is closed is free again.
    first.close().await;
    let mut third = scene.source().await;
    assert_eq!(tuple(&mut third).await.0, 0);
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_instance_is_given_up_waits_until_the_plugin_is_started() {
    let fails = "WHO[0] == 1 and os.path.exists(\"HOME/bad\") and sys.exit(\"told to fail\")\n\nplugin = ";
    let script = SCRIPT.replace("plugin = ", fails);
    assert_ne!(script, SCRIPT);
    let Some(scene) = scene_of(2, 2, &script).await else {
        return;
    };
    let function = scene.function_in(2).await;
    let (first, mut second) = (scene.source().await, scene.source().await);
    assert_eq!(tuple(&mut second).await.0, 1);
    std::fs::write(scene.home.path().join("bad"), "").unwrap();
    scene.kill(1);
    let failed = |status: &Status| status.status == State::Failed;
    let status = scene.host.until("it to be given up", &scene.name, failed).await;
    let (begin, last) = (
        "1 of 2 instances run; instance 1 is failed",
        "it said last: told to fail",
    );
    assert!(
        status.err_msg.starts_with(begin) && status.err_msg.contains(last),
        "{}",
        status.err_msg
    );
    // The other one takes all that comes.
    let mut third = scene.source().await;
    assert_eq!(tuple(&mut third).await.0, 0);
    for n in 0..20_u64 {
        let value = function.exec(vec![json!(n)], context()).await.unwrap().unwrap();
        assert_eq!((answer(&value).0, answer(&value).2), (0, n));
    }
    std::fs::remove_file(scene.home.path().join("bad")).unwrap();
    // They read, as rules do, so that the other instance can let go of its old process.
    let mut readings = [first, second, third].map(Reading::start);
    within("the start", scene.host.plugins.start(&scene.name))
        .await
        .unwrap();
    let pids = scene.pids();
    for (reading, instance) in readings.iter_mut().zip([0, 1, 0]) {
        reading.until(instance, pids[&instance]).await;
    }
    join_all(readings.map(Reading::close)).await;
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_in_every_instance_without_an_error() {
    let Some(scene) = scene(3).await else { return };
    let function = scene.function_in(3).await;
    let mut readings = [
        Reading::start(scene.source().await),
        Reading::start(scene.source().await),
    ];
    let callers = Callers::start(&function);
    callers.more(200).await;
    let before = scene.pids();
    scene.update("2.0", 3, SCRIPT).await.unwrap();
    let status = scene.host.running(&scene.name).await;
    assert!(
        status
            .instances
            .iter()
            .all(|one| one.version == "2.0" && one.restarts == 0)
    );
    let after = scene.pids();
    assert!(after.len() == 3 && after.values().all(|pid| before.values().all(|old| old != pid)));
    until_answered_by(&function, |seen| seen.len() == 3).await;
    for (instance, reading) in (0..).zip(&mut readings) {
        reading.until(instance, after[&instance]).await;
    }
    // One that does not start changes nothing anywhere.
    let refused = scene.update("3.0", 3, "import nothing_of_this_name\n").await;
    assert!(refused.unwrap_err().contains("nothing_of_this_name"));
    assert_eq!(scene.pids(), after);
    callers.more(200).await;
    assert_eq!(callers.finish().await, 0);
    join_all(readings.map(Reading::close)).await;
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_may_have_more_instances_or_fewer() {
    let Some(scene) = scene(1).await else { return };
    let shown = serde_json::to_value(scene.status()).unwrap();
    assert_eq!(shown.get("instances"), None);
    let function = scene.function().await;
    let callers = Callers::start(&function);
    let mut first = Reading::start(scene.source().await);
    scene.update("2.0", 2, SCRIPT).await.unwrap();
    until_answered_by(&function, |seen| seen.len() == 2).await;
    let mut second = Reading::start(scene.source().await);
    second.until(1, scene.pids()[&1]).await;
    // What runs in the one that is too many goes on there; nothing new does.
    scene.update("3.0", 1, SCRIPT).await.unwrap();
    assert_eq!(scene.status().instances[1].version, "3.0");
    second.until(1, scene.pids()[&1]).await;
    for _ in 0..20 {
        let value = function.exec(vec![json!(7)], context()).await.unwrap().unwrap();
        assert_eq!(answer(&value).0, 0);
    }
    first.until(0, scene.pids()[&0]).await;
    first.close().await;
    second.close().await;
    let alone = |status: &Status| status.instances.is_empty() && status.status == State::Running;
    scene.host.until("the other's end", &scene.name, alone).await;
    assert_eq!(callers.finish().await, 0);
    scene.host.shutdown().await;
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
