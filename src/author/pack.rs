//! Owns packages: a zip of the plugin in a folder, checked as an installation checks it. The same folder gives the same
//! bytes, whenever and wherever it is packed.

use std::io;
use std::path::{Path, PathBuf};

use async_zip::base::write::ZipFileWriter;
use async_zip::{Compression, ZipDateTimeBuilder, ZipEntryBuilder};
use tokio::fs::File;

use super::contents::{self, Entry};
use super::{AuthorError, io_error};
use crate::config::Portable;
use crate::plugin::{Candidate, Checksum, check_package};

/// A package that was made.
#[derive(Debug)]
pub struct Packed {
    /// Where it is.
    pub path: PathBuf,
    /// How many files it holds.
    pub files: usize,
    /// Its length in bytes.
    pub len: u64,
    /// Its sum.
    pub sum: Checksum,
}

/// Packs the plugin in `folder` into `output`, by default `<name>.zip` in the current folder. A package that is there
/// is replaced once the new one is whole.
///
/// # Errors
/// The folder is no plugin that a host would take, or the package could not be installed.
///
/// # Cancel safety
/// Dropped before it is ready, there is no package, or the one before.
pub async fn pack(folder: &Path, output: Option<&Path>, settings: &Portable) -> Result<Packed, AuthorError> {
    let at = folder.to_owned();
    let listed = tokio::task::spawn_blocking(move || {
        let candidate = Candidate::inspect(&at)?;
        let name = candidate.manifest().name.clone();
        let entries = contents::list(&candidate.folder(), name.as_str(), candidate.core())?;
        Ok::<_, AuthorError>((candidate.folder(), name, entries))
    });
    let (folder, name, entries) = listed
        .await
        .map_err(|error| AuthorError::Zip(error.to_string()))??;
    let output = output.map_or_else(|| PathBuf::from(format!("{name}.zip")), Path::to_owned);
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let made = tempfile::Builder::new()
        .prefix(".pack-")
        .suffix(".zip")
        .tempfile_in(parent);
    let made = made.map_err(io_error("make a file in", parent))?;
    let file = made.reopen().map_err(io_error("open", made.path()))?;
    write(&folder, &entries, File::from_std(file)).await?;
    let scratch = tempfile::tempdir().map_err(io_error("make a folder for", &output))?;
    let whole = made
        .path()
        .canonicalize()
        .map_err(io_error("find", made.path()))?;
    let sum = check_package(&name, &whole, scratch.path(), settings).await?;
    let len = made
        .as_file()
        .metadata()
        .map_err(io_error("look at", made.path()))?
        .len();
    open_to_all(&made).map_err(io_error("open to all", made.path()))?;
    made.persist(&output)
        .map_err(|error| io_error("write", &output)(error.error))?;
    Ok(Packed {
        path: output,
        files: entries.len(),
        len,
        sum,
    })
}

/// Temporary files are for their owner alone.
fn open_to_all(made: &tempfile::NamedTempFile) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    made.as_file().sync_all()?;
    made.as_file().set_permissions(PermissionsExt::from_mode(0o644))
}

async fn write(folder: &Path, entries: &[Entry], file: File) -> Result<(), AuthorError> {
    let broken = |error: async_zip::error::ZipError| AuthorError::Zip(error.to_string());
    let mut zip = ZipFileWriter::with_tokio(file);
    // The first that the format knows; any would do, as long as it is always the same.
    let date = ZipDateTimeBuilder::new().year(1980).month(1).day(1).build();
    for entry in entries {
        let path = folder.join(&entry.path);
        let Some(name) = entry.path.to_str() else {
            let reason = io::Error::new(io::ErrorKind::InvalidData, "its name is no UTF-8");
            return Err(io_error("pack", &path)(reason));
        };
        let bytes = tokio::fs::read(&path).await.map_err(io_error("read", &path))?;
        let mode = if entry.executable { 0o755 } else { 0o644 };
        let header = ZipEntryBuilder::new(name.to_owned().into(), Compression::Deflate)
            .last_modification_date(date)
            .unix_permissions(mode);
        zip.write_entry_whole(header, &bytes).await.map_err(broken)?;
    }
    let mut file = zip.close().await.map_err(broken)?.into_inner();
    let flushed = tokio::io::AsyncWriteExt::flush(&mut file).await;
    flushed.map_err(io_error("write", folder))
}

/// For people: how large something is.
impl std::fmt::Display for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            path,
            files,
            len,
            sum,
        } = self;
        write!(f, "{}: {files} files, {len} bytes, sha256 {sum}", path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn settings() -> Portable {
        crate::config::Config::new("/".into()).portable
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("car");
        std::fs::create_dir_all(folder.join("sources")).unwrap();
        let manifest = r#"{"version":"1","language":"sh","executable":"run","sources":["json"]}"#;
        for (path, text) in [
            ("car.json", manifest),
            ("run", "#!/bin/sh\n"),
            ("sources/json.yaml", "default:\n"),
        ] {
            std::fs::write(folder.join(path), text).unwrap();
        }
        std::fs::set_permissions(folder.join("run"), PermissionsExt::from_mode(0o700)).unwrap();
        (home, folder)
    }

    #[tokio::test]
    async fn the_same_folder_gives_the_same_bytes() {
        let mut sums = Vec::new();
        for round in 0..2 {
            let (home, folder) = folder();
            if round == 1 {
                std::fs::create_dir(folder.join("target")).unwrap();
                std::fs::write(folder.join("target/x"), "x").unwrap();
            }
            let output = home.path().join("out.zip");
            let packed = pack(&folder, Some(&output), &settings()).await.unwrap();
            assert_eq!((packed.files, &packed.path), (3, &output));
            let bytes = std::fs::read(&output).unwrap();
            assert_eq!(bytes.len() as u64, packed.len);
            sums.push(packed.sum);
            // A second time, over the first.
            let again = pack(&folder, Some(&output), &settings()).await.unwrap();
            assert_eq!(again.sum, packed.sum);
        }
        assert_eq!(sums.first(), sums.last());
    }

    #[tokio::test]
    async fn what_could_not_be_installed_is_not_packed() {
        let (home, folder) = folder();
        let output = home.path().join("out.zip");
        std::fs::write(folder.join("CAR.json"), "{}").unwrap();
        let error = pack(&folder, Some(&output), &settings()).await.unwrap_err();
        assert!(matches!(error, AuthorError::Install(_)), "{error}");
        std::fs::remove_file(folder.join("CAR.json")).unwrap();
        std::fs::remove_file(folder.join("run")).unwrap();
        let error = pack(&folder, Some(&output), &settings()).await.unwrap_err();
        assert!(matches!(error, AuthorError::Plugin(_)), "{error}");
        // And nothing is left beside it.
        assert_eq!(home.path().read_dir().unwrap().count(), 1);
    }
}
