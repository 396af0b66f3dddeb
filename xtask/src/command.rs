//! Owns how a tool is run: its output goes to a file, a line now and then says that it is still at work, and
//! the output is there to be shown when it fails.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often a running tool's last line is shown.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// Cargo, the one that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs `command` to its end with both outputs going to `log`.
///
/// # Errors
/// It cannot be started, or the log cannot be written. A failure of the tool itself is `Ok(false)`.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<bool> {
    let name = command.get_program().display().to_string();
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let (done, ended) = sync_channel::<()>(0);
    let status = thread::scope(|scope| {
        scope.spawn(move || {
            let started = Instant::now();
            // Ends when `done` is dropped.
            while ended.recv_timeout(SIGN_OF_LIFE) == Err(RecvTimeoutError::Timeout) {
                let last = last_line(log).unwrap_or_default();
                println!("    … {:>3.0} s: {last}", started.elapsed().as_secs_f64());
            }
        });
        let status = child.wait();
        drop(done);
        status
    });
    Ok(status
        .with_context(|| format!("cannot wait for {name}"))?
        .success())
}

/// Runs a tool that is quick and whose output is wanted.
///
/// # Errors
/// It cannot be run, or fails; with what it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let output = command.output().with_context(|| format!("cannot run `{line}`"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "`{line}` failed:\n{}", stderr.trim_end());
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed no UTF-8"))
}

/// The command as one would type it.
pub(crate) fn command_line(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn last_line(log: &Path) -> Option<String> {
    let text = std::fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(100).collect())
}
