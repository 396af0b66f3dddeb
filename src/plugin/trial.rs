//! Owns a plugin's folder and its process outside of a host: checked, called and guarded as a host does it, but driven
//! by whoever tries the plugin out. Knows nothing of what is said on channels; the conformance kit and the tools for
//! authors drive it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::PluginName;
use rustix::process::Pid;

use super::checksum::Checksum;
use super::error::InstallError;
use super::inspect::{self, Whole};
use super::install::{self, InstallRequest};
use super::output::Output;
use super::peers::Peers;
use super::process::{Ending, Process, Spawner};
use super::{environment, guard, script};
use crate::config::Portable;

/// How many lines of a process are kept.
const LINES: usize = 1000;

/// Why a folder is no plugin that could be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// The folder cannot be found.
    #[error("cannot find the plugin's folder {}: {source}", path.display())]
    Folder {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A host would not take it either.
    #[error("{} is no plugin: {reason}", path.display())]
    Unfit {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Its Python environment cannot be built.
    #[error(transparent)]
    Environment(#[from] super::EnvironmentError),
    /// The system does not start it.
    #[error("cannot start the plugin: {0}")]
    Start(#[source] io::Error),
}

/// A plugin's folder in which all is there that a host looks for.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    whole: Whole,
    portable: PathBuf,
}

impl Candidate {
    /// Checks `folder` as a host does when it finds one. Blocking.
    pub(crate) fn inspect(folder: &Path) -> Result<Self, TrialError> {
        let found = folder.canonicalize().map_err(|source| TrialError::Folder {
            path: folder.to_owned(),
            source,
        })?;
        let unfit = |reason: &str| TrialError::Unfit {
            path: found.clone(),
            reason: reason.to_owned(),
        };
        let name = found.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| unfit("its folder has no name that a plugin could have"))?;
        let portable = found.parent().unwrap_or(&found).to_owned();
        let whole = inspect::inspect(name, &portable).map_err(|error| unfit(error.reason()))?;
        Ok(Self { whole, portable })
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.whole.manifest
    }

    /// Without links.
    pub(crate) fn folder(&self) -> PathBuf {
        self.portable.join(self.whole.manifest.name.as_str())
    }

    /// The manifest and the program, relative to the folder.
    pub(crate) fn core(&self) -> &[PathBuf] {
        &self.whole.core
    }

    /// Builds the Python environment that its manifest asks for, unless it is there. Minutes may go by.
    ///
    /// # Cancel safety
    /// What was begun is begun anew by the next call.
    pub(crate) async fn prepare(&self, settings: &Portable) -> Result<(), TrialError> {
        let settings = Arc::new(settings.clone());
        let spawner = Spawner::new(settings.guard.clone());
        let (spawner, limit) = (&spawner, settings.install_timeout);
        let output = &Arc::new(Output::new(self.manifest().name.as_str(), LINES));
        let run = |launch| async move { script::run(spawner, &launch, output, limit).await };
        environment::prepare(&self.whole.manifest, &self.folder(), &settings, run).await?;
        Ok(())
    }

    /// Starts a process, with `variables` on top of what the manifest says.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, no process is left.
    pub(crate) async fn start(
        &self,
        settings: &Portable,
        variables: BTreeMap<String, String>,
    ) -> Result<Trial, TrialError> {
        let assignment = self.whole.assignment(&self.portable, settings);
        let mut launch = assignment.map_err(|reason| self.unfit(reason))?.launch;
        launch.environment.extend(variables);
        let name = self.manifest().name.as_str();
        let (output, peers) = (
            Arc::new(Output::new(name, LINES)),
            Peers::new(name, true, Default::default()),
        );
        let spawner = Spawner::new(settings.guard.clone());
        let process = spawner.spawn(&launch, &output, &Arc::new(peers)).await;
        Ok(Trial {
            process: process.map_err(TrialError::Start)?,
            output,
        })
    }

    fn unfit(&self, reason: String) -> TrialError {
        let path = self.folder();
        TrialError::Unfit { path, reason }
    }
}

/// Unpacks and checks a package below the folder `scratch` as an installation does, and says what its sum is.
///
/// # Errors
/// What an installation would say.
pub(crate) async fn check_package(
    name: &PluginName,
    package: &Path,
    scratch: &Path,
    settings: &Portable,
) -> Result<Checksum, InstallError> {
    let open = |source| InstallError::Open {
        path: package.to_owned(),
        source,
    };
    let request = InstallRequest::new(name.clone(), super::reconcile::file_url(package));
    let staged = install::stage(&request, scratch, settings).await?;
    staged.clean().await;
    let path = package.to_owned();
    let sum = tokio::task::spawn_blocking(move || Checksum::read(std::fs::File::open(path)?)).await;
    sum.map_err(io::Error::other).flatten().map_err(open)
}

/// What the processes of a plugin use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Memory of their own, in bytes.
    pub(crate) memory: u64,
    /// Open files and sockets.
    pub(crate) files: usize,
    pub(crate) processes: usize,
}

/// A process of a plugin. Dropped: killed with everything that it started.
#[derive(Debug)]
pub(crate) struct Trial {
    process: Process,
    output: Arc<Output>,
}

/// How a process has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Its exit status, unless a signal ended it.
    pub(crate) status: Option<i32>,
    /// In words.
    pub(crate) text: String,
    /// How many processes it has left behind.
    pub(crate) left: usize,
}

impl Trial {
    /// Asks it to end as a host does that is in no hurry.
    pub(crate) fn terminate(&self) {
        self.process.terminate();
    }

    /// Waits until it has ended by itself, or was told to.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.process.ended().await
    }

    /// Ends whatever is left of it, and says how it ended.
    pub(crate) async fn reap(self) -> End {
        let ending = self.process.reap().await;
        let lines = self.output.lines();
        let left = lines.iter().find_map(|line| line.text.strip_prefix(guard::LEFT));
        End {
            status: match ending {
                Ending::Exited(status) => Some(status),
                _ => None,
            },
            text: ending.to_string(),
            left: left.and_then(|number| number.parse().ok()).unwrap_or_default(),
        }
    }

    /// What it and everything that it has started uses now.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let root = i32::try_from(self.process.root()).ok().and_then(Pid::from_raw);
        let root = root.ok_or(io::ErrorKind::NotFound)?;
        let mut usage = Usage::default();
        for pid in guard::descendants(root)? {
            let place = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
            // Whoever ends meanwhile uses nothing.
            let files = std::fs::read_dir(place.join("fd")).map_or(0, Iterator::count);
            let status = std::fs::read_to_string(place.join("status")).unwrap_or_default();
            usage.memory += resident(&status);
            usage.files += files;
            usage.processes += 1;
        }
        Ok(usage)
    }

    /// What it has written to standard error last, if anything.
    pub(crate) fn last_words(&self) -> Option<String> {
        self.output.last_error(SystemTime::UNIX_EPOCH)
    }
}

/// The memory in bytes that a process has to itself, by its `status` in `/proc`.
fn resident(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or_default().saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn candidate(script: &str) -> (tempfile::TempDir, Result<Candidate, TrialError>) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("car");
        std::fs::create_dir(&folder).unwrap();
        let manifest = r#"{"version":"1","language":"sh","executable":"run","sources":["s"]}"#;
        std::fs::write(folder.join("car.json"), manifest).unwrap();
        std::fs::write(folder.join("run"), format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(folder.join("run"), PermissionsExt::from_mode(0o755)).unwrap();
        let candidate = Candidate::inspect(&folder);
        (home, candidate)
    }

    /// Without a guard between: unit tests have no program that would be one but themselves.
    async fn start(candidate: &Candidate) -> Trial {
        let settings = crate::plugin::test_settings();
        let assignment = candidate.whole.assignment(&candidate.portable, &settings);
        let output = Arc::new(Output::new("car", LINES));
        let process = Spawner::of_this_test()
            .spawn(
                &assignment.unwrap().launch,
                &output,
                &Arc::new(Peers::new("car", true, Default::default())),
            )
            .await;
        Trial {
            process: process.unwrap(),
            output,
        }
    }

    #[tokio::test]
    async fn what_a_process_leaves_behind_is_counted() {
        for (script, left) in [("sleep 300 & exit 3", 1), ("exit 3", 0)] {
            let (_home, candidate) = candidate(script);
            let trial = start(&candidate.unwrap()).await;
            trial.ended().await.unwrap();
            let end = trial.reap().await;
            assert_eq!((end.status, end.left), (Some(3), left), "{script}: {end:?}");
        }
    }

    #[tokio::test]
    async fn what_it_uses_is_seen() {
        let (_home, candidate) = candidate("exec sleep 300");
        let trial = start(&candidate.unwrap()).await;
        let usage = trial.usage().unwrap();
        assert_eq!(usage.processes, 1, "{usage:?}");
        assert!(usage.files >= 3, "{usage:?}");
        trial.terminate();
        trial.ended().await.unwrap();
        assert_eq!(trial.reap().await.status, None);
    }

    #[test]
    fn memory_is_what_nobody_shares() {
        assert_eq!(resident("VmRSS:\t 900 kB\nRssAnon:\t     12 kB\n"), 12 * 1024);
        assert_eq!(resident("RssAnon:\n"), 0);
    }

    #[test]
    fn what_a_host_would_refuse_is_refused_with_the_reason() {
        let (home, candidate) = candidate("");
        drop(candidate);
        let folder = home.path().join("car");
        std::fs::write(folder.join("car.json"), "{}").unwrap();
        let error = Candidate::inspect(&folder).unwrap_err().to_string();
        assert!(
            error.contains("is no plugin: ") && error.contains("executable"),
            "{error}"
        );
        let error = Candidate::inspect(&home.path().join("none"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("none"), "{error}");
    }
}
