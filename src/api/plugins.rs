//! Routes of portable plugins, under eKuiper's path `/plugins/portables` and the shorter `/plugins/portable`,
//! whose list has names only. What they say and do at run time is in `operate`.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::PluginName;
use serde::{Deserialize, Serialize};

use super::Host;
use super::error::ApiError;
use super::request::{JsonBody, Name};
use crate::plugin::{self, ArchiveError, DownloadError, InstallError, InstallRequest, RemoveError};

pub(super) fn routes() -> Router<Host> {
    Router::new()
        .route("/plugins/portables", get(manifests).post(install))
        .route("/plugins/portables/{name}", one())
        .route("/plugins/portables/{name}/status", get(status))
        .route("/plugins/portables/status/all", get(status_of_all))
        .route("/plugins/portable", get(names).post(install))
        .route("/plugins/portable/{name}", one())
        .route("/plugins/portable/{name}/status", get(status))
        .route("/plugins/portable/status/all", get(status_of_all))
}

fn one() -> MethodRouter<Host> {
    get(manifest).put(update).delete(remove)
}

/// Where a plugin comes from. Other fields of eKuiper's requests are not looked at.
#[derive(Deserialize)]
#[serde(expecting = "an object with \"name\" and \"file\"")]
struct Descriptor {
    name: Option<String>,
    file: String,
    /// What the zip's SHA-256 sum has to be, in hexadecimal digits.
    sha256: Option<String>,
    /// The arguments of its `install.sh`.
    #[serde(default, rename = "shellParas")]
    shell_paras: Option<Vec<String>>,
}

impl Descriptor {
    fn request(self, name: &str) -> Result<InstallRequest, ApiError> {
        let name: PluginName = name.parse().map_err(ApiError::invalid)?;
        let sha256 = self.sha256.filter(|text| !text.is_empty());
        Ok(InstallRequest {
            sha256: sha256
                .map(|text| text.parse())
                .transpose()
                .map_err(ApiError::invalid)?,
            shell_paras: self.shell_paras.unwrap_or_default(),
            ..InstallRequest::new(name, self.file)
        })
    }
}

async fn manifests(State(host): State<Host>) -> Json<Vec<Manifest>> {
    let plugins = host.plugins.list();
    Json(plugins.into_iter().map(|plugin| plugin.manifest).collect())
}

async fn names(State(host): State<Host>) -> Json<Vec<PluginName>> {
    let plugins = host.plugins.list();
    Json(plugins.into_iter().map(|plugin| plugin.manifest.name).collect())
}

async fn install(
    State(host): State<Host>,
    JsonBody(descriptor): JsonBody<Descriptor>,
) -> Result<(StatusCode, String), ApiError> {
    let name = descriptor
        .name
        .clone()
        .ok_or_else(|| ApiError::invalid("the body has no \"name\", the plugin's"))?;
    let request = descriptor.request(&name)?;
    let installed = host.plugins.install(request).await;
    installed.map_err(|error| not_installed(&name, error))?;
    Ok((StatusCode::CREATED, format!("portable plugin {name} is created")))
}

async fn manifest(State(host): State<Host>, Name(name): Name) -> Result<Json<Manifest>, ApiError> {
    match host.plugins.get(&name) {
        Some(plugin) => Ok(Json(plugin.manifest)),
        None => Err(ApiError::not_found(match refusal(&host, &name) {
            Some(reason) => format!("plugin {name:?} was refused: {reason}"),
            None => absent(&name),
        })),
    }
}

async fn update(
    State(host): State<Host>,
    Name(name): Name,
    JsonBody(descriptor): JsonBody<Descriptor>,
) -> Result<String, ApiError> {
    if let Some(other) = descriptor.name.as_ref().filter(|other| **other != name) {
        return Err(ApiError::invalid(format!(
            "the body is about plugin {other:?}, but the path about {name:?}"
        )));
    }
    let request = descriptor.request(&name)?;
    let updated = host.plugins.update(request).await;
    updated.map_err(|error| not_installed(&name, error))?;
    Ok(format!("portable plugin {name} is updated"))
}

async fn remove(State(host): State<Host>, Name(name): Name) -> Result<String, ApiError> {
    let rules = host.rules.rules_by_plugin().remove(&name);
    let removed = host.plugins.remove(&name).await;
    removed.map_err(|error| not_removed(&name, error))?;
    let deleted = format!("portable plugin {name} is deleted");
    Ok(match rules {
        None => deleted,
        Some(rules) => {
            let rules: Vec<String> = rules.into_iter().collect();
            format!("{deleted}; rules that wait for it: {}", rules.join(", "))
        }
    })
}

/// Of `/plugins/portables/{name}/status`.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    status: plugin::Status,
    /// The rules that run, or are to run, with it: without it, they wait.
    rules: BTreeSet<String>,
}

/// A folder that was refused has a status too: why it is not used.
async fn status(State(host): State<Host>, Name(name): Name) -> Result<Json<Report>, ApiError> {
    let status = host.plugins.status(&name);
    let status = status.ok_or_else(|| ApiError::not_found(absent(&name)))?;
    let rules = host.rules.rules_by_plugin().remove(&name).unwrap_or_default();
    Ok(Json(Report { status, rules }))
}

async fn status_of_all(State(host): State<Host>) -> Json<BTreeMap<String, Report>> {
    let readable = host.plugins.list().into_iter();
    let unreadable = host.plugins.refused().into_iter();
    let names = readable.map(|plugin| plugin.manifest.name.to_string());
    let mut users = host.rules.rules_by_plugin();
    let report = |name: String| {
        // One that was removed since the plugins were listed is left out.
        let status = host.plugins.status(&name)?;
        let rules = users.remove(&name).unwrap_or_default();
        Some((name, Report { status, rules }))
    };
    let names = names.chain(unreadable.map(|(name, _)| name));
    let names = names.chain(host.plugins.coming());
    Json(names.filter_map(report).collect())
}

fn refusal(host: &Host, name: &str) -> Option<String> {
    let refused = host.plugins.refused();
    refused
        .into_iter()
        .find_map(|(folder, reason)| (folder == name).then_some(reason))
}

pub(super) fn absent(name: &str) -> String {
    format!("there is no plugin {name:?}")
}

/// What is wrong with a package is its author's or the client's to mend; only the rest is the host's fault.
fn not_installed(name: &str, error: InstallError) -> ApiError {
    match &error {
        InstallError::NotFound(_) => ApiError::not_found(error),
        InstallError::Io { source, .. }
        | InstallError::Archive(ArchiveError::Write { source, .. })
        | InstallError::Download(DownloadError::Write(source)) => {
            let what = format!("the plugin {name:?} cannot be written to the host's disk");
            ApiError::system(&error, &what, source)
        }
        InstallError::Stuck { source, .. } => {
            let what = format!(
                "the plugin {name:?} was not installed, and what was there before cannot be put back until the host \
                 starts again"
            );
            ApiError::system(&error, &what, source)
        }
        InstallError::Unrecorded { source, .. } => {
            let what = format!(
                "the plugin {name:?} is installed, but what was there before may be back when the host starts again"
            );
            ApiError::system(&error, &what, source)
        }
        InstallError::Download(DownloadError::Authorities { .. }) => ApiError::internal(error),
        InstallError::Interrupted(_) => ApiError::unavailable(error),
        _ => ApiError::invalid(error),
    }
}

fn not_removed(name: &str, error: RemoveError) -> ApiError {
    match &error {
        RemoveError::NotFound(_) => ApiError::not_found(error),
        RemoveError::Io { source, .. } => {
            let what =
                format!("the plugin {name:?} was stopped and starts again, since it cannot be removed");
            ApiError::system(&error, &what, source)
        }
        RemoveError::Interrupted(_) => ApiError::unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_where_a_package_is_and_how_it_is_installed() {
        let request = |body: &str| {
            let descriptor: Descriptor = serde_json::from_str(body).unwrap();
            descriptor.request("car")
        };
        let plain =
            request(r#"{"file":"file:///tmp/car.zip","sha256":"","shellParas":null,"more":1}"#).unwrap();
        assert_eq!(
            (plain.name.as_str(), plain.file.as_str()),
            ("car", "file:///tmp/car.zip")
        );
        assert!(plain.sha256.is_none() && plain.shell_paras.is_empty());
        let sum = "0f".repeat(32);
        let full = request(&format!(
            r#"{{"file":"f","sha256":"{sum}","shellParas":["--fast",""]}}"#
        ));
        let full = full.unwrap();
        assert_eq!(full.sha256.unwrap().to_string(), sum);
        assert_eq!(full.shell_paras, ["--fast", ""]);
        assert_eq!(
            request(r#"{"file":"f","sha256":"0f"}"#).unwrap_err().status(),
            400
        );
    }

    #[test]
    fn whoever_is_to_blame_for_a_plugin_decides_the_status() {
        let name = || -> PluginName { "car".parse().unwrap() };
        let io = || std::io::Error::other("disk full");
        let folder = || std::path::PathBuf::from("/srv/m/plugins/portable/car");
        for (error, status) in [
            (not_installed("car", InstallError::AlreadyExists(name())), 400),
            (not_installed("car", InstallError::NotFound(name())), 404),
            (
                not_installed(
                    "car",
                    InstallError::Io {
                        what: "make",
                        path: folder(),
                        source: io(),
                    },
                ),
                500,
            ),
            (
                not_installed(
                    "car",
                    InstallError::Stuck {
                        cause: Box::new(InstallError::Interrupted(name())),
                        kept: folder(),
                        source: io(),
                    },
                ),
                500,
            ),
            (
                not_installed(
                    "car",
                    InstallError::Unrecorded {
                        name: name(),
                        kept: folder(),
                        source: io(),
                    },
                ),
                500,
            ),
            (not_installed("car", InstallError::Interrupted(name())), 503),
            (not_removed("car", RemoveError::NotFound("car".to_owned())), 404),
            (
                not_removed(
                    "car",
                    RemoveError::Io {
                        path: folder(),
                        source: io(),
                    },
                ),
                500,
            ),
            (
                not_removed("car", RemoveError::Interrupted("car".to_owned())),
                503,
            ),
        ] {
            assert_eq!(error.status(), status, "{error}");
            assert!(!error.to_string().contains("/srv"), "{error}");
        }
    }

    #[test]
    fn what_the_system_says_is_told_without_the_hosts_paths() {
        let full = || std::io::Error::from_raw_os_error(28);
        // As a library hands it on, with the path in its text.
        let wrapped = std::io::Error::new(full().kind(), "no space left at /srv/m/plugins");
        let io = |source| InstallError::Io {
            what: "make a folder in",
            path: "/srv/m/plugins".into(),
            source,
        };
        let file = InstallError::Archive(ArchiveError::Write {
            name: "bin/run".to_owned(),
            source: full(),
        });
        let said =
            "the plugin \"car\" cannot be written to the host's disk: No space left on device (os error 28)";
        assert_eq!(not_installed("car", io(full())).to_string(), said);
        assert_eq!(not_installed("car", file).to_string(), said);
        let said = "the plugin \"car\" cannot be written to the host's disk: no storage space";
        assert_eq!(not_installed("car", io(wrapped)).to_string(), said);
        let kept = RemoveError::Io {
            path: "/srv/m/plugins/portable/car".into(),
            source: std::io::Error::from_raw_os_error(30),
        };
        assert_eq!(
            not_removed("car", kept).to_string(),
            "the plugin \"car\" was stopped and starts again, since it cannot be removed: \
             Read-only file system (os error 30)"
        );
    }
}
