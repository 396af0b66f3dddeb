//! Owns why a store does not do what it was asked for, in words that name the file.

use std::path::{Path, PathBuf};

use redb::{DatabaseError, StorageError};

/// How the tables of this version look; counted up when they change.
pub(super) const FORMAT: u64 = 1;

/// Why the store does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open, most likely a second host on the same home.
    #[error("{} is in use: another host runs on this home", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is there and is not a store that this host has written whole.
    #[error(
        "{} is damaged or no store of this host: {source}; restore it from a copy, or move it away to start \
         with no streams and rules",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What redb found.
        source: Box<redb::Error>,
    },
    /// It was written by another version of the host.
    #[error("{} has format {found}; this host reads format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The system or redb refuses.
    #[error("cannot {verb} {}: {source}", path.display())]
    Failed {
        /// What was tried: create, open, read or write.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// The call did not come to its end: the runtime shuts down, or redb panicked over a file that was changed
    /// under it.
    #[error("could not finish to {verb} {}", path.display())]
    Aborted {
        /// What was tried: open, read or write.
        verb: &'static str,
        /// The file.
        path: PathBuf,
    },
}

pub(super) fn not_opened(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => StoreError::InUse {
            path: path.to_owned(),
        },
        DatabaseError::Storage(StorageError::Corrupted(_))
        | DatabaseError::UpgradeRequired(_)
        | DatabaseError::RepairAborted => damaged(path, error),
        DatabaseError::Storage(StorageError::Io(ref cause))
            if matches!(
                cause.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            damaged(path, error)
        }
        other => failed("open", path, other),
    }
}

pub(super) fn damaged(path: &Path, source: impl Into<redb::Error>) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        source: Box::new(source.into()),
    }
}

pub(super) fn failed(verb: &'static str, path: &Path, source: impl Into<redb::Error>) -> StoreError {
    StoreError::Failed {
        verb,
        path: path.to_owned(),
        source: Box::new(source.into()),
    }
}
