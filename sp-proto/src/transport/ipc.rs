//! Unix domain sockets, and the files that name them.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// The file of a listening socket; removed when dropped, unless somebody else's file lies there by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    metadata
        .file_type()
        .is_socket()
        .then(|| (metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity(&self.path) {
            // If it cannot be removed it is a stale file, which the next listener deals with.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// Listens on `path`. A socket file that nobody listens on any more is replaced; a live one is "address in
/// use".
pub(crate) async fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, error).await?;
            UnixListener::bind(path)?
        }
        result => result?,
    };
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path),
    };
    Ok((listener, file))
}

async fn remove_stale(path: &Path, in_use: io::Error) -> io::Result<()> {
    let Some(before) = identity(path) else {
        let text = format!("{} exists and is no socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    };
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // Somebody accepted, or has more callers waiting than fit: alive either way.
        _ => return Err(in_use),
    }
    // Another process may have replaced it meanwhile.
    if identity(path) != Some(before) {
        return Err(in_use);
    }
    std::fs::remove_file(path)
}
