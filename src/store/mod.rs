//! Owns what the host keeps on disk, in `data/`.
//!
//! | module | what it owns |
//! |---|---|
//! | this one | `mangrove.redb`: named entries in a few tables, durable when a call returns. It does not know what they mean; `rule` keeps its definitions here |
//! | `states` | `states.redb`: what symbols of plugins remember |
//! | `file`, `error` | one such file, and why it does not do what it is asked for |
//!
//! Plugins are not kept here, they are what lies in their folder.

mod error;
mod file;
mod states;

use std::path::Path;

use redb::{ReadableDatabase, ReadableTable, TableDefinition};

pub use error::StoreError;
use file::File;
pub use states::{Keeper, Scope, StateError, States};

/// The store's handle; cheap to clone. The file is released when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    file: File,
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
        let file = File::open(path, |transaction| {
            for table in Table::ALL {
                transaction.open_table(table.definition())?;
            }
            Ok(())
        });
        Ok(Self { file: file.await? })
    }

    /// Every entry, by key.
    ///
    /// # Errors
    /// The file cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn list(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.file
            .with("read", move |database| {
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
        self.file
            .write(move |transaction| {
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
        self.file
            .write(move |transaction| {
                let mut table = transaction.open_table(table.definition())?;
                let was_there = table.remove(key.as_str())?.is_some();
                Ok(was_there)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use std::fs;
    use std::io;
    use std::path::PathBuf;
    use std::sync::Arc;

    use redb::backends::InMemoryBackend;
    use redb::{Database, StorageBackend};
    use tempfile::TempDir;

    use super::error::FORMAT;
    use super::file::META;
    use super::*;

    fn in_home(home: &TempDir) -> PathBuf {
        home.path().join("data/mangrove.redb")
    }

    async fn refusal(path: &Path) -> StoreError {
        Store::open(path).await.unwrap_err()
    }

    #[tokio::test]
    async fn what_was_put_is_there_after_a_reopen_and_what_was_deleted_is_not() {
        let home = TempDir::new().unwrap();
        let store = Store::open(&in_home(&home)).await.unwrap();
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

        let store = Store::open(&in_home(&home)).await.unwrap();
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
        let store = Store::open(&in_home(&home)).await.unwrap();
        store.put(Table::Rules, "a", b"1".to_vec()).await.unwrap();
        // The file as it lies there while the store is still open is what a kill leaves.
        let path = copied.path().join("mangrove.redb");
        fs::copy(in_home(&home), &path).unwrap();
        let store = Store::open(&path).await.unwrap();
        assert_eq!(
            store.list(Table::Rules).await.unwrap(),
            [("a".into(), b"1".to_vec())]
        );
    }

    #[tokio::test]
    async fn entries_come_in_the_order_of_their_keys() {
        let home = TempDir::new().unwrap();
        let store = Store::open(&in_home(&home)).await.unwrap();
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
        let first = Store::open(&in_home(&home)).await.unwrap();
        let error = refusal(&in_home(&home)).await;
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        assert!(
            error
                .to_string()
                .ends_with("data/mangrove.redb is in use: another host runs on this home"),
            "{error}"
        );
        drop(first);
        Store::open(&in_home(&home)).await.unwrap();
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

        let newer = in_home(&home);
        let store = Store::open(&newer).await.unwrap();
        let newer_format = store.file.write(|transaction| {
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
        let store = Store::open(&in_home(&home)).await.unwrap();
        store.put(Table::Rules, "before", Vec::new()).await.unwrap();
        let disk = Disk::default();
        let full = disk.full.clone();
        let failing = Database::builder().create_with_backend(disk).unwrap();
        *store.file.database.lock().unwrap() = Some(failing);

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
        Store::open(&in_home(&home)).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_named() {
        let home = TempDir::new().unwrap();
        fs::write(home.path().join("data"), "a file").unwrap();
        let error = refusal(&in_home(&home)).await;
        assert!(error.to_string().contains("/data"), "{error}");
    }
}
