//! Owns what of an author's folder belongs to the plugin: all but what tools make again. Blocking; changes nothing.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{AuthorError, io_error};

/// The most files; an installation takes no more.
const MAX_FILES: usize = 20_000;

/// How deep folders may lie in each other: a link may lead back.
const MAX_DEPTH: usize = 32;

/// Where links may lead out of the folder: package managers make such links.
const LINKED: &str = "node_modules";

/// A file of the plugin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// Relative to the folder.
    pub(super) path: PathBuf,
    pub(super) len: u64,
    pub(super) modified: SystemTime,
    pub(super) executable: bool,
}

/// Whether a tool makes it again, or it is the author's own business.
fn is_left_out(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with('.')
        || ["target", "__pycache__", "venv"].contains(&&*name)
        || [".pyc", ".swp", "~"].iter().any(|end| name.ends_with(end))
}

/// The files of the plugin in `folder`, by path. `core`: its manifest and program, which belong to it wherever they
/// are. Left out is `name.zip` beside the manifest, the package of an earlier time.
///
/// # Errors
/// Something cannot be read, leads elsewhere, or there is too much.
pub(super) fn list(folder: &Path, name: &str, core: &[PathBuf]) -> Result<Vec<Entry>, AuthorError> {
    let root = folder.canonicalize().map_err(io_error("find", folder))?;
    let package = format!("{name}.zip");
    let mut entries = Vec::new();
    let mut pending = vec![(PathBuf::new(), 0)];
    while let Some((inside, depth)) = pending.pop() {
        let path = root.join(&inside);
        for found in path.read_dir().map_err(io_error("read", &path))? {
            let found = found.map_err(io_error("read", &path))?;
            let name = found.file_name();
            if is_left_out(&name) || depth == 0 && name == *package {
                continue;
            }
            let inside = inside.join(&name);
            if look(&root, &inside, &mut entries)? && depth < MAX_DEPTH {
                pending.push((inside, depth + 1));
            }
            if entries.len() > MAX_FILES {
                return Err(AuthorError::TooMany {
                    folder: folder.to_owned(),
                    limit: MAX_FILES,
                });
            }
        }
    }
    for inside in core {
        if entries.iter().all(|entry| entry.path != *inside) {
            look(&root, inside, &mut entries)?;
        }
    }
    // The order in which a system lists files means nothing.
    entries.sort();
    Ok(entries)
}

/// Takes a file; whether it is a folder.
fn look(root: &Path, inside: &Path, entries: &mut Vec<Entry>) -> Result<bool, AuthorError> {
    let path = root.join(inside);
    let target = path.canonicalize().map_err(io_error("follow", &path))?;
    if !target.starts_with(root) && inside.iter().all(|part| part != LINKED) {
        return Err(AuthorError::Outside { path, target });
    }
    let found = target.metadata().map_err(io_error("look at", &path))?;
    if found.is_file() {
        entries.push(Entry {
            path: inside.to_owned(),
            len: found.len(),
            modified: found.modified().map_err(io_error("look at", &path))?,
            executable: found.permissions().mode() & 0o111 != 0,
        });
    }
    Ok(found.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_tools_make_again_is_left_out_but_not_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in [
            "car.json",
            "car.zip",
            "src/main.rs",
            "target/release/car",
            "target/debug/car",
            ".git/HEAD",
            "__pycache__/a.pyc",
            "lib/a.pyc",
            "lib/a.py",
            "venv/bin/python",
            ".venv-1/x",
            "lib/car.zip",
        ] {
            std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            std::fs::write(at(path), "").unwrap();
        }
        symlink("a.py", at("lib/b.py")).unwrap();
        let core = ["car.json", "target/release/car"].map(PathBuf::from);
        let listed = || list(folder.path(), "car", &core);
        let paths: Vec<String> = listed()
            .unwrap()
            .iter()
            .map(|entry| entry.path.display().to_string())
            .collect();
        assert_eq!(
            paths,
            [
                "car.json",
                "lib/a.py",
                "lib/b.py",
                "lib/car.zip",
                "src/main.rs",
                "target/release/car"
            ]
        );
        symlink("/etc/hostname", at("lib/secret")).unwrap();
        assert!(matches!(listed(), Err(AuthorError::Outside { .. })));
    }
}
