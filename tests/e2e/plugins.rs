//! Rules through portable plugins: real processes, the addresses that the contract fixes.
//!
//! Those addresses are the same for every host on a machine, so a test that uses a plugin holds its lock.

use std::cell::Cell;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::process::Signal;

use crate::host::Host;
use crate::rules::write_conf;

const FAST_CARS: &str = "
fast:
  interval: 5
  data:
    - {color: red, size: 3}
    - {color: yellow, size: 2}
    - {color: blue, size: 1}
";

pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}

/// A home folder with the plugin `car` in it, as an administrator lays it out.
pub(crate) fn home_with_car() -> TempDir {
    let home = TempDir::new().unwrap();
    let folder = home.path().join("plugins/portable/car");
    std::fs::create_dir_all(&folder).unwrap();
    copy(&example("car").join("car.json"), &folder.join("car.json"));
    copy(&testkit::built("car", "server"), &folder.join("server"));
    write_conf(home.path(), "sources", "json", FAST_CARS);
    home
}

#[tokio::test]
async fn a_rule_runs_from_a_portable_source_through_a_portable_function_into_a_portable_sink() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let mut host = Host::start(home.path()).await;
    let results = home.path().join("results");
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="fast")"#)
        .await;
    host.rule(&json!({
        "id": "e2e-car",
        "sql": "SELECT link(color, size) AS name, rank(color) AS place FROM cars WHERE rank(color) < 3",
        "actions": [{"command": {"command": ["tee", "-a", results], "sendSingle": true, "requireAck": true}}, {"log": {}}]
    }))
    .await;
    assert_eq!(
        host.logged("e2e-car").await,
        json!([{"name": "red 3", "place": 1}])
    );
    assert_eq!(
        host.logged("e2e-car").await,
        json!([{"name": "yellow 2", "place": 2}])
    );
    assert_eq!(
        host.logged("e2e-car").await,
        json!([{"name": "red 3", "place": 1}])
    );
    // Stopping works off what is queued: afterwards the sink has everything.
    assert_eq!(host.post("/rules/e2e-car/stop", &json!({})).await.status, 200);
    let status = host.get("/rules/e2e-car/status").await.json();
    assert_eq!(status["sink_command_0_0_exceptions_total"], 0, "{status}");
    let written = std::fs::read_to_string(&results).unwrap();
    assert!(
        written.starts_with(r#"{"name":"red 3","place":1}{"name":"yellow 2","place":2}"#),
        "{written}"
    );

    let plugin = host.get("/plugins/portables/car").await.json();
    assert_eq!(
        (&plugin["version"], &plugin["functions"]),
        (&json!("v1.0.0"), &json!(["link", "rank"]))
    );
    assert_eq!(host.get("/plugins/portable").await.json(), json!(["car"]));
    let status = host.get("/plugins/portables/car/status").await.json();
    assert_eq!(status["status"], "running", "{status}");
    assert!(host.interrupt().await.success());
}

#[tokio::test]
async fn a_killed_plugin_is_started_again_and_its_rules_go_on() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="fast")"#)
        .await;
    host.rule(&json!({
        "id": "e2e-kill", "sql": "SELECT link(color, size) AS name FROM cars", "actions": [{"log": {}}]
    }))
    .await;
    for _ in 0..2 {
        host.logged("e2e-kill").await;
        let pid = host.get("/plugins/portables/car/status").await.json()["pid"]
            .as_u64()
            .expect("it runs");
        kill(pid);
        host.process
            .line("the plugin's end", |line| line.contains("killed by signal 9"))
            .await;
        host.logged("e2e-kill").await;
    }
    let status = host.get("/plugins/portables/car/status").await.json();
    assert_eq!(
        (&status["status"], &status["restarts"]),
        (&json!("running"), &json!(2)),
        "{status}"
    );
    assert_eq!(
        host.get("/rules/e2e-kill/status").await.json()["status"],
        "running"
    );
}

#[tokio::test]
async fn a_stream_and_its_rule_may_come_before_their_plugin_has_brought_its_conf_keys() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let portable = home.path().join("plugins/portable");
    std::fs::create_dir_all(portable.join("car/sources")).unwrap();
    let (ours, its) = (
        home.path().join("etc/sources/json.yaml"),
        portable.join("car/sources/json.yaml"),
    );
    std::fs::rename(ours, its).unwrap();
    // Others, which do not come up, are mostly before it.
    for name in ["asleep", "dozing", "dreaming"] {
        let folder = portable.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = json!({
            "version": "1", "language": "go", "executable": "run", "functions": [name], "startTimeout": 1000,
        });
        std::fs::write(folder.join(format!("{name}.json")), manifest.to_string()).unwrap();
        let program = folder.join("run");
        std::fs::write(&program, "#!/bin/sh\nsleep 60\n").unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::write(
        home.path().join("etc/mangrove.yaml"),
        "portable:\n  parallelStarts: 1\n",
    )
    .unwrap();

    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="fast")"#)
        .await;
    host.rule(&json!({ "id": "early", "sql": "SELECT color FROM cars", "actions": [{"log": {}}] }))
        .await;
    assert_eq!(host.logged("early").await, json!([{"color": "red"}]));
}

#[tokio::test]
async fn a_shared_stream_runs_its_source_once_for_all_its_rules() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="fast", SHARED="true")"#)
        .await;
    for id in ["e2e-first", "e2e-second"] {
        host.rule(
            &json!({"id": id, "sql": "SELECT color FROM cars WHERE size = 3", "actions": [{"log": {}}]}),
        )
        .await;
        assert_eq!(host.logged(id).await, json!([{"color": "red"}]));
    }
    let status = host.get("/plugins/portables/car/status").await.json();
    assert_eq!(status["refCount"], json!({"shared": 1}), "{status}");
    assert_eq!(host.delete("/rules/e2e-first").await.status, 200);
    host.process
        .line("the first rule's end", |line| line.contains("rule stopped"))
        .await;
    assert_eq!(
        host.logged("e2e-second").await,
        json!([{"color": "red"}]),
        "the other rule goes on"
    );
    assert_eq!(host.delete("/rules/e2e-second").await.status, 200);
    testkit::within("the end of the source", async {
        while host.get("/plugins/portables/car/status").await.json()["refCount"] != json!({}) {}
    })
    .await;
    assert!(host.interrupt().await.success());
}

#[tokio::test]
async fn a_function_of_a_plugin_is_validated_when_the_rule_is_created() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="fast")"#)
        .await;
    let rule = json!({"id": "e2e-check", "sql": "SELECT rank() AS r FROM cars", "actions": [{"nop": {}}]});
    let reply = host.post("/rules", &rule).await;
    assert!(reply.error(400).contains("rank"), "{}", reply.body);
}

#[tokio::test]
async fn a_rule_that_is_slow_to_stop_holds_up_no_other() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="fast")"#)
        .await;
    // Nothing is acknowledged, so the rule still has a queue to work off when it is told to stop.
    host.rule(&json!({
        "id": "e2e-slow", "sql": "SELECT * FROM cars",
        "actions": [{"command": {"command": ["sleep", "300"], "requireAck": true}}]
    }))
    .await;
    let working = async {
        while host.get("/rules/e2e-slow/status").await.json()["sink_command_0_0_records_in_total"] != 1 {}
    };
    testkit::within("the slow rule's first result", working).await;

    let deleted = Cell::new(false);
    let delete = async {
        assert_eq!(host.delete("/rules/e2e-slow").await.status, 200);
        deleted.set(true);
    };
    let others = async {
        while host.get("/rules/e2e-slow/status").await.json()["status"] != "stopping" {}
        let again = json!({"id": "e2e-slow", "sql": "SELECT * FROM cars", "actions": [{"nop": {}}]});
        let reply = host.post("/rules", &again).await;
        assert!(reply.error(400).contains("already exists"), "{}", reply.body);
        host.stream(r#"CREATE STREAM other () WITH (TYPE="memory", DATASOURCE="t")"#)
            .await;
        host.rule(&json!({"id": "e2e-other", "sql": "SELECT * FROM other", "actions": [{"nop": {}}]}))
            .await;
        assert!(!deleted.get(), "the others waited");
    };
    tokio::join!(delete, testkit::within("the other rules", others));
    assert_eq!(host.get("/rules/e2e-slow").await.status, 404);
}

#[tokio::test]
async fn broken_plugins_are_refused_alone() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let folder = home.path().join("plugins/portable");
    for (name, manifest) in [
        ("e2e-truncated", r#"{"version": "1""#),
        (
            "e2e-unknown",
            r#"{"version":"1","language":"go","executable":"x","functions":["f"],"colour":"red"}"#,
        ),
        (
            "e2e-missing",
            r#"{"version":"1","language":"go","executable":"nothing-here","functions":["f"]}"#,
        ),
        (
            "e2e-outside",
            r#"{"version":"1","language":"go","executable":"../car/server","functions":["f"]}"#,
        ),
        (
            "e2e-twin",
            r#"{"version":"1","language":"go","executable":"x","functions":["rank"]}"#,
        ),
    ] {
        std::fs::create_dir(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join(format!("{name}.json")), manifest).unwrap();
        std::fs::write(folder.join(name).join("x"), "#!/bin/sh\n").unwrap();
    }
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="fast")"#)
        .await;
    host.rule(
        &json!({"id": "e2e-alone", "sql": "SELECT rank(color) AS r FROM cars", "actions": [{"log": {}}]}),
    )
    .await;
    host.logged("e2e-alone").await;
    assert_eq!(
        host.get("/plugins/portables/car/status").await.json()["status"],
        "running"
    );
    let said = host.process.transcript();
    for reason in [
        "e2e-truncated",
        "unknown field `colour`",
        "nothing-here",
        "../car/server",
        "e2e-twin",
    ] {
        assert!(said.contains(reason), "{reason} is not in the log:\n{said}");
    }
}

/// The Python example, on the published SDK.
async fn pysam(ekuiper: &str, acknowledges: bool) {
    let Some(python) = testkit::python(ekuiper) else {
        return;
    };
    let _pysam = testkit::exclusive("pysam");
    let home = TempDir::new().unwrap();
    let folder = home.path().join("plugins/portable/pysam");
    std::fs::create_dir_all(&folder).unwrap();
    for file in std::fs::read_dir(example("pysam")).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            copy(&file.path(), &folder.join(file.file_name()));
        }
    }
    std::fs::create_dir_all(home.path().join("etc")).unwrap();
    let settings = format!(
        "portable:\n  pythonBin: {}\n  ackTimeout: 1000\n",
        python.display()
    );
    std::fs::write(home.path().join("etc/mangrove.yaml"), settings).unwrap();
    write_conf(home.path(), "sources", SOURCE, "default:\n  interval: 10\n");

    let results = home.path().join("results");
    let mut host = Host::start(home.path()).await;
    host.stream(&format!(
        r#"CREATE STREAM readings () WITH (TYPE="{SOURCE}", DATASOURCE="Crème brûlée!")"#
    ))
    .await;
    host.rule(&json!({
        "id": "e2e-pysam",
        "sql": format!("SELECT n, topic, {FUNCTION}(topic) AS slug FROM readings"),
        "actions": [
            {SINK: {"path": results, "requireAck": true, "sendSingle": true}},
            {"log": {}}
        ]
    }))
    .await;
    for n in 0..3 {
        let expected = json!([{"n": n, "topic": "Crème brûlée!", "slug": "creme-brulee"}]);
        assert_eq!(host.logged("e2e-pysam").await, expected);
    }
    assert_eq!(host.post("/rules/e2e-pysam/stop", &json!({})).await.status, 200);
    let written = std::fs::read_to_string(&results).unwrap();
    let first: Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!((&first["n"], &first["slug"]), (&json!(0), &json!("creme-brulee")));
    let status = host.get("/rules/e2e-pysam/status").await.json();
    let last = status[&format!("sink_{SINK}_0_0_last_exception")]
        .as_str()
        .unwrap()
        .to_owned();
    if acknowledges {
        assert_eq!(last, "", "{status}");
    } else {
        assert!(
            last.contains("acknowledge"),
            "the SDK without acknowledgements is named: {status}"
        );
    }
    host.process.signal(Signal::TERM);
    assert!(host.process.wait().await.success());
}

const SOURCE: &str = "pycount";
const SINK: &str = "pyfile";
const FUNCTION: &str = "slug";

#[tokio::test]
async fn the_published_python_sdk_2_4_2_runs_unmodified() {
    pysam("2.4.2", true).await;
}

#[tokio::test]
async fn the_published_python_sdk_1_4_0_runs_unmodified() {
    pysam("1.4.0", false).await;
}

pub(crate) fn kill(pid: u64) {
    signal(pid, Signal::KILL);
}

pub(crate) fn signal(pid: u64, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a pid");
    rustix::process::kill_process(pid, signal).expect("the plugin runs");
}
