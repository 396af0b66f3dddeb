//! Owns what authors of plugins make with the command line: new projects, packages, and the copy of a project that
//! follows it while it is written. Knows no running host; `mangrove plugin new`, `pack` and `run` drive it.
//!
//! | module | what it owns |
//! |---|---|
//! | `template` | new projects |
//! | `contents` | what of a folder belongs to the plugin |
//! | `pack` | packages |
//! | `mirror` | the copy that follows a project |

mod contents;
mod mirror;
mod pack;
mod template;

pub use mirror::{Mirror, Mirrored};
pub use pack::{Packed, pack};
pub use template::{Language, Made, Project, create};

use std::io;
use std::path::{Path, PathBuf};

use crate::plugin::{InstallError, TrialError};

/// Why something cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorError {
    /// A name that would be no plugin's, or not in every language.
    #[error("{name:?} cannot be a plugin's name here: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody has said where the SDK is.
    #[error(
        "no SDK has a release yet, and this program lies in no checkout of Mangrove: --sdk has to name a checkout's sdk/{folder}"
    )]
    NoSdk {
        /// The SDK's folder in `sdk/`.
        folder: &'static str,
    },
    /// A folder that holds something else.
    #[error("{} is not the SDK for {language}: its {file} does not say so", path.display())]
    Sdk {
        /// The folder.
        path: PathBuf,
        /// The language.
        language: &'static str,
        /// By which an SDK is known.
        file: &'static str,
    },
    /// Nothing is overwritten.
    #[error("{} is already there", .0.display())]
    Exists(PathBuf),
    /// The plugin's folder.
    #[error(transparent)]
    Plugin(#[from] TrialError),
    /// What an installation would say to the package.
    #[error("the package could not be installed: {0}")]
    Install(#[from] InstallError),
    /// A link that a package cannot hold.
    #[error("{} is a link that leads out of the plugin's folder, to {}", path.display(), target.display())]
    Outside {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// More than a package may have.
    #[error("{} has more than {limit} files; a package may not have more", folder.display())]
    TooMany {
        /// The folder.
        folder: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// The system refuses.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// To do what.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The zip cannot be made.
    #[error("cannot make the package: {0}")]
    Zip(String),
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorError {
    let path = path.to_owned();
    move |source| AuthorError::Io { what, path, source }
}
