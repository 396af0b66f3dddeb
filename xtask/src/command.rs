//! Owns how a tool is run: its output goes to a file, a line now and then says that it is still at work, and
//! the output is there to be shown when it fails.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// How often a running tool's last line is shown.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// How long a tool may run. Several times what the slowest takes: what reaches it hangs.
const LIMIT: Duration = Duration::from_mins(20);

/// Cargo, the one that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs `command` to its end with both outputs going to `log`. After [`LIMIT`] it is killed, and the log says so.
///
/// # Errors
/// It cannot be started, or the log cannot be written. A failure of the tool itself is `Ok(false)`.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<bool> {
    let name = command.get_program().display().to_string();
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let started = Instant::now();
    let pid = Pid::from_child(&child);
    let watch = pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("cannot watch {name}"))?;
    let sign_of_life = SIGN_OF_LIFE.try_into()?;
    loop {
        poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&sign_of_life))?;
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("cannot wait for {name}"))?
        {
            return Ok(status.success());
        }
        let seconds = started.elapsed().as_secs();
        println!("    … {seconds:>3} s: {}", last_line(log).unwrap_or_default());
        if started.elapsed() > LIMIT {
            writeln!(
                file,
                "{name} has not ended within {} s and is killed",
                LIMIT.as_secs()
            )?;
            kill_tree(pid);
        }
    }
}

/// Kills a process and what it has started, as far as that still belongs to it.
fn kill_tree(pid: Pid) {
    // Stopped first, so that it starts no more.
    let _gone = kill_process(pid, Signal::STOP);
    for child in children(pid) {
        kill_tree(child);
    }
    let _gone = kill_process(pid, Signal::KILL);
}

fn children(pid: Pid) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let lists = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
                .collect::<Vec<_>>()
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "sleep 600 & echo $! > child.tmp; mv child.tmp child; wait"])
            .current_dir(folder.path())
            .spawn()
            .unwrap();
        let written = folder.path().join("child");
        while !written.exists() {
            std::thread::yield_now();
        }
        let sleeper: i32 = std::fs::read_to_string(written).unwrap().trim().parse().unwrap();
        let sleeper = pidfd_open(Pid::from_raw(sleeper).unwrap(), PidfdFlags::empty()).unwrap();
        kill_tree(Pid::from_child(&child));
        child.wait().unwrap();
        poll(&mut [PollFd::new(&sleeper, PollFlags::IN)], None).unwrap();
    }
}
