//! Owns programs that run to their end while a plugin is installed: a package's `install.sh`, and what builds a
//! Python environment. Each is a process group of its own with a time limit; nothing of it is left when
//! [`run`] returns. What it says goes where the plugin's own output goes. The manager drives it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::launch::Launch;
use super::output::Output;
use super::process::{Ending, Spawner};

/// The script of a package, in the plugin's folder.
const INSTALL: &str = "install.sh";

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
    fn since(output: &Output, since: SystemTime) -> Self {
        let lines = output.lines();
        let recent = lines.iter().rev().take_while(|line| line.at >= since);
        let mut last: Vec<String> = recent
            .filter(|line| !line.text.trim().is_empty())
            .take(LAST_LINES)
            .map(|line| line.text.trim().chars().take(LINE).collect())
            .collect();
        last.reverse();
        Self(last)
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
    let process = spawner.spawn(launch, output).await.map_err(refused)?;
    let ended = tokio::time::timeout(limit, process.ended()).await;
    // Whether it has ended or not: this kills what is left of it, and waits for its last words.
    let status = process.reap().await;
    if ended.is_err() {
        let said = Said::since(output, since);
        return Err(ScriptError::TimedOut { limit, said });
    }
    if status.as_ref().is_ok_and(ExitStatus::success) {
        return Ok(());
    }
    Err(ScriptError::Failed {
        ending: Ending(&status).to_string(),
        said: Said::since(output, since),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script in a folder of its own.
    async fn run_script(text: &str, paras: &[&str], limit: Duration) -> (String, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(INSTALL), text).unwrap();
        let paras: Vec<String> = paras.iter().map(|para| (*para).to_owned()).collect();
        let launch = install(folder.path(), &paras).unwrap();
        let (spawner, _thread) = Spawner::start().unwrap();
        let output = Arc::new(Output::new("car", 100));
        let result = testkit::within("the script", run(&spawner, &launch, &output, limit)).await;
        let lines = output.lines().into_iter().map(|line| line.text).collect();
        (
            result.map_or_else(|error| error.to_string(), |()| "ok".to_owned()),
            lines,
        )
    }

    const LONG: Duration = Duration::from_secs(50);

    #[tokio::test]
    async fn it_runs_in_the_folder_with_its_paras_and_without_input() {
        let script = "cat; echo \"$#:$1:$2\"; test -f install.sh && echo here";
        let (result, lines) = run_script(script, &["a b", "$(id)"], LONG).await;
        assert_eq!(result, "ok");
        assert_eq!(lines, ["2:a b:$(id)", "here"]);
    }

    #[tokio::test]
    async fn a_failure_tells_what_it_said_last() {
        let script = "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; echo no licence >&2; exit 3";
        let (result, _) = run_script(script, &[], LONG).await;
        assert!(result.starts_with("exit code 3; it said last: line "), "{result}");
        assert!(
            result.contains("no licence") && !result.contains("line 1 "),
            "{result}"
        );
        assert_eq!(
            run_script("kill -9 $$", &[], LONG).await.0,
            "killed by signal 9; it said nothing"
        );
        let (result, _) = run_script("exit", &["a\0b"], LONG).await;
        assert!(result.starts_with("/bin/sh cannot be started: "), "{result}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let flag = folder.path().join("flag");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &flag,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        // Both hold the pipe open for reading: while one of them lives, it can be opened for writing.
        let script = format!("exec 3<>{}; sleep 600 & sleep 600", flag.display());
        let (result, _) = run_script(&script, &[], Duration::from_millis(50)).await;
        assert_eq!(result, "it has not ended within 50ms; it said nothing");
        let open = || {
            let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
            rustix::fs::open(&flag, flags, rustix::fs::Mode::empty()).map(drop)
        };
        testkit::within("the end of both", async {
            // The one that was not waited for may take a moment to go.
            while open() != Err(rustix::io::Errno::NXIO) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn megabytes_of_output_are_read_and_not_kept() {
        let script = "head -c 5000000 /dev/zero | tr '\\0' x; echo; exit 1";
        let (result, lines) = run_script(script, &[], LONG).await;
        assert!(
            result.len() < 500 && result.starts_with("exit code 1; it said last: xxx"),
            "{result}"
        );
        assert!(lines.iter().map(String::len).sum::<usize>() < 10_000);
    }

    #[test]
    fn without_a_script_there_is_nothing_to_run() {
        let folder = tempfile::tempdir().unwrap();
        assert!(install(folder.path(), &[]).is_none());
        std::os::unix::fs::symlink("/bin/sh", folder.path().join(INSTALL)).unwrap();
        assert!(install(folder.path(), &[]).is_none());
    }
}
