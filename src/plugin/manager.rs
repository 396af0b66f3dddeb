//! Owns the catalog, the workers and what is known of each folder; brings all of it up and down. What is done
//! with a plugin is done by one at a time, in a task of its own, so a caller that goes away leaves nothing half
//! done. What lies in the folder is watched by `reconcile`, what somebody wants is done by `operate`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::PluginName;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catalog::{Catalog, Hold};
use super::diff::{Churn, Verdict};
use super::environment;
use super::events::Events;
use super::fingerprint::Fingerprint;
use super::handle::Handle;
use super::inspect::{self, Unfit, Whole};
use super::install;
use super::launch::Launch;
use super::locks::{Haste, Locked, Locks};
use super::native::Native;
use super::native::states::{States, Volatile};
use super::process::Spawner;
use super::reconcile::Reconciler;
use super::script::{self, ScriptError};
use super::settings::Settings;
use super::status::State;
use super::watch::Dirty;
use super::worker::{Assignment, Remote, Request, Worker};
use crate::config::{Config, Portable};

/// What ending a process may take beyond its grace, until the host no longer waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a plugin that is stopped or removed waits for its rules to let go of it.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a start may keep others from starting: what takes longer waits more than it works.
const BUSY: Duration = Duration::from_secs(2);

/// What a plugin shows whose environment is being built.
pub(super) const BUILDING: &str = "its Python environment is being built";

/// The owner of all plugins: watches, starts, supervises.
pub struct Manager {
    shared: Arc<Shared>,
}

impl Manager {
    /// Looks at `<home>/plugins/portable`, starts what lies there in the background, and follows its changes
    /// from then on. A bad plugin is refused and stops nothing else.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub async fn start(config: &Config, shutdown: CancellationToken) -> io::Result<Self> {
        Self::start_with(config, shutdown, Arc::new(Volatile::default())).await
    }

    /// The same, with a place for what symbols want to be kept; else that lives as long as the manager.
    ///
    /// # Errors
    /// As [`Manager::start`]; also when there is no private folder for sockets.
    pub async fn start_with(
        config: &Config,
        shutdown: CancellationToken,
        states: Arc<dyn States>,
    ) -> io::Result<Self> {
        let plugins = config.home.join("plugins");
        let portable = plugins.join("portable");
        tokio::fs::create_dir_all(&portable).await?;
        // Made absolute, because it becomes part of command lines with another working directory.
        let portable = tokio::fs::canonicalize(&portable).await?;
        let home = config.home.clone();
        let native = blocking(move || Native::prepare(&home, states)).await?;
        let shared = Arc::new(Shared {
            native: Arc::new(native),
            etc: Settings::new(&config.home),
            plugins: portable.parent().unwrap_or(&plugins).to_owned(),
            portable,
            settings: Arc::new(config.portable.clone()),
            catalog: RwLock::default(),
            workers: Mutex::default(),
            records: Mutex::default(),
            locks: Locks::default(),
            dirty: Arc::default(),
            trouble: Mutex::default(),
            starts: Semaphore::new(match config.portable.parallel_starts {
                0 => 2 * std::thread::available_parallelism().map_or(1, usize::from),
                limit => limit,
            }),
            usable: watch::Sender::new(0),
            events: Events::default(),
            tasks: TaskTracker::new(),
            shutdown,
            spawner: Spawner::new(config.portable.guard.clone()),
        });
        let plugins = shared.plugins.clone();
        if let Err(error) = blocking(move || install::clean(&plugins)).await {
            tracing::warn!("cannot remove what an installation has left: {error}");
        }
        let (etc, portable) = (shared.etc.clone(), shared.portable.clone());
        let is_there = move |name: &str| portable.join(name).symlink_metadata().is_ok();
        shared.with_settings(move || etc.remove_departed(is_there)).await;
        let reconciler = Reconciler::start(Arc::clone(&shared)).await?;
        shared.tasks.spawn(reconciler.run(shared.shutdown.child_token()));
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
        self.shared.starts.close();
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

/// Work that waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// What is known of a name beyond what the catalog says.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The folder that its plugin was started from.
    pub(super) from: Option<Fingerprint>,
    /// The folder that did not start when it was to replace the plugin.
    pub(super) tried: Option<Fingerprint>,
    /// The folder that could not be started although it is whole, and why; `Incomplete` when that may pass.
    pub(super) blocked: Option<(Fingerprint, Verdict)>,
    /// Manifest and program of the plugin, relative to its folder, and their fingerprint.
    pub(super) core: Vec<PathBuf>,
    pub(super) of_core: Option<Fingerprint>,
    /// Only these count, because the plugin keeps changing the others itself.
    pub(super) core_only: bool,
    /// The same, because there are too many others.
    pub(super) too_many: bool,
    pub(super) churn: Churn,
    /// Why the plugin is not what lies in the folder, or beside it.
    pub(super) note: String,
    /// The zip that could not be installed, and why.
    pub(super) zip: Option<(Fingerprint, String)>,
}

impl Record {
    /// The plugin is what lay in the folder when it looked like this.
    pub(super) fn taken(&mut self, whole: &Whole) {
        self.from = Some(whole.all);
        self.core_only = false;
        self.too_many = whole.too_many;
        self.of_core = Some(whole.of_core);
        self.core.clone_from(&whole.core);
        (self.tried, self.blocked) = (None, None);
        self.note.clear();
    }

    /// What there is to say beside the state; empty when all is well.
    pub(super) fn shown(&self) -> String {
        let core = match (self.core_only, self.too_many) {
            (true, _) => {
                "it keeps changing files in its own folder, so only its manifest and program are watched"
            }
            (_, true) => "its folder has too many files, so only its manifest and program are watched",
            _ => "",
        };
        let zip = self.zip.as_ref().map_or("", |(_, reason)| reason);
        let notes = [&self.note, core, zip];
        let notes = notes.into_iter().filter(|note| !note.is_empty());
        notes.collect::<Vec<_>>().join("; ")
    }
}

/// What the manager, its tasks and its handles share.
pub(super) struct Shared {
    etc: Settings,
    pub(super) plugins: PathBuf,
    pub(super) portable: PathBuf,
    pub(super) settings: Arc<Portable>,
    catalog: RwLock<Catalog>,
    workers: Mutex<BTreeMap<PluginName, Remote>>,
    records: Mutex<BTreeMap<String, Record>>,
    pub(super) locks: Locks,
    pub(super) dirty: Arc<Dirty>,
    /// Why the folder cannot be read.
    pub(super) trouble: Mutex<Option<String>>,
    /// How many plugins may be starting.
    starts: Semaphore,
    /// Counts up when the set of usable symbols may have changed.
    pub(super) usable: watch::Sender<u64>,
    pub(super) events: Events,
    pub(super) tasks: TaskTracker,
    shutdown: CancellationToken,
    spawner: Spawner,
    native: Arc<Native>,
}

/// The right to change what has a name. When it is given back, the folder is compared again.
pub(super) struct Turn {
    name: String,
    locked: Option<Locked>,
    dirty: Arc<Dirty>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // In this order: whoever locks it next knows that it has to look again, and who is woken may lock it.
        self.dirty.done(&self.name);
        self.locked.take();
        self.dirty.wake();
    }
}

impl Shared {
    pub(super) fn workers(&self) -> MutexGuard<'_, BTreeMap<PluginName, Remote>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn records(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of a name.
    pub(super) fn note<T>(&self, name: &str, change: impl FnOnce(&mut Record) -> T) -> T {
        change(self.records().entry(name.to_owned()).or_default())
    }

    /// Changes the catalog, and says so.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Catalog) -> T) -> T {
        let outcome = change(&mut self.catalog.write().unwrap_or_else(PoisonError::into_inner));
        self.usable.send_modify(|count| *count += 1);
        outcome
    }

    /// Waits until nobody else changes what has this name.
    pub(super) async fn turn(&self, name: &str) -> Turn {
        Turn {
            name: name.to_owned(),
            locked: Some(self.locks.lock(name).await),
            dirty: Arc::clone(&self.dirty),
        }
    }

    /// The same; `None` when somebody else does.
    pub(super) fn try_turn(&self, name: &str) -> Option<Turn> {
        Some(Turn {
            name: name.to_owned(),
            locked: Some(self.locks.try_lock(name)?),
            dirty: Arc::clone(&self.dirty),
        })
    }

    /// Waits for it less long: what `haste` says gives way.
    pub(super) async fn turn_soon(&self, name: &str, haste: Haste) -> Turn {
        Turn {
            name: name.to_owned(),
            locked: Some(self.locks.lock_soon(name, haste).await),
            dirty: Arc::clone(&self.dirty),
        }
    }

    /// `None`, and `work` given up, when somebody waits for whom what `haste` says gives way. What a plugin's
    /// worker has been told, it goes on with.
    pub(super) async fn unless_pressed<T>(
        &self,
        name: &str,
        haste: Haste,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            outcome = work => Some(outcome),
            () = self.locks.pressed(name, haste) => None,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// The way to the plugin's worker, if there is one.
    pub(super) fn remote(&self, name: &str) -> Option<Remote> {
        self.workers().get(name).cloned()
    }

    /// Says that what lies in the folder `name` does not run, and why.
    pub(super) fn show(&self, name: &str, unfit: &Unfit) {
        let Unfit { manifest, verdict } = unfit.clone();
        let version = manifest.as_ref().map(|manifest| manifest.version.clone());
        let is_news = self.change(|catalog| catalog.show(name, manifest, verdict));
        if !is_news {
            return;
        }
        let (state, reason) = (unfit.state(), unfit.reason());
        match unfit.verdict {
            Verdict::Refused(_) => tracing::warn!(plugin = name, "{state}: {reason}"),
            _ => tracing::info!(plugin = name, "{state}: {reason}"),
        }
        self.events.say(name, version.as_deref(), state, reason);
    }

    /// Reads and checks the folder `name`.
    pub(super) async fn inspect(&self, name: &str) -> Result<Whole, Unfit> {
        let (name, portable) = (name.to_owned(), self.portable.clone());
        let inspected = blocking(move || Ok(inspect::inspect(&name, &portable))).await;
        inspected.unwrap_or_else(|error| Err(Unfit::refused(error.to_string())))
    }

    /// Makes sure that the plugin has the environment that its manifest asks for, which may take minutes, and
    /// says how it is called then.
    pub(super) async fn ready(&self, whole: &Whole) -> Result<Assignment, String> {
        let (manifest, name) = (&whole.manifest, &whole.manifest.name);
        let folder = self.portable.join(name.as_str());
        if let Ok(None) = environment::needed(manifest, &folder, &self.settings).await {
            return self.assignment(whole).await;
        }
        let is_first = self.change(|catalog| catalog.prepare(name.as_str(), Hold::Installing));
        if is_first {
            let version = Some(manifest.version.as_str());
            self.events
                .say(name.as_str(), version, State::Installing, BUILDING);
        }
        let run = |launch| self.run_to_end(name, launch);
        let prepared = environment::prepare(manifest, &folder, &self.settings, run);
        let prepared = self
            .unless_stopping(prepared)
            .await
            .ok_or("the host is stopping")?;
        self.change(|catalog| catalog.prepare(name.as_str(), Hold::Starting));
        prepared.map_err(|error| error.to_string())?;
        self.assignment(whole).await
    }

    /// How a plugin is called whose environment is there.
    pub(super) async fn assignment(&self, whole: &Whole) -> Result<Assignment, String> {
        let (whole, portable, settings) = (whole.clone(), self.portable.clone(), Arc::clone(&self.settings));
        let assignment = blocking(move || Ok(whole.assignment(&portable, &settings))).await;
        assignment.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Runs a program for a plugin, whose output it becomes.
    pub(super) async fn run_to_end(&self, name: &PluginName, launch: Launch) -> Result<(), ScriptError> {
        let (Some(remote), Some(spawner)) = (self.worker(name), self.spawner()) else {
            return Err(ScriptError::Stopping);
        };
        script::run(&spawner, &launch, &remote.output, self.settings.install_timeout).await
    }

    /// `None`, and `work` given up, when the host is stopping.
    pub(super) async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.shutdown.run_until_cancelled(work).await
    }

    pub(super) async fn install_settings(&self, manifest: &Arc<Manifest>) {
        let (manifest, etc) = (Arc::clone(manifest), self.etc.clone());
        let folder = self.portable.join(manifest.name.as_str());
        self.with_settings(move || etc.install(&manifest, &folder)).await;
    }

    pub(super) async fn remove_settings(&self, name: &str) {
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

    /// Starts an entered plugin when its turn has come, and accepts it. Returns when it runs, or why it does not
    /// yet.
    pub(super) async fn run(&self, assignment: Assignment) -> Result<(), String> {
        self.order(assignment, true).await
    }

    /// Has the new version take over from the running one. When it does not start, the old one runs on.
    pub(super) async fn replace(&self, assignment: Assignment) -> Result<(), String> {
        let manifest = Arc::clone(&assignment.manifest);
        self.order(assignment, false).await?;
        self.install_settings(&manifest).await;
        Ok(())
    }

    /// Tells the plugin's worker what to run; makes one when there is none.
    async fn order(&self, assignment: Assignment, accept: bool) -> Result<(), String> {
        let stopping = || "the host is stopping".to_owned();
        let permit = self.starts.acquire().await.map_err(|_| stopping())?;
        if accept {
            // Before anybody can use them.
            self.install_settings(&assignment.manifest).await;
        }
        let started = async {
            loop {
                let remote = self.worker(&assignment.manifest.name).ok_or_else(stopping)?;
                let (reply, answer) = oneshot::channel();
                let request = Request::Start(Box::new(assignment.clone()), reply);
                // If it is just ending, because nobody used it any more, there is no answer.
                let _ = remote.requests.send(request).await;
                if accept {
                    // Not before the worker knows: who uses a symbol now finds it starting.
                    let manifest = Arc::clone(&assignment.manifest);
                    self.change(|catalog| catalog.accept(manifest))
                        .map_err(|conflict| conflict.to_string())?;
                }
                if let Ok(outcome) = answer.await {
                    return outcome;
                }
                remote.requests.closed().await;
            }
        };
        let mut started = std::pin::pin!(started);
        if let Ok(outcome) = tokio::time::timeout(BUSY, &mut started).await {
            return outcome;
        }
        drop(permit);
        started.await
    }

    fn spawner(&self) -> Option<Spawner> {
        (!self.is_stopping()).then(|| self.spawner.clone())
    }

    /// The way to the plugin's worker, which is made when there is none. `None` when the host is stopping.
    pub(super) fn worker(&self, plugin: &PluginName) -> Option<Remote> {
        let spawner = self.spawner()?;
        let mut workers = self.workers();
        if let Some(known) = workers.get(plugin).filter(|remote| !remote.requests.is_closed()) {
            return Some(known.clone());
        }
        let (settings, events) = (Arc::clone(&self.settings), self.events.clone());
        let output = workers.get(plugin).map(|ended| Arc::clone(&ended.output));
        let native = Arc::clone(&self.native);
        let (worker, remote) = Worker::new(plugin.clone(), settings, spawner, native, events, output);
        self.tasks.spawn(worker.run(self.shutdown.child_token()));
        workers.insert(plugin.clone(), remote.clone());
        Some(remote)
    }

    /// Stops the plugin's process and waits for its end. Uses stay, and wait for its return.
    pub(super) async fn stop_worker(&self, name: &str, reason: &str) {
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

    /// Takes the plugin's symbols away and gives the rules that use them time to let go. Returns their names.
    pub(super) async fn withhold(&self, name: &str, hold: Hold) -> Vec<String> {
        if !self.change(|catalog| catalog.hold(name, hold)) {
            return Vec::new();
        }
        let Some(remote) = self.remote(name) else {
            return Vec::new();
        };
        let rules: Vec<String> = remote.users.rules().into_keys().collect();
        let idle = async {
            tokio::select! {
                () = remote.users.idle() => {}
                () = self.shutdown.cancelled() => {}
            }
        };
        if tokio::time::timeout(DRAIN, idle).await.is_err() {
            let late: Vec<String> = remote.users.rules().into_keys().collect();
            let late = late.join(", ");
            tracing::warn!(
                plugin = name,
                "these rules have not let go within {DRAIN:?}: {late}"
            );
        }
        rules
    }

    /// Lets go of a worker that has ended, and so of what its plugin has written. One that somebody still uses
    /// stays: a plugin of the same name takes it over.
    async fn forget(&self, name: &str) {
        let Some(remote) = self.remote(name) else {
            return;
        };
        let is_unused = remote.users.rules().is_empty();
        if is_unused
            && tokio::time::timeout(DRAIN, remote.requests.closed())
                .await
                .is_ok()
        {
            self.workers().remove(name);
        }
    }

    /// Takes a plugin out of use and stops it. Its folder is somebody else's matter. Returns the rules that used
    /// it.
    pub(super) async fn retire(&self, name: &str) -> Vec<String> {
        let rules = self.withhold(name, Hold::Leaving).await;
        self.stop_worker(name, "removed").await;
        let entry = self.change(|catalog| catalog.remove(name));
        self.remove_settings(name).await;
        self.records().remove(name);
        let manifest = entry.as_ref().and_then(|entry| entry.manifest());
        let version = manifest.map(|manifest| manifest.version.as_str());
        tracing::info!(plugin = name, version, "removed");
        self.forget(name).await;
        self.events.say(name, version, State::Removed, "");
        rules
    }
}
