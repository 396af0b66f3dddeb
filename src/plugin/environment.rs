//! Owns the Python environments inside of plugins' folders: which one a plugin needs, whether it is there, and
//! how it is built. It starts no program itself; the manager drives it.
//!
//! An environment is the folder `.venv-<key>`; the key is made of everything that decides what is in it: the
//! tool, the interpreter, the content of `requirements.txt`. The link `venv` leads to the one in use. So a new
//! one is built beside the old one, whose process goes on undisturbed, and a build that fails changes nothing.
//! An environment that the author has put there himself, as `venv` or `.venv`, is used as it is.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mangrove_protocol::manifest::{Language, Manifest, VirtualEnvType};

use super::checksum::Checksum;
use super::launch::Launch;
use super::package;
use super::script::{self, ScriptError};
use crate::config::Portable;

/// What a plugin shows whose environment is being built.
pub(super) const BUILDING: &str = "its Python environment is being built";

/// What the packages of an environment are listed in.
const REQUIREMENTS: &str = "requirements.txt";

/// The largest list, bytes.
const MAX_REQUIREMENTS: u64 = 1 << 20;

/// How the names of environments begin that the host has built.
const OURS: &str = ".venv-";

/// The link to the one in use.
const LINK: &str = "venv";

/// In an environment that was built to its end.
const COMPLETE: &str = ".complete";

/// Why a plugin has no environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// Its list of packages.
    #[error("its {REQUIREMENTS} cannot be read: {0}")]
    Requirements(#[source] io::Error),
    /// A program that builds it failed.
    #[error("its Python environment cannot be built: {step}: {source}")]
    Step {
        /// What was called.
        step: &'static str,
        /// How it failed.
        source: ScriptError,
    },
    /// The plugin's folder does not let itself be written.
    #[error("its Python environment cannot be built: {0}")]
    Folder(#[source] io::Error),
}

/// The interpreter of the environment in the plugin's folder: of the one that is in use when this is called,
/// even if another one is built later.
pub(super) fn interpreter(folder: &Path) -> Option<PathBuf> {
    let candidates = [LINK, ".venv"].map(|name| {
        let place = folder.join(name);
        let target = place.read_link().ok().filter(|target| is_ours(target));
        target.map_or(place, |target| folder.join(target))
    });
    candidates
        .into_iter()
        .map(|environment| environment.join("bin/python"))
        .find(|path| path.is_file())
}

/// Whether a link leads to an environment beside it that the host has built.
fn is_ours(target: &Path) -> bool {
    target.components().count() == 1 && target.to_string_lossy().starts_with(OURS)
}

/// Makes sure that the plugin in `folder` has the environment that its manifest asks for; `run` runs one
/// program to its end. Minutes may go by.
///
/// # Cancel safety
/// What was begun is begun anew by the next call.
pub(super) async fn prepare<F: Future<Output = Result<(), ScriptError>>>(
    manifest: &Arc<Manifest>,
    folder: &Path,
    settings: &Arc<Portable>,
    run: impl Fn(Launch) -> F,
) -> Result<(), EnvironmentError> {
    match needed(manifest, folder, settings).await? {
        Some(missing) => build(missing, settings, run).await,
        None => Ok(()),
    }
}

/// What [`prepare`] would build; `None` when it would do nothing.
pub(super) async fn needed(
    manifest: &Arc<Manifest>,
    folder: &Path,
    settings: &Arc<Portable>,
) -> Result<Option<Build>, EnvironmentError> {
    let (manifest, settings) = (Arc::clone(manifest), Arc::clone(settings));
    let folder = folder.to_owned();
    let planned = tokio::task::spawn_blocking(move || plan(&manifest, &folder, &settings)).await;
    planned.unwrap_or_else(|error| Err(EnvironmentError::Folder(io::Error::other(error))))
}

/// An environment that has to be built.
#[derive(Debug)]
pub(super) struct Build {
    folder: PathBuf,
    name: String,
    tool: VirtualEnvType,
    has_requirements: bool,
}

/// What has to be built for the plugin in `folder`; `None` when its environment is there, or it needs none.
/// Blocking.
fn plan(manifest: &Manifest, folder: &Path, settings: &Portable) -> Result<Option<Build>, EnvironmentError> {
    let uv_or_venv = matches!(
        manifest.virtual_env_type,
        Some(VirtualEnvType::Venv | VirtualEnvType::Uv)
    );
    let Some(tool) = manifest.virtual_env_type.filter(|_| uv_or_venv) else {
        return Ok(None);
    };
    if manifest.language != Language::Python {
        return Ok(None);
    }
    let in_use = interpreter(folder);
    if in_use.as_ref().is_some_and(|path| !is_below_ours(folder, path)) {
        return Ok(None);
    }
    let requirements = package::read_inside(folder, REQUIREMENTS, MAX_REQUIREMENTS);
    let requirements = requirements.map_err(EnvironmentError::Requirements)?;
    let word = match tool {
        VirtualEnvType::Uv => "uv",
        _ => "venv",
    };
    let text = requirements.as_deref().unwrap_or_default();
    let decides = [word.as_bytes(), settings.python_bin.as_bytes(), text].join(&0);
    let key = Checksum::of(&decides).to_string();
    let build = Build {
        folder: folder.to_owned(),
        name: format!("{OURS}{}", &key[..16]),
        tool,
        has_requirements: requirements.is_some(),
    };
    if !build.is_complete() {
        return Ok(Some(build));
    }
    build.link().map_err(EnvironmentError::Folder)?;
    Ok(None)
}

fn is_below_ours(folder: &Path, path: &Path) -> bool {
    let inside = path.strip_prefix(folder).ok();
    let first = inside.and_then(|inside| inside.components().next());
    first.is_some_and(|first| is_ours(Path::new(&first)))
}

async fn build<F: Future<Output = Result<(), ScriptError>>>(
    build: Build,
    settings: &Portable,
    run: impl Fn(Launch) -> F,
) -> Result<(), EnvironmentError> {
    // Half of an earlier attempt.
    let build = in_folder(build, Build::clear).await?;
    for (step, launch) in build.steps(settings) {
        if let Err(source) = run(launch).await {
            in_folder(build, Build::clear).await?;
            return Err(EnvironmentError::Step { step, source });
        }
    }
    in_folder(build, Build::finish).await.map(drop)
}

async fn in_folder(
    build: Build,
    work: impl FnOnce(&Build) -> io::Result<()> + Send + 'static,
) -> Result<Build, EnvironmentError> {
    let worked = tokio::task::spawn_blocking(move || work(&build).map(|()| build)).await;
    let worked = worked.unwrap_or_else(|error| Err(io::Error::other(error)));
    worked.map_err(EnvironmentError::Folder)
}

impl Build {
    fn place(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn python(&self) -> PathBuf {
        self.place().join("bin/python")
    }

    fn is_complete(&self) -> bool {
        self.place().join(COMPLETE).is_file() && self.python().is_file()
    }

    /// The calls that make it, each with its name for messages.
    fn steps(&self, settings: &Portable) -> Vec<(&'static str, Launch)> {
        let call = |program: &Path, words: &[&std::ffi::OsStr]| script::call(program, words, &self.folder);
        let (python, uv) = (Path::new(&settings.python_bin), Path::new(&settings.uv_bin));
        let (place, own) = (self.place(), self.python());
        let word = std::ffi::OsStr::new;
        let mut steps = vec![match self.tool {
            VirtualEnvType::Uv => (
                "uv venv",
                call(
                    uv,
                    &[word("venv"), word("--python"), python.as_ref(), place.as_ref()],
                ),
            ),
            _ => (
                "python -m venv",
                call(python, &[word("-m"), word("venv"), place.as_ref()]),
            ),
        }];
        if self.has_requirements {
            let list = [word("-r"), word(REQUIREMENTS)];
            steps.push(match self.tool {
                VirtualEnvType::Uv => {
                    let words = [word("pip"), word("install"), word("--python"), own.as_ref()];
                    ("uv pip install", call(uv, &[&words[..], &list].concat()))
                }
                _ => {
                    let words = [
                        "-m",
                        "pip",
                        "install",
                        "--disable-pip-version-check",
                        "--no-input",
                    ];
                    ("pip install", call(&own, &[&words.map(word)[..], &list].concat()))
                }
            });
        }
        steps
    }

    fn clear(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(self.place()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts it into use. The one that was in use before stays for the process that may run in it; older ones
    /// go.
    fn finish(&self) -> io::Result<()> {
        std::fs::write(self.place().join(COMPLETE), "")?;
        let before = self.folder.join(LINK).read_link().ok();
        self.link()?;
        for entry in self.folder.read_dir()? {
            let entry = entry?;
            let name = PathBuf::from(entry.file_name());
            if is_ours(&name) && name != Path::new(&self.name) && Some(&name) != before.as_ref() {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes `venv` lead to it, in one step.
    fn link(&self) -> io::Result<()> {
        let link = self.folder.join(LINK);
        match link.read_link() {
            Ok(target) if target == Path::new(&self.name) => return Ok(()),
            // A folder without an interpreter, such as one that was packed with its links left out.
            Err(_) if link.is_dir() => std::fs::remove_dir_all(&link)?,
            _ => {}
        }
        let new = self.folder.join(format!("{OURS}link"));
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(&self.name, &new)?;
        std::fs::rename(new, link)
    }
}

/// Moves the environments of an old version into the folder of a new one, which takes its place under the same
/// path: what did not change need not be built again, and a process of the old version finds its modules where
/// they were. Undone by the same call the other way round. Blocking.
pub(super) fn carry(from: &Path, to: &Path) -> io::Result<()> {
    for entry in from.read_dir()? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let target = to.join(&name);
        let is_link = name == Path::new(LINK) && entry.path().read_link().is_ok_and(|to| is_ours(&to));
        let is_free = target.symlink_metadata().is_err();
        if (is_link || is_ours(&name) && entry.file_type()?.is_dir()) && is_free {
            std::fs::rename(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
