//! Owns the plugins' folder, the catalog and the workers: scans at start, installs, replaces, removes, stops.
//! Changes are made one after the other, each in a task of its own, so a caller that goes away leaves nothing
//! half done.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::PluginName;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catalog::{Catalog, Entry};
use super::environment;
use super::error::{InstallError, RemoveError};
use super::handle::Handle;
use super::install::{self, InstallRequest, Staged};
use super::launch::Launch;
use super::package;
use super::process::Spawner;
use super::script::{self, ScriptError};
use super::settings::Settings;
use super::status::State;
use super::worker::{Assignment, Remote, Request, Worker};
use crate::config::{Config, Portable};

/// What ending a process may take beyond its grace, until the host no longer waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The owner of all plugins: scans, starts, supervises.
pub struct Manager {
    shared: Arc<Shared>,
    spawner_thread: std::thread::JoinHandle<()>,
}

impl Manager {
    /// Scans `<home>/plugins/portable` and starts every plugin's process in the background. A bad plugin is
    /// refused and stops nothing else.
    ///
    /// # Errors
    /// The folder cannot be made or read, or the system gives no thread.
    pub async fn start(config: &Config, shutdown: CancellationToken) -> io::Result<Self> {
        let plugins = config.home.join("plugins");
        let portable = plugins.join("portable");
        tokio::fs::create_dir_all(&portable).await?;
        // Made absolute, because it becomes part of command lines with another working directory.
        let portable = tokio::fs::canonicalize(&portable).await?;
        let (spawner, spawner_thread) = Spawner::start()?;
        let shared = Arc::new_cyclic(|me| Shared {
            me: Weak::clone(me),
            etc: Settings::new(&config.home),
            plugins: portable.parent().unwrap_or(&plugins).to_owned(),
            portable,
            settings: Arc::new(config.portable.clone()),
            catalog: RwLock::default(),
            workers: Mutex::default(),
            preparing: Mutex::default(),
            changes: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            shutdown,
            spawner: Mutex::new(Some(spawner)),
        });
        let plugins = shared.plugins.clone();
        if let Err(error) = blocking(move || install::clean(&plugins)).await {
            tracing::warn!("cannot remove what an installation has left: {error}");
        }
        let (etc, portable) = (shared.etc.clone(), shared.portable.clone());
        let is_there = move |name: &str| portable.join(name).symlink_metadata().is_ok();
        shared.with_settings(move || etc.remove_departed(is_there)).await;
        shared.scan().await?;
        Ok(Self {
            shared,
            spawner_thread,
        })
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
            return;
        }
        // With its thread the last processes would be killed, so it ends last.
        drop(
            self.shared
                .spawner
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        self.shared.workers().clear();
        let joined = blocking(move || {
            self.spawner_thread
                .join()
                .map_err(|_| io::Error::other("it panicked"))
        })
        .await;
        if let Err(error) = joined {
            tracing::error!("the thread that starts processes: {error}");
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
    /// For tasks.
    me: Weak<Self>,
    etc: Settings,
    plugins: PathBuf,
    portable: PathBuf,
    pub(super) settings: Arc<Portable>,
    pub(super) catalog: RwLock<Catalog>,
    workers: Mutex<BTreeMap<PluginName, Remote>>,
    /// Whose environment is being built.
    preparing: Mutex<BTreeSet<String>>,
    /// Held while the folder or the catalog is being changed.
    changes: tokio::sync::Mutex<()>,
    pub(super) tasks: TaskTracker,
    shutdown: CancellationToken,
    spawner: Mutex<Option<Spawner>>,
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
    async fn scan(&self) -> io::Result<()> {
        let portable = self.portable.clone();
        for name in blocking(move || list_folders(&portable)).await? {
            if !matches!(self.catalog().entry(&name), Some(Entry::Accepted(_))) {
                self.enter(name).await;
            }
        }
        Ok(())
    }

    /// Enters the folder `name`, and starts its plugin if that is acceptable.
    async fn enter(&self, name: String) {
        if let Some(manifest) = self.lacks_environment(&name).await {
            let reason = "its Python environment is being built";
            self.catalog_mut()
                .refuse(name.clone(), Some(Arc::clone(&manifest)), reason.to_owned());
            let mut preparing = self.preparing.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(shared) = self.me.upgrade().filter(|_| preparing.insert(name.clone())) {
                self.tasks
                    .spawn(async move { shared.prepare_and_enter(name, manifest).await });
            }
            return;
        }
        self.admit(name).await;
    }

    /// Enters the folder `name`, which has all that it needs.
    async fn admit(&self, name: String) {
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
                self.install_settings(&assignment.manifest, self.portable.join(&name))
                    .await;
                self.start_worker(assignment).await;
            }
            Err(conflict) => tracing::warn!(plugin = name, "refused: {conflict}"),
        }
    }

    /// The plugin's manifest, if its environment has to be built before it can start.
    async fn lacks_environment(&self, name: &str) -> Option<Arc<Manifest>> {
        let folder = self.portable.join(name);
        let manifest = Arc::new(self.read_manifest(&name.parse().ok()?, &folder).await.ok()?);
        let needed = environment::needed(&manifest, &folder, &self.settings).await;
        // A list that cannot be read is reported by the attempt to build.
        (!matches!(needed, Ok(None))).then_some(manifest)
    }

    async fn prepare_and_enter(&self, name: String, manifest: Arc<Manifest>) {
        let folder = self.portable.join(&name);
        let run = |launch| self.run_to_end(&manifest.name, launch);
        let prepared = environment::prepare(&manifest, &folder, &self.settings, run);
        let prepared = self.unless_stopping(prepared).await;
        self.preparing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&name);
        let Some(prepared) = prepared else { return };
        let _changes = self.changes.lock().await;
        // Meanwhile it may have been removed, or replaced.
        let is_there = folder.symlink_metadata().is_ok();
        if !is_there || matches!(self.catalog().entry(&name), None | Some(Entry::Accepted(_))) {
            return;
        }
        match prepared {
            Ok(()) => self.admit(name).await,
            Err(error) => {
                tracing::warn!(plugin = name, "refused: {error}");
                self.catalog_mut().refuse(name, Some(manifest), error.to_string());
            }
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
            let interpreter = environment::interpreter(&at);
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

    async fn read_manifest(&self, name: &PluginName, folder: &Path) -> Result<Manifest, InstallError> {
        let (plugin, at) = (name.clone(), folder.to_owned());
        let read = tokio::task::spawn_blocking(move || package::read_manifest(&plugin, &at)).await;
        Ok(read.map_err(|_| InstallError::Interrupted(name.clone()))??)
    }

    async fn install_settings(&self, manifest: &Arc<Manifest>, folder: PathBuf) {
        let (manifest, etc) = (Arc::clone(manifest), self.etc.clone());
        self.with_settings(move || etc.install(&manifest, &folder)).await;
    }

    async fn remove_settings(&self, name: &str) {
        if let Ok(name) = name.parse() {
            let etc = self.etc.clone();
            self.with_settings(move || etc.remove(&name)).await;
        }
    }

    async fn with_settings(&self, work: impl FnOnce() + Send + 'static) {
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::error!("the etc files of a plugin: {error}");
        }
    }

    fn spawner(&self) -> Option<Spawner> {
        let spawner = self.spawner.lock().unwrap_or_else(PoisonError::into_inner);
        spawner.clone()
    }

    /// The way to the plugin's worker, which is made when there is none. `None` when the host is stopping.
    fn worker(&self, plugin: &PluginName) -> Option<Remote> {
        if let Some(remote) = self.remote(plugin.as_str())
            && !remote.requests.is_closed()
        {
            return Some(remote);
        }
        let (worker, remote) = Worker::new(plugin.clone(), Arc::clone(&self.settings), self.spawner()?);
        self.tasks.spawn(worker.run(self.shutdown.child_token()));
        self.workers().insert(plugin.clone(), remote.clone());
        Some(remote)
    }

    /// Tells the plugin's worker what to run. `None` when the host is stopping.
    async fn start_worker(&self, assignment: Assignment) -> Option<Remote> {
        let plugin = assignment.manifest.name.clone();
        let assignment = Box::new(assignment);
        loop {
            let (remote, again) = (self.worker(&plugin)?, assignment.clone());
            // It may be ending just now, because nobody used it any more.
            if remote.ask(|reply| Request::Start(again, reply)).await.is_some() {
                return Some(remote);
            }
            if self.shutdown.is_cancelled() {
                return None;
            }
        }
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
        let staged = self.stage(&request).await?;
        let outcome = self.put_in_place(&staged, &folder, &request.shell_paras).await;
        staged.clean().await;
        outcome
    }

    /// Replaces an installed plugin, or a folder that was refused. The old one stays when the new one is not
    /// a plugin, and comes back when the new one does not start.
    pub(super) async fn update(&self, request: InstallRequest) -> Result<(), InstallError> {
        let _changes = self.changes.lock().await;
        let name = &request.name;
        if self.catalog().entry(name.as_str()).is_none() {
            return Err(InstallError::NotFound(name.clone()));
        }
        let folder = self.portable.join(name.as_str());
        let staged = self.stage(&request).await?;
        let outcome = self.replace(&staged, &folder, &request.shell_paras).await;
        staged.clean().await;
        outcome
    }

    async fn replace(&self, staged: &Staged, folder: &Path, paras: &[String]) -> Result<(), InstallError> {
        let name = staged.manifest.name.as_str();
        // Asked before anything is stopped.
        self.catalog().check(&staged.manifest)?;
        self.stop_worker(name, "being replaced").await;
        let attic = staged.attic();
        let outcome = match rename("move away", folder, &attic).await {
            Ok(()) => {
                self.catalog_mut().remove(name);
                carry(&attic, &staged.folder).await;
                let outcome = self.put_in_place(staged, folder, paras).await;
                if outcome.is_err() {
                    carry(&staged.folder, &attic).await;
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
            self.enter(name.to_owned()).await;
        }
        // Symbols may have become free for others.
        self.rescan().await;
        outcome
    }

    /// Moves a staged plugin to its free place, starts it and waits until it runs. Undoes all of it on an
    /// error.
    async fn put_in_place(
        &self,
        staged: &Staged,
        folder: &Path,
        paras: &[String],
    ) -> Result<(), InstallError> {
        let name = &staged.manifest.name;
        self.catalog().check(&staged.manifest)?;
        rename("move into place", &staged.folder, folder).await?;
        let outcome = self.bring_up(name, folder, paras).await;
        if outcome.is_err() {
            self.stop_worker(name.as_str(), "its installation is being undone")
                .await;
            self.catalog_mut().remove(name.as_str());
            self.remove_settings(name.as_str()).await;
            // Its script may have removed it.
            if folder.symlink_metadata().is_ok() {
                rename("move away", folder, &staged.folder).await?;
            }
            return outcome;
        }
        tracing::info!(plugin = %name, version = staged.manifest.version, "installed");
        Ok(())
    }

    /// Prepares a plugin that was just put in its place, and starts it.
    async fn bring_up(&self, name: &PluginName, folder: &Path, paras: &[String]) -> Result<(), InstallError> {
        let run = |launch| self.run_to_end(name, launch);
        let prepared = install::prepare(name, folder, paras, &self.settings, run);
        let interrupted = || Err(InstallError::Interrupted(name.clone()));
        let prepared = self.unless_stopping(prepared).await;
        let manifest = prepared.unwrap_or_else(interrupted)?;
        self.install_settings(&manifest, folder.to_owned()).await;
        self.start(name).await.map_err(|reason| InstallError::Start {
            name: name.clone(),
            reason,
        })
    }

    /// Runs a program for a plugin, whose output it becomes.
    async fn run_to_end(&self, name: &PluginName, launch: Launch) -> Result<(), ScriptError> {
        let (Some(remote), Some(spawner)) = (self.worker(name), self.spawner()) else {
            return Err(ScriptError::Stopping);
        };
        script::run(&spawner, &launch, &remote.output, self.settings.install_timeout).await
    }

    async fn stage(&self, request: &InstallRequest) -> Result<Staged, InstallError> {
        let staging = install::stage(request, &self.plugins, &self.settings);
        let staged = self.unless_stopping(staging).await;
        staged.unwrap_or_else(|| Err(InstallError::Interrupted(request.name.clone())))
    }

    /// `None`, and `work` given up, when the host is stopping.
    async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.shutdown.run_until_cancelled(work).await
    }

    /// Starts the plugin in its folder and waits for its first handshake, or its first failure.
    async fn start(&self, name: &PluginName) -> Result<(), String> {
        let assignment = self.read(name.as_str()).await.map_err(|(_, reason)| reason)?;
        let manifest = Arc::clone(&assignment.manifest);
        self.catalog_mut()
            .accept(manifest)
            .map_err(|conflict| conflict.to_string())?;
        let stopping = || "the host is stopping".to_owned();
        let mut remote = self.start_worker(assignment).await.ok_or_else(stopping)?;
        let settled = remote
            .status
            .wait_for(|status| status.state != State::Starting)
            .await;
        let settled = settled.map_err(|_| stopping())?;
        match settled.state {
            State::Running | State::Unhealthy => Ok(()),
            _ => Err(settled.reason.clone()),
        }
    }

    /// Stops a plugin and deletes its folder.
    pub(super) async fn remove(&self, name: String) -> Result<(), RemoveError> {
        let _changes = self.changes.lock().await;
        // Only a name that the catalog knows becomes part of a path.
        if self.catalog().entry(&name).is_none() {
            return Err(RemoveError::NotFound(name));
        }
        self.stop_worker(&name, "removed").await;
        self.catalog_mut().remove(&name);
        self.remove_settings(&name).await;
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

    async fn rescan(&self) {
        if let Err(error) = self.scan().await {
            tracing::error!("cannot read {}: {error}", self.portable.display());
        }
    }
}

/// A failure costs a build, nothing more.
async fn carry(from: &Path, to: &Path) {
    let (old, new) = (from.to_owned(), to.to_owned());
    if let Err(error) = blocking(move || environment::carry(&old, &new)).await {
        tracing::warn!(
            "cannot keep the Python environment of {}: {error}",
            from.display()
        );
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
