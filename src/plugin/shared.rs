//! Owns what everybody who does something with plugins shares: the catalog, the workers, what is known of each
//! folder, whose turn it is. What is done with a plugin is done by one at a time, in a task of its own, so a caller
//! that goes away leaves nothing half done. The manager makes it; `reconcile`, `operate` and the handles use it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::PluginName;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catalog::{Catalog, Hold};
use super::diff::{Churn, Verdict};
use super::environment;
use super::events::Events;
use super::fingerprint::Fingerprint;
use super::inspect::{self, Unfit, Whole};
use super::instances::Instances;
use super::launch::Launch;
use super::locks::{Haste, Locked, Locks};
use super::native::Native;
use super::output::Output;
use super::process::Spawner;
use super::remote::{Assignment, Remote};
use super::script::{self, ScriptError};
use super::settings::Settings;
use super::starts::Starts;
use super::status::State;
use super::watch::Dirty;
use super::worker::Worker;
use crate::config::{Config, Portable};
use crate::store::States;

/// How long a plugin that is stopped or removed waits for its rules to let go of it.
const DRAIN: Duration = Duration::from_secs(5);

/// What a plugin shows that waits for a permit to start.
const QUEUED: &str = "it waits for its turn: as many plugins as may are starting";

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
    pub(super) portable: PathBuf,
    pub(super) settings: Arc<Portable>,
    catalog: RwLock<Catalog>,
    workers: Mutex<BTreeMap<PluginName, Remote>>,
    records: Mutex<BTreeMap<String, Record>>,
    pub(super) locks: Locks,
    pub(super) dirty: Arc<Dirty>,
    /// Why the folder cannot be read.
    trouble: Mutex<Option<String>>,
    /// The names whose packages are being installed.
    coming: Mutex<BTreeSet<String>>,
    /// How many plugins may be starting.
    starts: Starts,
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

/// A package is being installed under this name.
pub(super) struct Coming<'a> {
    shared: &'a Shared,
    name: String,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.shared.coming().remove(&self.name);
        self.shared.events.changes.note();
    }
}

impl Shared {
    /// Nothing is known yet, and nothing runs.
    ///
    /// # Errors
    /// The plugins' folder cannot be made or found.
    pub(super) async fn new(
        config: &Config,
        states: States,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        let portable = config.home.join("plugins/portable");
        tokio::fs::create_dir_all(&portable).await?;
        // Made absolute, because it becomes part of command lines with another working directory.
        let portable = tokio::fs::canonicalize(&portable).await?;
        let home = config.home.clone();
        let native = blocking(move || Native::prepare(&home, states)).await?;
        Ok(Self {
            native: Arc::new(native),
            etc: Settings::new(&config.home),
            portable,
            settings: Arc::new(config.portable.clone()),
            catalog: RwLock::default(),
            workers: Mutex::default(),
            records: Mutex::default(),
            locks: Locks::default(),
            dirty: Arc::default(),
            trouble: Mutex::default(),
            coming: Mutex::default(),
            starts: Starts::new(match config.portable.parallel_starts {
                0 => 2 * std::thread::available_parallelism().map_or(1, usize::from),
                limit => limit,
            }),
            events: Events::default(),
            tasks: TaskTracker::new(),
            shutdown,
            spawner: Spawner::new(config.portable.guard.clone()),
        })
    }

    /// The `etc` files of plugins that went while the host did not run.
    pub(super) async fn remove_departed_settings(&self) {
        let (etc, portable) = (self.etc.clone(), self.portable.clone());
        let is_there = move |name: &str| portable.join(name).symlink_metadata().is_ok();
        self.with_settings(move || etc.remove_departed(is_there)).await;
    }

    /// Cancelled when the host is stopping.
    pub(super) fn shutdown(&self) -> CancellationToken {
        self.shutdown.child_token()
    }

    /// Nothing is begun any more, and what runs is stopped.
    pub(super) fn end(&self) {
        self.shutdown.cancel();
        self.starts.close();
        self.tasks.close();
    }

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
        let outcome = change(self.records().entry(name.to_owned()).or_default());
        self.events.changes.note();
        outcome
    }

    /// Why the folder cannot be read.
    pub(super) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps why the folder cannot be read. True when that is news.
    pub(super) fn set_trouble(&self, text: Option<String>) -> bool {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *trouble != text;
        *trouble = text;
        drop(trouble);
        self.events.changes.note();
        is_news
    }

    /// A package of this name is being installed until the returned value is dropped.
    pub(super) fn note_coming(&self, name: &str) -> Coming<'_> {
        self.coming().insert(name.to_owned());
        self.events.changes.note();
        let name = name.to_owned();
        Coming { shared: self, name }
    }

    /// Whether a package of this name is being installed.
    pub(super) fn is_coming(&self, name: &str) -> bool {
        self.coming().contains(name)
    }

    /// Every such name.
    pub(super) fn all_coming(&self) -> Vec<String> {
        self.coming().iter().cloned().collect()
    }

    fn coming(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the catalog, and says so.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Catalog) -> T) -> T {
        let outcome = change(&mut self.catalog.write().unwrap_or_else(PoisonError::into_inner));
        self.events.usable.note();
        self.events.changes.note();
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
        self.show_installing(manifest, environment::BUILDING);
        let run = |launch| self.run_to_end(name, launch);
        let prepared = environment::prepare(manifest, &folder, &self.settings, run);
        let prepared = self
            .unless_stopping(prepared)
            .await
            .ok_or("the host is stopping")?;
        self.change(|catalog| catalog.prepare(name.as_str(), Hold::Starting("")));
        prepared.map_err(|error| error.to_string())?;
        self.assignment(whole).await
    }

    /// Says what is being done with a plugin that is not to start yet; nothing while an older version runs.
    pub(super) fn show_installing(&self, manifest: &Manifest, reason: &'static str) {
        let name = manifest.name.as_str();
        if self.change(|catalog| catalog.prepare(name, Hold::Installing(reason))) {
            let version = Some(manifest.version.as_str());
            self.events.say(name, version, State::Installing, reason);
        }
    }

    /// How a plugin is called whose environment is there.
    pub(super) async fn assignment(&self, whole: &Whole) -> Result<Assignment, String> {
        let instances = whole.manifest.instances;
        if instances > 1 && !self.settings.offers_own_contract() {
            return Err(format!(
                "its manifest asks for {instances} instances, which only a plugin of Mangrove's own contract can have; \
                 portable.contract is {:?}",
                self.settings.contract
            ));
        }
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
        let name = assignment.manifest.name.as_str();
        let queued = |waits: bool| {
            let reason = if waits { QUEUED } else { "" };
            self.change(|catalog| catalog.prepare(name, Hold::Starting(reason)));
        };
        let start = async {
            if accept {
                // Before anybody can use them.
                self.install_settings(&assignment.manifest).await;
            }
            match accept {
                true => self.start_all(&assignment).await,
                false => self.take_over(&assignment).await,
            }
        };
        let started = self.starts.run(queued, start).await;
        started.unwrap_or_else(|| Err("the host is stopping".to_owned()))
    }

    pub(super) fn spawner(&self) -> Option<Spawner> {
        (!self.is_stopping()).then(|| self.spawner.clone())
    }

    /// The way to the plugin's worker, which is made when there is none. `None` when the host is stopping.
    pub(super) fn worker(&self, plugin: &PluginName) -> Option<Remote> {
        let spawner = self.spawner()?;
        let mut workers = self.workers();
        if let Some(known) = workers.get(plugin).filter(|remote| !remote.requests.is_closed()) {
            return Some(known.clone());
        }
        let instances = workers.get(plugin).map(|ended| Arc::clone(&ended.instances));
        let instances = instances.unwrap_or_else(|| {
            let output = Output::new(plugin.as_str(), self.settings.log_lines);
            Arc::new(Instances::new(Arc::new(output)))
        });
        let remote = self.employ(spawner, plugin, 0, instances);
        workers.insert(plugin.clone(), remote.clone());
        Some(remote)
    }

    /// A worker that runs nothing yet.
    pub(super) fn employ(
        &self,
        spawner: Spawner,
        plugin: &PluginName,
        instance: u32,
        instances: Arc<Instances>,
    ) -> Remote {
        let (settings, events) = (Arc::clone(&self.settings), self.events.clone());
        let native = Arc::clone(&self.native);
        let (worker, remote) = Worker::new(
            plugin.clone(),
            settings,
            spawner,
            native,
            events,
            instance,
            instances,
        );
        self.tasks.spawn(worker.run(self.shutdown.child_token()));
        remote
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
