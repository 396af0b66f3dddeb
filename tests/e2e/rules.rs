//! Rules over the built-in sources and sinks.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::host::Host;

/// A home folder whose simulator has a conf key `cars`.
pub(crate) fn home_with_cars() -> TempDir {
    let home = TempDir::new().unwrap();
    write_conf(home.path(), "sources", "simulator", CARS);
    home
}

const CARS: &str = "
cars:
  interval: 5
  data:
    - {color: red, size: 3, owner: {name: Ann, keys: [1, 2]}}
    - {color: yellow, size: 2, owner: {name: Bob, keys: [3]}}
    - {color: blue, size: 1, owner: {name: Cid, keys: []}}
";

pub(crate) fn write_conf(home: &Path, kind: &str, name: &str, text: &str) {
    let folder = home.join("etc").join(kind);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
}

#[tokio::test]
async fn a_rule_filters_and_selects() {
    let home = home_with_cars();
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="simulator", CONF_KEY="cars")"#)
        .await;
    host.rule(&json!({
        "id": "big",
        "sql": "SELECT upper(color) AS paint, size * 2 + 1 AS n, owner->name AS who, owner->keys[0] AS first,
                CASE WHEN size > 2 THEN 'large' ELSE 'medium' END AS class
                FROM cars WHERE size BETWEEN 2 AND 3 AND color LIKE '%e%' AND NOT color IN ('blue', 'green')",
        "actions": [{"log": {}}]
    }))
    .await;
    assert_eq!(
        host.logged("big").await,
        json!([{"paint": "RED", "n": 7, "who": "Ann", "first": 1, "class": "large"}])
    );
    assert_eq!(
        host.logged("big").await,
        json!([{"paint": "YELLOW", "n": 5, "who": "Bob", "first": 3, "class": "medium"}])
    );
}

#[tokio::test]
async fn send_single_sends_objects() {
    let home = home_with_cars();
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="simulator", CONF_KEY="cars")"#)
        .await;
    host.rule(
        &json!({"id": "one", "sql": "SELECT size FROM cars", "actions": [{"log": {"sendSingle": true}}]}),
    )
    .await;
    assert_eq!(host.logged("one").await, json!({"size": 3}));
}

#[tokio::test]
async fn rules_feed_rules_through_memory_topics() {
    let home = home_with_cars();
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM big () WITH (TYPE="memory", DATASOURCE="cars/+")"#)
        .await;
    host.rule(&json!({
        "id": "second", "sql": "SELECT color, meta(topic) AS topic FROM big", "actions": [{"log": {}}]
    }))
    .await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="simulator", CONF_KEY="cars")"#)
        .await;
    host.rule(&json!({
        "id": "first", "sql": "SELECT * FROM cars WHERE size = 3", "actions": [{"memory": {"topic": "cars/big"}}]
    }))
    .await;
    assert_eq!(
        host.logged("second").await,
        json!([{"color": "red", "topic": "cars/big"}])
    );
}

#[tokio::test]
async fn the_status_counts_under_the_published_names() {
    let home = home_with_cars();
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="simulator", CONF_KEY="cars")"#)
        .await;
    host.rule(&json!({"id": "r1", "sql": "SELECT * FROM cars WHERE size > 1", "actions": [{"log": {}}]}))
        .await;
    for _ in 0..3 {
        host.logged("r1").await;
    }
    let status = host.get("/rules/r1/status").await.json();
    assert_eq!(status["status"], "running");
    assert!(
        status["source_cars_0_records_in_total"].as_u64() >= Some(4),
        "{status}"
    );
    assert!(
        status["op_project_0_records_out_total"].as_u64() >= Some(3),
        "{status}"
    );
    assert!(
        status["sink_log_0_0_records_out_total"].as_u64() >= Some(2),
        "{status}"
    );
    assert_eq!(status["sink_log_0_0_exceptions_total"], 0);
    assert!(status["lastStartTimestamp"].as_i64() > Some(0), "{status}");
}

#[tokio::test]
async fn a_row_that_cannot_be_evaluated_is_counted_and_the_rule_goes_on() {
    let home = TempDir::new().unwrap();
    let mixed = "mixed:\n  interval: 5\n  data:\n    - {a: text}\n    - {a: 1}\n";
    write_conf(home.path(), "sources", "simulator", mixed);
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM mixed () WITH (TYPE="simulator", CONF_KEY="mixed")"#)
        .await;
    host.rule(&json!({"id": "r1", "sql": "SELECT a + 1 AS b FROM mixed", "actions": [{"log": {}}]}))
        .await;
    assert_eq!(host.logged("r1").await, json!([{"b": 2}]));
    let status = host.get("/rules/r1/status").await.json();
    assert!(
        status["op_project_0_exceptions_total"].as_u64() >= Some(1),
        "{status}"
    );
    assert_ne!(status["op_project_0_last_exception"], "");
}

#[tokio::test]
async fn rules_are_stopped_started_replaced_and_deleted() {
    let home = home_with_cars();
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="simulator", CONF_KEY="cars")"#)
        .await;
    let definition = json!({"id": "r1", "sql": "SELECT size FROM cars", "actions": [{"log": {}}]});
    host.rule(&definition).await;
    host.logged("r1").await;
    assert_eq!(host.get("/rules/r1").await.json(), definition);
    assert!(
        host.post("/rules", &definition)
            .await
            .error(400)
            .contains("already exists")
    );

    assert_eq!(host.post("/rules/r1/stop", &json!({})).await.status, 200);
    let status = host.get("/rules/r1/status").await.json();
    assert_eq!(
        (&status["status"], &status["message"]),
        (&json!("stopped"), &json!("canceled manually"))
    );
    assert_eq!(host.post("/rules/r1/start", &json!({})).await.status, 200);
    // What the first run had logged is passed over.
    host.process
        .line("the second run", |line| line.contains("rule stopped"))
        .await;
    host.process
        .line("the second run", |line| line.contains("rule is running"))
        .await;
    assert_eq!(host.logged("r1").await, json!([{"size": 3}]));
    assert_eq!(host.post("/rules/r1/restart", &json!({})).await.status, 200);
    host.process
        .line("the third run", |line| line.contains("rule is running"))
        .await;

    let refused = json!({"sql": "SELECT x FROM nowhere", "actions": [{"log": {}}]});
    assert_eq!(host.put("/rules/r1", &refused).await.status, 400);
    assert_eq!(host.get("/rules/r1/status").await.json()["status"], "running");
    let replaced = json!({"sql": "SELECT color FROM cars WHERE size = 1", "actions": [{"log": {}}]});
    assert_eq!(host.put("/rules/r1", &replaced).await.status, 200);
    host.process
        .line("a result of the new rule", |line| {
            line.ends_with(r#"[{"color":"blue"}]"#)
        })
        .await;

    assert_eq!(host.delete("/rules/r1").await.status, 200);
    assert_eq!(host.get("/rules/r1").await.status, 404);
    assert_eq!(host.get("/rules").await.json(), json!([]));
}

#[tokio::test]
async fn a_source_that_ends_ends_its_rule_after_the_last_result() {
    let home = TempDir::new().unwrap();
    write_conf(
        home.path(),
        "sources",
        "simulator",
        "few:\n  interval: 0\n  loop: false\n  data: [{n: 1}, {n: 2}, {n: 3}]\n",
    );
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM few () WITH (TYPE="simulator", CONF_KEY="few")"#)
        .await;
    host.rule(&json!({"id": "r1", "sql": "SELECT n FROM few", "actions": [{"log": {}}]}))
        .await;
    for n in 1..=3 {
        assert_eq!(host.logged("r1").await, json!([{ "n": n }]));
    }
    host.process
        .line("the end of the rule", |line| {
            line.contains("its source has ended")
        })
        .await;
    let status = host.get("/rules/r1/status").await.json();
    assert_eq!(status["sink_log_0_0_records_out_total"], 3);
}
