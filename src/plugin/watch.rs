//! Owns the news that something below the plugins' folder has changed: the system's file events, thinned out
//! to names that are worth a look. An event says no more than that: what there is to see is found by looking,
//! so lost events cost time and nothing else. The scan tells which folders matter, the reconciliation waits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::fingerprint::{self, FolderId};

/// How many folders are watched in all; the others are looked at every now and then.
const MAX_WATCHED: usize = 8192;
/// How many names may be worth a look, until all are.
const MAX_NAMES: usize = 1024;

/// What is worth a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    /// By name; true: a folder came, went or was moved, so that watches may have gone with it.
    Names(BTreeMap<String, bool>),
}

impl Default for Scope {
    fn default() -> Self {
        Self::Names(BTreeMap::new())
    }
}

impl Scope {
    pub(super) fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.contains_key(name),
        }
    }

    fn moves(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.get(name).is_some_and(|moved| *moved),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Names(names) if names.is_empty())
    }

    pub(super) fn add(&mut self, name: &str, moved: bool) {
        if let Self::Names(names) = self {
            *names.entry(name.to_owned()).or_default() |= moved;
            if names.len() > MAX_NAMES {
                *self = Self::All;
            }
        }
    }
}

impl News {
    fn is_empty(&self) -> bool {
        self.scope.is_empty() && self.done.is_empty()
    }
}

/// What has become worth a look since it was last taken. Shared with the watcher's thread.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    news: Mutex<News>,
    woken: Notify,
}

/// What is worth a look, and why.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Because of file events.
    pub(super) scope: Scope,
    /// Because the host itself is done with it.
    pub(super) done: BTreeSet<String>,
}

impl Dirty {
    /// The host is about to be done with this name. Nobody is woken before [`Dirty::wake`].
    pub(super) fn done(&self, name: &str) {
        self.lock().done.insert(name.to_owned());
    }

    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    fn all(&self) {
        self.lock().scope = Scope::All;
        self.wake();
    }

    /// Waits until anything is worth a look.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn changed(&self) {
        while self.lock().is_empty() {
            self.woken.notified().await;
        }
    }

    /// Whether a look at this name is due, so that what was seen before says nothing.
    pub(super) fn is_due(&self, name: &str) -> bool {
        let news = self.lock();
        news.scope.contains(name) || news.done.contains(name)
    }

    pub(super) fn take(&self) -> News {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle_event(&self, portable: &Path, event: &notify::Event) {
        if event.need_rescan() {
            tracing::debug!("file events were lost: looking at everything");
            return self.all();
        }
        let moved = match event.kind {
            // To look is no change; and a plugin that is looked at would be looked at for ever.
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Data(_)) => false,
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Metadata(_)) => false,
            _ => true,
        };
        for path in &event.paths {
            match path.strip_prefix(portable) {
                Ok(inside) => self.handle_path(inside, moved),
                // Beside the folder lies what is nobody's plugin.
                Err(_) => continue,
            }
        }
    }

    fn handle_path(&self, inside: &Path, moved: bool) {
        let mut parts = inside.iter();
        let Some(first) = parts.next() else {
            return if moved {
                self.all();
            };
        };
        let name = first.to_string_lossy();
        let last = parts.next_back();
        let counts = parts.all(fingerprint::folder_counts)
            && last.is_none_or(|last| fingerprint::file_counts(last) && fingerprint::folder_counts(last));
        if !name.starts_with('.') && counts {
            self.lock().scope.add(&name, moved);
            self.wake();
        }
    }
}

/// The system's watches. Without them there is only the regular look at everything.
pub(super) struct Watch {
    portable: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// By the name of the plugin; what lies above them has the empty name.
    watched: BTreeMap<String, BTreeMap<PathBuf, FolderId>>,
    complained: bool,
}

impl Watch {
    pub(super) fn new(portable: &Path, dirty: &Arc<Dirty>) -> Self {
        let (dirty, root) = (Arc::clone(dirty), portable.to_owned());
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) => dirty.handle_event(&root, &event),
            Err(error) => {
                tracing::warn!("file events: {error}");
                dirty.all();
            }
        };
        let config = notify::Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(handler, config)
            .inspect_err(|error| tracing::warn!("no file events, so changes are found late: {error}"));
        Self {
            portable: portable.to_owned(),
            watcher: watcher.ok(),
            watched: BTreeMap::new(),
            complained: false,
        }
    }

    /// Watches the plugins' folder itself, and the one that it lies in, where it would come back. Before it is
    /// read, so that nothing is missed. Blocking, as is all that follows.
    pub(super) fn follow_root(&mut self, scope: &Scope) {
        let folders = self.portable.parent().into_iter().chain([&*self.portable]);
        let folders = folders.filter_map(|folder| {
            let found = folder.symlink_metadata().ok()?;
            Some((folder.to_owned(), fingerprint::folder_id(&found)))
        });
        self.follow("", folders.collect(), scope);
    }

    /// Watches these folders of the plugin `name`, and no other ones of it.
    pub(super) fn follow(&mut self, name: &str, folders: Vec<(PathBuf, FolderId)>, scope: &Scope) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let before = self.watched.remove(name).unwrap_or_default();
        let mut now: BTreeMap<PathBuf, FolderId> = folders.into_iter().collect();
        for path in before.keys().filter(|path| !now.contains_key(*path)) {
            // It usually has gone with its folder.
            let _ = watcher.unwatch(path);
        }
        let others: usize = self.watched.values().map(BTreeMap::len).sum();
        let mut trouble = None;
        let again = scope.moves(name);
        let mut room = MAX_WATCHED.saturating_sub(others);
        now.retain(|path, id| {
            if room == 0 {
                trouble = Some(format!("more than {MAX_WATCHED} folders"));
                return false;
            }
            room -= 1;
            if !again && before.get(path) == Some(id) {
                return true;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => true,
                // It is gone, and that is an event, too.
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => false,
                Err(error) => {
                    trouble = Some(error.to_string());
                    false
                }
            }
        });
        if let Some(trouble) = trouble.filter(|_| !std::mem::replace(&mut self.complained, true)) {
            tracing::warn!("not every folder can be watched, so some changes are found late: {trouble}");
        }
        if !now.is_empty() {
            self.watched.insert(name.to_owned(), now);
        }
    }

    /// Watches none of the plugins' folders but those of the names for which this holds.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        let gone = self
            .watched
            .keys()
            .filter(|name| !name.is_empty() && !is_there(name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.follow(&name, Vec::new(), &Scope::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, ModifyKind, RemoveKind};
    use testkit::within;

    use super::*;

    fn scope(events: &[(EventKind, &str)]) -> Scope {
        let dirty = Dirty::default();
        for (kind, path) in events {
            let event = notify::Event::new(*kind).add_path(PathBuf::from(path));
            dirty.handle_event(Path::new("/p"), &event);
        }
        dirty.take().scope
    }

    fn names(expected: &[(&str, bool)]) -> Scope {
        Scope::Names(
            expected
                .iter()
                .map(|(name, moved)| ((*name).to_owned(), *moved))
                .collect(),
        )
    }

    #[test]
    fn an_event_makes_its_plugin_worth_a_look_and_nothing_else() {
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let made = EventKind::Create(CreateKind::Folder);
        let gone = EventKind::Remove(RemoveKind::Folder);
        assert_eq!(scope(&[(data, "/p/car/run")]), names(&[("car", false)]));
        assert_eq!(
            scope(&[(closed, "/p/car/run"), (made, "/p/car/lib"), (data, "/p/bus/x/y")]),
            names(&[("car", true), ("bus", false)])
        );
        for (kind, path) in [
            (opened, "/p/car/run"),
            (opened, "/p"),
            (data, "/p/car/a.log"),
            (data, "/p/car/logs/a.py"),
            (data, "/p/.hidden/run"),
            (data, "/p"),
            (made, "/elsewhere/car"),
        ] {
            assert!(scope(&[(kind, path)]).is_empty(), "{kind:?} {path}");
        }
        assert_eq!(scope(&[(gone, "/p")]), Scope::All);
        let lost = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        let dirty = Dirty::default();
        dirty.handle_event(Path::new("/p"), &lost);
        assert_eq!(dirty.take().scope, Scope::All);
    }

    #[test]
    fn a_flood_of_names_takes_no_memory() {
        let mut scope = Scope::default();
        for i in 0..=MAX_NAMES {
            scope.add(&i.to_string(), false);
        }
        assert_eq!(scope, Scope::All);
    }

    /// Waits until the name is worth a look.
    async fn dirty(dirty: &Dirty, name: &str) {
        within(name, async {
            loop {
                dirty.changed().await;
                if dirty.take().scope.contains(name) {
                    return;
                }
            }
        })
        .await;
    }

    #[tokio::test]
    async fn folders_that_come_back_are_watched_again() {
        let home = tempfile::tempdir().unwrap();
        let portable = home.path().canonicalize().unwrap().join("portable");
        let car = portable.join("car");
        std::fs::create_dir_all(&car).unwrap();
        let news = Arc::new(Dirty::default());
        let mut watch = Watch::new(&portable, &news);
        let follow = |watch: &mut Watch, scope: Scope| {
            watch.follow_root(&scope);
            let survey = fingerprint::survey(&car, &[]).unwrap();
            watch.follow("car", survey.folders, &scope);
        };
        follow(&mut watch, Scope::All);
        std::fs::write(car.join("run"), "").unwrap();
        dirty(&news, "car").await;

        let away = home.path().join("away");
        std::fs::rename(&portable, &away).unwrap();
        dirty(&news, "car").await;
        std::fs::rename(&away, &portable).unwrap();
        dirty(&news, "car").await;
        follow(&mut watch, Scope::All);
        news.take();
        std::fs::write(car.join("run"), "x").unwrap();
        dirty(&news, "car").await;
        watch.retain(|_| false);
        assert_eq!(watch.watched.keys().collect::<Vec<_>>(), [""]);
    }
}
