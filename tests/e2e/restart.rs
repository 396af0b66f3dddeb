//! What lasts beyond a host's end.

use serde_json::json;

use crate::host::Host;
use crate::rules::home_with_cars;

#[tokio::test]
async fn rules_that_ran_run_again_and_stopped_ones_stay_stopped() {
    let home = home_with_cars();
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="simulator", CONF_KEY="cars")"#)
        .await;
    host.rule(&json!({"id": "runs", "sql": "SELECT size FROM cars", "actions": [{"log": {}}]}))
        .await;
    host.rule(&json!({"id": "rests", "sql": "SELECT size FROM cars", "actions": [{"log": {}}]}))
        .await;
    assert_eq!(host.post("/rules/rests/stop", &json!({})).await.status, 200);
    host.logged("runs").await;
    assert!(host.interrupt().await.success());

    let mut host = Host::start(home.path()).await;
    host.logged("runs").await;
    assert_eq!(host.get("/streams").await.json(), json!(["cars"]));
    assert_eq!(host.get("/rules/rests/status").await.json()["status"], "stopped");
    assert!(host.interrupt().await.success());
}

#[tokio::test]
async fn definitions_survive_a_killed_host() {
    let home = home_with_cars();
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="simulator", CONF_KEY="cars")"#)
        .await;
    host.rule(&json!({"id": "r1", "sql": "SELECT size FROM cars", "actions": [{"log": {}}]}))
        .await;
    host.process.kill().await;
    let mut host = Host::start(home.path()).await;
    assert_eq!(host.logged("r1").await, json!([{"size": 3}]));
}

#[tokio::test]
async fn a_second_host_in_the_same_home_is_refused() {
    let home = home_with_cars();
    let _host = Host::start(home.path()).await;
    let mut second = Host::spawn(home.path());
    second
        .line("why it does not start", |line| {
            line.contains("mangrove.redb") && line.contains("in use")
        })
        .await;
    assert!(!second.wait().await.success());
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let home = home_with_cars();
    let host = Host::ready(Host::spawn_without_log(home.path())).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="simulator", CONF_KEY="cars")"#)
        .await;
    host.rule(&json!({"id": "r1", "sql": "SELECT size FROM cars", "actions": [{"log": {}}]}))
        .await;
    assert_eq!(host.get("/ping").await.status, 200);

    // Nor does it change how a host ends that cannot start.
    let mut second = Host::spawn_without_log(home.path());
    assert_eq!(second.wait().await.code(), Some(1));
    assert_eq!(host.get("/ping").await.status, 200);
    assert!(host.interrupt().await.success());
}
