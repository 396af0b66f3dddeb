//! Owns programs that run to their end while a plugin is installed: a package's `install.sh`, and what builds a
//! Python environment. Each is a process group of its own with a time limit; nothing of it is left when
//! [`run`] returns. What it says goes where the plugin's own output goes. The manager drives it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::events::Changes;
use super::guard;
use super::launch::Launch;
use super::output::Output;
use super::peers::Peers;
use super::process::{Ending, Spawner};

/// The script of a package, in the plugin's folder.
const INSTALL: &str = "install.sh";

/// What a plugin shows whose script runs.
pub(super) const RUNNING: &str = "its install.sh is running";

/// How many of its last lines an error repeats, and how much of each, in characters.
const LAST_LINES: usize = 8;
const LINE: usize = 300;

/// How a script, or another program, did not do what it was started for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// The system does not start it.
    #[error("{program} cannot be started: {source}")]
    Start {
        /// The program.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// It ended otherwise than with exit code 0.
    #[error("{ending}{said}")]
    Failed {
        /// How it ended.
        ending: String,
        /// Its last lines.
        said: Said,
    },
    /// The host is ending.
    #[error("the host is stopping")]
    Stopping,
    /// It did not end and was killed.
    #[error("it has not ended within {limit:?}{said}")]
    TimedOut {
        /// The limit.
        limit: Duration,
        /// Its last lines.
        said: Said,
    },
}

/// The last lines of a program.
#[derive(Debug)]
pub struct Said(Vec<String>);

impl Said {
    /// Those of `lines`, which are in order.
    pub(super) fn last<'a>(lines: impl DoubleEndedIterator<Item = &'a str>) -> Self {
        let spoken = lines
            .rev()
            .map(str::trim)
            // What the guard says of it, it has not said.
            .filter(|line| !line.is_empty() && !line.starts_with(guard::LEFT));
        let mut last: Vec<String> = spoken
            .take(LAST_LINES)
            .map(|line| line.chars().take(LINE).collect())
            .collect();
        last.reverse();
        Self(last)
    }

    fn since(output: &Output, since: SystemTime) -> Self {
        let lines = output.lines();
        let begin = lines.partition_point(|line| line.at < since);
        Self::last(lines.iter().skip(begin).map(|line| line.text.as_str()))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("; it said nothing");
        }
        write!(f, "; it said last: {}", self.0.join(" | "))
    }
}

/// How to run the `install.sh` of the plugin in `folder` with `paras`, if there is one.
pub(super) fn install(folder: &Path, paras: &[String]) -> Option<Launch> {
    let script = folder.join(INSTALL);
    let is_there = script.symlink_metadata().is_ok_and(|found| found.is_file());
    is_there.then(|| {
        let args = std::iter::once(script.into_os_string()).chain(paras.iter().map(Into::into));
        call(Path::new("/bin/sh"), args, folder)
    })
}

/// A call of `program` in `folder`.
pub(super) fn call<A: Into<std::ffi::OsString>>(
    program: impl Into<PathBuf>,
    args: impl IntoIterator<Item = A>,
    folder: &Path,
) -> Launch {
    Launch {
        program: program.into().into_os_string(),
        args: args.into_iter().map(Into::into).collect(),
        folder: folder.to_owned(),
        environment: Default::default(),
        limits: Default::default(),
    }
}

/// Runs a program to its end, at most for `limit`.
///
/// # Cancel safety
/// It is killed when the future is dropped.
pub(super) async fn run(
    spawner: &Spawner,
    launch: &Launch,
    output: &Arc<Output>,
    limit: Duration,
) -> Result<(), ScriptError> {
    let since = SystemTime::now();
    let refused = |source| ScriptError::Start {
        program: launch.program.to_string_lossy().into_owned(),
        source,
    };
    // It has no channels to connect to.
    let peers = Arc::new(Peers::new("", false, Changes::default()));
    let process = spawner.spawn(launch, output, &peers).await.map_err(refused)?;
    let ended = tokio::time::timeout(limit, process.ended()).await;
    // Whether it has ended or not: this kills what is left of it, and waits for its last words.
    let ending = process.reap().await;
    if ended.is_err() {
        let said = Said::since(output, since);
        return Err(ScriptError::TimedOut { limit, said });
    }
    if ending == Ending::Exited(0) {
        return Ok(());
    }
    Err(ScriptError::Failed {
        ending: ending.to_string(),
        said: Said::since(output, since),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_few_and_short() {
        let long = "x".repeat(10_000);
        let lines: Vec<String> = (0..50).map(|number| format!(" line {number}\r")).collect();
        let lines = lines.iter().map(String::as_str).chain(["", &long, " "]);
        let said = Said::last(lines.collect::<Vec<_>>().into_iter()).to_string();
        assert!(said.starts_with("; it said last: line 43 | line 44 | "), "{said}");
        assert!(said.ends_with("x") && said.len() < 500, "{said}");
        assert_eq!(Said::last([].into_iter()).to_string(), "; it said nothing");
    }

    #[test]
    fn a_script_is_called_with_its_paras_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let paras = ["a b".to_owned(), "$(id)".to_owned()];
        assert!(install(folder.path(), &paras).is_none());
        let script = folder.path().join(INSTALL);
        std::fs::write(&script, "").unwrap();
        let launch = install(folder.path(), &paras).unwrap();
        assert_eq!(
            (launch.program, launch.folder.as_path()),
            ("/bin/sh".into(), folder.path())
        );
        assert_eq!(
            launch.args,
            [script.as_os_str(), "a b".as_ref(), "$(id)".as_ref()]
        );
        std::fs::remove_file(&script).unwrap();
        std::os::unix::fs::symlink("/bin/sh", &script).unwrap();
        assert!(install(folder.path(), &[]).is_none());
    }
}
