//! Owns a copy of an author's folder that follows it: what `pack` would pack lies there, as of the last time when the
//! folder held a whole plugin. Blocking; who drives it says when to look.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::contents::{self, Entry};
use super::{AuthorError, io_error};
use crate::plugin::Candidate;

/// A copy in the making.
#[derive(Debug)]
pub struct Mirror {
    folder: PathBuf,
    copy: PathBuf,
    /// What is in the copy.
    copied: Vec<Entry>,
    /// What the folder looked like the last time.
    seen: Option<Vec<Entry>>,
    /// What was wrong the last time.
    trouble: Option<String>,
}

/// What a look has led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Mirrored {
    /// Nothing that is new.
    Unchanged,
    /// So many files of the copy are others now.
    Copied(usize),
    /// It is no plugin now; the copy stays as it is. Said once.
    Unfit(String),
}

impl Mirror {
    /// Of `folder`, to `copy`, which need not be there. Nothing is copied yet.
    pub fn new(folder: PathBuf, copy: PathBuf) -> Self {
        Self {
            folder,
            copy,
            copied: Vec::new(),
            seen: None,
            trouble: None,
        }
    }

    /// Looks at the folder, and brings the copy up to date when it looks as it did the last time: somebody may be about
    /// to write.
    ///
    /// # Errors
    /// The copy cannot be written.
    pub fn look(&mut self) -> Result<Mirrored, AuthorError> {
        let found = match self.list() {
            Ok(found) => found,
            Err(error) => {
                let reason = error.to_string();
                let is_new = self.trouble.replace(reason.clone()).as_ref() != Some(&reason);
                return Ok(if is_new {
                    Mirrored::Unfit(reason)
                } else {
                    Mirrored::Unchanged
                });
            }
        };
        self.trouble = None;
        let settled = self.seen.as_ref() == Some(&found);
        self.seen = Some(found.clone());
        if !settled || found == self.copied {
            return Ok(Mirrored::Unchanged);
        }
        let mut changed = 0;
        for entry in found.iter().filter(|entry| !self.copied.contains(entry)) {
            match self.bring(entry) {
                // Gone again: the next look will see.
                Err(AuthorError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(Mirrored::Unchanged);
                }
                brought => brought?,
            }
            changed += 1;
        }
        for gone in self
            .copied
            .iter()
            .filter(|entry| found.iter().all(|kept| kept.path != entry.path))
        {
            let path = self.copy.join(&gone.path);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(error));
                }
                _ => changed += 1,
            }
        }
        self.copied = found;
        Ok(Mirrored::Copied(changed))
    }

    fn list(&self) -> Result<Vec<Entry>, AuthorError> {
        let candidate = Candidate::inspect(&self.folder)?;
        let name = candidate.manifest().name.clone();
        contents::list(&self.folder, name.as_str(), candidate.core())
    }

    /// Puts a file in place as a whole: a program that runs cannot be written.
    fn bring(&self, entry: &Entry) -> Result<(), AuthorError> {
        let (from, to) = (self.folder.join(&entry.path), self.copy.join(&entry.path));
        let parent = to.parent().unwrap_or(&self.copy);
        std::fs::create_dir_all(parent).map_err(io_error("make", parent))?;
        // The host does not look at names that begin so.
        let made = tempfile::Builder::new().prefix(".new-").tempfile_in(parent);
        let made = made.map_err(io_error("make a file in", parent))?;
        std::fs::copy(&from, made.path()).map_err(io_error("copy", &from))?;
        let mode = if entry.executable { 0o755 } else { 0o644 };
        let opened = std::fs::set_permissions(made.path(), PermissionsExt::from_mode(mode));
        opened.map_err(io_error("open", made.path()))?;
        let placed = made.persist(&to);
        placed
            .map(drop)
            .map_err(|error| io_error("write", &to)(error.error))
    }

    /// The copy.
    pub fn copy(&self) -> &Path {
        &self.copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_follows_what_is_whole() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("car");
        std::fs::create_dir(&folder).unwrap();
        let mut mirror = Mirror::new(folder.clone(), home.path().join("copy/car"));
        let copied = |path: &str| std::fs::read_to_string(home.path().join("copy/car").join(path)).ok();
        assert!(matches!(mirror.look().unwrap(), Mirrored::Unfit(reason) if reason.contains("manifest")));
        assert_eq!(mirror.look().unwrap(), Mirrored::Unchanged, "it is said once");

        let manifest = r#"{"version":"1","language":"python","executable":"main.py","sources":["json"]}"#;
        std::fs::write(folder.join("car.json"), manifest).unwrap();
        std::fs::write(folder.join("main.py"), "one").unwrap();
        std::fs::create_dir(folder.join("lib")).unwrap();
        std::fs::write(folder.join("lib/a.py"), "a").unwrap();
        assert_eq!(mirror.look().unwrap(), Mirrored::Unchanged, "it may not be all");
        assert_eq!(mirror.look().unwrap(), Mirrored::Copied(3));
        assert_eq!(mirror.look().unwrap(), Mirrored::Unchanged);
        assert_eq!(copied("lib/a.py").as_deref(), Some("a"));

        std::fs::write(folder.join("main.py"), "another").unwrap();
        std::fs::remove_file(folder.join("lib/a.py")).unwrap();
        mirror.look().unwrap();
        assert_eq!(mirror.look().unwrap(), Mirrored::Copied(2));
        assert_eq!(
            (copied("main.py").as_deref(), copied("lib/a.py")),
            (Some("another"), None)
        );

        std::fs::remove_file(folder.join("main.py")).unwrap();
        assert!(matches!(mirror.look().unwrap(), Mirrored::Unfit(_)));
        assert_eq!(copied("main.py").as_deref(), Some("another"));
    }
}
