//! Owns the hidden folders among the plugins' folders: a package is made ready in one, and what it replaces waits
//! there until it is accepted. And the journal in each, from which a host that is started undoes what a killed one
//! was installing. Blocking. It knows neither packages nor processes; `install`, `operate` and the manager drive it.
//!
//! ```text
//! what is done                              killed before the next one, the next start
//! ────────────────────────────────────────  ──────────────────────────────────────────────────
//! 1. the package is unpacked, hidden        removes it
//! 2. the journal is written and synced      removes it
//! 3. both folders change places, synced     has them change places again; takes a first one away
//! 4. install.sh, environment, first start   the same
//! 5. all is synced, the journal is removed  removes the old one
//! 6. the hidden folder is removed           finds nothing to do
//! ```
//!
//! The hidden folders lie where the plugins lie, and not beside it: that may be a file system of its own, and
//! nothing is renamed from one to another.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mangrove_protocol::name::PluginName;
use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{disk, environment};

/// How the hidden folders' names begin.
const STAGING: &str = ".staging-";

/// In a hidden folder: what is being exchanged.
const JOURNAL: &str = ".journal.json";

/// In a hidden folder: what is replaced, while the file system cannot exchange in one step.
const ATTIC: &str = ".replaced";

/// In a hidden folder: what was undone, the same.
const UNDONE: &str = ".undone";

/// A new hidden folder among those in `portable`.
pub(super) fn hidden_folder(portable: &Path) -> io::Result<TempDir> {
    // Somebody may have removed it.
    std::fs::create_dir_all(portable)?;
    tempfile::Builder::new().prefix(STAGING).tempdir_in(portable)
}

/// Removes a hidden folder; what cannot be removed is logged, and tried again when the host starts.
pub(super) async fn remove(hidden: TempDir) {
    let path = hidden.keep();
    let removed = tokio::task::spawn_blocking(move || remove_all(&path).map_err(|error| (path, error)));
    if let Ok(Err((path, error))) = removed.await {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

/// An installation that was cut short and cannot be undone.
#[derive(Debug)]
pub(super) struct Stuck {
    pub(super) plugin: PluginName,
    pub(super) reason: String,
}

/// Undoes what a host that was killed was installing among the plugins in `folder`, and removes what it has left.
pub(super) fn clean(folder: &Path) -> io::Result<Vec<Stuck>> {
    let mut left = hidden_folders(folder)?;
    let mut stuck = Vec::<Stuck>::new();
    while let Some(last) = last_done(&left) {
        let Hidden { path, journal, .. } = left.remove(last);
        let is_stuck = |journal: &Journal| stuck.iter().any(|stuck| stuck.plugin.as_str() == journal.plugin);
        if journal.as_ref().is_some_and(is_stuck) {
            // What came after it has to be undone before it.
            continue;
        }
        match undo_in(&path) {
            Ok(()) => {
                let shown = path.display();
                tracing::info!("removing {shown}, left by an installation that was cut short");
                if let Err(error) = remove_all(&path) {
                    tracing::warn!("cannot remove {shown}: {error}");
                }
            }
            Err((plugin, error)) => {
                let reason = format!(
                    "its installation was cut short and cannot be undone: {error}; what was there before is in {}",
                    path.display()
                );
                tracing::error!(plugin = plugin.as_ref().map(PluginName::as_str), "{reason}");
                stuck.extend(plugin.map(|plugin| Stuck { plugin, reason }));
            }
        }
    }
    Ok(stuck)
}

/// What earlier installations of `plugin` have left is not undone any more: what is there now stays, or goes for good.
pub(super) fn forget(portable: &Path, plugin: &str) -> io::Result<()> {
    let is_its = |hidden: &Hidden| {
        let journal = hidden.journal.as_ref();
        journal.is_some_and(|journal| journal.plugin == plugin)
    };
    let hidden = match hidden_folders(portable) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        hidden => hidden?,
    };
    for Hidden { path, .. } in hidden.into_iter().filter(is_its) {
        std::fs::remove_file(path.join(JOURNAL))?;
        disk::sync(&path)?;
        if let Err(error) = remove_all(&path) {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
    Ok(())
}

/// A hidden folder that was found.
struct Hidden {
    changed: SystemTime,
    path: PathBuf,
    /// `None` also when it cannot be read.
    journal: Option<Journal>,
}

/// Those in `folder`, the one that was changed last at the end.
fn hidden_folders(folder: &Path) -> io::Result<Vec<Hidden>> {
    let mut hidden = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            let changed = entry.metadata().and_then(|found| found.modified());
            hidden.push(Hidden {
                changed: changed.unwrap_or(SystemTime::UNIX_EPOCH),
                journal: Journal::read(&entry.path()).ok().flatten(),
                path: entry.path(),
            });
        }
    }
    hidden.sort_by_key(|hidden| hidden.changed);
    Ok(hidden)
}

/// Which one is to be undone first: none of the others was to replace what it has brought. Times only decide between those
/// that have nothing to do with each other, because two may have the same.
fn last_done(left: &[Hidden]) -> Option<usize> {
    let journals = || left.iter().filter_map(|hidden| hidden.journal.as_ref());
    let is_replaced = |journal: &Journal| journals().any(|other| other.old == Some(journal.new));
    let last = left
        .iter()
        .rposition(|hidden| !hidden.journal.as_ref().is_some_and(is_replaced));
    last.or(left.len().checked_sub(1))
}

/// An error comes with the plugin, when that is known.
fn undo_in(hidden: &Path) -> Result<(), (Option<PluginName>, io::Error)> {
    let Some(journal) = Journal::read(hidden).map_err(|error| (None, error))? else {
        return Ok(());
    };
    let plugin = journal.plugin().map_err(|error| (None, error))?;
    let placing = Placing::new(plugin.clone(), hidden);
    let undone = placing.undo().map_err(|error| (Some(plugin.clone()), error))?;
    match undone.unwrap_or(Undone::Nothing) {
        Undone::Nothing => {}
        Undone::Back => tracing::warn!(%plugin, "its update was cut short: the old version is back"),
        Undone::Gone => tracing::warn!(%plugin, "its installation was cut short: it is removed"),
    }
    Ok(())
}

/// Tells a folder from every other one, also from one that has its inode after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    inode: u64,
    /// Nanoseconds since the epoch, where the file system knows.
    born: Option<u64>,
}

impl Identity {
    /// Of what lies there; `None` when there is nothing.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        let found = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let born = found.created().ok();
        let born = born.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        Ok(Some(Self {
            inode: found.ino(),
            born: born.and_then(|since| u64::try_from(since.as_nanos()).ok()),
        }))
    }
}

/// What is being exchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    plugin: String,
    new: Identity,
    /// What is to be replaced.
    old: Option<Identity>,
}

impl Journal {
    /// `None`: nothing has been exchanged.
    fn read(hidden: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(hidden.join(JOURNAL)) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            // Older hosts have left files of such names, too.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// On the disk when this returns, and never half.
    fn write(&self, hidden: &Path) -> io::Result<()> {
        let mut draft = tempfile::NamedTempFile::new_in(hidden)?;
        serde_json::to_writer(draft.as_file_mut(), self)?;
        draft.as_file().sync_all()?;
        draft.persist(hidden.join(JOURNAL)).map_err(|error| error.error)?;
        disk::sync(hidden)
    }

    /// Only a name that was checked becomes part of a path.
    fn plugin(&self) -> io::Result<PluginName> {
        self.plugin.parse().map_err(io::Error::other)
    }

    fn which(&self, found: Option<Identity>) -> Is {
        match found {
            None => Is::Nothing,
            found if found == Some(self.new) => Is::New,
            found if found == self.old => Is::Old,
            Some(_) => Is::Other,
        }
    }
}

/// What lies somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Nothing,
    New,
    Old,
    /// Somebody else's.
    Other,
}

/// What has to be done so that all is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing.
    Leave,
    /// The old version comes back from the attic.
    FromAttic,
    /// The old version comes back from where the new one was made.
    FromStaged,
    /// The new one goes, and nothing was there before.
    TakeAway,
    /// It cannot be told.
    Unknown,
}

/// `place`: what lies where the plugin belongs; `staged`: where the new version was made.
fn way_back(place: Is, staged: Is, has_attic: bool, was_update: bool) -> Way {
    match (place, staged) {
        // What somebody has put there meanwhile is not touched.
        (Is::Other, Is::Other) if was_update && !has_attic => Way::Unknown,
        (Is::Old | Is::Other, _) => Way::Leave,
        (Is::Nothing | Is::New, _) if has_attic => Way::FromAttic,
        (Is::Nothing | Is::New, Is::Old) => Way::FromStaged,
        (Is::New, _) if was_update => Way::Unknown,
        (Is::New, _) => Way::TakeAway,
        (Is::Nothing, _) => Way::Leave,
    }
}

/// What an undoing has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undone {
    /// There was nothing to do.
    Nothing,
    /// The old version is back.
    Back,
    /// Nothing was there before, and nothing is.
    Gone,
}

/// A new version that is to take the place of what is there.
#[derive(Clone, Debug)]
pub(super) struct Placing {
    plugin: PluginName,
    hidden: PathBuf,
    /// Where the new version is made.
    pub(super) staged: PathBuf,
    /// Where it belongs.
    pub(super) place: PathBuf,
}

impl Placing {
    /// The new version lies in the hidden folder under the plugin's name.
    pub(super) fn new(plugin: PluginName, hidden: &Path) -> Self {
        let portable = hidden.parent().unwrap_or(hidden);
        Self {
            staged: hidden.join(plugin.as_str()),
            place: portable.join(plugin.as_str()),
            hidden: hidden.to_owned(),
            plugin,
        }
    }

    /// Puts the new version in place, and what is there in its own; the environments of the old one stay. From now
    /// on a host that is started undoes it, until it is accepted. After an error it has to be undone, too.
    pub(super) fn put(&self) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "what was unpacked is gone");
        let journal = Journal {
            plugin: self.plugin.to_string(),
            new: Identity::of(&self.staged)?.ok_or_else(gone)?,
            old: Identity::of(&self.place)?,
        };
        journal.write(&self.hidden)?;
        disk::sync(self.portable())?;
        exchange(&self.staged, &self.place, &self.hidden.join(ATTIC))?;
        self.sync_places()?;
        carry(&self.staged, &self.place);
        Ok(())
    }

    /// The new version stays, and what earlier installations have left is not undone any more. Nothing of it is lost by
    /// a power cut from now on. After an error it may still be undone when the host starts again.
    pub(super) fn accept(&self) -> io::Result<()> {
        // Everything, because a script and an environment are part of it and may be thousands of files.
        rustix::fs::syncfs(std::fs::File::open(self.portable())?)?;
        std::fs::remove_file(self.hidden.join(JOURNAL))?;
        disk::sync(&self.hidden)?;
        if let Err(error) = forget(self.portable(), self.plugin.as_str()) {
            tracing::warn!(plugin = %self.plugin, "cannot remove what earlier installations have left: {error}");
        }
        Ok(())
    }

    /// Undoes an installation that has failed, unless somebody has removed it. `was_put`: whether [`Self::put`] has
    /// worked; `is_own_doing`: whether the plugin's script may have removed its own folder.
    pub(super) fn withdraw(&self, was_put: bool, is_own_doing: bool) -> io::Result<()> {
        // Half an exchange leaves nothing there, too.
        if was_put && !is_own_doing && Identity::of(&self.place)?.is_none() {
            return Ok(());
        }
        match self.undo()? {
            None if was_put => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "somebody has moved it away",
            )),
            _ => Ok(()),
        }
    }

    /// Has all be as it was before, as far as it was put in place; what somebody has done to the folder meanwhile is
    /// left alone. `None`: there is no journal. After an error the hidden folder has to stay: the old version may lie in
    /// it.
    fn undo(&self) -> io::Result<Option<Undone>> {
        let Some(journal) = Journal::read(&self.hidden)? else {
            return Ok(None);
        };
        let which = |path: &Path| Ok::<_, io::Error>(journal.which(Identity::of(path)?));
        let attic = self.hidden.join(ATTIC);
        let has_attic = Identity::of(&attic)?.is_some();
        let (place, staged) = (which(&self.place)?, which(&self.staged)?);
        let old = match way_back(place, staged, has_attic, journal.old.is_some()) {
            Way::Leave => return Ok(Some(Undone::Nothing)),
            Way::Unknown => {
                return Err(io::Error::other(format!(
                    "neither {} nor {} is what the host has put there",
                    self.place.display(),
                    self.staged.display()
                )));
            }
            Way::TakeAway => {
                std::fs::rename(&self.place, self.hidden.join(UNDONE))?;
                self.sync_places()?;
                return Ok(Some(Undone::Gone));
            }
            Way::FromAttic => attic,
            Way::FromStaged => self.staged.clone(),
        };
        carry(&self.place, &old);
        exchange(&old, &self.place, &self.hidden.join(UNDONE))?;
        self.sync_places()?;
        Ok(Some(Undone::Back))
    }

    fn portable(&self) -> &Path {
        self.hidden.parent().unwrap_or(&self.hidden)
    }

    fn sync_places(&self) -> io::Result<()> {
        disk::sync(self.portable())?;
        disk::sync(&self.hidden)
    }
}

/// Takes the environments of one version over into another. A failure costs a build, nothing more.
fn carry(from: &Path, to: &Path) {
    // There may be no old version.
    if from.is_dir()
        && to.is_dir()
        && let Err(error) = environment::carry(from, to)
    {
        tracing::warn!(
            "cannot keep the Python environment of {}: {error}",
            from.display()
        );
    }
}

/// Has two folders change places, in one step where the file system can; when there is nothing at one of them,
/// the other moves there. `attic`: a free place.
fn exchange(a: &Path, b: &Path, attic: &Path) -> io::Result<()> {
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    match (is_there(a), is_there(b)) {
        (true, false) => std::fs::rename(a, b),
        (false, true) => std::fs::rename(b, a),
        (false, false) => Ok(()),
        (true, true) => match rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                std::fs::rename(b, attic)?;
                std::fs::rename(a, b)?;
                std::fs::rename(attic, a)
            }
            done => Ok(done?),
        },
    }
}

/// Also what forbids itself to be removed: plugins keep caches that nobody may write.
fn remove_all(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_folders(folder);
            std::fs::remove_dir_all(folder)
        }
        removed => removed,
    }
}

/// Lets the owner into every folder, and follows no link. What fails is reported by who removes.
fn open_folders(folder: &Path) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let _ = std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700));
        let entries = folder.read_dir().into_iter().flatten().flatten();
        let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(inside.map(|entry| entry.path()));
    }
}

#[cfg(test)]
mod tests;
