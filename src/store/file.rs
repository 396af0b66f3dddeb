//! Owns one redb file: how it is made, opened, checked, and opened again after the disk has failed it.
//!
//! redb is synchronous, so every call runs on the runtime's blocking threads. The file belongs to one process at a
//! time: a second host on the same home is refused.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, ReadableDatabase, TableDefinition};

use super::error::{FORMAT, StoreError, damaged, failed, not_opened};

/// About the file itself: `format`.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The most memory that redb spends on the pages of one file, in bytes. The stores are small.
const CACHE: usize = 8 * 1024 * 1024;

/// Makes the tables of a new file.
pub(super) type MakeTables = fn(&redb::WriteTransaction) -> Result<(), redb::Error>;

/// The file's handle; cheap to clone. It is released when the last one is dropped.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// `None` after the disk has failed it, until it is opened again.
    pub(super) database: Arc<Mutex<Option<Database>>>,
    path: Arc<Path>,
}

impl File {
    /// Opens the file; creates it, and its folder, if there is none. The whole file is checked.
    pub(super) async fn open(path: &Path, tables: MakeTables) -> Result<Self, StoreError> {
        let path: Arc<Path> = path.into();
        let opened = path.clone();
        let database = blocking("open", &path, move || open_or_create(&opened, tables)).await?;
        Ok(Self {
            database: Arc::new(Mutex::new(Some(database))),
            path,
        })
    }

    /// One transaction: all of `change` or, on an error, none of it.
    pub(super) async fn write<T: Send + 'static>(
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
    pub(super) async fn with<T: Send + 'static>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = self.clone();
        blocking(verb, &self.path, move || {
            let mut slot = file.database.lock().unwrap_or_else(PoisonError::into_inner);
            // Taken out, so that it is also closed when redb panics.
            let database = match slot.take() {
                Some(database) => database,
                None => open(&file.path)?,
            };
            let result = work(&database);
            if !matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
                *slot = Some(database);
            }
            result.map_err(|error| failed(verb, &file.path, error))
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

fn open_or_create(path: &Path, tables: MakeTables) -> Result<Database, StoreError> {
    match fs::exists(path) {
        Ok(true) => open(path),
        Ok(false) => create(path, tables),
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

/// The new file is made under another name and given its own when it is whole, so that a host that dies here
/// leaves nothing that the next one stumbles over.
fn create(path: &Path, tables: MakeTables) -> Result<Database, StoreError> {
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
        tables(&transaction)?;
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
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| failed("create", path, error))?;
    Ok(database)
}
