//! The REST API's statuses and errors.

use serde_json::json;
use tempfile::TempDir;

use crate::host::Host;

#[tokio::test]
async fn root_and_ping_answer() {
    let home = TempDir::new().unwrap();
    let host = Host::start(home.path()).await;
    let root = host.get("/").await;
    assert_eq!(root.status, 200);
    assert_eq!(root.json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(host.get("/ping").await.status, 200);
    assert_eq!(host.get("/nothing/here").await.status, 404);
}

#[tokio::test]
async fn streams_are_created_shown_and_deleted() {
    let home = TempDir::new().unwrap();
    let host = Host::start(home.path()).await;
    let sql =
        r#"CREATE STREAM demo (size BIGINT, owner STRUCT(name STRING)) WITH (TYPE="memory", DATASOURCE="t")"#;
    host.stream(sql).await;
    assert_eq!(host.get("/streams").await.json(), json!(["demo"]));
    let shown = host.get("/streams/demo").await.json();
    assert_eq!(shown["Name"], "demo");
    assert_eq!(
        shown["StreamFields"][0],
        json!({"Name": "size", "FieldType": "bigint"})
    );
    assert_eq!(shown["Options"], json!({"datasource": "t", "type": "memory"}));

    let again = host.post("/streams", &json!({ "sql": sql })).await;
    assert!(
        again.error(400).contains("stream \"demo\" already exists"),
        "{}",
        again.body
    );
    assert_eq!(host.delete("/streams/demo").await.status, 200);
    assert_eq!(host.get("/streams/demo").await.status, 404);
    assert_eq!(host.delete("/streams/demo").await.status, 404);
    assert_eq!(host.get("/streams").await.json(), json!([]));
}

#[tokio::test]
async fn a_stream_that_a_rule_reads_is_deleted_only_by_force() {
    let home = TempDir::new().unwrap();
    let host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM demo () WITH (TYPE="memory", DATASOURCE="t")"#)
        .await;
    host.rule(&json!({"id": "r1", "sql": "SELECT * FROM demo", "actions": [{"nop": {}}]}))
        .await;
    let refused = host.delete("/streams/demo").await;
    assert!(refused.error(400).contains("r1"), "{}", refused.body);
    assert_eq!(host.delete("/streams/demo?force=true").await.status, 200);
}

#[tokio::test]
async fn what_a_request_gets_wrong_is_named() {
    let home = TempDir::new().unwrap();
    let host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM demo () WITH (TYPE="memory", DATASOURCE="t")"#)
        .await;
    let rule = |sql: &str, actions: serde_json::Value| json!({"id": "r1", "sql": sql, "actions": actions});
    let log = json!([{"log": {}}]);

    let cases = [
        (rule("SELECT * FROM nowhere", log.clone()), "nowhere"),
        (rule("SELECT * FORM demo", log.clone()), "column 10"),
        (rule("SELECT nosuch(a) FROM demo", log.clone()), "nosuch"),
        (rule("SELECT abs(a, b) FROM demo", log.clone()), "abs"),
        (
            rule("SELECT * FROM demo", json!([{"teleport": {}}])),
            "sink \"teleport\" is not found",
        ),
        (
            rule(
                "SELECT * FROM demo",
                json!([{"nop": {}}, {"memory": {"topic": 5}}]),
            ),
            "action 1, sink \"memory\"",
        ),
        (
            rule("SELECT * FROM demo", json!([{"nop": {"bufferLength": u64::MAX}}])),
            "\"bufferLength\" is 18446744073709551615",
        ),
        (
            rule("SELECT * FROM demo", json!([])),
            "\"actions\" is missing or empty",
        ),
        (
            json!({"sql": "SELECT * FROM demo", "actions": log}),
            "\"id\" is missing or empty",
        ),
    ];
    for (body, named) in cases {
        let reply = host.post("/rules", &body).await;
        assert!(reply.error(400).contains(named), "{named}: {}", reply.body);
    }
    let no_source = host
        .post(
            "/streams",
            &json!({"sql": r#"CREATE STREAM s () WITH (TYPE="teleport")"#}),
        )
        .await;
    assert!(no_source.error(400).contains("teleport"), "{}", no_source.body);
    let no_key = r#"CREATE STREAM s () WITH (TYPE="simulator", CONF_KEY="nokey")"#;
    let no_key = host.post("/streams", &json!({ "sql": no_key })).await;
    assert!(no_key.error(400).contains("nokey"), "{}", no_key.body);
    let no_topic = r#"CREATE STREAM s () WITH (TYPE="memory", DATASOURCE="a/#/b")"#;
    let no_topic = host.post("/streams", &json!({ "sql": no_topic })).await;
    assert!(no_topic.error(400).contains("a/#/b"), "{}", no_topic.body);
    assert_eq!(host.request("POST", "/rules", "{").await.status, 400);
    assert_eq!(host.get("/streams").await.json(), json!(["demo"]));
    assert_eq!(
        host.get("/rules").await.json(),
        json!([]),
        "nothing was half done"
    );
}

#[tokio::test]
async fn unknown_rules_and_plugins_are_404() {
    let home = TempDir::new().unwrap();
    let host = Host::start(home.path()).await;
    for path in [
        "/rules/none",
        "/rules/none/status",
        "/plugins/portables/none",
        "/plugins/portables/none/status",
    ] {
        assert_eq!(host.get(path).await.status, 404, "{path}");
    }
    for path in ["/rules/none/start", "/rules/none/stop", "/rules/none/restart"] {
        assert_eq!(host.post(path, &json!({})).await.status, 404, "{path}");
    }
    for path in ["/rules/none", "/plugins/portables/none", "/plugins/portable/none"] {
        assert_eq!(host.delete(path).await.status, 404, "{path}");
    }
    assert_eq!(host.get("/plugins/portables").await.json(), json!([]));
    assert_eq!(host.get("/plugins/portable").await.json(), json!([]));
}

#[tokio::test]
async fn validate_tells_a_bad_body_from_a_bad_rule() {
    let home = TempDir::new().unwrap();
    let host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM demo () WITH (TYPE="memory", DATASOURCE="t")"#)
        .await;
    let rule = |sql: &str| json!({"id": "r1", "sql": sql, "actions": [{"log": {}}]});
    assert_eq!(
        host.post("/rules/validate", &rule("SELECT a FROM demo"))
            .await
            .status,
        200
    );
    assert_eq!(
        host.post("/rules/validate", &rule("SELECT a FROM nowhere"))
            .await
            .status,
        422
    );
    assert_eq!(host.request("POST", "/rules/validate", "{").await.status, 400);
    assert_eq!(
        host.get("/rules").await.json(),
        json!([]),
        "validating creates nothing"
    );
}
