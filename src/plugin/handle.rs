//! Owns what the rest of the host may do with plugins: look at them, change them, use their symbols.

use std::sync::Arc;

use mangrove_protocol::Object;
use mangrove_protocol::control::Meta;
use mangrove_protocol::manifest::{Manifest, SymbolKind};
use mangrove_protocol::name::{PluginName, SymbolName};
use tokio::sync::{broadcast, watch};

use super::catalog::{Entry, Hold, Missing};
use super::error::{ControlError, InstallError, OpenError, RemoveError};
use super::events::Event;
use super::function::Function;
use super::install::{FETCHING, InstallRequest};
use super::output::Line;
use super::remote::Remote;
use super::shared::{Record, Shared};
use super::sink::Sink;
use super::source::Source;
use super::status::{Plugin, State, Status};

/// A plugin was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The rules that used it, by name.
    pub rules: Vec<String>,
}

/// The way to all plugins. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// Every plugin whose manifest can be read, by name; refused ones among them.
    pub fn list(&self) -> Vec<Plugin> {
        let catalog = self.shared.catalog();
        catalog
            .entries()
            .filter_map(|(_, entry)| self.plugin(entry))
            .collect()
    }

    /// The plugin `name`.
    pub fn get(&self, name: &str) -> Option<Plugin> {
        let catalog = self.shared.catalog();
        self.plugin(catalog.entry(name)?)
    }

    /// How the plugin `name` is; also of a folder without a manifest that can be read, and of a package that is
    /// being installed.
    pub fn status(&self, name: &str) -> Option<Status> {
        let catalog = self.shared.catalog();
        match catalog.entry(name) {
            Some(entry) => Some(self.entry_status(name, entry)),
            None if self.shared.is_coming(name) => Some(Status::without_worker(State::Installing, FETCHING)),
            None => None,
        }
    }

    /// Counts up whenever what a status shows may have changed: look with [`Handle::status`]. Uptime and the
    /// symbols' times and counts are not looked at.
    pub fn status_changes(&self) -> watch::Receiver<u64> {
        self.shared.events.changes.subscribe()
    }

    /// Folders without a manifest that can be read, each with the reason.
    pub fn refused(&self) -> Vec<(String, String)> {
        let catalog = self.shared.catalog();
        let unreadable = catalog.entries().filter_map(|(name, entry)| match entry {
            Entry::Unreadable(reason) | Entry::Incomplete(None, reason) => {
                Some((name.to_owned(), reason.clone()))
            }
            _ => None,
        });
        unreadable.collect()
    }

    /// Names of which nothing is known yet but that a package is being installed.
    pub fn coming(&self) -> Vec<String> {
        let catalog = self.shared.catalog();
        let mut names = self.shared.all_coming();
        names.retain(|name| catalog.entry(name).is_none());
        names
    }

    /// Why the plugins' folder cannot be read now; what runs goes on meanwhile.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble()
    }

    /// The last lines that the plugin's processes have written.
    pub fn output(&self, name: &str) -> Option<Vec<Line>> {
        self.shared.remote(name).map(|remote| remote.output.lines())
    }

    /// The same lines, and every later one, with none between them lost. Up to 256 wait for a slow listener, who
    /// is then told how many it has lost.
    pub fn follow_output(&self, name: &str) -> Option<(Vec<Line>, broadcast::Receiver<Line>)> {
        self.shared.remote(name).map(|remote| remote.output.replay())
    }

    /// Unpacks the package hidden among the plugins, checks it, moves it into place and starts it. Returns when it
    /// runs, and all of it is on the disk. On an error nothing is left behind, and neither is it when the host is killed
    /// before this returns: the next one takes it away when it starts.
    ///
    /// # Errors
    /// [`InstallError::AlreadyExists`] when the name is taken; else what is wrong with the package, or why it
    /// does not start; [`InstallError::Unrecorded`] when it runs, but may be gone after a start of the host.
    ///
    /// # Cancel safety
    /// The installation goes on when the future is dropped.
    pub async fn install(&self, request: InstallRequest) -> Result<(), InstallError> {
        let (shared, name) = (Arc::clone(&self.shared), request.name.clone());
        let task = self
            .shared
            .tasks
            .spawn(async move { shared.install(request).await });
        task.await.unwrap_or(Err(InstallError::Interrupted(name)))
    }

    /// Replaces an installed plugin. When the new one is no plugin, the old one runs on; when the new one
    /// does not start, the old one is started again. Rules that use it go on with the new one. When the host is killed
    /// before this returns, the next one puts the old one back when it starts.
    ///
    /// # Errors
    /// [`InstallError::NotFound`] when there is nothing of this name; [`InstallError::Stuck`] when the old one cannot be
    /// put back; else as [`Handle::install`].
    ///
    /// # Cancel safety
    /// The update goes on when the future is dropped.
    pub async fn update(&self, request: InstallRequest) -> Result<(), InstallError> {
        let (shared, name) = (Arc::clone(&self.shared), request.name.clone());
        let task = self
            .shared
            .tasks
            .spawn(async move { shared.update(request).await });
        task.await.unwrap_or(Err(InstallError::Interrupted(name)))
    }

    /// Withholds a plugin's symbols, waits up to 5 s until the rules that use them have let go, stops its
    /// process and deletes its folder.
    ///
    /// # Errors
    /// There is no such plugin, or its folder cannot be deleted.
    ///
    /// # Cancel safety
    /// The removal goes on when the future is dropped.
    pub async fn remove(&self, name: &str) -> Result<Removed, RemoveError> {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        let removed = name.clone();
        let task = self
            .shared
            .tasks
            .spawn(async move { shared.remove(removed).await });
        task.await.unwrap_or(Err(RemoveError::Interrupted(name)))
    }

    /// Starts a plugin that was stopped, has failed, or whose folder was refused, from what lies in its folder
    /// now. Returns when it runs.
    ///
    /// # Errors
    /// There is no such plugin, its folder is refused, or it does not start.
    ///
    /// # Cancel safety
    /// The start goes on when the future is dropped.
    pub async fn start(&self, name: &str) -> Result<(), ControlError> {
        self.control(name, |shared, name| async move { shared.start(name).await })
            .await
    }

    /// Stops a plugin until it is started, its files change, or the host starts again. Its symbols are withheld
    /// first, and the rules that use them have up to 5 s to let go. Returns when no process is left.
    ///
    /// # Errors
    /// There is no such plugin, or it is refused.
    ///
    /// # Cancel safety
    /// The stop goes on when the future is dropped.
    pub async fn stop(&self, name: &str) -> Result<(), ControlError> {
        self.control(name, |shared, name| async move { shared.stop(name).await })
            .await
    }

    /// Stops a plugin's process and starts another one; its rules wait for it. Returns when it runs.
    ///
    /// # Errors
    /// As [`Handle::start`].
    ///
    /// # Cancel safety
    /// The restart goes on when the future is dropped.
    pub async fn restart(&self, name: &str) -> Result<(), ControlError> {
        self.control(name, |shared, name| async move { shared.restart(name).await })
            .await
    }

    /// Stops a plugin's process and waits for one that its author starts, in a debugger for example. Starting,
    /// restarting or changing the plugin ends that. Returns when no process of the host's is left, with the variables
    /// that a process of our own contract needs in its environment. They prove that it may connect: not for a log.
    ///
    /// # Errors
    /// There is no such plugin, or it is refused.
    ///
    /// # Cancel safety
    /// It goes on when the future is dropped.
    pub async fn attach(&self, name: &str) -> Result<Vec<(String, String)>, ControlError> {
        self.control(name, |shared, name| async move { shared.attach(name).await })
            .await?;
        let remote = self.shared.remote(name);
        Ok(remote.map_or_else(Vec::new, |remote| remote.attachment.borrow().clone()))
    }

    /// In a task of its own, so that a caller who goes away leaves nothing half done.
    async fn control<F>(
        &self,
        name: &str,
        command: impl FnOnce(Arc<Shared>, String) -> F,
    ) -> Result<(), ControlError>
    where
        F: Future<Output = Result<(), ControlError>> + Send + 'static,
    {
        let command = command(Arc::clone(&self.shared), name.to_owned());
        let task = self.shared.tasks.spawn(command);
        task.await
            .unwrap_or_else(|_| Err(ControlError::Interrupted(name.to_owned())))
    }

    /// Counts up whenever the set of usable symbols may have changed: look with [`Handle::missing`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.events.usable.subscribe()
    }

    /// Why nobody can use the symbol now; `None` when some plugin defines it that is neither refused nor
    /// stopped nor being removed nor given up. It may still be starting: who opens it is told.
    pub fn missing(&self, kind: SymbolKind, name: &str) -> Option<Missing> {
        let owner = {
            let catalog = self.shared.catalog();
            if let Some(missing) = catalog.missing(kind, name) {
                return Some(missing);
            }
            let owner = catalog.owner(kind, name)?;
            match catalog.entry(owner.name.as_str()) {
                Some(Entry::Accepted(manifest)) => manifest.name.clone(),
                // It is about to be started.
                _ => return None,
            }
        };
        let reason = self.shared.remote(owner.as_str())?.instances.given_up()?;
        Some(Missing {
            reason: format!("the plugin \"{owner}\" has failed: {reason}"),
            plugin: Some(owner),
        })
    }

    /// Whether the plugin that defines the symbol is accepted: it was not just found and is about to be started, nor is it
    /// stopped or being removed. The settings that come with it are there then.
    pub fn is_accepted(&self, kind: SymbolKind, name: &str) -> bool {
        let catalog = self.shared.catalog();
        let owner = catalog.owner(kind, name);
        owner.is_some_and(|owner| matches!(catalog.entry(owner.name.as_str()), Some(Entry::Accepted(_))))
    }

    /// Waits while the plugin that defines the symbol was just found and is about to be started, as opening it does.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn accepted(&self, kind: SymbolKind, name: &str) {
        // Why it cannot be used, is said when it is opened.
        let _found = self.find(kind, name).await;
    }

    /// Every state change of every plugin from now on. Up to 256 wait for a slow listener, who is then told how
    /// many it has lost.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// The plugin that defines the symbol, with its version. It may be stopped: see [`Handle::missing`].
    pub fn symbol(&self, kind: SymbolKind, name: &str) -> Option<(PluginName, String)> {
        let catalog = self.shared.catalog();
        let owner = catalog.owner(kind, name)?;
        Some((owner.name.clone(), owner.version.clone()))
    }

    /// Every symbol of a kind that is not refused, with its plugin and the plugin's version.
    pub fn symbols(&self, kind: SymbolKind) -> Vec<(SymbolName, PluginName, String)> {
        let catalog = self.shared.catalog();
        let symbols = catalog.symbols(kind);
        symbols
            .map(|(symbol, owner)| (symbol.clone(), owner.name.clone(), owner.version.clone()))
            .collect()
    }

    /// Starts a source, and starts it again in every new process of its plugin until it is closed or dropped.
    /// While the plugin is being started, this waits. `meta` needs a rule and an operator.
    ///
    /// # Errors
    /// Nobody defines it, its plugin does not run or does not start it, its address is in use.
    ///
    /// # Cancel safety
    /// What was started is stopped when the future is dropped.
    pub async fn open_source(
        &self,
        symbol: &str,
        meta: Meta,
        data_source: &str,
        config: Object,
    ) -> Result<Source, OpenError> {
        let (remote, name) = self.find(SymbolKind::Source, symbol).await?;
        Source::open(remote.instances.seat(&remote), name, meta, data_source, config).await
    }

    /// Starts a sink, as [`Handle::open_source`] does a source. With `require_ack` each message waits for its
    /// acknowledgement.
    ///
    /// # Errors
    /// As [`Handle::open_source`]; also when the sink does not listen.
    ///
    /// # Cancel safety
    /// What was started is stopped when the future is dropped.
    pub async fn open_sink(
        &self,
        symbol: &str,
        meta: Meta,
        config: Object,
        require_ack: bool,
    ) -> Result<Sink, OpenError> {
        let (remote, name) = self.find(SymbolKind::Sink, symbol).await?;
        Sink::open(remote.instances.seat(&remote), name, meta, config, require_ack).await
    }

    /// A function, which is started once for all rules. `rule` counts as its user until the value and its
    /// clones are dropped.
    ///
    /// # Errors
    /// As [`Handle::open_source`].
    ///
    /// # Cancel safety
    /// May be dropped; the function is started all the same.
    pub async fn function(&self, symbol: &str, rule: &str) -> Result<Function, OpenError> {
        let (remote, name) = self.find(SymbolKind::Function, symbol).await?;
        Function::open(remote.instances.desk(&remote), name, rule).await
    }

    /// Waits while the plugin that defines the symbol is about to be started.
    async fn find(&self, kind: SymbolKind, symbol: &str) -> Result<(Remote, SymbolName), OpenError> {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            match self.look_up(kind, symbol) {
                Some(found) => return found,
                None if changes.changed().await.is_err() => return Err(OpenError::Stopping),
                None => {}
            }
        }
    }

    fn look_up(&self, kind: SymbolKind, symbol: &str) -> Option<Result<(Remote, SymbolName), OpenError>> {
        let catalog = self.shared.catalog();
        if let Some(owner) = catalog.owner(kind, symbol) {
            if let Some(Entry::Held(_, Hold::Starting(_))) = catalog.entry(owner.name.as_str())
                && !self.shared.is_stopping()
            {
                return None;
            }
            let name = owner.symbols(kind).iter().find(|name| name.as_str() == symbol);
            if let (Some(name), Some(remote)) = (name, self.shared.remote(owner.name.as_str())) {
                return Some(Ok((remote, name.clone())));
            }
        }
        let name = symbol.to_owned();
        Some(Err(match catalog.refused_owner(kind, symbol) {
            Some((plugin, reason)) => OpenError::Refused {
                kind,
                name,
                plugin: plugin.clone(),
                reason: reason.to_owned(),
            },
            None => OpenError::Unknown { kind, name },
        }))
    }

    fn plugin(&self, entry: &Entry) -> Option<Plugin> {
        let manifest = entry.manifest()?;
        Some(Plugin {
            manifest: manifest.as_ref().clone(),
            status: self.entry_status(manifest.name.as_str(), entry),
        })
    }

    fn entry_status(&self, name: &str, entry: &Entry) -> Status {
        let mut status = match entry {
            Entry::Accepted(manifest)
            | Entry::Held(manifest, Hold::Stopped | Hold::Leaving | Hold::Moving) => {
                self.running_status(manifest)
            }
            Entry::Held(_, Hold::Installing(reason)) => Status::without_worker(State::Installing, reason),
            Entry::Held(_, Hold::Starting(reason)) => Status::without_worker(State::Starting, reason),
            Entry::Incomplete(_, reason) => Status::without_worker(State::Incomplete, reason),
            Entry::Refused(_, reason) | Entry::Unreadable(reason) => {
                Status::without_worker(State::Refused, reason)
            }
        };
        if let Some(manifest) = entry.manifest() {
            status.version.clone_from(&manifest.version);
        }
        let shown = self.shared.records().get(name).map(Record::shown);
        if let Some(note) = shown.filter(|note| !note.is_empty()) {
            status.note = note;
        }
        status
    }

    fn running_status(&self, manifest: &Manifest) -> Status {
        match self.shared.remote(manifest.name.as_str()) {
            Some(remote) => remote.describe(manifest),
            None => Status::without_worker(State::Starting, ""),
        }
    }
}
