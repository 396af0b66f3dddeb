//! Owns the embedded store `data/mangrove.redb`: named entries in a few tables, durable when a call returns.
//!
//! It does not know what the entries mean; `rule` keeps its definitions here. redb is synchronous, so every call
//! runs on the runtime's blocking threads. The file belongs to one process at a time: a second host on the same
//! home is refused. Plugins are not kept here, they are what lies in their folder.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};

/// How the tables of this version look; counted up when they change.
const FORMAT: u64 = 1;

/// About the store itself: `format`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The most memory that redb spends on pages, in bytes. The store is small and seldom read.
const CACHE: usize = 8 * 1024 * 1024;

/// The store's handle; cheap to clone. The file is released when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    /// `None` after the disk has failed it, until it is opened again.
    database: Arc<Mutex<Option<Database>>>,
    path: Arc<Path>,
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Streams by name.
    Streams,
    /// Rules by id.
    Rules,
}

impl Table {
    const ALL: [Self; 2] = [Self::Streams, Self::Rules];

    const fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Self::Streams => "streams",
            Self::Rules => "rules",
        })
    }
}

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

impl Store {
    /// Opens the store; creates it, and its folder, if there is none. The whole file is checked.
    ///
    /// # Errors
    /// The file is in use, damaged, foreign or of another version, or the system refuses. A damaged or foreign
    /// file is left for its owner to look at.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the store may have been created; it is released again.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let path: Arc<Path> = path.into();
        let opened = path.clone();
        let database = blocking("open", &path, move || open_or_create(&opened)).await?;
        Ok(Self {
            database: Arc::new(Mutex::new(Some(database))),
            path,
        })
    }

    /// Every entry, by key.
    ///
    /// # Errors
    /// The file cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn list(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.with("read", move |database| {
            let table = database.begin_read()?.open_table(table.definition())?;
            table
                .iter()?
                .map(|entry| {
                    let (key, value) = entry?;
                    Ok((key.value().to_owned(), value.value().to_owned()))
                })
                .collect()
        })
        .await
    }

    /// Sets an entry. It is on the disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written; the entry is as it was.
    ///
    /// # Cancel safety
    /// Dropped before it is done, the entry is as it was or as it was to be, never in between.
    pub async fn put(&self, table: Table, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.write(move |transaction| {
            transaction
                .open_table(table.definition())?
                .insert(key.as_str(), value.as_slice())?;
            Ok(())
        })
        .await
    }

    /// Removes an entry, and says whether it was there. It is off the disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written; the entry is still there.
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn delete(&self, table: Table, key: &str) -> Result<bool, StoreError> {
        let key = key.to_owned();
        self.write(move |transaction| {
            let mut table = transaction.open_table(table.definition())?;
            let was_there = table.remove(key.as_str())?.is_some();
            Ok(was_there)
        })
        .await
    }

    /// One transaction: all of `change` or, on an error, none of it.
    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.with("write", move |database| {
            let transaction = database.begin_write()?;
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
        .await
    }

    /// Runs `work` on a blocking thread, one at a time.
    ///
    /// Once the disk has failed it, redb refuses everything, because it cannot know what was written. So the file
    /// is closed then, and opened and checked again by the next call: a disk that was full is not full for ever.
    async fn with<T: Send + 'static>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        blocking(verb, &self.path, move || {
            let mut slot = store.database.lock().unwrap_or_else(PoisonError::into_inner);
            // Taken out, so that it is also closed when redb panics.
            let database = match slot.take() {
                Some(database) => database,
                None => open(&store.path)?,
            };
            let result = work(&database);
            if !matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
                *slot = Some(database);
            }
            result.map_err(|error| failed(verb, &store.path, error))
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    verb: &'static str,
    path: &Path,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(StoreError::Aborted {
            verb,
            path: path.to_owned(),
        })
    })
}

fn open_or_create(path: &Path) -> Result<Database, StoreError> {
    match fs::exists(path) {
        Ok(true) => open(path),
        Ok(false) => create(path),
        Err(error) => Err(failed("open", path, error)),
    }
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let database = Database::builder()
        .set_cache_size(CACHE)
        // Without it redb trusts a file that was closed properly, and panics if it was changed since.
        .set_check_integrity_on_open(true)
        .open(path)
        .map_err(|error| not_opened(path, error))?;
    let format = || -> Result<Option<u64>, redb::Error> {
        let table = database.begin_read()?.open_table(META)?;
        Ok(table.get("format")?.map(|format| format.value()))
    };
    match format() {
        Ok(Some(FORMAT)) => Ok(database),
        Ok(Some(found)) => Err(StoreError::Format {
            path: path.to_owned(),
            found,
        }),
        Ok(None) => Err(damaged(
            path,
            redb::Error::TableDoesNotExist("meta without a format".to_owned()),
        )),
        Err(error) => Err(damaged(path, error)),
    }
}

/// The new store is made under another name and given its own when it is whole, so that a host that dies here
/// leaves nothing that the next one stumbles over.
fn create(path: &Path) -> Result<Database, StoreError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(|error| failed("create", folder, error))?;
    let unnamed = tempfile::Builder::new()
        .prefix(".mangrove-new-")
        .tempfile_in(folder)
        .map_err(|error| failed("create", path, error))?;
    let database = Database::builder()
        .set_cache_size(CACHE)
        .create(unnamed.path())
        .map_err(|error| not_opened(path, error))?;
    let fill = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        for table in Table::ALL {
            transaction.open_table(table.definition())?;
        }
        transaction.open_table(META)?.insert("format", FORMAT)?;
        Ok(transaction.commit()?)
    };
    fill().map_err(|error| failed("create", path, error))?;
    match unnamed.persist_noclobber(path) {
        Ok(_) => {}
        // Another host was faster, and has it open.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(StoreError::InUse {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(failed("create", path, error.error)),
    }
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| failed("create", path, error))?;
    Ok(database)
}

fn not_opened(path: &Path, error: DatabaseError) -> StoreError {
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
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            damaged(path, error)
        }
        other => failed("open", path, other),
    }
}

fn damaged(path: &Path, source: impl Into<redb::Error>) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        source: Box::new(source.into()),
    }
}

fn failed(verb: &'static str, path: &Path, source: impl Into<redb::Error>) -> StoreError {
    StoreError::Failed {
        verb,
        path: path.to_owned(),
        source: Box::new(source.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;
    use tempfile::TempDir;

    use super::*;

    fn file(home: &TempDir) -> PathBuf {
        home.path().join("data/mangrove.redb")
    }

    async fn refusal(path: &Path) -> StoreError {
        Store::open(path).await.unwrap_err()
    }

    #[tokio::test]
    async fn what_was_put_is_there_after_a_reopen_and_what_was_deleted_is_not() {
        let home = TempDir::new().unwrap();
        let store = Store::open(&file(&home)).await.unwrap();
        store.put(Table::Rules, "b", b"2".to_vec()).await.unwrap();
        store.put(Table::Rules, "a", b"0".to_vec()).await.unwrap();
        store.put(Table::Rules, "a", b"1".to_vec()).await.unwrap();
        store
            .put(Table::Streams, "s", b"\x00\xff".to_vec())
            .await
            .unwrap();
        assert!(store.delete(Table::Rules, "b").await.unwrap());
        assert!(!store.delete(Table::Rules, "b").await.unwrap());
        drop(store);

        let store = Store::open(&file(&home)).await.unwrap();
        assert_eq!(
            store.list(Table::Rules).await.unwrap(),
            [("a".into(), b"1".to_vec())]
        );
        assert_eq!(
            store.list(Table::Streams).await.unwrap(),
            [("s".into(), b"\x00\xff".to_vec())]
        );
    }

    #[tokio::test]
    async fn what_was_put_survives_a_host_that_is_killed() {
        let (home, copied) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let store = Store::open(&file(&home)).await.unwrap();
        store.put(Table::Rules, "a", b"1".to_vec()).await.unwrap();
        // The file as it lies there while the store is still open is what a kill leaves.
        let path = copied.path().join("mangrove.redb");
        fs::copy(file(&home), &path).unwrap();
        let store = Store::open(&path).await.unwrap();
        assert_eq!(
            store.list(Table::Rules).await.unwrap(),
            [("a".into(), b"1".to_vec())]
        );
    }

    #[tokio::test]
    async fn entries_come_in_the_order_of_their_keys() {
        let home = TempDir::new().unwrap();
        let store = Store::open(&file(&home)).await.unwrap();
        for key in ["c", "a", "b"] {
            store.put(Table::Streams, key, Vec::new()).await.unwrap();
        }
        let keys: Vec<_> = store
            .list(Table::Streams)
            .await
            .unwrap()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(keys, ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn a_second_host_on_the_same_home_is_refused() {
        let home = TempDir::new().unwrap();
        let first = Store::open(&file(&home)).await.unwrap();
        let error = refusal(&file(&home)).await;
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        assert!(
            error
                .to_string()
                .ends_with("data/mangrove.redb is in use: another host runs on this home"),
            "{error}"
        );
        drop(first);
        Store::open(&file(&home)).await.unwrap();
    }

    #[tokio::test]
    async fn a_foreign_a_cut_and_an_empty_file_are_named_and_left_as_they_are() {
        let home = TempDir::new().unwrap();
        let whole = home.path().join("whole.redb");
        drop(Store::open(&whole).await.unwrap());
        let whole = fs::read(whole).unwrap();
        let (path, half) = (home.path().join("mangrove.redb"), whole.len() / 2);
        for content in [b"".as_slice(), b"not a store at all", &[0; 8192], &whole[..half]] {
            fs::write(&path, content).unwrap();
            let error = refusal(&path).await;
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("mangrove.redb is damaged"), "{error}");
            assert!(fs::read(&path).unwrap() == content, "the file was changed");
        }
    }

    #[tokio::test]
    async fn changed_bytes_never_panic_the_caller_nor_go_unnoticed() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("mangrove.redb");
        let store = Store::open(&path).await.unwrap();
        let value = b"a value that is long enough to be found in the file".to_vec();
        store.put(Table::Rules, "rule", value.clone()).await.unwrap();
        drop(store);
        let mut content = fs::read(&path).unwrap();
        let places: Vec<_> = content
            .windows(value.len())
            .enumerate()
            .filter_map(|(at, window)| (window == value).then_some(at))
            .collect();
        assert!(!places.is_empty());
        for at in places {
            content[at] ^= 1;
        }
        fs::write(&path, &content).unwrap();
        let error = refusal(&path).await;
        assert!(error.to_string().contains("mangrove.redb"), "{error}");
    }

    #[tokio::test]
    async fn a_redb_file_of_something_else_and_a_newer_format_are_refused() {
        let home = TempDir::new().unwrap();
        let foreign = home.path().join("foreign.redb");
        drop(Database::create(&foreign).unwrap());
        let error = refusal(&foreign).await;
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");

        let newer = file(&home);
        let store = Store::open(&newer).await.unwrap();
        let newer_format = store.write(|transaction| {
            transaction.open_table(META)?.insert("format", FORMAT + 1)?;
            Ok(())
        });
        newer_format.await.unwrap();
        drop(store);
        let error = refusal(&newer).await;
        assert!(
            error
                .to_string()
                .ends_with("has format 2; this host reads format 1"),
            "{error}"
        );
    }

    /// A disk that can be full.
    #[derive(Debug, Default)]
    struct Disk {
        memory: InMemoryBackend,
        full: Arc<AtomicBool>,
    }

    impl Disk {
        fn room(&self) -> io::Result<()> {
            match self.full.load(Ordering::SeqCst) {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.room()?;
            self.memory.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.memory.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.room()?;
            self.memory.write(offset, data)
        }
    }

    #[tokio::test]
    async fn a_disk_that_was_full_is_written_again_when_there_is_room() {
        let home = TempDir::new().unwrap();
        let store = Store::open(&file(&home)).await.unwrap();
        store.put(Table::Rules, "before", Vec::new()).await.unwrap();
        let disk = Disk::default();
        let full = disk.full.clone();
        let failing = Database::builder().create_with_backend(disk).unwrap();
        *store.database.lock().unwrap() = Some(failing);

        full.store(true, Ordering::SeqCst);
        let error = store
            .put(Table::Rules, "lost", vec![0; 100_000])
            .await
            .unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        store.put(Table::Rules, "after", Vec::new()).await.unwrap();
        let keys = store.list(Table::Rules).await.unwrap();
        let keys: Vec<_> = keys.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["after", "before"]);
    }

    #[tokio::test]
    async fn a_leftover_of_a_broken_creation_is_no_hindrance() {
        let home = TempDir::new().unwrap();
        fs::create_dir(home.path().join("data")).unwrap();
        fs::write(home.path().join("data/.mangrove-new-abc"), [0; 100]).unwrap();
        Store::open(&file(&home)).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_named() {
        let home = TempDir::new().unwrap();
        fs::write(home.path().join("data"), "a file").unwrap();
        let error = refusal(&file(&home)).await;
        assert!(error.to_string().contains("/data"), "{error}");
    }
}
