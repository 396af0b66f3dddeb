//! Owns how the workers of one plugin are told together what to run, and when to stop. One of them does it by itself,
//! whatever becomes of the others; here is only in which order they are told.

use std::sync::Arc;

use futures_util::future::{join_all, try_join, try_join_all};
use mangrove_protocol::manifest::Manifest;
use tokio::sync::oneshot;

use super::catalog::Hold;
use super::remote::{Assignment, Remote, Request};
use super::shared::Shared;

const STOPPING: &str = "the host is stopping";

impl Shared {
    /// Starts every instance that is to run, all at the same time, and accepts the plugin. Returns when all run, or
    /// why one does not; the others go on, and so does that one.
    pub(super) async fn start_all(&self, assignment: &Assignment) -> Result<(), String> {
        let first = self.worker(&assignment.manifest.name).ok_or(STOPPING)?;
        first.instances.want(&assignment.manifest);
        let others = 1..assignment.manifest.instances;
        let others = others.map(|instance| self.start_other(&first, instance, assignment));
        let started = try_join(self.start_first(assignment, true), try_join_all(others)).await;
        self.spare(&first, assignment).await;
        started.map(|_| ())
    }

    /// Has every instance go over to a new version: the first decides, and when it does not take it, nothing has
    /// changed. The others follow, and one that does not take it while it runs, is stopped for it.
    pub(super) async fn take_over(&self, assignment: &Assignment) -> Result<(), String> {
        self.start_first(assignment, false).await?;
        let first = self.worker(&assignment.manifest.name).ok_or(STOPPING)?;
        first.instances.want(&assignment.manifest);
        let others =
            (1..assignment.manifest.instances).map(|instance| self.follow(&first, instance, assignment));
        join_all(others).await;
        self.spare(&first, assignment).await;
        Ok(())
    }

    async fn start_first(&self, assignment: &Assignment, accept: bool) -> Result<(), String> {
        loop {
            let remote = self.worker(&assignment.manifest.name).ok_or(STOPPING)?;
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
    }

    async fn start_other(
        &self,
        first: &Remote,
        instance: u32,
        assignment: &Assignment,
    ) -> Result<(), String> {
        loop {
            let remote = self.other(first, instance).ok_or(STOPPING)?;
            let start = |reply| Request::Start(Box::new(assignment.clone()), reply);
            match remote.ask(start).await {
                Some(outcome) => return outcome.map_err(|reason| format!("instance {instance}: {reason}")),
                None => remote.requests.closed().await,
            }
        }
    }

    async fn follow(&self, first: &Remote, instance: u32, assignment: &Assignment) {
        let Err(reason) = self.start_other(first, instance, assignment).await else {
            return;
        };
        let plugin = &first.plugin;
        tracing::warn!(%plugin, instance, "it does not take the new version over, so it is stopped before: {reason}");
        if let Some(remote) = self.other(first, instance) {
            stop(&remote, "the new version has to be started anew", false).await;
        }
        // When that fails, too, it is tried again as after any failure, and its status says so.
        let _ = self.start_other(first, instance, assignment).await;
    }

    /// The worker of an instance, which is made when there is none. `None` when the host is stopping.
    fn other(&self, first: &Remote, instance: u32) -> Option<Remote> {
        let spawner = self.spawner()?;
        let instances = &first.instances;
        Some(instances.other(instance, || {
            self.employ(spawner, &first.plugin, instance, Arc::clone(instances))
        }))
    }

    /// Lets go of the instances that are too many. What still runs in one goes on there, in the new version, until it
    /// is closed; unless that is of eKuiper's contract, of which there can be one process alone.
    async fn spare(&self, first: &Remote, assignment: &Assignment) {
        let others = first.instances.others();
        let spare = others.range(assignment.manifest.instances..);
        let is_used = |instance: u32| first.instances.uses(instance) > 0;
        let is_alone = first.status.borrow().foreign;
        let letting_go = spare.clone().map(|(instance, remote)| async move {
            if is_used(*instance) && !is_alone {
                self.follow(first, *instance, assignment).await;
            }
            let _ = remote.requests.send(Request::Spare).await;
        });
        join_all(letting_go).await;
        if is_alone && spare.into_iter().any(|(instance, _)| is_used(*instance)) {
            self.gather(&assignment.manifest).await;
        }
    }

    /// Has the rules work off what they have, let go of the plugin, and open its symbols again: in the instances that
    /// there are now. The others run until then.
    async fn gather(&self, manifest: &Arc<Manifest>) {
        let name = manifest.name.as_str();
        tracing::info!(
            plugin = name,
            "its rules go on in the one process that there can be"
        );
        let _gathering = Gathering { shared: self, name };
        self.withhold(name, Hold::Moving).await;
        // The rules look at them when they open it again.
        self.install_settings(manifest).await;
    }

    /// Stops the plugin's processes and waits for their end. Uses stay, and wait for their return.
    pub(super) async fn stop_worker(&self, name: &str, reason: &str) {
        if let Some(remote) = self.remote(name) {
            let others = remote.instances.others();
            let all = std::iter::once(&remote).chain(others.values());
            join_all(all.map(|remote| stop(remote, reason, true))).await;
        }
    }

    /// Stops every instance but the first.
    pub(super) async fn stop_others(&self, first: &Remote, reason: &str) {
        first.instances.want_count(1);
        let others = first.instances.others();
        join_all(others.values().map(|remote| stop(remote, reason, true))).await;
    }
}

/// A plugin's symbols are withheld, but no longer than anybody waits for the rules to let go.
struct Gathering<'a> {
    shared: &'a Shared,
    name: &'a str,
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        self.shared.change(|catalog| catalog.resume(self.name));
    }
}

async fn stop(remote: &Remote, reason: &str, retire: bool) {
    let stop = |reply| Request::Stop {
        reason: reason.to_owned(),
        retire,
        reply,
    };
    remote.ask(stop).await;
}
