//! Owns the look at the plugins' folder: which folders and zips lie there and what their fingerprints are. It
//! also tells the watch what to follow, because only who looks knows which folders count. Blocking; knows
//! nothing of what runs. The reconciliation drives it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::fingerprint::{self, Fingerprint};
use super::inspect::manifest_path;
use super::watch::{Dirty, Scope, Watch};

/// What one folder or zip looked like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) fingerprint: Fingerprint,
    /// When it was last changed, as the file system says.
    pub(super) changed: SystemTime,
}

/// What lies in the plugins' folder.
#[derive(Debug, Default)]
pub(super) struct World {
    /// Folders, and links that may lead to one; those that were worth a look.
    pub(super) folders: BTreeMap<String, Look>,
    /// All zips, by the name that they would be installed under.
    pub(super) zips: BTreeMap<String, Look>,
}

/// What counts of a plugin's folder.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    /// Manifest and program.
    pub(super) core: Vec<PathBuf>,
    /// And nothing else.
    pub(super) core_only: bool,
}

/// Who looks.
pub(super) struct Scanner {
    portable: PathBuf,
    watch: Watch,
}

impl Scanner {
    pub(super) fn new(portable: &Path, dirty: &Arc<Dirty>) -> Self {
        Self {
            portable: portable.to_owned(),
            watch: Watch::new(portable, dirty),
        }
    }

    /// Looks at what is worth it. A folder that is not there is an empty one.
    ///
    /// # Errors
    /// The folder cannot be read, so nothing is known of what lies in it.
    pub(super) fn scan(&mut self, scope: &Scope, counts: &BTreeMap<String, Counts>) -> io::Result<World> {
        let mut world = World::default();
        self.watch.follow_root(scope);
        let listing = match self.portable.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.watch.retain(|_| false);
                return Ok(world);
            }
            listing => listing?,
        };
        let mut names = Vec::new();
        for entry in listing {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Whatever goes away meanwhile is not there.
            let Ok(found) = entry.metadata() else { continue };
            if name.starts_with('.') {
                continue;
            }
            if found.is_dir() || found.is_symlink() {
                names.push(name);
            } else if let Some(stem) = name.strip_suffix(".zip").filter(|_| found.is_file()) {
                let look = Look {
                    fingerprint: fingerprint::of_file(&entry.path(), &found),
                    changed: fingerprint::change_time(&found),
                };
                world.zips.insert(stem.to_owned(), look);
            }
        }
        names.sort();
        self.watch
            .retain(|name| names.binary_search_by(|other| other.as_str().cmp(name)).is_ok());
        for name in names {
            if scope.contains(&name)
                && let Some(look) = self.look(&name, counts.get(&name), scope)
            {
                world.folders.insert(name, look);
            }
        }
        Ok(world)
    }

    /// `None` when it is gone.
    fn look(&mut self, name: &str, counts: Option<&Counts>, scope: &Scope) -> Option<Look> {
        let manifest = [manifest_path(name)];
        let core = counts.map_or(&manifest[..], |counts| &counts.core);
        match fingerprint::survey(&self.portable.join(name), core) {
            Ok(survey) => {
                self.watch.follow(name, survey.folders, scope);
                let core_only = counts.is_some_and(|counts| counts.core_only);
                Some(Look {
                    fingerprint: if core_only { survey.core } else { survey.all },
                    changed: survey.changed,
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // That it cannot be read is all that there is to see; why, its manifest will tell.
            Err(error) => Some(Look {
                fingerprint: fingerprint::of_error(&error),
                changed: SystemTime::UNIX_EPOCH,
            }),
        }
    }
}
