//! Owns how a package becomes a checked folder that is ready to be moved into place. What is being made lies in a
//! hidden folder of `staging`. Starts nothing itself; the manager drives it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::PluginName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::archive::{self, Limits};
use super::checksum::{Checksum, Hasher};
use super::download::{self, DownloadError};
use super::environment;
use super::error::InstallError;
use super::launch::Launch;
use super::package;
use super::script::{self, ScriptError};
use super::staging::{self, Placing};
use crate::config::Portable;

/// What a plugin shows whose package is on its way.
pub(super) const FETCHING: &str = "its package is being fetched and checked";

/// What a plugin shows whose package is unpacked.
pub(super) const PLACING: &str = "its package is being put in place";

/// The file in the hidden folder that a package is brought to.
const PACKAGE: &str = ".package.zip";

/// The largest package, bytes.
const MAX_PACKAGE: u64 = 1 << 30;

/// How long a server may take over a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a server may say nothing.
const IDLE: Duration = Duration::from_secs(30);

/// A plugin to be installed, or to replace the one of this name.
#[derive(Clone, Debug)]
pub struct InstallRequest {
    /// Its name.
    pub name: PluginName,
    /// Where its zip is: `file:///an/absolute/path.zip`, or an `http://` or `https://` URL.
    pub file: String,
    /// What the zip's SHA-256 sum has to be; `None` takes any.
    pub sha256: Option<Checksum>,
    /// The arguments of the package's `install.sh`.
    pub shell_paras: Vec<String>,
}

impl InstallRequest {
    /// A request without checksum and arguments.
    pub fn new(name: PluginName, file: impl Into<String>) -> Self {
        Self {
            name,
            file: file.into(),
            sha256: None,
            shell_paras: Vec::new(),
        }
    }
}

/// Where a package is.
enum Location {
    /// On this machine.
    Path(PathBuf),
    /// On a server.
    Url(Uri),
}

impl Location {
    fn parse(url: &str) -> Option<Self> {
        match local_path(url) {
            Some(path) => Some(Self::Path(path)),
            None => download::parse(url).map(Self::Url),
        }
    }
}

/// A checked plugin in a hidden folder, which is removed when this is dropped before anything is put in place.
pub(super) struct Staged {
    pub(super) manifest: Arc<Manifest>,
    pub(super) placing: Placing,
    hidden: TempDir,
}

impl Staged {
    /// The hidden folder stays when this is dropped: what is replaced lies in it.
    pub(super) fn keep(&mut self) {
        self.hidden.disable_cleanup(true);
    }

    /// Where what is replaced lies.
    pub(super) fn hidden(&self) -> &Path {
        self.hidden.path()
    }

    /// Removes what is left in the hidden folder.
    pub(super) async fn clean(self) {
        staging::remove(self.hidden).await;
    }
}

/// Fetches, unpacks and checks the package of `request` into a hidden folder of `portable`. Nothing is
/// left behind on an error.
pub(super) async fn stage(
    request: &InstallRequest,
    portable: &Path,
    settings: &Portable,
) -> Result<Staged, InstallError> {
    let location = Location::parse(&request.file).ok_or_else(|| InstallError::Url {
        url: request.file.clone(),
    })?;
    let hidden = staging::hidden_folder(portable).map_err(|source| InstallError::Io {
        what: "make a folder in",
        path: portable.to_owned(),
        source,
    })?;
    let placing = Placing::new(request.name.clone(), hidden.path());
    match fill(request, location, &placing.staged, hidden.path(), settings).await {
        Ok(manifest) => Ok(Staged {
            manifest: Arc::new(manifest),
            placing,
            hidden,
        }),
        Err(error) => {
            staging::remove(hidden).await;
            Err(error)
        }
    }
}

/// The package, opened, and of the sum that was asked for. What was checked is what is unpacked: a file that
/// somebody else could change meanwhile is copied first.
async fn bring(
    request: &InstallRequest,
    location: Location,
    hidden: &Path,
    settings: &Portable,
) -> Result<tokio::fs::File, InstallError> {
    let copy = hidden.join(PACKAGE);
    let found = match location {
        Location::Path(path) => {
            let opened = open(&path).await;
            let package = opened.map_err(|source| InstallError::Open { path, source })?;
            if request.sha256.is_none() {
                return Ok(package);
            }
            copy_bounded(package, create(&copy).await?).await?
        }
        Location::Url(url) => {
            let limits = download::Limits {
                size: MAX_PACKAGE,
                connect: CONNECT,
                idle: IDLE,
                total: settings.install_timeout,
            };
            let mut file = create(&copy).await?;
            download::fetch(url, settings.ca_file.as_deref(), &mut file, limits).await?
        }
    };
    if let Some(expected) = request.sha256.filter(|expected| *expected != found) {
        return Err(InstallError::Checksum { expected, found });
    }
    let opened = open(&copy).await;
    opened.map_err(|source| InstallError::Io {
        what: "open",
        path: copy,
        source,
    })
}

async fn create(path: &Path) -> Result<tokio::fs::File, InstallError> {
    let created = tokio::fs::File::create_new(path).await;
    created.map_err(|source| InstallError::Io {
        what: "make",
        path: path.to_owned(),
        source,
    })
}

async fn copy_bounded(mut from: tokio::fs::File, mut to: tokio::fs::File) -> Result<Checksum, DownloadError> {
    let (mut hasher, mut size, mut piece) = (Hasher::default(), 0, vec![0; 64 * 1024]);
    loop {
        let read = from.read(&mut piece).await.map_err(DownloadError::Read)?;
        if read == 0 {
            break;
        }
        size += read as u64;
        if size > MAX_PACKAGE {
            return Err(DownloadError::TooLarge { limit: MAX_PACKAGE });
        }
        hasher.update(&piece[..read]);
        to.write_all(&piece[..read]).await.map_err(DownloadError::Write)?;
    }
    to.flush().await.map_err(DownloadError::Write)?;
    Ok(hasher.finish())
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
    location: Location,
    folder: &Path,
    hidden: &Path,
    settings: &Portable,
) -> Result<Manifest, InstallError> {
    let package = bring(request, location, hidden, settings).await?;
    let made = tokio::fs::create_dir(folder).await;
    made.map_err(|source| InstallError::Io {
        what: "make the folder",
        path: folder.to_owned(),
        source,
    })?;
    archive::unpack(package, folder, Limits::default()).await?;
    let manifest = package::read_manifest(&request.name, folder)?;
    let executable = package::make_executable(&manifest, folder);
    executable.map_err(|source| InstallError::Io {
        what: "make executable a file in",
        path: folder.to_owned(),
        source,
    })?;
    if script::install(folder, &[]).is_none() {
        // Otherwise the script may bring it.
        package::find_program(&manifest, folder)?;
    }
    Ok(manifest)
}

/// Makes a plugin that was just put into its final `folder` ready for its first start: runs its `install.sh`
/// with `paras` and builds its Python environment. `run` runs one program to its end, as
/// [`script::run`] does; `tell` is called with what is being done. Returns the manifest, which the script may have changed. On an error the caller takes
/// the folder away again.
///
/// # Cancel safety
/// As that of `run`; the folder may be half ready.
pub(super) async fn prepare<F: Future<Output = Result<(), ScriptError>>>(
    name: &PluginName,
    folder: &Path,
    paras: &[String],
    settings: &Arc<Portable>,
    tell: impl Fn(&'static str),
    run: impl Fn(Launch) -> F,
) -> Result<Arc<Manifest>, InstallError> {
    if let Some(script) = script::install(folder, paras) {
        tell(script::RUNNING);
        run(script).await.map_err(|source| InstallError::Script {
            name: name.clone(),
            source,
        })?;
    }
    let (plugin, at) = (name.clone(), folder.to_owned());
    let read = tokio::task::spawn_blocking(move || package::read_manifest(&plugin, &at)).await;
    let read = read.map_err(|_| InstallError::Interrupted(name.clone()))?;
    let manifest = Arc::new(read?);
    let environment = async {
        if environment::needed(&manifest, folder, settings).await?.is_some() {
            tell(environment::BUILDING);
        }
        environment::prepare(&manifest, folder, settings, run).await
    };
    environment.await.map_err(|source| InstallError::Environment {
        name: name.clone(),
        source,
    })?;
    Ok(manifest)
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
}
