//! A plugin is replaced while a rule uses it, by one that is good, broken, picky or short-lived.

use std::path::PathBuf;

use async_zip::base::write::ZipFileWriter;
use async_zip::{Compression, ZipEntryBuilder};
use mangrove::plugin::{InstallRequest, State, Status};
use mangrove_protocol::Object;
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::within;

use crate::home::{Home, Host, manifest, meta, unique};
use crate::load::{Load, Rule};

/// The script of the plugins here, as it stands and with a fault.
const SCRIPT: &str = include_str!("pysdk.py");

struct Scene {
    home: Home,
    host: Host,
    name: String,
    fields: String,
    out: PathBuf,
    load: Load,
}

fn object(value: Value) -> Object {
    value.as_object().unwrap().clone()
}

/// Writes a zip of these files and asks for its installation as `name`.
async fn package(home: &Home, name: &str, files: &[(String, Vec<u8>)]) -> InstallRequest {
    let mut zip = ZipFileWriter::new(Vec::new());
    for (path, bytes) in files {
        let entry = ZipEntryBuilder::new(path.clone().into(), Compression::Stored).unix_permissions(0o755);
        zip.write_entry_whole(entry, bytes).await.unwrap();
    }
    let path = home.path().join(format!("{}.zip", unique("pkg")));
    std::fs::write(&path, zip.close().await.unwrap()).unwrap();
    InstallRequest::new(name.parse().unwrap(), format!("file://{}", path.display()))
}

/// A rule over every symbol of a plugin on the Python SDK, its sink acknowledged.
async fn scene() -> Option<Scene> {
    scene_of("2.4.2", true).await
}

async fn scene_of(release: &str, require_ack: bool) -> Option<Scene> {
    let interpreter = testkit::python(release)?;
    let mut home = Home::new();
    home.settings.python_bin = interpreter.to_string_lossy().into_owned();
    home.settings.peers = "plugin".to_owned();
    home.settings.restart_limit = 10;
    let name = unique("hsw");
    let (source, sink, function) = (unique("hsrc"), unique("hsnk"), unique("hfn"));
    let fields = format!(r#""sources":["{source}"],"sinks":["{sink}"],"functions":["{function}"]"#);
    home.add(&name, "python", &fields, SCRIPT);
    let host = home.start().await;
    // On a busy machine its folder may be looked at twice before it is taken for whole.
    within("the plugin to run", async {
        let is_up = |plugin: mangrove::plugin::Plugin| plugin.status.status == State::Running;
        while !host.plugins.get(&name).is_some_and(is_up) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let out = home.path().join("sink.txt");
    let plugins = &host.plugins;
    let config = object(json!({"count": 1_000_000, "pause": 0.002}));
    let source = plugins.open_source(&source, meta(&unique("hr")), "topic", config);
    let config = object(json!({"path": out, "requireAck": require_ack}));
    let sink = plugins.open_sink(&sink, meta(&unique("hr")), config, require_ack);
    let rule = Rule {
        source: source.await.unwrap(),
        function: plugins.function(&function, "r1").await.unwrap(),
        sink: sink.await.unwrap(),
        args: |tuple| vec![tuple["n"].clone()],
    };
    let mut load = Load::start(rule);
    load.more(50).await;
    Some(Scene {
        home,
        host,
        name,
        fields,
        out,
        load,
    })
}

impl Scene {
    /// Replaces the plugin by one with this script.
    async fn update(&self, version: &str, script: &str) -> Result<(), String> {
        let manifest = manifest("python", &self.fields).replace("1.0", version);
        let files = [
            (format!("{}.json", self.name), manifest.into_bytes()),
            ("run".to_owned(), script.as_bytes().to_vec()),
        ];
        let request = package(&self.home, &self.name, &files).await;
        let updated = within("the update", self.host.plugins.update(request)).await;
        updated.map_err(|error| error.to_string())
    }

    fn status(&self) -> Status {
        self.host.status(&self.name)
    }

    /// The rule has lost nothing and complained of nothing, but perhaps of so many calls that were under way in a
    /// process that died.
    async fn finish(self, lost_calls: usize) -> usize {
        let report = self.load.finish().await;
        let is_lost_call = |error: &&String| error.starts_with("function: the connection to the function");
        let calls = report.errors.iter().filter(is_lost_call).count();
        assert!(
            calls <= lost_calls && calls == report.errors.len(),
            "{:?}",
            report.errors
        );
        let written = std::fs::read_to_string(&self.out).unwrap();
        let written: Vec<&str> = written.lines().collect();
        // What was under way when the rule was stopped may have been written, too.
        assert_eq!(written[..report.acknowledged.len()], report.acknowledged);
        assert!(written.len() <= report.acknowledged.len() + 1);
        eprintln!(
            "{} tuples of {} processes, the longest pause {:?}",
            report.acknowledged.len(),
            report.processes.len(),
            report.longest
        );
        self.host.shutdown().await;
        report.processes.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_under_load_lose_nothing_and_stop_no_rule() {
    let Some(mut scene) = scene().await else { return };
    let updates = std::env::var("SWAPS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4);
    let mut pid = scene.status().pid;
    for update in 0..updates {
        let version = format!("2.{update}");
        scene.update(&version, SCRIPT).await.unwrap();
        let status = scene.status();
        assert_eq!((status.status, status.note.as_str()), (State::Running, ""));
        assert_eq!((status.version, status.restarts), (version, 0));
        assert_ne!(status.pid, pid);
        pid = status.pid;
        scene.load.until_process(pid.unwrap()).await;
        scene.load.more(50).await;
    }
    let status = scene.status();
    let symbols = [
        status.symbols.sources,
        status.symbols.sinks,
        status.symbols.functions,
    ];
    for symbol in symbols.iter().flat_map(std::collections::BTreeMap::values) {
        assert!(symbol.last_ok.is_some());
        assert_eq!((symbol.errors, symbol.last_error.as_str()), (0, ""));
    }
    assert_eq!(scene.finish(0).await, updates + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_sdk_without_keep_alives_and_acknowledgements_is_replaced_too() {
    let Some(mut scene) = scene_of("1.4.0", false).await else {
        return;
    };
    for version in ["2.0", "3.0"] {
        scene.update(version, SCRIPT).await.unwrap();
        let pid = scene.status().pid;
        scene.load.until_process(pid.unwrap()).await;
    }
    let report = scene.load.finish().await;
    assert_eq!(report.errors, Vec::<String>::new());
    assert_eq!(report.processes.len(), 3);
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_in_its_tracks_holds_the_rule_up_and_loses_nothing() {
    let Some(mut scene) = scene().await else { return };
    let pid = scene.status().pid.unwrap();
    let process = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(process, Signal::STOP).unwrap();
    let unhealthy = |status: &Status| status.status == State::Unhealthy;
    scene
        .host
        .until("it to be unhealthy", &scene.name, unhealthy)
        .await;
    rustix::process::kill_process(process, Signal::CONT).unwrap();
    scene.host.running(&scene.name).await;
    scene.load.more(50).await;
    assert_eq!(scene.status().pid, Some(pid));
    scene.finish(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_start_changes_nothing() {
    let Some(mut scene) = scene().await else { return };
    let pid = scene.status().pid;
    let error = scene
        .update("2.0", "import nothing_of_this_name\n")
        .await
        .unwrap_err();
    assert!(
        error.contains("No module named 'nothing_of_this_name'"),
        "{error}"
    );
    let status = scene.status();
    assert_eq!(
        (status.status, status.pid, status.version.as_str()),
        (State::Running, pid, "1.0")
    );
    assert!(
        status
            .note
            .starts_with("version 2.0 was not taken: it ended before"),
        "{}",
        status.note
    );
    scene.load.more(50).await;
    // The next good one is taken, and the note goes.
    scene.update("3.0", SCRIPT).await.unwrap();
    assert_eq!(scene.status().note, "");
    let pid = scene.status().pid;
    scene.load.until_process(pid.unwrap()).await;
    assert_eq!(scene.finish(0).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_refuses_a_symbol_gives_everything_back() {
    let Some(mut scene) = scene().await else { return };
    let pid = scene.status().pid;
    let configure = "        self.path = conf[\"path\"]\n";
    let script = SCRIPT.replace(configure, "        raise ValueError(\"no disk\")\n");
    assert_ne!(script, SCRIPT);
    let error = scene.update("2.0", &script).await.unwrap_err();
    assert!(error.contains("no disk"), "{error}");
    let status = scene.status();
    assert_eq!((status.status, status.pid), (State::Running, pid));
    assert!(status.note.contains("no disk"), "{}", status.note);
    scene.load.more(50).await;
    scene.update("3.0", SCRIPT).await.unwrap();
    scene.load.more(50).await;
    scene.finish(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_dies_while_it_takes_over_changes_nothing() {
    let Some(mut scene) = scene().await else { return };
    let pid = scene.status().pid;
    let configure = "        self.path = conf[\"path\"]\n";
    let script = SCRIPT.replace(configure, "        os._exit(9)\n");
    let error = scene.update("2.0", &script).await.unwrap_err();
    assert!(error.contains("it ended: exit code 9"), "{error}");
    let status = scene.status();
    assert_eq!((status.status, status.pid), (State::Running, pid));
    scene.load.more(50).await;
    scene.finish(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_that_dies_meanwhile_is_replaced_at_once() {
    let Some(mut scene) = scene().await else { return };
    let pid = scene.status().pid.unwrap();
    // It kills the old one when it has been told to start its first symbol.
    let script = SCRIPT.replace(
        "        self.datasource = datasource\n",
        &format!("        os.kill({pid}, 9)\n        self.datasource = datasource\n"),
    );
    assert_ne!(script, SCRIPT);
    scene.update("2.0", &script).await.unwrap();
    let status = scene.status();
    assert_eq!((status.version.as_str(), status.restarts), ("2.0", 0));
    scene.load.more(50).await;
    let report = scene.load.finish().await;
    // Nothing is acknowledged that was not written; what the function worked at may be lost with it.
    let written = std::fs::read_to_string(&scene.out).unwrap();
    let written: std::collections::BTreeSet<&str> = written.lines().collect();
    assert!(
        report
            .acknowledged
            .iter()
            .all(|text| written.contains(text.as_str()))
    );
    let sinks = report.errors.iter().filter(|error| error.starts_with("sink"));
    assert_eq!(sinks.count(), 0, "{:?}", report.errors);
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_process_of_an_acknowledged_sink_loses_nothing() {
    let Some(mut scene) = scene().await else { return };
    for _ in 0..3 {
        let pid = scene.status().pid;
        let process = rustix::process::Pid::from_raw(pid.unwrap().try_into().unwrap()).unwrap();
        rustix::process::kill_process(process, Signal::KILL).unwrap();
        scene.load.more(50).await;
        scene
            .host
            .until("the next process", &scene.name, |status| {
                status.status == State::Running && status.pid != pid
            })
            .await;
    }
    let report = scene.load.finish().await;
    let sinks = report.errors.iter().filter(|error| error.starts_with("sink"));
    assert_eq!(sinks.count(), 0, "{:?}", report.errors);
    let written = std::fs::read_to_string(&scene.out).unwrap();
    let written: std::collections::BTreeSet<&str> = written.lines().collect();
    assert!(
        report
            .acknowledged
            .iter()
            .all(|text| written.contains(text.as_str()))
    );
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_sdks_example_is_replaced_under_load() {
    let _car = testkit::exclusive("car");
    let mut home = Home::new();
    home.settings.peers = "plugin".to_owned();
    let folder = home.plugin_folder("car");
    std::fs::create_dir_all(&folder).unwrap();
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/car/car.json");
    let server = testkit::built("car", "server");
    std::fs::copy(&example, folder.join("car.json")).unwrap();
    std::fs::copy(&server, folder.join("server")).unwrap();
    let manifest = std::fs::read_to_string(&example).unwrap();
    let server = std::fs::read(&server).unwrap();
    let host = home.start().await;
    let out = home.path().join("out.txt");
    let data = json!([{"color": "red", "size": 1}, {"color": "blue", "size": 2}]);
    let config = object(json!({"data": data, "interval": 1}));
    let source = host.plugins.open_source("json", meta(&unique("hr")), "", config);
    let command = json!(["sh", "-c", r#"cat >> "$0"; echo >> "$0""#, out]);
    let config = object(json!({"command": command, "requireAck": true}));
    let sink = host
        .plugins
        .open_sink("command", meta(&unique("hr")), config, true);
    let rule = Rule {
        source: source.await.unwrap(),
        function: host.plugins.function("link", "r1").await.unwrap(),
        sink: sink.await.unwrap(),
        args: |tuple| vec![tuple["color"].clone(), tuple["size"].clone()],
    };
    let mut load = Load::start(rule);
    load.more(20).await;
    for version in ["v2.0.0", "v3.0.0"] {
        let files = [
            (
                "car.json".to_owned(),
                manifest.replace("v1.0.0", version).into_bytes(),
            ),
            ("server".to_owned(), server.clone()),
        ];
        let request = package(&home, "car", &files).await;
        within("the update", host.plugins.update(request)).await.unwrap();
        assert_eq!(host.status("car").version, version);
        load.more(20).await;
    }
    let report = load.finish().await;
    assert_eq!(report.errors, Vec::<String>::new());
    let written = std::fs::read_to_string(&out).unwrap();
    let written: Vec<&str> = written.lines().collect();
    assert_eq!(written[..report.acknowledged.len()], report.acknowledged);
    eprintln!("the longest pause {:?}", report.longest);
    host.shutdown().await;
}
