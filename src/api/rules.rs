//! Routes of rules.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::Value;

use super::Host;
use super::error::ApiError;
use super::request::{JsonText, Name};
use crate::rule::RuleSummary;

pub(super) fn routes() -> Router<Host> {
    Router::new()
        .route("/rules", get(list).post(create))
        .route("/rules/validate", post(validate))
        .route("/rules/status/all", get(status_of_all))
        .route("/rules/{id}", get(definition).put(update).delete(remove))
        .route("/rules/{id}/start", post(start))
        .route("/rules/{id}/stop", post(stop))
        .route("/rules/{id}/restart", post(restart))
        .route("/rules/{id}/status", get(status))
        .route("/rules/{id}/explain", get(explain))
}

async fn list(State(host): State<Host>) -> Json<Vec<RuleSummary>> {
    Json(host.rules.rules())
}

async fn create(
    State(host): State<Host>,
    JsonText(definition): JsonText,
) -> Result<(StatusCode, String), ApiError> {
    let created = host.rules.create_rule(&definition).await;
    let id = created.map_err(ApiError::rule)?;
    let answer = format!("Rule {id} was created successfully.");
    Ok((StatusCode::CREATED, answer))
}

/// Of `/rules/validate`.
#[derive(Serialize)]
struct Validation {
    valid: bool,
    sources: Vec<String>,
}

/// A rule that could not be created is not a bad request here but an answer: 422.
async fn validate(
    State(host): State<Host>,
    JsonText(definition): JsonText,
) -> Result<Json<Validation>, ApiError> {
    match host.rules.validate_rule(&definition).await {
        Ok(sources) => Ok(Json(Validation { valid: true, sources })),
        Err(error) => {
            let error = ApiError::rule(error);
            Err(match error.status() {
                StatusCode::BAD_REQUEST => error.with_status(StatusCode::UNPROCESSABLE_ENTITY),
                _ => error,
            })
        }
    }
}

async fn definition(State(host): State<Host>, Name(id): Name) -> Result<Json<Value>, ApiError> {
    host.rules.rule(&id).map(Json).map_err(ApiError::rule)
}

/// Creates the rule when there is none, as eKuiper does.
async fn update(
    State(host): State<Host>,
    Name(id): Name,
    JsonText(definition): JsonText,
) -> Result<String, ApiError> {
    let updated = host.rules.update_rule(&id, &definition).await;
    updated.map_err(ApiError::rule)?;
    Ok(format!("Rule {id} was updated successfully."))
}

async fn remove(State(host): State<Host>, Name(id): Name) -> Result<String, ApiError> {
    host.rules.delete_rule(&id).await.map_err(ApiError::rule)?;
    Ok(format!("Rule {id} is dropped."))
}

async fn start(State(host): State<Host>, Name(id): Name) -> Result<String, ApiError> {
    host.rules.start_rule(&id).await.map_err(ApiError::rule)?;
    Ok(format!("Rule {id} was started"))
}

async fn stop(State(host): State<Host>, Name(id): Name) -> Result<String, ApiError> {
    host.rules.stop_rule(&id).await.map_err(ApiError::rule)?;
    Ok(format!("Rule {id} was stopped."))
}

async fn restart(State(host): State<Host>, Name(id): Name) -> Result<String, ApiError> {
    host.rules.restart_rule(&id).await.map_err(ApiError::rule)?;
    Ok(format!("Rule {id} was restarted"))
}

async fn status(State(host): State<Host>, Name(id): Name) -> Result<Json<Value>, ApiError> {
    host.rules.rule_status(&id).map(Json).map_err(ApiError::rule)
}

async fn explain(State(host): State<Host>, Name(id): Name) -> Result<String, ApiError> {
    host.rules.explain_rule(&id).map_err(ApiError::rule)
}

/// What `/rules/status/all` says of one rule: its state, and the node whose exception is the newest.
#[derive(Debug, PartialEq, Serialize)]
struct Digest {
    status: String,
    last_exception: String,
    exceptions_total: u64,
}

async fn status_of_all(State(host): State<Host>) -> Json<BTreeMap<String, Digest>> {
    let digest = |rule: RuleSummary| {
        // One that was deleted since the rules were listed is left out.
        let status = host.rules.rule_status(&rule.id).ok()?;
        Some((rule.id, digest(&status)))
    };
    Json(host.rules.rules().into_iter().filter_map(digest).collect())
}

fn digest(status: &Value) -> Digest {
    let times = status
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, time)| {
            let node = key.strip_suffix("_last_exception_time")?;
            let time = time.as_i64().filter(|time| *time > 0)?;
            Some((time, node))
        });
    let newest = times.max_by_key(|(time, _)| *time).map(|(_, node)| node);
    let of_newest = |figure: &str| newest.and_then(|node| status.get(format!("{node}_{figure}")));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    Digest {
        status: text(status.get("status")),
        last_exception: text(of_newest("last_exception")),
        exceptions_total: of_newest("exceptions_total")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_digest_tells_of_the_node_whose_exception_is_the_newest() {
        let status = json!({
            "status": "running",
            "source_demo_0_exceptions_total": 7,
            "source_demo_0_last_exception": "older",
            "source_demo_0_last_exception_time": 100,
            "sink_log_0_0_exceptions_total": 2,
            "sink_log_0_0_last_exception": "newer",
            "sink_log_0_0_last_exception_time": 200,
            "op_2_project_0_exceptions_total": 0,
            "op_2_project_0_last_exception": "",
            "op_2_project_0_last_exception_time": 0,
        });
        let expected = Digest {
            status: "running".to_owned(),
            last_exception: "newer".to_owned(),
            exceptions_total: 2,
        };
        assert_eq!(digest(&status), expected);
    }

    #[test]
    fn without_an_exception_only_the_state_is_told() {
        let expected = Digest {
            status: "stopped".to_owned(),
            last_exception: String::new(),
            exceptions_total: 0,
        };
        assert_eq!(digest(&json!({ "status": "stopped" })), expected);
        let quiet = json!({ "status": "stopped", "op_exceptions_total": 0, "op_last_exception_time": 0 });
        assert_eq!(digest(&quiet), expected);
    }
}
