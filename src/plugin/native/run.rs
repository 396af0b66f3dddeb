//! Owns the folder of the sockets: one that only the host's own user can enter, with nothing in it when the host
//! starts. A link in it stands for a socket that lies elsewhere, where eKuiper's contract wants it: what a host that was
//! killed has left there goes with the link, if nobody listens at it. Blocking; called once.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mangrove_protocol::address::MAX_PATH_LEN;

use crate::plugin::checksum::Checksum;

/// What the name of a socket in the folder takes at most, its separator included.
const NAME_LEN: usize = 24;

/// The folder for the host in `home`: `data/run`, or, when that is too long for a socket, one in the temporary
/// folder that is this user's and this home's.
///
/// # Errors
/// It cannot be made, or is not the host's own.
pub(super) fn prepare(home: &Path) -> io::Result<PathBuf> {
    let home = home.canonicalize()?;
    let inside = home.join("data/run");
    let folder = if inside.as_os_str().len() + NAME_LEN <= MAX_PATH_LEN {
        std::fs::create_dir_all(home.join("data"))?;
        inside
    } else {
        let user = rustix::process::geteuid().as_raw();
        let sum = Checksum::of(home.as_os_str().as_encoded_bytes()).to_string();
        let sum = sum.get(..16).unwrap_or(&sum);
        std::env::temp_dir().join(format!("mangrove-{user}-{sum}"))
    };
    if folder.as_os_str().len() + NAME_LEN > MAX_PATH_LEN {
        return Err(refused(
            &folder,
            "its path is too long for sockets: set TMPDIR to a shorter one",
        ));
    }
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }?;
    let found = folder.symlink_metadata()?;
    if !found.is_dir() {
        return Err(refused(&folder, "it is no folder"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused(&folder, "it belongs to another user"));
    }
    if found.permissions().mode() & 0o777 != 0o700 {
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700))?;
    }
    empty(&folder)?;
    Ok(folder)
}

/// Removes the sockets of an earlier run; whatever else lies there stays.
fn empty(folder: &Path) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ipc") {
            if let Ok(elsewhere) = path.read_link() {
                remove_stale(&elsewhere);
            }
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Removes a socket of the host's user at which nobody listens. What cannot be removed is in nobody's way: who listens
/// there next says so.
fn remove_stale(path: &Path) {
    let Ok(found) = path.symlink_metadata() else {
        return;
    };
    let is_ours = found.file_type().is_socket() && found.uid() == rustix::process::geteuid().as_raw();
    if is_ours
        && is_refused(path)
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!("cannot remove the socket {}: {error}", path.display());
    }
}

/// Whether nobody listens there. Does not wait for one who listens and has no room.
fn is_refused(path: &Path) -> bool {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let connect = || {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    connect() == Err(rustix::io::Errno::CONNREFUSED)
}

fn refused(folder: &Path, why: &str) -> io::Error {
    io::Error::other(format!(
        "the folder for sockets {} cannot be used: {why}",
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_private_and_empty() {
        let home = tempfile::tempdir().unwrap();
        let folder = prepare(home.path()).unwrap();
        assert!(folder.ends_with("data/run"));
        std::fs::write(folder.join("7.ipc"), "").unwrap();
        std::fs::write(folder.join("note"), "").unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(prepare(home.path()).unwrap(), folder);
        assert!(!folder.join("7.ipc").exists() && folder.join("note").exists());
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_a_killed_host_has_left_elsewhere_goes_with_its_link() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let [stale, live, file] = ["stale", "live", "file"].map(|name| elsewhere.path().join(name));
        let folder = prepare(home.path()).unwrap();
        let link = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            std::os::unix::fs::symlink(path, folder.join(format!("{name}.ipc"))).unwrap();
        };
        for path in [&stale, &live, &file, &elsewhere.path().join("gone")] {
            link(path);
        }
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        let _listens = std::os::unix::net::UnixListener::bind(&live).unwrap();
        std::fs::write(&file, "somebody's").unwrap();
        prepare(home.path()).unwrap();
        assert!(!stale.exists() && live.exists() && file.exists());
        assert_eq!(folder.read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_home_that_is_too_deep_gets_a_folder_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("d".repeat(90));
        std::fs::create_dir(&deep).unwrap();
        let folder = prepare(&deep).unwrap();
        assert!(folder.starts_with(std::env::temp_dir()) && !folder.starts_with(&deep));
        assert_eq!(prepare(&deep).unwrap(), folder);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_link_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("data")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), home.path().join("data/run")).unwrap();
        let error = prepare(home.path()).unwrap_err().to_string();
        assert!(error.contains("it is no folder"), "{error}");
    }
}
