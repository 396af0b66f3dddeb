//! Rules whose plugin goes away: they wait for it, and go on when it is back.

use serde_json::{Value, json};
use testkit::process::Signal;

use crate::documents::packed_car;
use crate::host::Host;
use crate::plugins::{home_with_car, kill, signal};
use crate::rules::home_with_cars;

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

    let plugin = host.get("/plugins/portables/car/status").await.json();
    assert_eq!(plugin["rules"], json!(["e2e-park"]));
    let reply = host.delete("/plugins/portables/car").await;
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (
            200,
            "portable plugin car is deleted; rules that wait for it: e2e-park"
        )
    );
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

#[tokio::test]
async fn rules_of_a_shared_stream_wait_while_their_plugin_is_stopped() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let mut host = Host::start(home.path()).await;
    rule_over_car(&host, r#", SHARED="true""#, "e2e-one").await;
    host.rule(&json!({"id": "e2e-two", "sql": "SELECT color FROM cars", "actions": [{"nop": {}}]}))
        .await;
    host.logged("e2e-one").await;
    let mut events = host.follow("/events?plugin=car").await;
    let mut logs = host
        .follow("/plugins/portable/car/logs?lines=0&follow=true")
        .await;

    let stopped = host.post("/plugins/portables/car/stop", &json!({})).await;
    assert_eq!(
        (stopped.status, stopped.body.as_str()),
        (200, "portable plugin car is stopped")
    );
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event["plugin"], &event["state"]),
        (&json!("car"), &json!("stopped")),
        "{event}"
    );
    while !logs.next().await.unwrap()["text"]
        .as_str()
        .unwrap()
        .contains("as the host asks")
    {}
    let plugin = host.get("/plugins/portables/car/status").await.json();
    assert_eq!(
        (&plugin["status"], &plugin["rules"]),
        (&json!("stopped"), &json!(["e2e-one", "e2e-two"]))
    );
    let waiting = json!("waiting for plugin \"car\": the plugin \"car\" is stopped");
    for rule in ["e2e-one", "e2e-two"] {
        assert_eq!(status(&host, rule).await, (json!("waiting"), waiting.clone()));
    }

    let started = host.post("/plugins/portables/car/start", &json!({})).await;
    assert_eq!(started.status, 200, "{}", started.body);
    resumed(&mut host, "e2e-one").await;
    let old = host.get("/plugins/portables/car/status").await.json();
    let restarted = host.post("/plugins/portables/car/restart", &json!({})).await;
    assert_eq!(restarted.status, 200, "{}", restarted.body);
    let new = host.get("/plugins/portables/car/status").await.json();
    assert_ne!(old["pid"], new["pid"]);
    // What each process said last, the newest behind.
    let lines = host.get("/plugins/portables/car/logs").await.json();
    let goodbyes = lines
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["text"] == "info: stopping, as the host asks");
    assert_eq!(goodbyes.count(), 2, "{lines}");

    for path in ["none/start", "none/stop", "none/restart"] {
        let reply = host.post(&format!("/plugins/portables/{path}"), &json!({})).await;
        assert!(reply.error(404).contains("\"none\""), "{}", reply.body);
    }
    assert_eq!(host.get("/plugins/portables/none/logs").await.status, 404);
    assert_eq!(host.get("/plugins/portables/car/logs?lines=x").await.status, 400);
    let lines = host.get("/plugins/portables/car/logs?lines=1").await.json();
    assert_eq!(lines.as_array().unwrap().len(), 1, "{lines}");

    assert_eq!(host.delete("/plugins/portables/car").await.status, 200);
    while logs.next().await.is_some() {}
    assert_eq!(host.get("/plugins/portables/car/logs").await.status, 404);
    assert!(host.interrupt().await.success());
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn a_folder_that_is_taken_away_and_put_back_does_the_same() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let (folder, away) = (home.path().join("plugins/portable/car"), home.path().join("car"));
    let mut host = Host::start(home.path()).await;
    rule_over_car(&host, "", "e2e-drop").await;
    host.logged("e2e-drop").await;
    for _ in 0..2 {
        std::fs::rename(&folder, &away).unwrap();
        parked(&mut host, "e2e-drop").await;
        std::fs::rename(&away, &folder).unwrap();
        resumed(&mut host, "e2e-drop").await;
    }
    assert!(host.interrupt().await.success());
}

#[tokio::test]
async fn trouble_with_the_plugins_folder_is_shown_and_stops_nothing() {
    let home = home_with_cars();
    let folder = home.path().join("plugins/portable");
    let mut host = Host::start(home.path()).await;
    assert_eq!(host.get("/").await.json().get("trouble"), None);
    std::fs::remove_dir(&folder).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    let shown = testkit::within("the trouble", async {
        loop {
            if let Some(trouble) = host.get("/").await.json().get("trouble") {
                return trouble.as_str().unwrap().to_owned();
            }
        }
    })
    .await;
    assert!(shown.contains("plugins/portable"), "{shown}");
    host.process
        .line("the same in the log", |line| line.contains("cannot read"))
        .await;
    assert!(host.interrupt().await.success());
}

#[tokio::test]
async fn a_rule_that_is_still_being_opened_lets_go_of_its_plugin() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    // A command may take an hour.
    let settings = "portable:\n  commandTimeout: 3600000\n  stopGrace: 100\n";
    std::fs::write(home.path().join("etc/mangrove.yaml"), settings).unwrap();
    let mut host = Host::start(home.path()).await;
    let plugin = || async { host.get("/plugins/portables/car/status").await.json() };
    let pid = testkit::within("the plugin", async {
        loop {
            let plugin = plugin().await;
            if plugin["status"] == "running" {
                return plugin["pid"].as_u64().unwrap();
            }
        }
    })
    .await;
    // Nor will it be answered.
    signal(pid, Signal::STOP);
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="fast")"#)
        .await;
    host.rule(&json!({"id": "e2e-mute", "sql": "SELECT * FROM cars", "actions": [{"nop": {}}]}))
        .await;
    testkit::within("the rule to open its source", async {
        while plugin().await["refCount"] != json!({"e2e-mute": 1}) {}
    })
    .await;
    assert_eq!(status(&host, "e2e-mute").await.0, "starting");
    assert_eq!(host.delete("/plugins/portables/car").await.status, 200);
    parked(&mut host, "e2e-mute").await;
    assert!(!host.process.transcript().contains("have not let go"));
    assert!(host.interrupt().await.success());
}

#[tokio::test]
async fn a_rule_waits_for_a_plugin_that_was_given_up_and_goes_on_when_it_is_started_or_updated() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    std::fs::write(
        home.path().join("etc/mangrove.yaml"),
        "portable:\n  restartLimit: 1\n",
    )
    .unwrap();
    let zip = packed_car(home.path()).await;
    let update = json!({"name": "car", "file": format!("file://{}", zip.display())});
    let mut host = Host::start(home.path()).await;
    rule_over_car(&host, "", "e2e-failed").await;
    for way in ["start", "update"] {
        host.logged("e2e-failed").await;
        let plugin = host.get("/plugins/portables/car/status").await.json();
        kill(plugin["pid"].as_u64().expect("it runs"));
        parked(&mut host, "e2e-failed").await;
        let plugin = host.get("/plugins/portables/car/status").await.json();
        assert_eq!(plugin["status"], "failed", "{plugin}");
        let reason = plugin["errMsg"].as_str().unwrap();
        assert!(reason.ends_with("given up after failure 1"), "{reason}");
        let waiting = format!("waiting for plugin \"car\": the plugin \"car\" has failed: {reason}");
        assert_eq!(
            status(&host, "e2e-failed").await,
            (json!("waiting"), json!(waiting))
        );
        let reply = match way {
            "start" => host.post("/plugins/portables/car/start", &json!({})).await,
            _ => host.put("/plugins/portables/car", &update).await,
        };
        assert_eq!(reply.status, 200, "{}", reply.body);
        resumed(&mut host, "e2e-failed").await;
        assert_eq!(status(&host, "e2e-failed").await.0, "running");
    }
    assert!(host.interrupt().await.success());
}
