//! Owns what is done because of what lies in the folder: one plugin is started, replaced, or installed from a zip.
//! Each step is a task that holds the turn of the plugin's name. The reconciler decides on it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::broadcast::error::RecvError;

use crate::plugin::catalog::Hold;
use crate::plugin::diff::{Churn, Verdict};
use crate::plugin::error::InstallError;
use crate::plugin::fingerprint::{self, Fingerprint};
use crate::plugin::inspect::{Unfit, Whole};
use crate::plugin::install::InstallRequest;
use crate::plugin::locks::Haste;
use crate::plugin::shared::{Record, Shared, Turn, blocking};
use crate::plugin::status::State;

/// Why a program that is there is not started.
const WRITTEN: &str = "its program is still open for writing";

impl Shared {
    /// Starts what lies in a folder and does not run.
    pub(super) fn start_found(self: Arc<Self>, whole: Whole, turn: Turn) {
        let manifest = Arc::clone(&whole.manifest);
        let name = manifest.name.clone();
        if let Err(conflict) = self.change(|catalog| catalog.enter(Arc::clone(&manifest), Hold::Starting("")))
        {
            let unfit = Unfit {
                manifest: Some(manifest),
                verdict: Verdict::Refused(conflict.to_string()),
            };
            return self.show(name.as_str(), &unfit);
        }
        self.note(name.as_str(), |record| record.taken(&whole));
        let shared = Arc::clone(&self);
        self.tasks.spawn(async move {
            let start = async {
                let assignment = match shared.ready(&whole).await {
                    Ok(assignment) => assignment,
                    Err(reason) => return shared.unready(&whole, reason),
                };
                match shared.run(assignment).await {
                    Ok(()) => tracing::info!(plugin = %name, version = manifest.version, "started"),
                    Err(reason) if is_written(&reason) => {
                        shared.stop_worker(name.as_str(), WRITTEN).await;
                        shared.block(&whole, Verdict::Incomplete(WRITTEN.to_owned()));
                    }
                    // The supervision goes on with it.
                    Err(reason) => tracing::warn!(plugin = %name, "it does not start: {reason}"),
                }
            };
            let started = shared.unless_pressed(name.as_str(), Haste::Replace, start).await;
            if started.is_none() {
                shared.give_way(&whole);
            }
            drop(turn);
        });
    }

    /// What was entered is not waited for any longer. Whoever came between decides what becomes of it.
    pub(in crate::plugin) fn give_way(&self, whole: &Whole) {
        let name = &whole.manifest.name;
        tracing::info!(plugin = %name, "not waiting for its start: something else is to be done with it");
        let accepted = self.change(|catalog| catalog.accept(Arc::clone(&whole.manifest)));
        if let Err(conflict) = accepted {
            tracing::warn!(plugin = %name, "{conflict}");
        }
    }

    /// Has what lies in a folder take over from what runs.
    pub(super) fn swap_found(self: Arc<Self>, whole: Whole, turn: Turn) {
        let manifest = Arc::clone(&whole.manifest);
        let name = manifest.name.clone();
        if !self.is_up(name.as_str()) {
            return self.start_found(whole, turn);
        }
        let admitted = self.note(name.as_str(), |record| {
            let is_own_doing = record.of_core == Some(whole.of_core);
            if !is_own_doing {
                record.churn = Churn::default();
                return true;
            }
            if record.churn.admits(Instant::now()) {
                return true;
            }
            record.core_only = true;
            record.from = Some(whole.of_core);
            false
        });
        if !admitted {
            tracing::warn!(
                plugin = %name,
                "it keeps changing files in its own folder: from now on only its manifest and program are watched"
            );
            return;
        }
        if let Err(conflict) = self.change(|catalog| catalog.claim(Arc::clone(&manifest))) {
            return self.note(name.as_str(), |record| record.note = conflict.to_string());
        }
        let old = self.version(name.as_str());
        let shared = Arc::clone(&self);
        self.tasks.spawn(async move {
            let from = whole.all;
            let swap = async {
                match shared.ready(&whole).await {
                    Ok(assignment) => shared.replace(assignment).await,
                    unready => unready.map(drop),
                }
            };
            let Some(outcome) = shared.unless_pressed(name.as_str(), Haste::End, swap).await else {
                shared.change(|catalog| catalog.release(name.as_str()));
                return drop(turn);
            };
            shared.settle_swap(&whole, outcome.as_ref().err().map(String::as_str));
            match outcome {
                Ok(()) => tracing::info!(plugin = %name, old, new = manifest.version, "replaced"),
                Err(reason) => {
                    tracing::warn!(plugin = %name, "its changed folder is not taken: {reason}");
                    // When the old one has come to its end meanwhile, there is nothing else to start.
                    let goes_on = shared.is_up(name.as_str());
                    shared.note(name.as_str(), |record: &mut Record| {
                        if is_written(&reason) {
                            record.blocked = Some((from, Verdict::Incomplete(WRITTEN.to_owned())));
                            record.note = WRITTEN.to_owned();
                        } else {
                            record.tried = goes_on.then_some(from);
                            record.note = format!(
                                "what lies in its folder does not start: {reason}; it is tried again when its files \
                                 change or its process ends"
                            );
                        }
                    });
                }
            }
            drop(turn);
        });
    }

    /// Has each plugin whose process ends take what lies in its folder, also when that did not start before: the old
    /// program is no longer there, and its manifest says nothing of the new one. Runs until the host ends.
    pub(in crate::plugin) async fn retry_tried(self: Arc<Self>) {
        let mut events = self.events.subscribe();
        loop {
            let ended = match self.unless_stopping(events.recv()).await {
                Some(Ok(event)) if matches!(event.state, State::Restarting | State::Failed) => {
                    Some(event.plugin)
                }
                Some(Ok(_)) => continue,
                // One that was lost may have been of any plugin.
                Some(Err(RecvError::Lagged(_))) => None,
                None | Some(Err(RecvError::Closed)) => return,
            };
            let is_it = |name: &str| ended.as_ref().is_none_or(|ended| ended == name);
            for (name, record) in self.records().iter_mut().filter(|(name, _)| is_it(name)) {
                if record.tried.take().is_some() {
                    self.dirty.done(name);
                    self.dirty.wake();
                }
            }
        }
    }

    /// Its environment cannot be built: it is refused until its folder changes or somebody starts it.
    pub(in crate::plugin) fn unready(&self, whole: &Whole, reason: String) {
        if !self.is_stopping() {
            self.block(whole, Verdict::Refused(reason));
        }
    }

    /// What was entered cannot be started now.
    fn block(&self, whole: &Whole, verdict: Verdict) {
        let name = whole.manifest.name.as_str();
        let blocked = Some((whole.all, verdict.clone()));
        self.note(name, |record| record.blocked = blocked);
        let manifest = Some(Arc::clone(&whole.manifest));
        self.show(name, &Unfit { manifest, verdict });
    }

    /// The catalog is told how a swap went.
    pub(in crate::plugin) fn settle_swap(&self, whole: &Whole, failure: Option<&str>) {
        let manifest = Arc::clone(&whole.manifest);
        let name = manifest.name.clone();
        let accepted = match failure {
            None => self.change(|catalog| catalog.accept(manifest)).is_ok(),
            Some(_) => false,
        };
        if accepted {
            self.note(name.as_str(), |record| record.taken(whole));
        } else {
            self.change(|catalog| catalog.release(name.as_str()));
        }
    }

    /// Installs `<name>.zip`, or updates from it, and removes it when that has worked.
    pub(super) async fn install_zip(&self, name: &str, print: Fingerprint) {
        let path = self.portable.join(format!("{name}.zip"));
        self.events
            .say(name, None, State::Installing, &format!("from {name}.zip"));
        let outcome = match name.parse() {
            Ok(plugin) => {
                let request = InstallRequest::new(plugin, file_url(&path));
                match self.install_or_update(&request).await {
                    // The next start may need it.
                    Err(error @ InstallError::Unrecorded { .. }) => {
                        Err(format!("{name}.zip is kept: {error}"))
                    }
                    installed => installed.map_err(|error| format!("{name}.zip was not installed: {error}")),
                }
            }
            Err(error) => Err(format!("{name}.zip was not installed: {error}")),
        };
        match outcome {
            Ok(()) => {
                let removed = blocking(move || {
                    // Another one may have taken its place.
                    if fingerprint::of_file(&path, &path.symlink_metadata()?) == print {
                        std::fs::remove_file(&path)?;
                    }
                    Ok(())
                });
                let kept = removed.await.err().map(|error| {
                    let reason = format!("{name}.zip is installed, but cannot be removed: {error}");
                    tracing::warn!(plugin = name, "{reason}");
                    (print, reason)
                });
                self.note(name, |record| record.zip = kept);
            }
            Err(reason) => {
                self.note(name, |record| record.zip = Some((print, reason.clone())));
                let has_folder = self.portable.join(name).symlink_metadata().is_ok();
                if has_folder {
                    tracing::warn!(plugin = name, "{reason}");
                } else {
                    self.show(name, &Unfit::refused(reason));
                }
            }
        }
    }
}

/// Whether a process could not be started because somebody writes its program.
fn is_written(reason: &str) -> bool {
    reason.contains("Text file busy")
}

pub(in crate::plugin) fn file_url(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut url = "file://".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' => url.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => url.push(char::from(*byte)),
            // Writing to a string does not fail.
            byte => drop(write!(url, "%{byte:02X}")),
        }
    }
    url
}
