//! Rules whose plugin goes away: they wait for it, and go on when it is back.

use serde_json::{Value, json};

use crate::documents::packed_car;
use crate::host::Host;
use crate::plugins::home_with_car;

/// Creates the stream `cars` and a rule that uses a source and a function of the plugin `car`.
async fn rule_over_car(host: &Host, options: &str, id: &str) {
    host.stream(&format!(
        r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="fast"{options})"#
    ))
    .await;
    host.rule(&json!({
        "id": id, "sql": "SELECT link(color, size) AS name FROM cars", "actions": [{"log": {}}]
    }))
    .await;
}

/// Waits until the log says that `rule` waits for its plugin.
async fn parked(host: &mut Host, rule: &str) {
    host.process
        .line("the rule to be parked", |line| {
            line.contains("rule is waiting for") && line.contains(rule)
        })
        .await;
}

async fn resumed(host: &mut Host, rule: &str) {
    host.process
        .line("the rule to go on", |line| {
            line.contains("rule is running") && line.contains(rule)
        })
        .await;
    host.logged(rule).await;
}

async fn status(host: &Host, rule: &str) -> (Value, Value) {
    let status = host.get(&format!("/rules/{rule}/status")).await.json();
    (status["status"].clone(), status["message"].clone())
}

#[tokio::test]
async fn a_rule_waits_for_a_plugin_that_is_removed_and_goes_on_when_it_is_back() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let zip = packed_car(home.path()).await;
    let install = json!({"name": "car", "file": format!("file://{}", zip.display())});
    let mut host = Host::start(home.path()).await;
    rule_over_car(&host, "", "e2e-park").await;
    host.logged("e2e-park").await;

    assert_eq!(host.delete("/plugins/portables/car").await.status, 200);
    parked(&mut host, "e2e-park").await;
    let removed = json!("waiting for plugin \"car\": the plugin \"car\" was removed");
    // What the catalog said first was that it is being removed.
    testkit::within("the reason", async {
        while status(&host, "e2e-park").await != (json!("waiting"), removed.clone()) {}
    })
    .await;
    let figures = host.get("/rules/e2e-park/status").await.json();
    assert_eq!(
        figures["sink_log_0_0_records_out_total"], figures["source_cars_0_records_out_total"],
        "what was taken in was worked off: {figures}"
    );
    let refused = host
        .post(
            "/rules",
            &json!({"id": "new", "sql": "SELECT * FROM cars", "actions": [{"nop": {}}]}),
        )
        .await;
    assert!(refused.error(400).contains("json"), "{}", refused.body);

    assert_eq!(host.post("/plugins/portables", &install).await.status, 201);
    resumed(&mut host, "e2e-park").await;
    assert_eq!(status(&host, "e2e-park").await, (json!("running"), json!("")));

    // A host that starts without the plugin parks the rule, too.
    assert!(host.interrupt().await.success());
    std::fs::remove_dir_all(home.path().join("plugins/portable/car")).unwrap();
    let mut host = Host::start(home.path()).await;
    testkit::within("the rule to be parked", async {
        while host.get("/rules").await.json()[0]["status"] != "waiting" {}
    })
    .await;
    assert_eq!(host.post("/plugins/portables", &install).await.status, 201);
    resumed(&mut host, "e2e-park").await;

    // A parked rule can be stopped, and stays so.
    assert_eq!(host.delete("/plugins/portables/car").await.status, 200);
    parked(&mut host, "e2e-park").await;
    assert_eq!(host.post("/rules/e2e-park/stop", &json!({})).await.status, 200);
    assert_eq!(host.post("/plugins/portables", &install).await.status, 201);
    assert_eq!(
        status(&host, "e2e-park").await,
        (json!("stopped"), json!("canceled manually"))
    );
    assert!(host.interrupt().await.success());
}
