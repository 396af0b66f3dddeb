//! Owns how a plugin's process is called: program, arguments, environment. Pure.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mangrove_protocol::control;
use mangrove_protocol::manifest::{Language, Manifest, VirtualEnvType};

use super::limits::Limits;
use crate::config::Portable;

/// A process to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Launch {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    /// Its working directory: the plugin's folder.
    pub(super) folder: PathBuf,
    /// On top of the host's own environment.
    pub(super) environment: BTreeMap<String, String>,
    pub(super) limits: Limits,
}

/// There is no interpreter where the manifest says that there is one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its manifest asks for a Python environment in its own folder, \
     but there is no {}/venv/bin/python or .venv/bin/python",
    folder.display()
)]
pub(super) struct NoInterpreter {
    folder: PathBuf,
}

impl Launch {
    /// The call of the checked `executable` of the plugin in `folder`. `interpreter` is the one inside the
    /// folder.
    pub(super) fn new(
        manifest: &Manifest,
        folder: &Path,
        executable: &Path,
        interpreter: Option<PathBuf>,
        settings: &Portable,
    ) -> Result<Self, NoInterpreter> {
        let send_timeout = u64::try_from(settings.send_timeout.as_millis()).unwrap_or(u64::MAX);
        let config = control::process_config(send_timeout).to_string();
        let mut words: Vec<OsString> = match (&manifest.language, manifest.virtual_env_type) {
            (Language::Executable(_), _) => Vec::new(),
            (Language::Python, None) => vec![settings.python_bin.clone().into(), "-u".into()],
            (Language::Python, Some(VirtualEnvType::Conda)) => {
                let env = manifest.env.clone().unwrap_or_default();
                // Its own, wherever the host's is.
                [
                    settings.conda_bin.clone(),
                    "run".into(),
                    "-n".into(),
                    env,
                    "python".into(),
                ]
                .map(OsString::from)
                .into()
            }
            (Language::Python, Some(VirtualEnvType::Venv | VirtualEnvType::Uv)) => {
                let interpreter = interpreter.ok_or(NoInterpreter {
                    folder: folder.to_owned(),
                })?;
                vec![interpreter.into(), "-u".into()]
            }
        };
        words.extend([executable.into(), config.into()]);
        words.extend(manifest.args.iter().map(OsString::from));
        let mut words = words.into_iter();
        Ok(Self {
            program: words.next().unwrap_or_default(),
            args: words.collect(),
            folder: folder.to_owned(),
            environment: manifest.environment.clone(),
            limits: Limits::of(manifest).min(Limits::at_most(settings)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const CONFIG: &str = r#"{"sendTimeout":1000}"#;

    fn launch(fields: &str, interpreter: Option<&str>) -> Result<Vec<String>, NoInterpreter> {
        let settings = Portable {
            python_bin: "/usr/bin/python3".to_owned(),
            conda_bin: "conda".to_owned(),
            send_timeout: Duration::from_secs(1),
            ..crate::plugin::test_settings()
        };
        let json = format!(r#"{{"version":"1","executable":"x","sources":["s"],{fields}}}"#);
        let manifest = Manifest::parse(&"car".parse().unwrap(), json.as_bytes()).unwrap();
        let folder = Path::new("/p/car");
        let launch = Launch::new(
            &manifest,
            folder,
            &folder.join("x"),
            interpreter.map(PathBuf::from),
            &settings,
        )?;
        assert_eq!(launch.folder, folder);
        let words = std::iter::once(launch.program).chain(launch.args);
        Ok(words.map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn every_language_is_called_as_its_sdk_expects() {
        assert_eq!(launch(r#""language":"go""#, None).unwrap(), ["/p/car/x", CONFIG]);
        assert_eq!(
            launch(r#""language":"zig","args":["-v"]"#, None).unwrap(),
            ["/p/car/x", CONFIG, "-v"]
        );
        assert_eq!(
            launch(r#""language":"python""#, None).unwrap(),
            ["/usr/bin/python3", "-u", "/p/car/x", CONFIG]
        );
        assert_eq!(
            launch(r#""language":"python","virtualEnvType":"conda","env":"e1""#, None).unwrap(),
            ["conda", "run", "-n", "e1", "python", "/p/car/x", CONFIG]
        );
    }

    #[test]
    fn an_environment_in_the_folder_is_used_or_missed_by_name() {
        let fields = r#""language":"python","virtualEnvType":"uv""#;
        assert_eq!(
            launch(fields, Some("/p/car/.venv/bin/python")).unwrap(),
            ["/p/car/.venv/bin/python", "-u", "/p/car/x", CONFIG]
        );
        assert!(
            launch(fields, None)
                .unwrap_err()
                .to_string()
                .contains("/p/car/venv/bin/python")
        );
    }
}
