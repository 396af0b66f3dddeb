//! Owns how a package becomes a checked folder that is ready to be moved into place. What is being made lies
//! in a hidden folder beside the plugins, on the same file system, and vanishes with its [`Staged`]. Starts
//! nothing; the manager drives it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::PluginName;
use tempfile::TempDir;

use super::archive::{self, Limits};
use super::error::InstallError;
use super::package;

/// How the hidden folders' names begin.
const STAGING: &str = ".staging-";

/// A plugin to be installed, or to replace the one of this name.
#[derive(Clone, Debug)]
pub struct InstallRequest {
    /// Its name.
    pub name: PluginName,
    /// Where its zip is: `file:///an/absolute/path.zip`.
    pub file: String,
}

/// A checked plugin in a hidden folder, which is removed when this is dropped.
pub(super) struct Staged {
    pub(super) manifest: Arc<Manifest>,
    /// The plugin's folder inside of the hidden one.
    pub(super) folder: PathBuf,
    /// The program inside of the folder, relative to it.
    hidden: TempDir,
}

impl Staged {
    /// A free place in the same hidden folder, for what is being replaced.
    pub(super) fn attic(&self) -> PathBuf {
        self.hidden.path().join(".replaced")
    }

    /// Removes what is left in the hidden folder.
    pub(super) async fn clean(self) {
        remove(self.hidden).await;
    }
}

/// A new hidden folder below `plugins`.
pub(super) async fn hidden_folder(plugins: &Path) -> Result<TempDir, InstallError> {
    let made = tempfile::Builder::new().prefix(STAGING).tempdir_in(plugins);
    made.map_err(|source| InstallError::Io {
        what: "make a folder in",
        path: plugins.to_owned(),
        source,
    })
}

/// Removes a hidden folder; what cannot be removed is logged, and tried again when the host starts.
pub(super) async fn remove(hidden: TempDir) {
    let path = hidden.path().to_owned();
    let removed = tokio::task::spawn_blocking(move || hidden.close()).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

/// Removes the hidden folders that a host which was killed has left. Blocking.
pub(super) fn clean(plugins: &Path) -> io::Result<()> {
    for entry in plugins.read_dir()? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            tracing::info!(
                "removing {}, left by an installation that was cut short",
                entry.path().display()
            );
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Unpacks and checks the package of `request` below `plugins`. Nothing is left behind on an error.
pub(super) async fn stage(request: &InstallRequest, plugins: &Path) -> Result<Staged, InstallError> {
    let path = local_path(&request.file).ok_or_else(|| InstallError::Url {
        url: request.file.clone(),
    })?;
    let opened = open(&path).await;
    let package = opened.map_err(|source| InstallError::Open { path, source })?;
    let hidden = hidden_folder(plugins).await?;
    match fill(request, package, hidden.path()).await {
        Ok((manifest, folder)) => Ok(Staged {
            manifest: Arc::new(manifest),
            folder,
            hidden,
        }),
        Err(error) => {
            remove(hidden).await;
            Err(error)
        }
    }
}

async fn open(path: &Path) -> io::Result<tokio::fs::File> {
    // Looked at first: to open a pipe would wait for its other end.
    if !tokio::fs::metadata(path).await?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    tokio::fs::File::open(path).await
}

async fn fill(
    request: &InstallRequest,
    package: tokio::fs::File,
    hidden: &Path,
) -> Result<(Manifest, PathBuf), InstallError> {
    let folder = hidden.join(request.name.as_str());
    let made = tokio::fs::create_dir(&folder).await;
    made.map_err(|source| InstallError::Io {
        what: "make the folder",
        path: folder.clone(),
        source,
    })?;
    archive::unpack(package, &folder, Limits::default()).await?;
    let manifest = package::read_manifest(&request.name, &folder)?;
    let executable = package::make_executable(&manifest, &folder);
    executable.map_err(|source| InstallError::Io {
        what: "make executable a file in",
        path: folder.clone(),
        source,
    })?;
    package::find_program(&manifest, &folder)?;
    if folder.join("install.sh").exists() {
        let plugin = &request.name;
        tracing::warn!(%plugin, "its package has an install.sh, which this version does not run yet");
    }
    Ok((manifest, folder))
}

/// The path of a `file://` URL on this machine.
fn local_path(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file://")?;
    let path = path.strip_prefix("localhost").unwrap_or(path);
    let path = percent_decode(path)?;
    (path.starts_with('/') && !path.contains('\0')).then(|| PathBuf::from(path))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        bytes.push(
            u8::from_str_radix(digits, 16)
                .ok()
                .filter(|_| !digits.starts_with('+'))?,
        );
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_on_this_machine_are_taken() {
        let path = |url| local_path(url).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(path("file:///tmp/car.zip").unwrap(), "/tmp/car.zip");
        assert_eq!(
            path("file://localhost/tmp/my%20car.zip").unwrap(),
            "/tmp/my car.zip"
        );
        for url in [
            "http://x/car.zip",
            "file://car.zip",
            "/tmp/car.zip",
            "file:///a%zz",
            "file:///a%+1",
            "file:///a%2",
            "file:///%00",
            "",
        ] {
            assert_eq!(path(url), None, "{url:?}");
        }
    }

    #[test]
    fn what_was_cut_short_is_removed_at_the_next_start_and_nothing_else() {
        let plugins = tempfile::tempdir().unwrap();
        for name in [".staging-x/car", "portable/car", ".hidden"] {
            std::fs::create_dir_all(plugins.path().join(name)).unwrap();
        }
        clean(plugins.path()).unwrap();
        assert!(!plugins.path().join(".staging-x").exists());
        assert!(plugins.path().join("portable/car").exists() && plugins.path().join(".hidden").exists());
    }
}
