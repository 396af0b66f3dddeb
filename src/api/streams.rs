//! Routes of streams.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use mangrove_protocol::Object;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Host;
use super::error::ApiError;
use super::request::{JsonBody, Name};

pub(super) fn routes() -> Router<Host> {
    Router::new()
        .route("/streams", get(names).post(create))
        .route("/streams/{name}", get(describe).put(replace).delete(remove))
        .route("/streams/{name}/schema", get(schema))
        .route("/streamdetails", get(details))
}

/// The body of a request that carries a statement.
#[derive(Deserialize)]
struct Statement {
    sql: String,
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
    let stream = host.rules.describe_stream(&name).map_err(ApiError::stream)?;
    Ok(Json(properties(&stream)))
}

/// One row of `/streamdetails`.
#[derive(Debug, PartialEq, Serialize)]
struct Details {
    name: String,
    r#type: String,
    format: String,
}

async fn details(State(host): State<Host>) -> Json<Vec<Details>> {
    let describe = |name: String| {
        // One that was deleted since the names were listed is left out.
        let stream = host.rules.describe_stream(&name).ok()?;
        Some(Details {
            r#type: option(&stream, "TYPE", ""),
            format: option(&stream, "FORMAT", "json"),
            name,
        })
    };
    Json(host.rules.streams().into_iter().filter_map(describe).collect())
}

fn option(stream: &Value, key: &str, default: &str) -> String {
    let text = stream["Options"][key].as_str();
    text.unwrap_or(default).to_lowercase()
}

/// The fields of a described stream or struct as JSON-schema-like properties.
fn properties(described: &Value) -> Object {
    let fields = described["StreamFields"].as_array().into_iter().flatten();
    fields
        .filter_map(|field| Some((field["Name"].as_str()?.to_owned(), property(&field["FieldType"]))))
        .collect()
}

/// The type codes are part of eKuiper's REST API.
fn property(ty: &Value) -> Value {
    let word = match ty["Type"].as_u64() {
        Some(1) => "bigint",
        Some(2) => "float",
        Some(3) => "string",
        Some(4) => "bytea",
        Some(5) => "datetime",
        Some(6) => "boolean",
        Some(7) => return json!({ "type": "array", "items": property(&ty["FieldType"]) }),
        Some(8) => return json!({ "type": "struct", "properties": properties(ty) }),
        _ => "unknown",
    };
    json!({ "type": word })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_has_every_field_with_its_type_in_words() {
        let stream = json!({
            "Name": "demo",
            "StreamFields": [
                { "Name": "id", "FieldType": { "Type": 1 } },
                { "Name": "tags", "FieldType": { "Type": 7, "FieldType": { "Type": 3 } } },
                { "Name": "place", "FieldType": {
                    "Type": 8, "StreamFields": [{ "Name": "lat", "FieldType": { "Type": 2 } }]
                } },
            ],
            "Options": { "TYPE": "Simulator" },
        });
        let expected = json!({
            "id": { "type": "bigint" },
            "tags": { "type": "array", "items": { "type": "string" } },
            "place": { "type": "struct", "properties": { "lat": { "type": "float" } } },
        });
        assert_eq!(Value::Object(properties(&stream)), expected);
        assert_eq!(option(&stream, "TYPE", ""), "simulator");
        assert_eq!(option(&stream, "FORMAT", "json"), "json");
    }

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
