//! Rules over the sample plugin of each SDK, which speak our own contract: what they count, they also keep, so that what
//! is lost or doubled on the way shows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::Host;
use crate::languages::{GO, NODE, PYTHON, RUST, Sample};
use crate::rules::write_conf;

const COUNTERS: &str = "few: {count: 1000}\nendless: {count: 0, size: 5000}\nslow: {count: 0, interval: 1}\n";

/// A home with this plugin in it.
fn home_with(sample: &Sample) -> Option<TempDir> {
    let home = sample.home()?;
    write_conf(home.path(), "sources", &sample.symbol("counter"), COUNTERS);
    Some(home)
}

/// A rule from the counter with this configuration to a file.
async fn keep(sample: &Sample, host: &Host, home: &Path, conf_key: &str, fields: &str) -> PathBuf {
    let kept = home.join("kept");
    let (counter, sink) = (sample.symbol("counter"), sample.symbol("keep"));
    let sql = format!(r#"CREATE STREAM counts () WITH (TYPE="{counter}", CONF_KEY="{conf_key}")"#);
    host.stream(&sql).await;
    let keep = json!({"path": kept, "sendSingle": true, "requireAck": true});
    let sql = format!("SELECT {fields} FROM counts");
    host.rule(&json!({"id": "r1", "sql": sql, "actions": [{sink: keep}, {"log": {}}]}))
        .await;
    kept
}

/// What has been kept of a field.
fn numbers(kept: &Path, field: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(kept).unwrap();
    let number = |line| {
        serde_json::from_str::<Value>(line).unwrap()[field]
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

/// A source that ends, ends its rule after the last result; functions have been called for every tuple.
async fn ends(sample: &Sample) {
    let _samples = testkit::exclusive(&sample.name());
    let Some(home) = home_with(sample) else { return };
    let mut host = Host::start(home.path()).await;
    let [echo, slow, tally] = ["echo", "slow", "tally"].map(|function| sample.symbol(function));
    let fields = format!(r#"{echo}(n) AS n, {slow}(1, n) AS late, {tally}("all") AS tally"#);
    let kept = keep(sample, &host, home.path(), "few", &fields).await;
    host.process
        .line("the end of the rule", |line| {
            line.contains("its source has ended")
        })
        .await;
    let all = (1..=1000).collect::<Vec<_>>();
    assert_eq!(numbers(&kept, "n"), all);
    assert_eq!(numbers(&kept, "late"), all);
    // Calls of one rule run together, so they may count in another order.
    let mut tallies = numbers(&kept, "tally");
    tallies.sort_unstable();
    assert_eq!(tallies, all);
    assert!(host.interrupt().await.success());
}

/// A rule that is stopped and started again loses and doubles nothing.
async fn starts_again(sample: &Sample) {
    let _samples = testkit::exclusive(&sample.name());
    let Some(home) = home_with(sample) else { return };
    let mut host = Host::start(home.path()).await;
    let kept = keep(sample, &host, home.path(), "endless", "n").await;
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
    assert_whole(&numbers(&kept, "n"));
    assert!(host.interrupt().await.success());
}

/// A source goes on where it was when its host starts again.
async fn goes_on(sample: &Sample) {
    let _samples = testkit::exclusive(&sample.name());
    let Some(home) = home_with(sample) else { return };
    let mut host = Host::start(home.path()).await;
    let kept = keep(sample, &host, home.path(), "slow", "n").await;
    for _ in 0..2 {
        next_number(&mut host).await;
        assert!(host.interrupt().await.success());
        let before = numbers(&kept, "n").len() as u64;
        assert!(before > 0);
        host = Host::start(home.path()).await;
        assert_eq!(next_number(&mut host).await, before + 1);
    }
    assert!(host.interrupt().await.success());
    assert_whole(&numbers(&kept, "n"));
}

macro_rules! with_each_sdk {
    ($($behaviour:ident: $rust:ident $python:ident $go:ident $node:ident;)+) => {$(
        #[tokio::test]
        async fn $rust() {
            $behaviour(&RUST).await;
        }

        #[tokio::test]
        async fn $python() {
            $behaviour(&PYTHON).await;
        }

        #[tokio::test]
        async fn $go() {
            $behaviour(&GO).await;
        }

        #[tokio::test]
        async fn $node() {
            $behaviour(&NODE).await;
        }
    )+};
}

with_each_sdk! {
    ends: a_rule_ends_with_a_rust_source a_rule_ends_with_a_python_source
        a_rule_ends_with_a_go_source a_rule_ends_with_a_node_source;
    starts_again: a_rule_over_rust_starts_again a_rule_over_python_starts_again
        a_rule_over_go_starts_again a_rule_over_node_starts_again;
    goes_on: a_rust_source_goes_on_where_it_was a_python_source_goes_on_where_it_was
        a_go_source_goes_on_where_it_was a_node_source_goes_on_where_it_was;
}

#[tokio::test]
async fn a_source_goes_on_where_it_was_when_its_host_was_killed() {
    let _samples = testkit::exclusive("samples-rust");
    let home = home_with(&RUST).expect("Rust is here");
    let settings = "portable: {checkpointInterval: 20}\n";
    std::fs::write(home.path().join("etc/mangrove.yaml"), settings).unwrap();
    let mut host = Host::start(home.path()).await;
    let kept = keep(&RUST, &host, home.path(), "slow", "n").await;
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
    let _silent = testkit::exclusive("silent");
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
            // Nobody tells of what is in a file.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    testkit::within("what it brings again", whole).await;
    assert!(host.interrupt().await.success());
    let mut numbers = numbers(&kept, "n");
    numbers.sort_unstable();
    numbers.dedup();
    let expected = (1..).filter(|n| *n != 5).take(numbers.len());
    assert_eq!(numbers, expected.collect::<Vec<u64>>());
}
