//! Routes of streams.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use mangrove_protocol::Object;
use serde::Deserialize;
use serde_json::Value;

use super::Host;
use super::error::ApiError;
use super::request::{JsonBody, Name};
use crate::rule::StreamSummary;

pub(super) fn routes() -> Router<Host> {
    Router::new()
        .route("/streams", get(names).post(create))
        .route("/streams/{name}", get(describe).put(replace).delete(remove))
        .route("/streams/{name}/schema", get(schema))
        .route("/streamdetails", get(details))
}

/// The body of a request that carries a statement.
#[derive(Deserialize)]
#[serde(expecting = "an object with \"sql\"")]
pub(super) struct Statement {
    pub(super) sql: String,
}

#[derive(Default, Deserialize)]
struct Removal {
    #[serde(default)]
    force: String,
}

impl Removal {
    fn is_forced(&self) -> bool {
        matches!(self.force.as_str(), "1" | "t" | "T" | "true" | "True" | "TRUE")
    }
}

async fn names(State(host): State<Host>) -> Json<Vec<String>> {
    Json(host.rules.streams())
}

async fn create(
    State(host): State<Host>,
    JsonBody(statement): JsonBody<Statement>,
) -> Result<(StatusCode, String), ApiError> {
    let created = host.rules.create_stream(&statement.sql).await;
    let name = created.map_err(ApiError::stream)?;
    Ok((StatusCode::CREATED, format!("Stream {name} is created.")))
}

async fn describe(State(host): State<Host>, Name(name): Name) -> Result<Json<Value>, ApiError> {
    let stream = host.rules.describe_stream(&name);
    stream.map(Json).map_err(ApiError::stream)
}

async fn replace(
    State(host): State<Host>,
    Name(name): Name,
    JsonBody(statement): JsonBody<Statement>,
) -> Result<String, ApiError> {
    let replaced = host.rules.update_stream(&name, &statement.sql).await;
    replaced.map_err(ApiError::stream)?;
    Ok(format!("Stream {name} is replaced."))
}

async fn remove(
    State(host): State<Host>,
    Name(name): Name,
    query: Result<Query<Removal>, QueryRejection>,
) -> Result<String, ApiError> {
    let Query(removal) = query.unwrap_or_default();
    let dropped = host.rules.drop_stream(&name, removal.is_forced()).await;
    dropped.map_err(ApiError::stream)?;
    Ok(format!("Stream {name} is dropped."))
}

async fn schema(State(host): State<Host>, Name(name): Name) -> Result<Json<Object>, ApiError> {
    host.rules
        .stream_schema(&name)
        .map(Json)
        .map_err(ApiError::stream)
}

async fn details(State(host): State<Host>) -> Json<Vec<StreamSummary>> {
    Json(host.rules.stream_summaries())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn force_is_what_ekuiper_takes_for_true() {
        for (force, is_forced) in [
            ("true", true),
            ("1", true),
            ("", false),
            ("0", false),
            ("yes", false),
        ] {
            let removal = Removal {
                force: force.to_owned(),
            };
            assert_eq!(removal.is_forced(), is_forced, "{force:?}");
        }
    }
}
