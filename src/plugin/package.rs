//! Owns what a plugin's folder has to look like: reads and checks it. Blocking file access, but it never waits
//! for anybody, whatever lies there; it starts nothing. The manager and the installation drive it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mangrove_protocol::manifest::{self, Language, Manifest, ManifestError};
use mangrove_protocol::name::PluginName;

/// Why a folder is no plugin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// A link could lead anywhere and change at any time.
    #[error("{} is a symbolic link; expected the plugin's folder itself", path.display())]
    Link {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest is not there or cannot be read.
    #[error("there is no readable manifest {}: {source}", path.display())]
    NoManifest {
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The program is not there.
    #[error("the executable {} cannot be found: {source}", path.display())]
    NoProgram {
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The program is a folder, a device or the like.
    #[error("the executable {} is not a file", path.display())]
    NotAFile {
        /// Where it is.
        path: PathBuf,
    },
    /// The program is a link that leads out of the folder.
    #[error("the executable {} leads out of the plugin's folder, to {}", path.display(), target.display())]
    Outside {
        /// Where it is said to be.
        path: PathBuf,
        /// Where it is.
        target: PathBuf,
    },
    /// The program may not be executed.
    #[error("the executable {} may not be executed: its mode is {mode:o}; use chmod +x", path.display())]
    NotExecutable {
        /// Where it is said to be.
        path: PathBuf,
        /// Where it is.
        target: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// Reads the manifest of the plugin `name` in `folder`.
pub(super) fn read_manifest(name: &PluginName, folder: &Path) -> Result<Manifest, PackageError> {
    if folder.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        return Err(PackageError::Link {
            path: shown(folder, ""),
        });
    }
    let file = format!("{name}.json");
    // One byte more than is allowed, so that too large a manifest is told from one that just fits.
    let json = open_inside(folder, &file).and_then(|json| {
        let mut bytes = Vec::new();
        json.take(manifest::MAX_SIZE as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let json = json.map_err(|source| PackageError::NoManifest {
        path: shown(folder, &file),
        source,
    })?;
    Ok(Manifest::parse(name, &json)?)
}

/// A file of the plugin in `folder` as messages show it: from the plugin's own folder on, since what lies above
/// is the host's business, and may be a hidden folder that is gone when the message is read.
fn shown(folder: &Path, file: &str) -> PathBuf {
    let name = folder.file_name().map(Path::new).unwrap_or(folder);
    if file.is_empty() {
        name.to_owned()
    } else {
        name.join(file)
    }
}

/// Finds the program of the plugin in `folder` for this machine. Returns its path without links.
pub(super) fn find_program(manifest: &Manifest, folder: &Path) -> Result<PathBuf, PackageError> {
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    let executable = manifest.executable_for(&platform);
    let path = shown(folder, executable);
    let missing = |source| PackageError::NoProgram {
        path: path.clone(),
        source,
    };
    let target = folder.join(executable).canonicalize().map_err(missing)?;
    if !target.starts_with(folder.canonicalize().map_err(missing)?) {
        return Err(PackageError::Outside { path, target });
    }
    let found = target.metadata().map_err(missing)?;
    if !found.is_file() {
        return Err(PackageError::NotAFile { path });
    }
    let mode = found.permissions().mode() & 0o7777;
    if manifest.language != Language::Python && mode & 0o111 == 0 {
        return Err(PackageError::NotExecutable { path, target, mode });
    }
    Ok(target)
}

/// Makes the program executable. Only for a folder of our own making: many archives carry no modes.
pub(super) fn make_executable(manifest: &Manifest, folder: &Path) -> io::Result<()> {
    if manifest.language == Language::Python {
        return Ok(());
    }
    match find_program(manifest, folder) {
        Err(PackageError::NotExecutable { target, mode, .. }) => {
            std::fs::set_permissions(target, PermissionsExt::from_mode(mode | 0o755))
        }
        // Any other fault is reported by whoever looks for the program next.
        _ => Ok(()),
    }
}

/// Reads at most `limit` bytes of a file of the plugin. `Ok(None)` when there is nothing of this name.
pub(super) fn read_inside(folder: &Path, file: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open_inside(folder, file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {limit} bytes"),
        ));
    }
    Ok(Some(bytes))
}

/// Opens a file of the plugin. Never waits, as for the other end of a pipe, and follows no link out of the
/// folder: what is read may end in an error message, or in `etc`.
fn open_inside(folder: &Path, file: &str) -> io::Result<File> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let path = folder.join(file).canonicalize()?;
    if !path.starts_with(folder.canonicalize()?) {
        return refused("it leads out of the plugin's folder");
    }
    // Looked at before, since to open a device may be felt by it, and after, since it may be another one now.
    if path.metadata()?.is_file() {
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
        let opened = File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        if opened.metadata()?.is_file() {
            return Ok(opened);
        }
    }
    refused("it is not a file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(executable: &str) -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("car");
        std::fs::create_dir(&folder).unwrap();
        let json =
            format!(r#"{{"version":"1","language":"go","executable":"{executable}","sources":["json"]}}"#);
        std::fs::write(folder.join("car.json"), json).unwrap();
        (home, folder)
    }

    fn program(folder: &Path) -> Result<PathBuf, PackageError> {
        let manifest = read_manifest(&"car".parse().unwrap(), folder).unwrap();
        find_program(&manifest, folder)
    }

    fn write_program(path: &Path, mode: u32) {
        std::fs::write(path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_whole_folder_is_accepted() {
        let (_home, folder) = folder("bin/server");
        std::fs::create_dir(folder.join("bin")).unwrap();
        write_program(&folder.join("bin/server"), 0o755);
        assert!(program(&folder).unwrap().ends_with("car/bin/server"));
    }

    #[test]
    fn a_missing_or_unfit_executable_is_refused() {
        let (_home, folder) = folder("server");
        assert!(matches!(program(&folder), Err(PackageError::NoProgram { .. })));
        write_program(&folder.join("server"), 0o644);
        assert!(matches!(
            program(&folder),
            Err(PackageError::NotExecutable { mode: 0o644, .. })
        ));
        let manifest = read_manifest(&"car".parse().unwrap(), &folder).unwrap();
        make_executable(&manifest, &folder).unwrap();
        assert!(program(&folder).is_ok());
        std::fs::remove_file(folder.join("server")).unwrap();
        std::fs::create_dir(folder.join("server")).unwrap();
        assert!(matches!(program(&folder), Err(PackageError::NotAFile { .. })));
    }

    #[test]
    fn links_that_lead_out_are_refused_and_links_inside_are_not() {
        let (home, folder) = folder("server");
        write_program(&folder.join("real"), 0o755);
        std::os::unix::fs::symlink("real", folder.join("server")).unwrap();
        assert!(program(&folder).is_ok());
        std::fs::remove_file(folder.join("server")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", folder.join("server")).unwrap();
        assert!(matches!(program(&folder), Err(PackageError::Outside { .. })));
        let link = home.path().join("bus");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(matches!(
            read_manifest(&"bus".parse().unwrap(), &link),
            Err(PackageError::Link { .. })
        ));
    }

    #[test]
    fn a_manifest_that_is_missing_a_folder_or_too_large_is_refused() {
        let (_home, folder) = folder("server");
        let read = || read_manifest(&"car".parse().unwrap(), &folder);
        std::fs::write(folder.join("car.json"), " ".repeat(manifest::MAX_SIZE * 2)).unwrap();
        assert!(matches!(
            read(),
            Err(PackageError::Manifest(ManifestError::TooLarge { .. }))
        ));
        std::fs::remove_file(folder.join("car.json")).unwrap();
        assert!(matches!(read(), Err(PackageError::NoManifest { .. })));
        std::fs::create_dir(folder.join("car.json")).unwrap();
        assert!(matches!(read(), Err(PackageError::NoManifest { .. })));
    }

    /// Whatever lies where the manifest and the program should be, there is a verdict and no wait.
    #[test]
    fn pipes_devices_sockets_and_loops_are_refused_at_once() {
        use std::os::unix::fs::symlink;
        use std::os::unix::net::UnixListener;
        type Make = fn(&Path);
        let kinds: [(&str, Make, &str); 6] = [
            (
                "pipe",
                |path| mknod(path, rustix::fs::FileType::Fifo),
                "not a file",
            ),
            (
                "socket",
                |path| drop(UnixListener::bind(path).unwrap()),
                "not a file",
            ),
            (
                "device",
                |path| symlink("/dev/zero", path).unwrap(),
                "out of the plugin's folder",
            ),
            ("loop", |path| symlink(path, path).unwrap(), "os error 40"),
            ("folder", |path| std::fs::create_dir(path).unwrap(), "not a file"),
            (
                "secret",
                |path| symlink("/etc/hostname", path).unwrap(),
                "out of the plugin's folder",
            ),
        ];
        for (kind, make, expected) in kinds {
            let (_home, folder) = folder("server");
            make(&folder.join("server"));
            let error = program(&folder).unwrap_err().to_string();
            assert!(error.contains(expected), "program, {kind}: {error}");
            std::fs::remove_file(folder.join("car.json")).unwrap();
            make(&folder.join("car.json"));
            let error = read_manifest(&"car".parse().unwrap(), &folder).unwrap_err();
            assert!(error.to_string().contains(expected), "manifest, {kind}: {error}");
        }
    }

    fn mknod(path: &Path, kind: rustix::fs::FileType) {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
    }

    #[test]
    fn a_file_inside_is_read_up_to_a_limit() {
        let (_home, folder) = folder("server");
        std::fs::write(folder.join("x"), "12345").unwrap();
        assert_eq!(read_inside(&folder, "x", 5).unwrap().unwrap(), b"12345");
        assert!(
            read_inside(&folder, "x", 4)
                .unwrap_err()
                .to_string()
                .contains("more than 4 bytes")
        );
        assert!(read_inside(&folder, "y", 4).unwrap().is_none());
        std::fs::write(folder.join("../secret"), "1").unwrap();
        assert!(read_inside(&folder, "../secret", 4).is_err() && read_inside(&folder, "..", 4).is_err());
    }
}
