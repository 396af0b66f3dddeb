//! Owns the locks between processes. Tests of several crates, and of several checkouts, may run at once, and
//! some things exist only once on a machine: the fixed addresses under `/tmp` that the published SDKs dial.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// A lock that is held; dropping it, or the end of the process, lets the next one go on.
#[derive(Debug)]
pub struct Exclusive {
    _file: File,
}

/// Waits until no other test on this machine holds the lock `name`, and holds it.
///
/// # Panics
/// When the lock's file, `mangrove-<name>.lock` in the folder for temporary files, cannot be opened.
pub fn exclusive(name: &str) -> Exclusive {
    exclusive_at(&std::env::temp_dir().join(format!("mangrove-{name}.lock")))
}

/// The same with a file of the caller's choice. It is left behind: removing it would race.
pub(crate) fn exclusive_at(path: &Path) -> Exclusive {
    let lock = || -> io::Result<File> {
        // Another user's file can be locked but, in a sticky folder, not opened for creation.
        let file = match OpenOptions::new().read(true).append(true).create(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path)?,
            other => other?,
        };
        file.lock()?;
        Ok(file)
    };
    match lock() {
        Ok(file) => Exclusive { _file: file },
        Err(error) => panic!("cannot lock {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_free_again_after_its_guard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = exclusive_at(&path);
        let other = File::open(&path).unwrap();
        assert!(other.try_lock().is_err(), "a held lock was given twice");
        drop(first);
        // A process that another test has started holds it until it has become another program.
        let (free, freed) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || free.send(other.lock()));
        freed.recv_timeout(crate::PATIENCE).unwrap().unwrap();
    }
}
