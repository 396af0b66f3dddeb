//! Owns the REST API: routes, bodies, status codes and the HTTP server. It knows the rest of the host by its
//! handles only, decides nothing about rules and plugins, and keeps nothing. The composition root drives it.
//!
//! Paths, bodies and status codes are those of eKuiper, so that its clients work unchanged; `docs/rest.md`
//! shows every one. Errors are JSON everywhere.
//!
//! | module | what it does |
//! |---|---|
//! | `plugins`, `operate`, `streams`, `rules` | the routes |
//! | `live` | answers without an end: logs and events as they come |
//! | `request` | names in paths and bodies, bounded in size and time |
//! | `error` | the one shape of errors, and which status they have |
//! | `guard` | refuses what a browser sends on behalf of foreign pages |
//! | `serve` | connections and requests as owned tasks |

mod error;
mod guard;
mod live;
mod operate;
mod plugins;
mod request;
mod rules;
mod serve;
mod streams;

use std::time::Instant;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::guard::Guard;
use self::live::Live;
pub use self::serve::serve;
use crate::config::Rest;
use crate::{plugin, rule};

/// What the routes work on.
#[derive(Clone)]
struct Host {
    rules: rule::Handle,
    plugins: plugin::Handle,
    live: Live,
    started: Instant,
}

/// All routes over the two handles. The up time that `/` shows counts from this call. Answers without an end
/// end when `shutdown` is cancelled.
pub fn router(
    rules: rule::Handle,
    plugins: plugin::Handle,
    settings: &Rest,
    shutdown: CancellationToken,
) -> Router {
    if !guard::is_loopback(settings.address) {
        tracing::warn!(address = %settings.address, "REST has no password: whoever reaches it can run programs here");
    }
    let host = Host {
        rules,
        plugins,
        live: Live::new(shutdown),
        started: Instant::now(),
    };
    let routes = Router::new()
        .route("/", get(information).post(information))
        .route("/ping", get(StatusCode::OK))
        .merge(plugins::routes())
        .merge(operate::routes())
        .merge(streams::routes())
        .merge(rules::routes())
        .with_state(host);
    bounded(routes, settings)
}

/// What holds for every route: JSON for unknown paths and methods, limits, and the guard.
fn bounded(routes: Router, settings: &Rest) -> Router {
    routes
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::unknown_method)
        .layer(DefaultBodyLimit::max(settings.max_body))
        .layer(middleware::from_fn_with_state(
            Guard::new(settings.address),
            guard::check,
        ))
}

/// Of `/`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Information {
    version: &'static str,
    os: &'static str,
    arch: &'static str,
    up_time_seconds: u64,
    /// Why changes in the plugins' folder are not seen just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

async fn information(State(host): State<Host>) -> Json<Information> {
    Json(Information {
        version: env!("CARGO_PKG_VERSION"),
        os: std::env::consts::OS,
        arch: architecture(std::env::consts::ARCH),
        up_time_seconds: host.started.elapsed().as_secs(),
        trouble: host.plugins.trouble(),
    })
}

/// As eKuiper's clients know it: under Go's names.
fn architecture(arch: &'static str) -> &'static str {
    match arch {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests;
