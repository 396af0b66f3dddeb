//! Owns what counts as a change of a plugin's folder: a number over everything in it that is the author's and
//! not the running plugin's own doing. Looks at names, sizes, times and modes only and never follows a link,
//! so that no file, however strange, is opened. Blocking; knows nothing of what runs. The scan drives it.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How many files and folders are looked at. With more, only the core counts.
const MAX_ENTRIES: usize = 20_000;
/// How deep folders may lie in each other; what is below does not count.
const MAX_DEPTH: usize = 32;

/// Two of the same folder are equal when nothing that counts has changed in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u64);

/// What lies in one plugin's folder.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    /// Of everything that counts; of the core alone when there is too much.
    pub(super) all: Fingerprint,
    /// Of the manifest and the program.
    pub(super) core: Fingerprint,
    /// There are more than can be looked at.
    pub(super) too_many: bool,
    /// When any of it was last changed, as the file system says.
    pub(super) changed: SystemTime,
    /// The folder itself and each one in it whose files count, with what identifies it.
    pub(super) folders: Vec<(PathBuf, FolderId)>,
}

/// Tells a folder from another one that took its name.
pub(super) type FolderId = (u64, u64);

pub(super) fn folder_id(found: &Metadata) -> FolderId {
    (found.dev(), found.ino())
}

/// Whether a file of this name counts. Plugins write into their own folder, because it is where they run.
pub(super) fn file_counts(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let ends = [".pyc", ".log", ".pid", ".tmp", ".swp", "~"];
    !name.starts_with('.')
        && !ends.iter().any(|end| name.ends_with(end))
        && ![".db", ".sqlite"].iter().any(|part| name.contains(part))
}

/// Whether what lies in a folder of this name counts.
pub(super) fn folder_counts(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let own = ["__pycache__", "venv", "node_modules", "data", "logs", "tmp"];
    !name.starts_with('.') && !own.contains(&&*name)
}

/// Looks at a plugin's folder. `core`: its manifest and, when it is known, its program, relative to it; they
/// count whatever their names are.
///
/// # Errors
/// The folder itself cannot be read. What cannot be read inside of it counts as just that.
pub(super) fn survey(folder: &Path, core: &[PathBuf]) -> io::Result<Survey> {
    let found = folder.symlink_metadata()?;
    let mut survey = Survey {
        all: Fingerprint(0),
        core: Fingerprint(0),
        too_many: false,
        changed: change_time(&found),
        folders: Vec::new(),
    };
    let mut all = 0u64;
    // A link is no plugin, but a link that leads elsewhere is another one.
    if !found.is_dir() {
        survey.all = Fingerprint(of_entry(Path::new(""), folder, &found));
        survey.core = survey.all;
        return Ok(survey);
    }
    let mut entries = 0;
    let mut pending = vec![(PathBuf::new(), 0)];
    while let Some((inside, depth)) = pending.pop() {
        let path = folder.join(&inside);
        let (found, listing) = match path
            .symlink_metadata()
            .and_then(|found| Ok((found, path.read_dir()?)))
        {
            Ok(read) => read,
            Err(error) if depth == 0 => return Err(error),
            Err(error) => {
                all = all.wrapping_add(hash(&(inside.as_os_str(), error.kind())));
                continue;
            }
        };
        survey.changed = survey.changed.max(change_time(&found));
        survey.folders.push((path, folder_id(&found)));
        for entry in listing {
            // Whatever goes away while it is looked at was not there.
            let Ok(entry) = entry else { continue };
            let Ok(found) = entry.metadata() else { continue };
            entries += 1;
            if entries > MAX_ENTRIES {
                survey.too_many = true;
                break;
            }
            let name = entry.file_name();
            let inside = inside.join(&name);
            if found.is_dir() {
                if folder_counts(&name) && depth < MAX_DEPTH {
                    pending.push((inside, depth + 1));
                }
            } else if file_counts(&name) && (found.is_file() || found.is_symlink() && folder_counts(&name)) {
                survey.changed = survey.changed.max(change_time(&found));
                // A sum, because the order in which they are found means nothing.
                all = all.wrapping_add(of_entry(&inside, &entry.path(), &found));
            }
        }
        if survey.too_many {
            all = 0;
            survey.folders.truncate(1);
            break;
        }
    }
    let mut of_core = 0u64;
    for inside in core {
        let path = folder.join(inside);
        if let Ok(found) = path.symlink_metadata() {
            of_core = of_core.wrapping_add(of_entry(inside, &path, &found));
            survey.changed = survey.changed.max(change_time(&found));
        }
    }
    survey.core = Fingerprint(of_core);
    survey.all = Fingerprint(hash(&(all, of_core)));
    Ok(survey)
}

/// Of one file, such as a zip.
pub(super) fn of_file(path: &Path, found: &Metadata) -> Fingerprint {
    Fingerprint(of_entry(Path::new(""), path, found))
}

/// Of a folder that cannot be read.
pub(super) fn of_error(error: &io::Error) -> Fingerprint {
    Fingerprint(hash(&error.kind()))
}

/// When it was last changed, whatever its own time stamp was set to.
pub(super) fn change_time(found: &Metadata) -> SystemTime {
    let (seconds, nanos) = (found.ctime(), found.ctime_nsec());
    let since = Duration::new(
        u64::try_from(seconds).unwrap_or_default(),
        u32::try_from(nanos).unwrap_or_default(),
    );
    SystemTime::UNIX_EPOCH + since
}

fn of_entry(inside: &Path, path: &Path, found: &Metadata) -> u64 {
    let target = found.is_symlink().then(|| path.read_link().ok());
    // When it was changed as well: who unpacks an archive restores the times of modification, and in one that can be
    // made anew they are all the same.
    let times = (
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    );
    let inside = inside.as_os_str().as_bytes();
    hash(&(inside, found.len(), times, found.mode(), target))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn plugin() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("car");
        fs::create_dir_all(folder.join("lib/deep")).unwrap();
        for file in ["car.json", "run", "lib/a.py", "lib/deep/b.py"] {
            fs::write(folder.join(file), file).unwrap();
        }
        (home, folder)
    }

    fn of(folder: &Path) -> Survey {
        survey(folder, &["car.json".into(), "run".into()]).unwrap()
    }

    /// Same size, another time: what an edit in place is at the least.
    fn touch(path: &Path) {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 1);
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }

    #[test]
    fn every_change_that_counts_is_seen() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 8] = [
            ("size", |folder| {
                fs::write(folder.join("lib/deep/b.py"), "longer than before").unwrap();
            }),
            ("time", |folder| touch(&folder.join("lib/a.py"))),
            ("mode", |folder| {
                fs::set_permissions(folder.join("lib/a.py"), PermissionsExt::from_mode(0o700)).unwrap();
            }),
            ("new", |folder| fs::write(folder.join("lib/c.py"), "").unwrap()),
            ("gone", |folder| fs::remove_file(folder.join("lib/a.py")).unwrap()),
            ("moved", |folder| {
                fs::rename(folder.join("lib/a.py"), folder.join("lib/z.py")).unwrap();
            }),
            ("folder moved", |folder| {
                fs::rename(folder.join("lib"), folder.join("lob")).unwrap();
            }),
            ("link", |folder| symlink("/etc", folder.join("lib/etc")).unwrap()),
        ];
        for (what, change) in changes {
            let (_home, folder) = plugin();
            let before = of(&folder);
            assert_eq!(before.all, of(&folder).all);
            change(&folder);
            let after = of(&folder);
            assert_ne!(before.all, after.all, "{what}");
            assert_eq!(before.core, after.core, "{what}");
            assert!(after.changed >= before.changed);
        }
    }

    #[test]
    fn a_file_that_is_replaced_with_its_size_and_time_kept_has_changed() {
        let (_home, folder) = plugin();
        touch(&folder.join("car.json"));
        let (before, begin) = (of(&folder), std::time::Instant::now());
        // The system's clock for files has ticks of some milliseconds.
        while of(&folder).core == before.core {
            assert!(begin.elapsed() < Duration::from_secs(20), "it is not seen");
            fs::write(folder.join("car.json"), "CAR.JSON").unwrap();
            touch(&folder.join("car.json"));
        }
        assert_ne!(of(&folder).all, before.all);
    }

    #[test]
    fn what_a_running_plugin_writes_does_not_count_unless_it_is_the_core() {
        let (_home, folder) = plugin();
        let before = of(&folder);
        for own in [
            "logs",
            "data",
            "tmp",
            "__pycache__",
            "venv",
            "node_modules",
            ".git",
        ] {
            fs::create_dir_all(folder.join("lib").join(own)).unwrap();
            fs::write(folder.join("lib").join(own).join("a.py"), "").unwrap();
        }
        for own in [
            "a.log",
            "a.pid",
            "a.pyc",
            "a.py~",
            ".a.py.swp",
            "a.tmp",
            "state.db-wal",
            "s.sqlite3",
        ] {
            fs::write(folder.join(own), "").unwrap();
        }
        fs::create_dir(folder.join(".venv-1")).unwrap();
        symlink(".venv-1", folder.join("venv")).unwrap();
        // Nor does what is no file: it is not even opened.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folder.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let after = of(&folder);
        assert_eq!(before.all, after.all);
        assert_eq!(after.folders.len(), 3, "{:?}", after.folders);
        let core = [PathBuf::from("car.json"), "data/run.db".into()];
        fs::create_dir(folder.join("data")).unwrap();
        let before = survey(&folder, &core).unwrap();
        fs::write(folder.join("data/run.db"), "").unwrap();
        assert_ne!(before.all, survey(&folder, &core).unwrap().all);
    }

    #[test]
    fn links_are_not_followed_and_loops_end() {
        let (home, folder) = plugin();
        symlink("..", folder.join("lib/up")).unwrap();
        symlink("self", folder.join("self")).unwrap();
        let before = of(&folder);
        assert_eq!(before.folders.len(), 3);
        fs::write(home.path().join("outside"), "").unwrap();
        assert_eq!(before.all, of(&folder).all);
        let link = home.path().join("bus");
        symlink(&folder, &link).unwrap();
        let before = of(&link);
        assert!(before.folders.is_empty());
        fs::remove_file(&link).unwrap();
        symlink(home.path(), &link).unwrap();
        assert_ne!(before.all, of(&link).all);
        assert!(survey(&home.path().join("none"), &[]).is_err());
    }

    #[test]
    fn of_too_many_files_only_the_core_counts() {
        let (_home, folder) = plugin();
        for i in 0..MAX_ENTRIES {
            fs::hard_link(folder.join("lib/a.py"), folder.join(format!("lib/{i}"))).unwrap();
        }
        let before = of(&folder);
        assert!(before.too_many && before.folders.len() == 1);
        touch(&folder.join("lib/a.py"));
        assert_eq!(before.all, of(&folder).all);
        touch(&folder.join("run"));
        let after = of(&folder);
        assert!(before.all != after.all && before.core != after.core);
    }
}
