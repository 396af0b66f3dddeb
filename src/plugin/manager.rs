//! Owns the plugins' folder, the catalog and the workers: scans at start, installs, replaces, removes, stops.
//! Changes are made one after the other, each in a task of its own, so a caller that goes away leaves nothing
//! half done.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::PluginName;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catalog::{Catalog, Entry};
use super::error::{InstallError, RemoveError};
use super::handle::Handle;
use super::install::{self, InstallRequest, Staged};
use super::launch::Launch;
use super::package;
use super::process::Spawner;
use super::status::State;
use super::worker::{Assignment, Remote, Request, Worker};
use crate::config::{Config, Portable};

/// What ending a process may take beyond its grace, until the host no longer waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The owner of all plugins: scans, starts, supervises.
pub struct Manager {
    shared: Arc<Shared>,
}

impl Manager {
    /// Scans `<home>/plugins/portable` and starts every plugin's process in the background. A bad plugin is
    /// refused and stops nothing else.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub async fn start(config: &Config, shutdown: CancellationToken) -> io::Result<Self> {
        let plugins = config.home.join("plugins");
        let portable = plugins.join("portable");
        tokio::fs::create_dir_all(&portable).await?;
        // Made absolute, because it becomes part of command lines with another working directory.
        let portable = tokio::fs::canonicalize(&portable).await?;
        let shared = Arc::new(Shared {
            etc: config.home.join("etc"),
            plugins: portable.parent().unwrap_or(&plugins).to_owned(),
            portable,
            settings: Arc::new(config.portable.clone()),
            catalog: RwLock::default(),
            workers: Mutex::default(),
            changes: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            shutdown,
            spawner: Spawner::new(config.portable.guard.clone()),
        });
        let plugins = shared.plugins.clone();
        if let Err(error) = blocking(move || install::clean(&plugins)).await {
            tracing::warn!("cannot remove what an installation has left: {error}");
        }
        shared.scan().await?;
        Ok(Self { shared })
    }

    /// All that the rest of the host may do with plugins.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Stops every process, all at the same time: SIGTERM, the grace, SIGKILL. Returns when they have ended.
    pub async fn shutdown(self) {
        self.shared.shutdown.cancel();
        self.shared.tasks.close();
        let limit = self.shared.settings.stop_grace + PATIENCE;
        if tokio::time::timeout(limit, self.shared.tasks.wait())
            .await
            .is_err()
        {
            let workers = self.shared.workers();
            let late = workers.values().filter(|remote| !remote.requests.is_closed());
            let late: Vec<&str> = late.map(|remote| remote.plugin.as_str()).collect();
            tracing::error!(
                "these plugins have not ended within {limit:?}: {}",
                late.join(", ")
            );
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// What the manager and its handles share.
pub(super) struct Shared {
    etc: PathBuf,
    plugins: PathBuf,
    portable: PathBuf,
    pub(super) settings: Arc<Portable>,
    pub(super) catalog: RwLock<Catalog>,
    workers: Mutex<BTreeMap<PluginName, Remote>>,
    /// Held while the folder or the catalog is being changed.
    changes: tokio::sync::Mutex<()>,
    pub(super) tasks: TaskTracker,
    shutdown: CancellationToken,
    spawner: Spawner,
}

impl Shared {
    fn workers(&self) -> MutexGuard<'_, BTreeMap<PluginName, Remote>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn catalog(&self) -> std::sync::RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog_mut(&self) -> std::sync::RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to the plugin's worker, if there is one.
    pub(super) fn remote(&self, name: &str) -> Option<Remote> {
        self.workers().get(name).cloned()
    }

    /// Enters every folder that is not accepted yet, in the order of their names, and starts what is
    /// acceptable.
    async fn scan(self: &Arc<Self>) -> io::Result<()> {
        let portable = self.portable.clone();
        for name in blocking(move || list_folders(&portable)).await? {
            if !matches!(self.catalog().entry(&name), Some(Entry::Accepted(_))) {
                self.enter(name).await;
            }
        }
        Ok(())
    }

    /// Enters the folder `name`, and starts its plugin if that is acceptable.
    async fn enter(self: &Arc<Self>, name: String) {
        let assignment = match self.read(&name).await {
            Ok(assignment) => assignment,
            Err((manifest, reason)) => {
                tracing::warn!(plugin = name, "refused: {reason}");
                self.catalog_mut().refuse(name, manifest, reason);
                return;
            }
        };
        let verdict = self.catalog_mut().accept(Arc::clone(&assignment.manifest));
        match verdict {
            Ok(()) => {
                self.copy_settings(&assignment.manifest, self.portable.join(&name))
                    .await;
                // Its start-up delays nobody else's; what comes of it is seen in its status. Whoever comes next
                // finds it starting.
                if let Some((_, started)) = self.begin_start(&assignment).await {
                    let shared = Arc::clone(self);
                    self.tasks.spawn(async move {
                        if started.await.is_err() {
                            shared.start_worker(assignment).await;
                        }
                    });
                }
            }
            Err(conflict) => tracing::warn!(plugin = name, "refused: {conflict}"),
        }
    }

    /// Reads and checks one folder.
    async fn read(&self, name: &str) -> Result<Assignment, (Option<Arc<Manifest>>, String)> {
        let plugin: PluginName = name.parse().map_err(|error| (None, format!("{error}")))?;
        let folder = self.portable.join(name);
        let at = folder.clone();
        let read = blocking(move || {
            let manifest = match package::read_manifest(&plugin, &at) {
                Ok(manifest) => Arc::new(manifest),
                Err(error) => return Ok(Err((None, error.to_string()))),
            };
            let program = package::find_program(&manifest, &at);
            let interpreter = package::find_interpreter(&at);
            Ok(match program {
                Ok(program) => Ok((manifest, program, interpreter)),
                Err(error) => Err((Some(manifest), error.to_string())),
            })
        });
        let (manifest, program, interpreter) = read.await.map_err(|error| (None, error.to_string()))??;
        match Launch::new(&manifest, &folder, &program, interpreter, &self.settings) {
            Ok(launch) => Ok(Assignment { manifest, launch }),
            Err(error) => Err((Some(manifest), error.to_string())),
        }
    }

    async fn copy_settings(&self, manifest: &Arc<Manifest>, folder: PathBuf) -> Vec<PathBuf> {
        let (manifest, etc) = (Arc::clone(manifest), self.etc.clone());
        blocking(move || Ok(package::copy_settings(&manifest, &folder, &etc)))
            .await
            .unwrap_or_default()
    }

    /// The way to the plugin's worker, which is made when there is none. `None` when the host is stopping.
    fn worker(&self, plugin: &PluginName) -> Option<Remote> {
        let mut workers = self.workers();
        let known = workers.get(plugin).filter(|remote| !remote.requests.is_closed());
        if let Some(known) = known {
            return Some(known.clone());
        }
        let (worker, remote) = Worker::new(plugin.clone(), Arc::clone(&self.settings), self.spawner.clone());
        self.tasks.spawn(worker.run(self.shutdown.child_token()));
        workers.insert(plugin.clone(), remote.clone());
        Some(remote)
    }

    /// Tells the plugin's worker what to run. Returns where it will answer; `None` when the host is stopping.
    async fn begin_start(
        &self,
        assignment: &Assignment,
    ) -> Option<(Remote, oneshot::Receiver<Result<(), String>>)> {
        let remote = self.worker(&assignment.manifest.name)?;
        let (reply, started) = oneshot::channel();
        let request = Request::Start(Box::new(assignment.clone()), reply);
        // When it is just ending, `started` tells.
        let _ = remote.requests.send(request).await;
        Some((remote, started))
    }

    /// Tells the plugin's worker what to run. Returns when it runs, or why it does not; `None` when the host is
    /// stopping.
    async fn start_worker(&self, assignment: Assignment) -> Option<Result<(), String>> {
        loop {
            let (remote, started) = self.begin_start(&assignment).await?;
            if let Ok(outcome) = started.await {
                return Some(outcome);
            }
            // It was just ending, because nobody used it any more.
            remote.requests.closed().await;
        }
    }

    fn is_running(&self, name: &str) -> bool {
        let remote = self.remote(name);
        let state = remote.map(|remote| remote.status.borrow().state);
        matches!(state, Some(State::Running | State::Unhealthy))
    }

    /// Stops the plugin's process and waits for its end. Uses stay, and wait for its return.
    async fn stop_worker(&self, name: &str, reason: &str) {
        if let Some(remote) = self.remote(name) {
            let reason = reason.to_owned();
            let _ = remote
                .ask(|reply| Request::Stop {
                    reason,
                    retire: true,
                    reply,
                })
                .await;
        }
    }

    /// Installs a plugin under a free name.
    pub(super) async fn install(&self, request: InstallRequest) -> Result<(), InstallError> {
        let _changes = self.changes.lock().await;
        let name = &request.name;
        let folder = self.portable.join(name.as_str());
        if self.catalog().entry(name.as_str()).is_some() || folder.symlink_metadata().is_ok() {
            return Err(InstallError::AlreadyExists(name.clone()));
        }
        let staged = install::stage(&request, &self.plugins).await?;
        let outcome = self.put_in_place(&staged, &folder).await;
        staged.clean().await;
        outcome
    }

    /// Replaces an installed plugin, or a folder that was refused. The old one stays when the new one is not
    /// a plugin, and comes back when the new one does not start.
    pub(super) async fn update(self: &Arc<Self>, request: InstallRequest) -> Result<(), InstallError> {
        let _changes = self.changes.lock().await;
        let name = &request.name;
        if self.catalog().entry(name.as_str()).is_none() {
            return Err(InstallError::NotFound(name.clone()));
        }
        let folder = self.portable.join(name.as_str());
        let staged = install::stage(&request, &self.plugins).await?;
        let outcome = self.replace(&staged, &folder).await;
        staged.clean().await;
        outcome
    }

    async fn replace(self: &Arc<Self>, staged: &Staged, folder: &Path) -> Result<(), InstallError> {
        let name = staged.manifest.name.as_str();
        // Asked before anything is moved.
        self.catalog().check(&staged.manifest)?;
        let attic = staged.attic();
        let outcome = match rename("move away", folder, &attic).await {
            Ok(()) => {
                self.catalog_mut().remove(name);
                let outcome = self.put_in_place(staged, folder).await;
                if outcome.is_err() {
                    rename("move back from", &attic, folder).await?;
                }
                outcome
            }
            failed => failed,
        };
        if outcome.is_err() {
            tracing::warn!(
                plugin = name,
                "the new version was not taken: going back to the old one"
            );
            if !self.is_running(name) {
                self.enter(name.to_owned()).await;
            } else if let Ok(old) = self.read(name).await
                && let Err(conflict) = self.catalog_mut().accept(old.manifest)
            {
                tracing::warn!(plugin = name, "refused: {conflict}");
            }
        }
        // Symbols may have become free for others.
        self.rescan().await;
        outcome
    }

    /// Moves a staged plugin to its free place, starts it and waits until it runs. Undoes all of it on an
    /// error.
    async fn put_in_place(&self, staged: &Staged, folder: &Path) -> Result<(), InstallError> {
        let name = &staged.manifest.name;
        self.catalog().check(&staged.manifest)?;
        rename("move into place", &staged.folder, folder).await?;
        let settings = self.copy_settings(&staged.manifest, folder.to_owned()).await;
        let started = self.start(name).await;
        if let Err(reason) = started {
            // When it was to replace another one, that one runs on.
            if !self.is_running(name.as_str()) {
                self.stop_worker(name.as_str(), "its installation is being undone")
                    .await;
            }
            self.catalog_mut().remove(name.as_str());
            for path in settings {
                if let Err(error) = tokio::fs::remove_file(&path).await {
                    tracing::warn!("cannot remove {}: {error}", path.display());
                }
            }
            rename("move away", folder, &staged.folder).await?;
            return Err(InstallError::Start {
                name: name.clone(),
                reason,
            });
        }
        tracing::info!(plugin = %name, version = staged.manifest.version, "installed");
        Ok(())
    }

    /// Starts the plugin in its folder and waits for its first handshake, or its first failure.
    async fn start(&self, name: &PluginName) -> Result<(), String> {
        let assignment = self.read(name.as_str()).await.map_err(|(_, reason)| reason)?;
        let manifest = Arc::clone(&assignment.manifest);
        self.catalog_mut()
            .accept(manifest)
            .map_err(|conflict| conflict.to_string())?;
        let stopping = || "the host is stopping".to_owned();
        self.start_worker(assignment)
            .await
            .unwrap_or_else(|| Err(stopping()))
    }

    /// Stops a plugin and deletes its folder.
    pub(super) async fn remove(self: &Arc<Self>, name: String) -> Result<(), RemoveError> {
        let _changes = self.changes.lock().await;
        // Only a name that the catalog knows becomes part of a path.
        if self.catalog().entry(&name).is_none() {
            return Err(RemoveError::NotFound(name));
        }
        self.stop_worker(&name, "removed").await;
        self.catalog_mut().remove(&name);
        let folder = self.portable.join(&name);
        let removed = self.remove_folder(&folder).await;
        removed.map_err(|source| RemoveError::Io { path: folder, source })?;
        tracing::info!(plugin = name, "removed");
        // Its symbols are free now: who was refused for their sake is not any more.
        self.rescan().await;
        Ok(())
    }

    /// First moved out of sight in one step, so that half a plugin is never found in its place.
    async fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            return tokio::fs::remove_file(folder).await;
        }
        let hidden = install::hidden_folder(&self.plugins)
            .await
            .map_err(io::Error::other)?;
        let moved = tokio::fs::rename(folder, hidden.path().join("removed")).await;
        install::remove(hidden).await;
        match moved {
            // Somebody was quicker: it is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            moved => moved,
        }
    }

    async fn rescan(self: &Arc<Self>) {
        if let Err(error) = self.scan().await {
            tracing::error!("cannot read {}: {error}", self.portable.display());
        }
    }
}

async fn rename(what: &'static str, from: &Path, to: &Path) -> Result<(), InstallError> {
    let renamed = tokio::fs::rename(from, to).await;
    renamed.map_err(|source| InstallError::Io {
        what,
        path: from.to_owned(),
        source,
    })
}

/// The names of all folders, and of the links that may lead to one, in order. Hidden ones are nobody's
/// plugins.
fn list_folders(portable: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in portable.read_dir()? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        if name.starts_with('.') {
            continue;
        }
        if kind.is_dir() || kind.is_symlink() {
            names.push(name);
        } else if name.ends_with(".zip") {
            tracing::warn!(
                "{} lies there packed; install it over REST",
                entry.path().display()
            );
        } else {
            tracing::debug!("{} is not a folder, so it is no plugin", entry.path().display());
        }
    }
    names.sort();
    Ok(names)
}
