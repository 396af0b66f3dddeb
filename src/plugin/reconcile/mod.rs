//! Owns the task that makes what runs what lies in the plugins' folder: it waits for news, looks, has `diff`
//! decide, and starts a task for each step, so that no plugin waits for another. What somebody is changing by
//! hand is left alone until that is done.
//!
//! A folder is acted on when it looked the same for `portable.settle`. That holds for one that is gone, too:
//! it may be on its way back.
//!
//! | module | what it owns |
//! |---|---|
//! | `seen` | what is known of one folder over time |
//! | `steps` | the tasks that start, replace and install |

mod seen;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::plugin::catalog::{Entry, Hold};
use crate::plugin::diff::{self, Found, Known, Step, Verdict};
use crate::plugin::inspect::{self, Unfit};
use crate::plugin::locks::Haste;
use crate::plugin::scan::{Counts, Look, Scanner, World};
use crate::plugin::shared::{Shared, Turn, blocking};
use crate::plugin::watch::Scope;
use seen::{Print, Seen, Taken, observe};
pub(super) use steps::file_url;

/// How long news are gathered before a look. Events come in bursts.
const GATHER: Duration = Duration::from_millis(10);

/// How much longer than the look itself: who keeps changing files costs a fifth of a processor at most.
const REST: u32 = 4;
/// But no longer than this: a look may have taken long because the machine is busy with something else.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Until the next look at a folder that cannot be read.
const RETRY: Duration = Duration::from_secs(1);

/// The task's state.
pub(in crate::plugin) struct Reconciler {
    shared: Arc<Shared>,
    /// `None` while it looks.
    scanner: Option<Scanner>,
    folders: BTreeMap<String, Seen>,
    zips: BTreeMap<String, Seen>,
    next_rescan: Instant,
    /// While the folder cannot be read.
    retry: Option<Instant>,
    /// When the last look began, and how long it took.
    began: Instant,
    effort: Duration,
}

impl Reconciler {
    /// Looks for the first time and starts what it finds. What was changed just now is given time to settle.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(in crate::plugin) async fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let mut this = Self {
            scanner: Some(Scanner::new(&shared.portable, &shared.dirty)),
            folders: BTreeMap::new(),
            zips: BTreeMap::new(),
            next_rescan: Instant::now() + shared.settings.rescan,
            retry: None,
            began: Instant::now(),
            effort: Duration::ZERO,
            shared,
        };
        let world = this.look(&Scope::All).await?;
        this.note(&Scope::All, &world, true);
        let due = this
            .folders
            .values()
            .map(|seen| seen.since + this.shared.settings.settle)
            .max();
        if let Some(due) = due.filter(|due| *due > Instant::now()) {
            tokio::time::sleep_until(due.into()).await;
            let world = this.look(&Scope::All).await?;
            this.note(&Scope::All, &world, false);
        }
        this.act().await;
        Ok(this)
    }

    /// Follows every change until `shutdown`.
    pub(in crate::plugin) async fn run(mut self, shutdown: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        loop {
            let wake = self
                .due()
                .map_or(self.next_rescan, |due| due.min(self.next_rescan));
            let wait = async {
                tokio::select! {
                    () = shared.dirty.changed() => tokio::time::sleep(self.rest()).await,
                    () = tokio::time::sleep_until(wake.into()) => {}
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = wait => {}
            }
            self.pass().await;
        }
    }

    /// One look, and what follows from it.
    async fn pass(&mut self) {
        let now = Instant::now();
        let news = self.shared.dirty.take();
        let mut fresh = news.scope;
        if now >= self.next_rescan || self.retry.is_some() {
            self.next_rescan = now + self.shared.settings.rescan;
            fresh = Scope::All;
        }
        // What could not be used for a reason outside of it may be usable now.
        for (name, seen) in &mut self.folders {
            if fresh.contains(name) {
                seen.inspected.take_if(|inspected| inspected.is_err());
            }
        }
        for (name, record) in &mut *self.shared.records() {
            let may_pass = |blocked: &mut (_, Verdict)| matches!(blocked.1, Verdict::Incomplete(_));
            record
                .blocked
                .take_if(|blocked| fresh.contains(name) && may_pass(blocked));
        }
        let settle = self.shared.settings.settle;
        let mut scope = fresh;
        for name in &news.done {
            scope.add(name, false);
        }
        let is_due = |seen: &Seen| !seen.is_still && now >= seen.since + settle;
        for (name, _) in self.folders.iter().filter(|(_, seen)| is_due(seen)) {
            scope.add(name, false);
        }
        match self.look(&scope).await {
            Ok(world) => {
                self.retry = None;
                if self.shared.set_trouble(None) {
                    tracing::info!("{} can be read again", self.shared.portable.display());
                }
                self.note(&scope, &world, false);
                self.act().await;
            }
            Err(error) => {
                self.retry = Some(now + RETRY);
                let text = format!("cannot read {}: {error}", self.shared.portable.display());
                if self.shared.set_trouble(Some(text.clone())) {
                    tracing::error!("{text}; what runs goes on");
                }
            }
        }
    }

    /// How long news are gathered now.
    fn rest(&self) -> Duration {
        (self.effort * REST).clamp(GATHER, LONGEST_REST)
    }

    /// When something that was changing may have become still.
    fn due(&self) -> Option<Instant> {
        let moving = self.folders.values().chain(self.zips.values());
        let moving = moving.filter(|seen| !seen.is_still);
        let due = moving.map(|seen| seen.since + self.shared.settings.settle).min();
        self.retry.or(due)
    }

    async fn look(&mut self, scope: &Scope) -> io::Result<World> {
        let Some(mut scanner) = self.scanner.take() else {
            return Err(io::Error::other("the last look did not come to its end"));
        };
        self.began = Instant::now();
        let mut counts = BTreeMap::new();
        for (name, record) in self
            .shared
            .records()
            .iter()
            .filter(|(_, record)| !record.core.is_empty())
        {
            let counted = Counts {
                core: record.core.clone(),
                core_only: record.core_only,
            };
            counts.insert(name.clone(), counted);
        }
        let scope = scope.clone();
        let (scanner, world) = blocking(move || {
            let world = scanner.scan(&scope, &counts);
            Ok((scanner, world))
        })
        .await?;
        self.scanner = Some(scanner);
        self.effort = self.began.elapsed();
        world
    }

    /// Compares what lies there with what was seen before. `first`: nothing was, so the file system's word on
    /// when it was changed has to do.
    fn note(&mut self, scope: &Scope, world: &World, first: bool) {
        let taken = Taken {
            began: self.began,
            ended: Instant::now(),
            settle: self.shared.settings.settle,
        };
        let age = |look: &Look| match first {
            true => SystemTime::now().duration_since(look.changed).unwrap_or_default(),
            false => Duration::ZERO,
        };
        for (name, look) in &world.folders {
            observe(&mut self.folders, name, Some(look.fingerprint), age(look), taken);
        }
        for (name, look) in &world.zips {
            observe(&mut self.zips, name, Some(look.fingerprint), age(look), taken);
        }
        let mut names: BTreeSet<String> = self.folders.keys().cloned().collect();
        names.extend(self.shared.catalog().entries().map(|(name, _)| name.to_owned()));
        for name in names {
            if scope.contains(&name) && !world.folders.contains_key(&name) {
                observe(&mut self.folders, &name, None, Duration::ZERO, taken);
            }
        }
        for name in self.zips.keys().cloned().collect::<Vec<_>>() {
            if !world.zips.contains_key(&name) {
                observe(&mut self.zips, &name, None, Duration::ZERO, taken);
            }
        }
    }

    /// Does what follows from what was seen.
    async fn act(&mut self) {
        self.inspect().await;
        self.install_zips();
        for (name, step) in diff::plan(&self.found(), &self.known()) {
            let Some(turn) = self.shared.try_turn(&name) else {
                self.press(name, &step);
                continue;
            };
            // Asked again: the step before may have changed what follows, or somebody was just done with it.
            if !self.shared.dirty.is_due(&name)
                && let Some(step) = self.step(&name)
            {
                self.carry_out(&name, step, turn);
            }
        }
        let is_over = |seen: &Seen| seen.now.is_none() && seen.is_still;
        let shared = &self.shared;
        self.folders
            .retain(|name, seen| !is_over(seen) || shared.catalog().entry(name).is_some());
        self.zips.retain(|_, seen| !is_over(seen));
    }

    /// What is being done with a plugin is made to end soon when it is for nothing.
    fn press(&self, name: String, step: &Step) {
        let haste = match step {
            Step::Remove => Haste::End,
            // Until it is looked at again, what is being started seems to be something else.
            Step::Swap if !self.is_taken(&name) => Haste::Replace,
            Step::Swap | Step::Start | Step::Show(_) | Step::Note(_) => return,
        };
        if !self.shared.locks.is_pressed(&name, haste) {
            let shared = Arc::clone(&self.shared);
            // When it is given back, this comes here again.
            self.shared
                .tasks
                .spawn(async move { drop(shared.turn_soon(&name, haste).await) });
        }
    }

    /// Whether what lies there is what was started last.
    fn is_taken(&self, name: &str) -> bool {
        let seen = self.folders.get(name).and_then(|seen| seen.inspected.as_ref());
        let records = self.shared.records();
        let from = records.get(name).and_then(|record| record.from);
        matches!(seen, Some(Ok(whole)) if Some(whole.all) == from)
    }

    /// Reads what has become still and is not what runs.
    async fn inspect(&mut self) {
        let pending = self.folders.iter().filter(|(name, seen)| {
            seen.is_still
                && seen.inspected.is_none()
                && seen.now.is_some()
                && !self.is_current(name, seen.now)
        });
        let pending: Vec<String> = pending.map(|(name, _)| name.clone()).collect();
        if pending.is_empty() {
            return;
        }
        let portable = self.shared.portable.clone();
        let inspected = blocking(move || {
            let inspect = |name: String| {
                let inspected = inspect::inspect(&name, &portable);
                (name, inspected)
            };
            Ok(pending.into_iter().map(inspect).collect::<Vec<_>>())
        });
        for (name, inspected) in inspected.await.unwrap_or_default() {
            if let Some(seen) = self.folders.get_mut(&name) {
                seen.inspected = Some(inspected);
            }
        }
    }

    /// Whether what runs, or was stopped by hand, is what lies there.
    fn is_current(&self, name: &str, now: Print) -> bool {
        let is_accepted = matches!(
            self.shared.catalog().entry(name),
            Some(Entry::Accepted(_) | Entry::Held(..))
        );
        is_accepted
            && self
                .shared
                .records()
                .get(name)
                .is_some_and(|record| record.from == now)
    }

    fn step(&self, name: &str) -> Option<Step> {
        let found = self.found_one(name).map(|found| (name.to_owned(), found));
        let known = self.known_one(name).map(|known| (name.to_owned(), known));
        diff::plan(&found.into_iter().collect(), &known.into_iter().collect()).remove(name)
    }

    fn found(&self) -> BTreeMap<String, Found<Print>> {
        let mut names: BTreeSet<String> = self.folders.keys().cloned().collect();
        names.extend(self.shared.catalog().entries().map(|(name, _)| name.to_owned()));
        let found = names.into_iter().filter_map(|name| {
            let found = self.found_one(&name)?;
            Some((name, found))
        });
        found.collect()
    }

    /// `None` when it is gone for good.
    fn found_one(&self, name: &str) -> Option<Found<Print>> {
        // What stands for a zip is no folder that may be on its way.
        let is_known = || self.known_one(name).is_some();
        let Some(seen) = self.folders.get(name) else {
            // Nobody has looked yet.
            return is_known().then_some(Found::Moving);
        };
        if !seen.is_still {
            return (seen.now.is_some() || is_known()).then_some(Found::Moving);
        }
        seen.now?;
        if self.is_current(name, seen.now) {
            return Some(Found::Still(seen.now, Verdict::Whole));
        }
        let Some(inspected) = &seen.inspected else {
            return Some(Found::Moving);
        };
        let verdict = match inspected {
            Err(unfit) => unfit.verdict.clone(),
            Ok(whole) => {
                let records = self.shared.records();
                let blocked = records.get(name).and_then(|record| record.blocked.clone());
                drop(records);
                match blocked.filter(|(print, _)| Some(*print) == seen.now) {
                    Some((_, verdict)) => verdict,
                    None => {
                        // Not read once more while it is read: a change may be waiting in between.
                        let checked = self.shared.catalog().check(&whole.manifest);
                        match checked {
                            Ok(()) => Verdict::Whole,
                            Err(conflict) if self.is_leaving(conflict.owner.as_str()) => {
                                return Some(Found::Moving);
                            }
                            Err(conflict) => Verdict::Refused(conflict.to_string()),
                        }
                    }
                }
            }
        };
        Some(Found::Still(seen.now, verdict))
    }

    /// Whether the plugin is on its way out, so that its symbols are about to be free.
    fn is_leaving(&self, name: &str) -> bool {
        let is_held = matches!(
            self.shared.catalog().entry(name),
            Some(Entry::Held(_, Hold::Leaving))
        );
        is_held || self.folders.get(name).is_some_and(|seen| seen.now.is_none())
    }

    fn known(&self) -> BTreeMap<String, Known<Print>> {
        let names: Vec<String> = self
            .shared
            .catalog()
            .entries()
            .map(|(name, _)| name.to_owned())
            .collect();
        let known = names.into_iter().filter_map(|name| {
            let known = self.known_one(&name)?;
            Some((name, known))
        });
        known.collect()
    }

    fn known_one(&self, name: &str) -> Option<Known<Print>> {
        let catalog = self.shared.catalog();
        let entry = catalog.entry(name)?;
        let records = self.shared.records();
        let record = records.get(name);
        let from = record.and_then(|record| record.from);
        let note = record.map(|record| record.note.clone()).unwrap_or_default();
        Some(match entry {
            Entry::Held(_, Hold::Stopped) => Known::Stopped { from, note },
            Entry::Accepted(_) | Entry::Held(..) => Known::Runs {
                from,
                tried: record.and_then(|record| record.tried).map(Some),
                note,
            },
            Entry::Incomplete(..) | Entry::Refused(..) | Entry::Unreadable(_) => {
                // What stands for a zip does not go because there is no folder.
                let has_folder = self.folders.get(name).is_some_and(|seen| seen.now.is_some());
                if !has_folder && record.is_some_and(|record| record.zip.is_some()) {
                    return None;
                }
                Known::Unfit(entry.unfit()?)
            }
        })
    }

    fn carry_out(&mut self, name: &str, step: Step, turn: Turn) {
        let shared = Arc::clone(&self.shared);
        let inspected = self.folders.get(name).and_then(|seen| seen.inspected.clone());
        match (step, inspected) {
            (Step::Start, Some(Ok(whole))) => shared.start_found(whole, turn),
            (Step::Swap, Some(Ok(whole))) => shared.swap_found(whole, turn),
            (Step::Remove, _) => {
                let name = name.to_owned();
                self.shared.tasks.spawn(async move {
                    shared.retire(&name).await;
                    drop(turn);
                });
            }
            (Step::Show(verdict), inspected) => {
                let manifest = match inspected {
                    Some(Ok(whole)) => Some(whole.manifest),
                    Some(Err(unfit)) => unfit.manifest,
                    None => None,
                };
                shared.show(name, &Unfit { manifest, verdict });
            }
            (Step::Note(note), _) => {
                if note.is_empty() {
                    tracing::info!(plugin = name, "what lies in its folder is what runs");
                } else {
                    tracing::warn!(plugin = name, "its changed folder is not taken: {note}");
                }
                shared.note(name, |record| record.note = note);
            }
            (Step::Start | Step::Swap, _) => {}
        }
    }

    /// Installs each zip that is still, and forgets those that are gone.
    fn install_zips(&mut self) {
        for (name, seen) in self.zips.iter().filter(|(_, seen)| seen.is_still) {
            let failed = self
                .shared
                .records()
                .get(name)
                .and_then(|record| Some(record.zip.as_ref()?.0));
            let Some(print) = seen.now else {
                if failed.is_some() {
                    self.shared.note(name, |record| record.zip = None);
                    // If nothing else has this name, it is gone.
                    self.shared.dirty.done(name);
                    self.shared.dirty.wake();
                }
                continue;
            };
            if diff::installs(&print, failed.as_ref())
                && let Some(turn) = self.shared.try_turn(name)
            {
                let (shared, name) = (Arc::clone(&self.shared), name.clone());
                self.shared.tasks.spawn(async move {
                    shared.install_zip(&name, print).await;
                    drop(turn);
                });
            }
        }
    }
}
