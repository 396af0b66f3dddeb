//! Owns what a plugin's folder has to look like: reads and checks it, and hands out its symbols' `etc` files.
//! Blocking file access; it starts nothing. The manager and the installation drive it.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mangrove_protocol::manifest::{self, Language, Manifest, ManifestError, SymbolKind};
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
        /// Where it is.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// Reads the manifest of the plugin `name` in `folder`.
pub(super) fn read_manifest(name: &PluginName, folder: &Path) -> Result<Manifest, PackageError> {
    if folder.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        return Err(PackageError::Link {
            path: folder.to_owned(),
        });
    }
    let path = folder.join(format!("{name}.json"));
    let json = read_bounded(&path).map_err(|source| PackageError::NoManifest { path, source })?;
    Ok(Manifest::parse(name, &json)?)
}

/// Finds the program of the plugin in `folder` for this machine. Returns its path without links.
pub(super) fn find_program(manifest: &Manifest, folder: &Path) -> Result<PathBuf, PackageError> {
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    let path = folder.join(manifest.executable_for(&platform));
    let missing = |source| PackageError::NoProgram {
        path: path.clone(),
        source,
    };
    let target = path.canonicalize().map_err(missing)?;
    if !target.starts_with(folder.canonicalize().map_err(missing)?) {
        return Err(PackageError::Outside { path, target });
    }
    let found = target.metadata().map_err(missing)?;
    if !found.is_file() {
        return Err(PackageError::NotAFile { path });
    }
    let mode = found.permissions().mode() & 0o7777;
    if manifest.language != Language::Python && mode & 0o111 == 0 {
        return Err(PackageError::NotExecutable { path, mode });
    }
    Ok(target)
}

/// Makes the program executable. Only for a folder of our own making: many archives carry no modes.
pub(super) fn make_executable(manifest: &Manifest, folder: &Path) -> io::Result<()> {
    if manifest.language == Language::Python {
        return Ok(());
    }
    match find_program(manifest, folder) {
        Err(PackageError::NotExecutable { path, mode }) => {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode | 0o755))
        }
        // Any other fault is reported by whoever looks for the program next.
        _ => Ok(()),
    }
}

/// The interpreter of a Python environment inside of the plugin's folder.
pub(super) fn find_interpreter(folder: &Path) -> Option<PathBuf> {
    ["venv", ".venv"]
        .iter()
        .map(|name| folder.join(name).join("bin/python"))
        .find(|path| path.is_file())
}

/// Copies the settings of the plugin's symbols (`sources/<symbol>.yaml` and so on) to `etc`, where they do
/// not exist yet. Returns what was made; a file that cannot be copied is only logged, because the plugin runs
/// without.
pub(super) fn copy_settings(manifest: &Manifest, folder: &Path, etc: &Path) -> Vec<PathBuf> {
    let mut made = Vec::new();
    for kind in SymbolKind::ALL {
        for symbol in manifest.symbols(kind) {
            for extension in ["yaml", "json"] {
                let file = format!("{}/{symbol}.{extension}", kind.plural());
                let (from, to) = (folder.join(&file), etc.join(&file));
                match copy_new(&from, &to) {
                    Ok(true) => made.push(to),
                    Ok(false) => {}
                    Err(error) => {
                        let (from, to) = (from.display(), to.display());
                        tracing::warn!(plugin = %manifest.name, "cannot copy {from} to {to}: {error}");
                    }
                }
            }
        }
    }
    made
}

/// False when there is nothing to copy, or something is there already.
fn copy_new(from: &Path, to: &Path) -> io::Result<bool> {
    if !from.symlink_metadata().is_ok_and(|found| found.is_file()) || to.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let parent = to.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    // Whole or not at all, and never over a file that appears meanwhile.
    let mut copy = tempfile::Builder::new()
        .prefix(".copy-")
        .permissions(PermissionsExt::from_mode(0o644))
        .tempfile_in(parent)?;
    io::copy(&mut std::fs::File::open(from)?, copy.as_file_mut())?;
    match copy.persist_noclobber(to) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// One byte more than is allowed, so that too large a manifest is told from one that just fits.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Looked at first: to open a pipe would wait for its other end.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut json = Vec::new();
    std::fs::File::open(path)?
        .take(manifest::MAX_SIZE as u64 + 1)
        .read_to_end(&mut json)?;
    Ok(json)
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

    #[test]
    fn settings_are_copied_once_and_never_over_the_users() {
        let (home, folder) = folder("server");
        let etc = home.path().join("etc");
        let manifest = read_manifest(&"car".parse().unwrap(), &folder).unwrap();
        std::fs::create_dir(folder.join("sources")).unwrap();
        std::fs::write(folder.join("sources/json.yaml"), "default: {}").unwrap();
        std::fs::write(folder.join("sources/mqtt.yaml"), "not its own").unwrap();
        let made = copy_settings(&manifest, &folder, &etc);
        assert_eq!(made, [etc.join("sources/json.yaml")]);
        std::fs::write(&made[0], "edited").unwrap();
        assert!(copy_settings(&manifest, &folder, &etc).is_empty());
        assert_eq!(std::fs::read_to_string(&made[0]).unwrap(), "edited");
        assert!(!etc.join("sources/mqtt.yaml").exists());
    }
}
