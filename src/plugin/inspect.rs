//! Owns the verdict on one folder: whether what lies there is a plugin that may run, and if not, whether
//! something is still to come. Blocking file access; knows nothing of other plugins. The manager drives it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mangrove_protocol::manifest::{Manifest, ManifestError};
use mangrove_protocol::name::PluginName;

use super::diff::Verdict;
use super::environment;
use super::fingerprint::{self, Fingerprint};
use super::launch::Launch;
use super::package::{self, PackageError};
use super::remote::Assignment;
use super::status::State;
use crate::config::Portable;

/// A folder that may run, when its environment is there.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) manifest: Arc<Manifest>,
    /// Its path without links.
    program: PathBuf,
    /// The manifest and the program, relative to the folder.
    pub(super) core: Vec<PathBuf>,
    /// What the folder looked like.
    pub(super) all: Fingerprint,
    pub(super) of_core: Fingerprint,
    /// It has so many files that only the core counts.
    pub(super) too_many: bool,
}

/// A folder that may not.
#[derive(Clone, Debug)]
pub(super) struct Unfit {
    /// When it can be read.
    pub(super) manifest: Option<Arc<Manifest>>,
    /// Never `Whole`.
    pub(super) verdict: Verdict,
}

impl Unfit {
    pub(super) fn refused(reason: String) -> Self {
        Self {
            manifest: None,
            verdict: Verdict::Refused(reason),
        }
    }

    pub(super) fn state(&self) -> State {
        match self.verdict {
            Verdict::Incomplete(_) => State::Incomplete,
            Verdict::Refused(_) | Verdict::Whole => State::Refused,
        }
    }

    /// Why, without the state.
    pub(super) fn reason(&self) -> &str {
        match &self.verdict {
            Verdict::Incomplete(reason) | Verdict::Refused(reason) => reason,
            Verdict::Whole => "",
        }
    }
}

/// The path of the manifest inside of the plugin's folder.
pub(super) fn manifest_path(name: &str) -> PathBuf {
    PathBuf::from(format!("{name}.json"))
}

/// Reads and checks the folder `name` below `portable`.
pub(super) fn inspect(name: &str, portable: &Path) -> Result<Whole, Unfit> {
    let plugin: PluginName = name.parse().map_err(|error| Unfit::refused(format!("{error}")))?;
    let folder = portable.join(name);
    let manifest = package::read_manifest(&plugin, &folder).map_err(|error| Unfit {
        manifest: None,
        verdict: verdict(&error),
    })?;
    let manifest = Arc::new(manifest);
    let unfit = |verdict| Unfit {
        manifest: Some(Arc::clone(&manifest)),
        verdict,
    };
    let program = package::find_program(&manifest, &folder).map_err(|error| unfit(verdict(&error)))?;
    let mut core = vec![manifest_path(name)];
    // Without links, as the program is: what runs counts, not what leads to it.
    if let Ok(Ok(inside)) = folder
        .canonicalize()
        .map(|folder| program.strip_prefix(folder).map(Path::to_owned))
    {
        core.push(inside);
    }
    let survey = fingerprint::survey(&folder, &core).map_err(|error| {
        unfit(Verdict::Refused(format!(
            "cannot read {}: {error}",
            folder.display()
        )))
    })?;
    Ok(Whole {
        manifest,
        program,
        core,
        all: survey.all,
        of_core: survey.core,
        too_many: survey.too_many,
    })
}

impl Whole {
    /// How it is called, now that its environment is there. Blocking.
    pub(super) fn assignment(&self, portable: &Path, settings: &Portable) -> Result<Assignment, String> {
        let folder = portable.join(self.manifest.name.as_str());
        let interpreter = environment::interpreter(&folder);
        let launch = Launch::new(&self.manifest, &folder, &self.program, interpreter, settings);
        Ok(Assignment {
            manifest: Arc::clone(&self.manifest),
            launch: launch.map_err(|error| error.to_string())?,
        })
    }
}

/// What is missing or cut off may still come; anything else is wrong.
fn verdict(error: &PackageError) -> Verdict {
    let may_come = match error {
        PackageError::NoManifest { source, .. } | PackageError::NoProgram { source, .. } => {
            source.kind() == ErrorKind::NotFound
        }
        PackageError::Manifest(ManifestError::Json(error)) => error.is_eof(),
        _ => false,
    };
    let reason = error.to_string();
    if may_come {
        Verdict::Incomplete(reason)
    } else {
        Verdict::Refused(reason)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const MANIFEST: &str = r#"{"version":"1","language":"go","executable":"bin/run","sources":["s"]}"#;

    fn verdict_on(portable: &Path) -> Result<Vec<PathBuf>, Verdict> {
        match inspect("car", portable) {
            Ok(whole) => Ok(whole.core),
            Err(unfit) => Err(unfit.verdict),
        }
    }

    #[test]
    fn what_may_still_come_is_incomplete_and_what_is_wrong_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("car");
        let incomplete = |part: &str| match verdict_on(home.path()) {
            Err(Verdict::Incomplete(reason)) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{part}: {other:?}"),
        };
        let refused = |part: &str| match verdict_on(home.path()) {
            Err(Verdict::Refused(reason)) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{part}: {other:?}"),
        };
        fs::create_dir_all(folder.join("bin")).unwrap();
        incomplete("there is no readable manifest");
        fs::write(folder.join("car.json"), "").unwrap();
        incomplete("EOF");
        fs::write(folder.join("car.json"), &MANIFEST[..40]).unwrap();
        incomplete("EOF");
        fs::write(folder.join("car.json"), "{]").unwrap();
        refused("the manifest cannot be read");
        fs::write(folder.join("car.json"), MANIFEST).unwrap();
        incomplete("bin/run cannot be found");
        fs::write(folder.join("bin/run"), "").unwrap();
        refused("may not be executed");
        fs::set_permissions(folder.join("bin/run"), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(
            verdict_on(home.path()).unwrap(),
            ["car.json", "bin/run"].map(PathBuf::from)
        );
        // A manifest that cannot be read, whoever runs the test.
        fs::remove_file(folder.join("car.json")).unwrap();
        symlink("car.json", folder.join("car.json")).unwrap();
        refused("there is no readable manifest");
        let unfit = inspect("no name", home.path()).unwrap_err();
        assert!(unfit.reason().contains("contains ' '"), "{unfit:?}");
    }
}
