//! Owns what somebody does with a plugin by hand: install, update, remove, start, stop, restart. Each takes the
//! turn of its name first, so that the reconciliation leaves the folder alone meanwhile, and leaves behind what
//! the reconciliation will then find to be as it should be.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mangrove_protocol::name::PluginName;

use super::catalog::{Entry, Hold};
use super::diff::Verdict;
use super::disk;
use super::error::{ControlError, InstallError, RemoveError};
use super::handle::Removed;
use super::install::{self, FETCHING, InstallRequest, PLACING, Staged};
use super::locks::Haste;
use super::remote::Request;
use super::shared::{Shared, blocking};
use super::staging;
use super::status::State;

impl Shared {
    /// Installs a plugin under a free name.
    pub(super) async fn install(&self, request: InstallRequest) -> Result<(), InstallError> {
        let _turn = self.turn(request.name.as_str()).await;
        if self.is_taken(&request.name) {
            return Err(InstallError::AlreadyExists(request.name));
        }
        let name = request.name.as_str();
        self.events.say(name, None, State::Installing, FETCHING);
        let installed = self.install_or_update(&request).await;
        if installed
            .as_ref()
            .is_err_and(|error| !matches!(error, InstallError::Unrecorded { .. }))
        {
            self.events
                .say(name, None, State::Removed, "it was not installed");
        }
        installed
    }

    /// Replaces an installed plugin, or a folder that was refused. The old one runs on when the new one is not
    /// a plugin or does not start.
    pub(super) async fn update(&self, request: InstallRequest) -> Result<(), InstallError> {
        let _turn = self.turn_soon(request.name.as_str(), Haste::Replace).await;
        if !self.is_taken(&request.name) {
            return Err(InstallError::NotFound(request.name));
        }
        self.install_or_update(&request).await
    }

    fn is_taken(&self, name: &PluginName) -> bool {
        // A zip that could not be installed has an entry, too, but takes no place.
        let is_accepted = matches!(
            self.catalog().entry(name.as_str()),
            Some(Entry::Accepted(_) | Entry::Held(..))
        );
        is_accepted || self.portable.join(name.as_str()).symlink_metadata().is_ok()
    }

    /// Brings the plugin of `request` into its place, whatever is there. The caller has its turn.
    pub(super) async fn install_or_update(&self, request: &InstallRequest) -> Result<(), InstallError> {
        let interrupted = || Err(InstallError::Interrupted(request.name.clone()));
        let _coming = self.note_coming(request.name.as_str());
        let staging = install::stage(request, &self.portable, &self.settings);
        let staging = self.unless_pressed(request.name.as_str(), Haste::End, staging);
        let staged = self.unless_stopping(staging).await.flatten();
        let staged = staged.unwrap_or_else(interrupted)?;
        self.put_in_place(staged, &request.shell_paras).await
    }

    async fn put_in_place(&self, mut staged: Staged, paras: &[String]) -> Result<(), InstallError> {
        let (manifest, name) = (Arc::clone(&staged.manifest), staged.manifest.name.clone());
        let is_accepted = matches!(
            self.catalog().entry(name.as_str()),
            Some(Entry::Accepted(_) | Entry::Held(..))
        );
        let old = self.version(name.as_str());
        let entered = self.change(|catalog| match is_accepted {
            true => catalog.claim(Arc::clone(&manifest)),
            false => catalog.enter(Arc::clone(&manifest), Hold::Installing(PLACING)),
        });
        if let Err(conflict) = entered {
            staged.clean().await;
            return Err(conflict.into());
        }
        // Whatever becomes of this task: as long as the journal is there, the old version is.
        staged.keep();
        let put = self.put(&staged).await;
        let was_put = put.is_ok();
        let started = match put {
            Ok(()) => {
                let starting = self.start_in_place(&staged, paras, is_accepted);
                let started = self.unless_pressed(name.as_str(), Haste::End, starting).await;
                started.unwrap_or_else(|| Err(InstallError::Interrupted(name.clone())))
            }
            failed => failed,
        };
        let outcome = match started {
            Err(cause) => Err(self.undo(&staged, was_put, cause).await),
            installed => installed,
        };
        let stuck = match &outcome {
            Err(error @ InstallError::Stuck { .. }) => Some(error.to_string()),
            _ => None,
        };
        match &outcome {
            Ok(()) => tracing::info!(plugin = %name, old, new = manifest.version, "installed"),
            Err(_) if is_accepted => {
                self.change(|catalog| catalog.release(name.as_str()));
                if stuck.is_none() {
                    self.bring_back(&name).await;
                }
            }
            Err(_) => {
                self.stop_worker(name.as_str(), "its installation is being undone")
                    .await;
                // Whatever was there before is found again.
                self.change(|catalog| catalog.remove(name.as_str()));
                self.records().remove(name.as_str());
                self.remove_settings(name.as_str()).await;
            }
        }
        match stuck {
            Some(reason) => {
                tracing::error!(plugin = %name, "{reason}");
                self.bar(name.as_str(), reason).await;
            }
            None if outcome.is_ok() => return self.accept(staged).await,
            None => staged.clean().await,
        }
        outcome
    }

    /// Has the staged folder and the one in place change places.
    async fn put(&self, staged: &Staged) -> Result<(), InstallError> {
        let placing = staged.placing.clone();
        let put = blocking(move || placing.put()).await;
        put.map_err(|source| InstallError::Io {
            what: "replace",
            path: staged.placing.place.clone(),
            source,
        })
    }

    /// What has been put in place goes, and what was there before is back. Returns the cause, or what is worse.
    async fn undo(&self, staged: &Staged, was_put: bool, cause: InstallError) -> InstallError {
        let placing = staged.placing.clone();
        // A script may have removed its own folder; that is undone with everything else it did. What somebody else
        // has done to it meanwhile is not.
        let is_script = matches!(cause, InstallError::Script { .. });
        match blocking(move || placing.withdraw(was_put, is_script)).await {
            Ok(()) => cause,
            Err(source) => InstallError::Stuck {
                cause: Box::new(cause),
                kept: staged.hidden().to_owned(),
                source,
            },
        }
    }

    /// Has the new version stay for good, and removes what the installation leaves.
    async fn accept(&self, staged: Staged) -> Result<(), InstallError> {
        let placing = staged.placing.clone();
        if let Err(source) = blocking(move || placing.accept()).await {
            let error = InstallError::Unrecorded {
                name: staged.manifest.name.clone(),
                kept: staged.hidden().to_owned(),
                source,
            };
            tracing::error!(plugin = %staged.manifest.name, "{error}");
            return Err(error);
        }
        staged.clean().await;
        Ok(())
    }

    /// What lies in the folder is not started by itself, for this reason.
    pub(super) async fn bar(&self, name: &str, reason: String) {
        // What is no plugin is refused anyway.
        if let Ok(whole) = self.inspect(name).await {
            let blocked = Some((whole.all, Verdict::Refused(reason)));
            self.note(name, |record| record.blocked = blocked);
        }
    }

    /// Starts what has been put into the folder, in place of what runs if there is such a thing.
    async fn start_in_place(
        &self,
        staged: &Staged,
        paras: &[String],
        is_accepted: bool,
    ) -> Result<(), InstallError> {
        let (name, folder) = (&staged.manifest.name, &staged.placing.place);
        let run = |launch| self.run_to_end(name, launch);
        let tell = |reason| self.show_installing(&staged.manifest, reason);
        let preparing = install::prepare(name, folder, paras, &self.settings, tell, run);
        let prepared = self.unless_stopping(preparing).await;
        prepared.unwrap_or_else(|| Err(InstallError::Interrupted(name.clone())))?;
        self.change(|catalog| catalog.prepare(name.as_str(), Hold::Starting("")));
        let start = |reason: String| InstallError::Start {
            name: name.clone(),
            reason,
        };
        let whole = self.inspect(name.as_str()).await;
        let whole = whole.map_err(|unfit| start(unfit.reason().to_owned()))?;
        let assignment = self.assignment(&whole).await.map_err(start)?;
        let started = if is_accepted {
            self.replace(assignment).await
        } else {
            self.run(assignment).await
        };
        match started {
            Ok(()) => {
                self.settle_swap(&whole, None);
                Ok(())
            }
            Err(reason) => Err(start(reason)),
        }
    }

    /// Starts the old version again, should it not run.
    async fn bring_back(&self, name: &PluginName) {
        tracing::warn!(plugin = %name, "the new version was not taken: going on with the old one");
        let is_stopped = matches!(
            self.catalog().entry(name.as_str()),
            Some(Entry::Held(_, Hold::Stopped))
        );
        if is_stopped || self.is_up(name.as_str()) || self.locks.is_pressed(name.as_str(), Haste::End) {
            return;
        }
        match self.inspect(name.as_str()).await {
            Ok(whole) => {
                let started = match self.ready(&whole).await {
                    Ok(assignment) => self.run(assignment).await,
                    unready => unready.map(drop),
                };
                if let Err(reason) = started {
                    tracing::warn!(plugin = %name, "the old version does not start: {reason}");
                }
            }
            Err(unfit) => tracing::warn!(plugin = %name, "the old version is gone: {}", unfit.reason()),
        }
    }

    /// Stops a plugin and deletes its folder. Its rules are given time to let go of it.
    pub(super) async fn remove(&self, name: String) -> Result<Removed, RemoveError> {
        let is_known = || self.catalog().entry(&name).is_some();
        let was_there = self.is_coming(&name) || is_known();
        let _turn = self.turn_soon(&name, Haste::End).await;
        // Only a name that the catalog knows becomes part of a path.
        if !is_known() {
            // Its installation gave way, or somebody else has removed it.
            return match was_there {
                true => Ok(Removed { rules: Vec::new() }),
                false => Err(RemoveError::NotFound(name)),
            };
        }
        let has_zip = self
            .records()
            .get(&name)
            .is_some_and(|record| record.zip.is_some());
        let rules = self.retire(&name).await;
        let (portable, forgotten) = (self.portable.clone(), name.clone());
        let forgotten = blocking(move || staging::forget(&portable, &forgotten)).await;
        forgotten.map_err(|source| RemoveError::Io {
            path: self.portable.join(&name),
            source,
        })?;
        let remove = async |path: PathBuf| {
            let removed = self.remove_entry(&path).await;
            removed.map_err(|source| RemoveError::Io { path, source })
        };
        remove(self.portable.join(&name)).await?;
        if has_zip {
            remove(self.portable.join(format!("{name}.zip"))).await?;
        }
        Ok(Removed { rules })
    }

    /// First moved out of sight in one step, so that half a plugin is never found in its place.
    async fn remove_entry(&self, path: &Path) -> io::Result<()> {
        if path.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            return tokio::fs::remove_file(path).await;
        }
        let (path, portable) = (path.to_owned(), self.portable.clone());
        let (hidden, moved) = blocking(move || {
            let hidden = staging::hidden_folder(&portable)?;
            let moved = std::fs::rename(path, hidden.path().join("removed"));
            // Not that it is back after a power cut.
            disk::sync_done(&portable);
            Ok((hidden, moved))
        })
        .await?;
        staging::remove(hidden).await;
        match moved {
            // Somebody was quicker: it is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            moved => moved,
        }
    }

    /// Stops a plugin until somebody starts it or its files change.
    pub(super) async fn stop(&self, name: String) -> Result<(), ControlError> {
        let _turn = self.turn_soon(&name, Haste::End).await;
        self.accepted(&name)?;
        self.withhold(&name, Hold::Stopped).await;
        self.stop_worker(&name, "stopped by hand").await;
        Ok(())
    }

    /// Starts a plugin that does not run, from what lies in its folder now.
    pub(super) async fn start(&self, name: String) -> Result<(), ControlError> {
        let _turn = self.turn(&name).await;
        let is_stopped = matches!(self.catalog().entry(&name), Some(Entry::Held(..)));
        let remote = self.remote(&name);
        let is_attached = remote.is_some_and(|remote| remote.status.borrow().attached);
        if !is_stopped && !is_attached && self.are_all_up(&name) {
            return Ok(());
        }
        self.begin(name, None).await
    }

    /// Stops a plugin and starts it again; its rules wait meanwhile.
    pub(super) async fn restart(&self, name: String) -> Result<(), ControlError> {
        let _turn = self.turn_soon(&name, Haste::Replace).await;
        self.accepted(&name)?;
        self.begin(name, Some("being restarted")).await
    }

    /// Stops the plugin's process and waits for one that its author starts.
    pub(super) async fn attach(&self, name: String) -> Result<(), ControlError> {
        let _turn = self.turn_soon(&name, Haste::Replace).await;
        self.accepted(&name)?;
        let manifest = self
            .catalog()
            .entry(&name)
            .and_then(|entry| entry.manifest().cloned());
        let remote = manifest.as_ref().and_then(|manifest| self.worker(&manifest.name));
        let (Some(manifest), Some(remote)) = (manifest, remote) else {
            return Err(ControlError::Interrupted(name));
        };
        self.stop_others(&remote, "another process is attached").await;
        let attach = |reply| Request::Attach(Arc::clone(&manifest), reply);
        if remote.ask(attach).await.is_none() {
            return Err(ControlError::Interrupted(name));
        }
        let accepted = self.change(|catalog| catalog.accept(manifest));
        accepted.map_err(|conflict| ControlError::Refused {
            name,
            reason: conflict.to_string(),
        })
    }

    /// Starts what lies in the folder, and stops what runs before, if there is a reason to.
    async fn begin(&self, name: String, stop: Option<&str>) -> Result<(), ControlError> {
        if self.catalog().entry(&name).is_none() {
            return Err(ControlError::NotFound(name));
        }
        let whole = match self.inspect(&name).await {
            Ok(whole) => whole,
            Err(unfit) => {
                let reason = unfit.reason().to_owned();
                return Err(ControlError::Refused { name, reason });
            }
        };
        let manifest = Arc::clone(&whole.manifest);
        if let Err(conflict) = self.change(|catalog| catalog.enter(manifest, Hold::Starting(""))) {
            let reason = conflict.to_string();
            return Err(ControlError::Refused { name, reason });
        }
        if let Some(reason) = stop {
            self.stop_worker(&name, reason).await;
        }
        self.note(&name, |record| record.taken(&whole));
        let start = async {
            match self.ready(&whole).await {
                Ok(assignment) => Ok(self.run(assignment).await),
                Err(reason) => Err(reason),
            }
        };
        let Some(started) = self.unless_pressed(&name, Haste::Replace, start).await else {
            self.give_way(&whole);
            let reason = "something else is to be done with it meanwhile".to_owned();
            return Err(ControlError::Failed { name, reason });
        };
        match started {
            Ok(Ok(())) => Ok(()),
            Err(reason) => {
                self.unready(&whole, reason.clone());
                Err(ControlError::Refused { name, reason })
            }
            Ok(Err(_)) if self.is_stopping() => Err(ControlError::Interrupted(name)),
            Ok(Err(reason)) => Err(ControlError::Failed { name, reason }),
        }
    }

    fn accepted(&self, name: &str) -> Result<(), ControlError> {
        let catalog = self.catalog();
        let Some(entry) = catalog.entry(name) else {
            return Err(ControlError::NotFound(name.to_owned()));
        };
        match entry {
            Entry::Accepted(_) | Entry::Held(..) => Ok(()),
            Entry::Incomplete(_, reason) | Entry::Refused(_, reason) | Entry::Unreadable(reason) => {
                Err(ControlError::Refused {
                    name: name.to_owned(),
                    reason: reason.clone(),
                })
            }
        }
    }

    /// Whether there is a process that may be made use of.
    pub(super) fn is_up(&self, name: &str) -> bool {
        let remote = self.remote(name);
        remote.is_some_and(|remote| is_up(remote.status.borrow().state))
    }

    /// The same of every instance that is to run.
    fn are_all_up(&self, name: &str) -> bool {
        let remote = self.remote(name);
        remote.is_some_and(|remote| is_up(remote.instances.describe().0.state))
    }

    /// The version that the catalog has.
    pub(super) fn version(&self, name: &str) -> Option<String> {
        let catalog = self.catalog();
        Some(catalog.entry(name)?.manifest()?.version.clone())
    }
}

fn is_up(state: State) -> bool {
    matches!(state, State::Running | State::Unhealthy | State::Starting)
}
