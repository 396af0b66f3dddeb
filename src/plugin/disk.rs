//! Owns what makes a change of a folder's entries last over a power cut. Blocking. It knows nothing of what the entries
//! are; whoever has made, renamed or removed one calls it.

use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Which entries a folder has is on the disk when this returns, where the file system lets one wait for that: some
/// sync files only.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    match std::fs::File::open(folder)?.sync_all() {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::NOTSUP)) => Ok(()),
        synced => synced,
    }
}

/// The same after what is done either way: a failure is only logged.
pub(super) fn sync_done(folder: &Path) {
    if let Err(error) = sync(folder) {
        tracing::warn!(
            "what was changed in {} may be lost in a power cut: {error}",
            folder.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_syncs_no_folders_is_taken_as_it_is() {
        let proc = Path::new("/proc");
        let refused = std::fs::File::open(proc).unwrap().sync_all().unwrap_err();
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::INVAL));
        sync(proc).unwrap();
        sync(tempfile::tempdir().unwrap().path()).unwrap();
        sync(Path::new("/proc/nothing")).unwrap_err();
    }
}
