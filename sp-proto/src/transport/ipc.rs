//! Unix domain sockets, the files that name them, and the names without files.

use crate::transport::{Address, Credentials};
use rustix::fs::{Mode, RawMode};
use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

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

/// The address that a socket is bound to, if it is bound to any.
pub(super) fn address(bound: &SocketAddr) -> Option<Address> {
    #[cfg(target_os = "linux")]
    if let Some(name) = std::os::linux::net::SocketAddrExt::as_abstract_name(bound) {
        return Some(Address::Abstract(name.to_owned()));
    }
    bound.as_pathname().map(|path| Address::Ipc(path.to_owned()))
}

pub(super) fn credentials(stream: &UnixStream) -> Option<Credentials> {
    let peer = stream.peer_cred().ok()?;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    Some(Credentials {
        pid,
        uid: peer.uid(),
        gid: peer.gid(),
    })
}

pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// Sockets with a name in a name space of their own, which only Linux has.
#[cfg(target_os = "linux")]
mod names {
    use super::{UnixListener, UnixStream, io};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
    use std::path::PathBuf;

    pub(in crate::transport) async fn connect_abstract(name: &[u8]) -> io::Result<UnixStream> {
        // A path that begins with a zero byte is how tokio writes such a name.
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&[&[0], name].concat()));
        UnixStream::connect(path).await
    }

    /// Listens on `name`, or on one that the system chooses when it is empty, and says on which.
    pub(in crate::transport) fn bind_abstract(name: &[u8]) -> io::Result<(UnixListener, Vec<u8>)> {
        let address = if name.is_empty() {
            // Binding to the address without any path is what makes Linux choose.
            SocketAddr::from_pathname("")?
        } else {
            SocketAddr::from_abstract_name(name)?
        };
        let listener = StdListener::bind_addr(&address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        let name = bound.as_abstract_name().unwrap_or(name).to_owned();
        Ok((UnixListener::from_std(listener)?, name))
    }
}

#[cfg(not(target_os = "linux"))]
mod names {
    use super::{UnixListener, UnixStream, io};

    fn unsupported() -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, "only Linux has abstract socket names")
    }

    pub(in crate::transport) async fn connect_abstract(_: &[u8]) -> io::Result<UnixStream> {
        Err(unsupported())
    }

    pub(in crate::transport) fn bind_abstract(_: &[u8]) -> io::Result<(UnixListener, Vec<u8>)> {
        Err(unsupported())
    }
}

pub(super) use names::{bind_abstract, connect_abstract};

/// As many callers wait to be accepted as the system allows.
const BACKLOG: u32 = u32::MAX;

/// How long others may take to make or replace their files in the same folder, which is a matter of microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Listens on `path`, whose file gets the permissions `mode` whatever the umask is. A socket file that nobody listens
/// on any more is replaced; a live one is "address in use".
pub(crate) async fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    // Who replaces a file must know that it is nobody's: not of a listener that has been bound a moment ago and does
    // not listen yet, nor of one that has replaced the dead one a moment ago.
    let _lock = lock(path.parent().unwrap_or(path)).await?;
    match listen(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, error).await?;
            listen(path, mode)
        }
        result => result,
    }
}

/// The lock on the folder of a socket file: on the folder itself, since a file for it would be left behind by whoever is
/// killed. `None` where it is not to be had: some file systems have no such locks, a folder may be one that is only
/// written, and where strangers can take it they must not keep others from their addresses.
///
/// # Errors
/// `WouldBlock` when somebody who is no stranger holds it for longer than is usual.
async fn lock(path: &Path) -> io::Result<Option<File>> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let Ok(folder) = File::open(path) else {
        return Ok(None);
    };
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(Some(folder)),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < give_up => {
                // There is nothing to wait for but the time.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(TryLockError::WouldBlock) if !is_open_to_strangers(&folder) => {
                let text = format!(
                    "the folder {} has been locked for {PATIENCE:?}, expected at most some milliseconds",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
            Err(_) => return Ok(None),
        }
    }
}

/// Can other users lock this folder? Who may read it can.
fn is_open_to_strangers(folder: &File) -> bool {
    folder.metadata().map_or(true, |folder| {
        folder.mode() & 0o044 != 0 || folder.uid() != rustix::process::geteuid().as_raw()
    })
}

/// Nobody can connect to a socket that is bound and does not listen yet; until it does, its file gets its permissions.
fn listen(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let permissions = Permissions::from_mode(mode & 0o777);
    let socket = UnixSocket::new_stream()?;
    // On Linux the file is then made with no more than these. Elsewhere that may fail, and does not matter.
    let _ = rustix::fs::fchmod(&socket, Mode::from_raw_mode((mode & 0o777) as RawMode));
    socket.bind(path)?;
    // From here on it is removed when anything fails.
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path),
    };
    if std::fs::symlink_metadata(path)?.permissions().mode() & 0o777 != permissions.mode() {
        std::fs::set_permissions(path, permissions)?;
    }
    Ok((socket.listen(BACKLOG)?, file))
}

/// Removes the file of a socket on which nobody listens. The folder is locked, where it can be.
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
    // Those who know nothing of the lock may have replaced it meanwhile.
    if identity(path) != Some(before) {
        return Err(in_use);
    }
    std::fs::remove_file(path)
}
