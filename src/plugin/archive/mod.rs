//! Owns the unpacking of a plugin's zip into an empty folder. Trusts nothing that the archive says: names,
//! kinds and counts are checked before anything is written, sizes while it is written. Knows nothing of
//! plugins.

mod entry;
mod metered;

pub use entry::EntryError;

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use async_zip::base::read1::ZipOptions;
use async_zip::base::read1::seek::ZipArchiveReader;
use async_zip::error::ZipError;
use async_zip::spec::constructs::CDR;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use entry::{Entry, Kind};
use metered::{Budget, Metered};

/// How much an archive may unpack to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Files and folders.
    pub(super) entries: usize,
    /// All files together, in bytes.
    pub(super) total: u64,
    /// How many times its packed size one file may have, beyond [`RATIO_FREE`].
    pub(super) ratio: u64,
    /// What may be read until all names are known, in bytes.
    pub(super) directory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 20_000,
            total: 2 << 30,
            ratio: 200,
            directory: 8 << 20,
        }
    }
}

/// Up to this many bytes a file may be packed as tightly as it likes: short repetitive files are no bombs.
const RATIO_FREE: u64 = 1 << 20;

/// The size of the pieces in which files are unpacked.
const PIECE: usize = 64 * 1024;

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// No zip, a truncated one, or one that contradicts itself.
    #[error("the package cannot be read as a zip: {}", reason(.0))]
    Zip(#[from] ZipError),
    /// An entry that is not allowed.
    #[error("the package holds {name:?}: {source}")]
    Entry {
        /// Its name in the archive.
        name: String,
        /// What is wrong.
        source: EntryError,
    },
    /// An entry that cannot be unpacked.
    #[error("the package's {name:?} cannot be unpacked: {source}")]
    Damaged {
        /// Its name in the archive.
        name: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// Too many entries.
    #[error("the package has {found} entries; at most {limit} are allowed")]
    TooMany {
        /// How many it has.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// More names, attributes and comments than anybody needs.
    #[error("the package's directory has more than {limit} bytes")]
    Directory {
        /// The limit, in bytes.
        limit: u64,
    },
    /// Unpacks to too much.
    #[error("the package unpacks to more than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// A file that unpacks to too much for its packed size.
    #[error("the package's {name:?} unpacks to more than {limit} times its packed size")]
    Bomb {
        /// Its name in the archive.
        name: String,
        /// The limit.
        limit: u64,
    },
    /// The host's own folder cannot be written.
    #[error("cannot write {name:?} of the package: {source}")]
    Write {
        /// Its name in the archive.
        name: String,
        /// What the system says.
        source: std::io::Error,
    },
}

/// In one line: for a broken header the crate says where in its own sources it stopped, in colour.
fn reason(error: &ZipError) -> String {
    match error {
        ZipError::BinaryParseError(_) => "one of its headers is broken".to_owned(),
        other => other.to_string(),
    }
}

/// Unpacks the zip `package` into the empty folder `target`. On an error, what has been written stays: the
/// caller removes `target`.
///
/// # Errors
/// The first thing that is wrong with the archive, or that the system refuses.
pub(super) async fn unpack(package: File, target: &Path, limits: Limits) -> Result<(), ArchiveError> {
    let mut raw = package.try_clone().await.map_err(ZipError::UpstreamReadError)?;
    let options = ZipOptions {
        // Some more, so that the count can be named in our own error.
        max_cd_num_files: limits.entries as u64 * 8,
        max_cd_num_files_load: limits.entries as u64 * 8,
        max_uncompressed_size_per_file: limits.total,
        ..ZipOptions::untrusted()
    };
    let budget = Budget::new(limits.directory);
    let reader = Metered::new(BufReader::new(package), budget.clone()).compat();
    let opened = ZipArchiveReader::open_with_options(reader, options).await;
    let mut archive = match opened {
        Err(_) if budget.is_spent() => {
            return Err(ArchiveError::Directory {
                limit: limits.directory,
            });
        }
        opened => opened?,
    };
    budget.lift();
    let records = archive.cdrs().to_vec();
    if records.len() > limits.entries {
        return Err(ArchiveError::TooMany {
            found: records.len(),
            limit: limits.entries,
        });
    }
    let entries = check(&records)?;
    refuse_overlaps(&records, archive.ceocdr().cd_offset()?)?;
    for (record, entry) in records.iter().zip(&entries) {
        refuse_encrypted(&mut raw, record, &entry.name).await?;
    }
    let mut left = limits.total;
    for (index, entry) in entries.iter().enumerate() {
        let path = target.join(&entry.name);
        let written = |source| ArchiveError::Write {
            name: entry.name.clone(),
            source,
        };
        if entry.kind == Kind::Folder {
            tokio::fs::create_dir_all(&path).await.map_err(written)?;
            continue;
        }
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(written)?;
        }
        left -= unpack_file(&mut archive, index, entry, &path, left, limits).await?;
    }
    Ok(())
}

/// Checks every record before anything is written.
fn check(records: &[CDR]) -> Result<Vec<Entry>, ArchiveError> {
    let mut entries = Vec::with_capacity(records.len());
    for record in records {
        let raw_name = record.insecure_file_name.as_bytes();
        let entry = Entry::check(raw_name, record.cdrh.v_made_by, record.cdrh.exter_attr);
        entries.push(entry.map_err(|source| refused(record, source))?);
        // What only a zip64 field could hold is beyond every limit; and the library panics when that field is
        // not there.
        if record.cdrh.lfh_offset == u32::MAX {
            return Err(refused(record, EntryError::Offset));
        }
    }
    // What one system takes for two names is one for another.
    let folded: Vec<String> = entries.iter().map(|entry| entry::fold(&entry.name)).collect();
    let mut places = HashMap::new();
    for ((record, entry), folded) in records.iter().zip(&entries).zip(&folded) {
        match places.entry(folded.as_str()) {
            Slot::Vacant(place) => place.insert((entry.name.as_str(), entry.kind)),
            Slot::Occupied(_) => return Err(refused(record, EntryError::Twice)),
        };
    }
    for ((record, entry), folded) in records.iter().zip(&entries).zip(&folded) {
        let ends = entry.name.match_indices('/').zip(folded.match_indices('/'));
        for ((end, _), (folded_end, _)) in ends {
            let parent = &entry.name[..end];
            let place = places.entry(&folded[..folded_end]);
            match *place.or_insert((parent, Kind::Folder)) {
                (_, Kind::File | Kind::Program) => return Err(refused(record, EntryError::InsideFile)),
                (name, Kind::Folder) if name != parent => return Err(refused(record, EntryError::Twice)),
                (_, Kind::Folder) => {}
            }
        }
    }
    Ok(entries)
}

fn refused(record: &CDR, source: EntryError) -> ArchiveError {
    let name = String::from_utf8_lossy(record.insecure_file_name.as_bytes());
    ArchiveError::Entry {
        name: name.chars().take(120).collect(),
        source,
    }
}

/// Entries that share bytes are how a small archive unpacks to a huge one without packing anything tightly.
fn refuse_overlaps(records: &[CDR], directory: u64) -> Result<(), ArchiveError> {
    /// What comes before the name of a file.
    const HEADER: u64 = 30;
    let mut order: Vec<&CDR> = records.iter().collect();
    order.sort_by_key(|record| record.cdrh.lfh_offset);
    for (at, record) in order.iter().enumerate() {
        let next = order
            .get(at + 1)
            .map_or(directory, |next| u64::from(next.cdrh.lfh_offset));
        let end = (u64::from(record.cdrh.lfh_offset) + HEADER + u64::from(record.cdrh.file_name_length))
            .saturating_add(record.compressed_size()?);
        if end > next {
            return Err(refused(record, EntryError::Overlaps));
        }
    }
    Ok(())
}

/// The library does not show the flag that tells an encrypted entry, so it is read where the entry begins.
async fn refuse_encrypted(raw: &mut File, record: &CDR, name: &str) -> Result<(), ArchiveError> {
    const FLAGS: u64 = 6;
    let damaged = |source| ArchiveError::Damaged {
        name: name.to_owned(),
        source,
    };
    let at = u64::from(record.cdrh.lfh_offset) + FLAGS;
    raw.seek(std::io::SeekFrom::Start(at)).await.map_err(damaged)?;
    let flags = raw.read_u16_le().await.map_err(damaged)?;
    if flags & 1 == 0 {
        Ok(())
    } else {
        Err(refused(record, EntryError::Encrypted))
    }
}

/// Returns the file's size.
async fn unpack_file(
    archive: &mut ZipArchiveReader<Compat<Metered<BufReader<File>>>>,
    index: usize,
    entry: &Entry,
    path: &Path,
    left: u64,
    limits: Limits,
) -> Result<u64, ArchiveError> {
    let damaged = |source| ArchiveError::Damaged {
        name: entry.name.clone(),
        source,
    };
    let written = |source| ArchiveError::Write {
        name: entry.name.clone(),
        source,
    };
    let file = archive.file(index).await?;
    let packed = file.lf().compressed_size()?;
    let most = RATIO_FREE.max(packed.saturating_mul(limits.ratio));
    let mut file = file.compat();
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .mode(if entry.kind == Kind::Program { 0o755 } else { 0o644 });
    let mut target = tokio::fs::OpenOptions::from(options)
        .open(path)
        .await
        .map_err(written)?;
    let mut piece = vec![0; PIECE];
    let mut size = 0u64;
    loop {
        let read = file.read(&mut piece).await.map_err(damaged)?;
        if read == 0 {
            break;
        }
        size += read as u64;
        if size > left {
            return Err(ArchiveError::TooLarge { limit: limits.total });
        }
        if size > most {
            return Err(ArchiveError::Bomb {
                name: entry.name.clone(),
                limit: limits.ratio,
            });
        }
        target.write_all(&piece[..read]).await.map_err(written)?;
    }
    target.flush().await.map_err(written)?;
    Ok(size)
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
