//! Rules over a plugin that speaks our own contract: what it counts, it also keeps, so that what is lost or doubled
//! on the way shows.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::Host;
use crate::plugins::{copy, example};
use crate::rules::write_conf;

fn home_with_samples() -> TempDir {
    let home = TempDir::new().unwrap();
    let folder = home.path().join("plugins/portable/samples-rust");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = example("samples-rust").join("samples-rust.json");
    copy(&manifest, &folder.join("samples-rust.json"));
    let program = testkit::built("samples-rust", "samples-rust");
    copy(&program, &folder.join("samples-rust"));
    let counters = "few: {count: 1000}\nendless: {count: 0, size: 5000}\nslow: {count: 0, interval: 1}\n";
    write_conf(home.path(), "sources", "counter_rust", counters);
    home
}

/// A rule from the counter with this configuration to a file.
async fn keep(host: &Host, home: &Path, conf_key: &str) -> PathBuf {
    let kept = home.join("kept");
    let sql = format!(r#"CREATE STREAM counts () WITH (TYPE="counter_rust", CONF_KEY="{conf_key}")"#);
    host.stream(&sql).await;
    let keep = json!({"path": kept, "sendSingle": true, "requireAck": true});
    host.rule(
        &json!({"id": "r1", "sql": "SELECT n FROM counts", "actions": [{"keep_rust": keep}, {"log": {}}]}),
    )
    .await;
    kept
}

fn numbers(kept: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(kept).unwrap();
    let number = |line| {
        serde_json::from_str::<Value>(line).unwrap()["n"]
            .as_u64()
            .unwrap()
    };
    text.lines().map(number).collect()
}

fn assert_whole(kept: &[u64]) {
    let wrong = kept.iter().zip(1..).find(|(kept, expected)| **kept != *expected);
    assert!(wrong.is_none(), "{wrong:?}");
}

/// The next number that the rule brings.
async fn next_number(host: &mut Host) -> u64 {
    host.logged("r1").await[0]["n"].as_u64().unwrap()
}

#[tokio::test]
async fn a_portable_source_that_ends_ends_its_rule_after_the_last_result() {
    let _samples = testkit::exclusive("samples-rust");
    let home = home_with_samples();
    let mut host = Host::start(home.path()).await;
    let kept = keep(&host, home.path(), "few").await;
    host.process
        .line("the end of the rule", |line| {
            line.contains("its source has ended")
        })
        .await;
    assert_eq!(numbers(&kept), (1..=1000).collect::<Vec<_>>());
    assert!(host.interrupt().await.success());
}

#[tokio::test]
async fn a_rule_that_is_stopped_and_started_again_loses_and_doubles_nothing() {
    let _samples = testkit::exclusive("samples-rust");
    let home = home_with_samples();
    let mut host = Host::start(home.path()).await;
    let kept = keep(&host, home.path(), "endless").await;
    for round in 0..3 {
        if round > 0 {
            let started = host.post("/rules/r1/start", &json!({})).await;
            assert_eq!(started.status, 200, "{}", started.body);
        }
        host.logged("r1").await;
        let stopped = host.post("/rules/r1/stop", &json!({})).await;
        assert_eq!(stopped.status, 200, "{}", stopped.body);
        host.process
            .line("the end of the rule", |line| line.contains("rule stopped"))
            .await;
    }
    assert_whole(&numbers(&kept));
    assert!(host.interrupt().await.success());
}

#[tokio::test]
async fn a_source_goes_on_where_it_was_when_its_host_starts_again() {
    let _samples = testkit::exclusive("samples-rust");
    let home = home_with_samples();
    let mut host = Host::start(home.path()).await;
    let kept = keep(&host, home.path(), "slow").await;
    for _ in 0..2 {
        next_number(&mut host).await;
        assert!(host.interrupt().await.success());
        let before = numbers(&kept).len() as u64;
        assert!(before > 0);
        host = Host::start(home.path()).await;
        assert_eq!(next_number(&mut host).await, before + 1);
    }
    assert!(host.interrupt().await.success());
    assert_whole(&numbers(&kept));
}

#[tokio::test]
async fn a_source_goes_on_where_it_was_when_its_host_was_killed() {
    let _samples = testkit::exclusive("samples-rust");
    let home = home_with_samples();
    let settings = "portable: {checkpointInterval: 20}\n";
    std::fs::write(home.path().join("etc/mangrove.yaml"), settings).unwrap();
    let mut host = Host::start(home.path()).await;
    let kept = keep(&host, home.path(), "slow").await;
    let mut first = next_number(&mut host).await;
    assert_eq!(first, 1);
    // Nobody is told of checkpoints; a host may be killed before its first one.
    for _ in 0..10 {
        while next_number(&mut host).await < first + 200 {}
        host.process.kill().await;
        let text = std::fs::read_to_string(&kept).unwrap();
        // The last line may be half a one.
        let safe = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let safe = safe.filter_map(|line| line["n"].as_u64()).max().unwrap();
        host = Host::start(home.path()).await;
        let again = next_number(&mut host).await;
        assert!(again >= first && again <= safe + 1, "{first} {again} {safe}");
        if again > first {
            assert!(host.interrupt().await.success());
            return;
        }
        first = again;
    }
    panic!("it begins with {first} again and again");
}

/// A source that can go on anywhere, and a sink that answers nothing the first time and refuses the number 5.
const SILENT: &str = r#"
import json, os, time
from mangrove import Error, Plugin

plugin = Plugin()

@plugin.source("e2e_count")
def count(ctx, output):
    n = ctx.offset or 0
    while not ctx.wait(0.005):
        n += 1
        output.send({"n": n}, offset=n)

@plugin.sink("e2e_silent")
def keep(result, config):
    if result["n"] == 5:
        raise Error("five is too much")
    marker = config["path"] + ".silent"
    if result["n"] == 8 and not os.path.exists(marker):
        open(marker, "w").close()
        time.sleep(600)
    with open(config["path"], "a") as file:
        file.write(json.dumps(result) + "\n")

plugin.run()
"#;

#[tokio::test]
async fn what_a_sink_does_not_acknowledge_is_brought_again_and_what_it_refuses_is_not() {
    let Some(python) = testkit::program("python3") else {
        return;
    };
    let home = TempDir::new().unwrap();
    let folder = home.path().join("plugins/portable/silent");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = json!({
        "version": "1.0", "language": "python", "executable": "main.py",
        "environment": {"PYTHONPATH": concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/python/src")},
        "sources": ["e2e_count"], "sinks": ["e2e_silent"],
    });
    std::fs::write(folder.join("silent.json"), manifest.to_string()).unwrap();
    std::fs::write(folder.join("main.py"), SILENT).unwrap();
    std::fs::create_dir(home.path().join("etc")).unwrap();
    let limits = "ackTimeout: 1000, commandTimeout: 1000";
    let settings = format!("portable: {{{limits}, pythonBin: {}}}\n", python.display());
    std::fs::write(home.path().join("etc/mangrove.yaml"), settings).unwrap();
    let mut host = Host::start(home.path()).await;
    let kept = home.path().join("kept");
    host.stream(r#"CREATE STREAM counts () WITH (TYPE="e2e_count")"#)
        .await;
    let keep = json!({"path": kept, "sendSingle": true, "requireAck": true});
    host.rule(&json!({"id": "r1", "sql": "SELECT n FROM counts", "actions": [{"e2e_silent": keep}]}))
        .await;
    host.process
        .line("the rule to begin again", |line| {
            line.contains("rule failed") && line.contains("no acknowledgement within 1s")
        })
        .await;
    let whole = async {
        while !std::fs::read_to_string(&kept).is_ok_and(|text| text.lines().count() > 100) {
            tokio::task::yield_now().await;
        }
    };
    testkit::within("what it brings again", whole).await;
    assert!(host.interrupt().await.success());
    let mut numbers = numbers(&kept);
    numbers.sort_unstable();
    numbers.dedup();
    let expected = (1..).filter(|n| *n != 5).take(numbers.len());
    assert_eq!(numbers, expected.collect::<Vec<u64>>());
}
