//! Routes of plugins at run time: started and stopped by hand, what their processes say, and what happens to
//! them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Host;
use super::error::ApiError;
use super::plugins::absent;
use super::request::Name;
use crate::plugin::{self, ControlError};

pub(super) fn routes() -> Router<Host> {
    let of_one = Router::new()
        .route("/{name}/start", post(start))
        .route("/{name}/stop", post(stop))
        .route("/{name}/restart", post(restart))
        .route("/{name}/attach", post(attach))
        .route("/{name}/logs", get(logs));
    Router::new()
        .nest("/plugins/portables", of_one.clone())
        .nest("/plugins/portable", of_one)
        .route("/events", get(events))
}

async fn start(State(host): State<Host>, Name(name): Name) -> Result<String, ApiError> {
    host.plugins.start(&name).await.map_err(not_done)?;
    Ok(format!("portable plugin {name} is started"))
}

async fn stop(State(host): State<Host>, Name(name): Name) -> Result<String, ApiError> {
    host.plugins.stop(&name).await.map_err(not_done)?;
    Ok(format!("portable plugin {name} is stopped"))
}

async fn restart(State(host): State<Host>, Name(name): Name) -> Result<String, ApiError> {
    host.plugins.restart(&name).await.map_err(not_done)?;
    Ok(format!("portable plugin {name} is restarted"))
}

async fn attach(State(host): State<Host>, Name(name): Name) -> Result<Json<Value>, ApiError> {
    let environment = host.plugins.attach(&name).await.map_err(not_done)?;
    let environment: BTreeMap<String, String> = environment.into_iter().collect();
    Ok(Json(json!({
        "message": format!("portable plugin {name} waits for a process that you start"),
        "environment": environment,
    })))
}

fn not_done(error: ControlError) -> ApiError {
    match error {
        ControlError::NotFound(_) => ApiError::not_found(error),
        ControlError::Interrupted(_) => ApiError::unavailable(error),
        ControlError::Refused { .. } | ControlError::Failed { .. } => ApiError::invalid(error),
    }
}

#[derive(Deserialize)]
struct Logs {
    /// The last so many; all that are kept when absent.
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

/// A line of a plugin's process.
#[derive(Debug, PartialEq, Serialize)]
struct Line {
    at: u64,
    stream: &'static str,
    text: String,
}

impl From<plugin::Line> for Line {
    fn from(line: plugin::Line) -> Self {
        Self {
            at: since_epoch(line.at),
            stream: match line.stream {
                plugin::Stream::Stdout => "stdout",
                plugin::Stream::Stderr => "stderr",
                plugin::Stream::Log => "log",
            },
            text: line.text,
        }
    }
}

async fn logs(
    State(host): State<Host>,
    Name(name): Name,
    query: Result<Query<Logs>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(wanted) = query.map_err(unreadable)?;
    let Some((mut lines, rest)) = host.plugins.follow_output(&name) else {
        return Err(ApiError::not_found(match host.plugins.status(&name) {
            Some(_) => format!("nothing of the plugin {name:?} has run yet"),
            None => absent(&name),
        }));
    };
    let skipped = lines.len().saturating_sub(wanted.lines.unwrap_or(usize::MAX));
    lines.drain(..skipped);
    if wanted.follow {
        return host.live.follow(lines, rest, |line| Some(Line::from(line)));
    }
    let lines: Vec<Line> = lines.into_iter().map(Line::from).collect();
    Ok(Json(lines).into_response())
}

#[derive(Deserialize)]
struct Events {
    /// Only what happens to this one.
    plugin: Option<String>,
}

/// A plugin's state has changed.
#[derive(Debug, PartialEq, Serialize)]
struct Change {
    at: u64,
    plugin: String,
    version: Option<String>,
    state: plugin::State,
    reason: String,
    pid: Option<u32>,
}

impl From<plugin::Event> for Change {
    fn from(event: plugin::Event) -> Self {
        Self {
            at: since_epoch(event.at),
            plugin: event.plugin,
            version: event.version,
            state: event.state,
            reason: event.reason,
            pid: event.pid,
        }
    }
}

async fn events(
    State(host): State<Host>,
    query: Result<Query<Events>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(wanted) = query.map_err(unreadable)?;
    let show = move |event: plugin::Event| {
        let is_wanted = wanted.plugin.as_ref().is_none_or(|name| *name == event.plugin);
        is_wanted.then(|| Change::from(event))
    };
    host.live.follow(Vec::new(), host.plugins.events(), show)
}

fn unreadable(error: QueryRejection) -> ApiError {
    ApiError::invalid(format!("the query cannot be read: {}", error.body_text()))
}

/// Milliseconds; 0 for what is before 1970.
fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn whoever_is_to_blame_for_a_command_decides_the_status() {
        let name = || "car".to_owned();
        let reason = || "exit code 3".to_owned();
        for (error, status) in [
            (ControlError::NotFound(name()), 404),
            (
                ControlError::Refused {
                    name: name(),
                    reason: reason(),
                },
                400,
            ),
            (
                ControlError::Failed {
                    name: name(),
                    reason: reason(),
                },
                400,
            ),
            (ControlError::Interrupted(name()), 503),
        ] {
            assert_eq!(not_done(error).status(), status);
        }
    }

    #[test]
    fn lines_and_events_have_their_time_in_milliseconds() {
        let at = UNIX_EPOCH + Duration::from_millis(1_795_359_600_123);
        let line = Line::from(plugin::Line {
            at,
            stream: plugin::Stream::Stderr,
            text: "no".to_owned(),
        });
        assert_eq!(
            serde_json::to_value(line).unwrap(),
            json!({"at": 1_795_359_600_123_u64, "stream": "stderr", "text": "no"})
        );
        let change = Change::from(plugin::Event {
            at,
            plugin: "car".to_owned(),
            version: Some("v1".to_owned()),
            state: plugin::State::Running,
            reason: String::new(),
            pid: Some(7),
        });
        assert_eq!(
            serde_json::to_value(change).unwrap(),
            json!({
                "at": 1_795_359_600_123_u64, "plugin": "car", "version": "v1", "state": "running", "reason": "",
                "pid": 7
            })
        );
    }
}
