//! Owns a child process of a test: its output lines are events to wait for, its end can be asked for and
//! awaited, and it is killed with its whole group when the test is done with it, however the test ends.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::bound::within;

pub use rustix::process::Signal;

/// Lines kept for [`Process::line`] and for the text of a failure; older ones are dropped.
const LINES_KEPT: usize = 100_000;

/// A running child. Must be created inside a tokio runtime, which reads its output.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Arc<Output>,
    /// Owns the readers of the child's standard output and standard error.
    readers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    /// How many of `lines` were already looked at by [`Process::line`].
    seen: usize,
    /// Of the two output streams, how many have ended.
    ended: usize,
}

impl Process {
    /// Starts `command` with both outputs captured line by line, its input open, in a process group of its
    /// own.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(mut command: Command) -> Self {
        let name = command.as_std().get_program().display().to_string();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let output = Arc::new(Output::default());
        let mut readers = JoinSet::new();
        if let Some(stream) = child.stdout.take() {
            readers.spawn(read(stream, Arc::clone(&output)));
        }
        if let Some(stream) = child.stderr.take() {
            readers.spawn(read(stream, Arc::clone(&output)));
        }
        Self {
            name,
            input: child.stdin.take(),
            child,
            output,
            readers,
        }
    }

    /// The process id, until the child has been reaped.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The next line (of standard output or standard error) for which `wanted` holds; lines before it are
    /// passed over for good.
    ///
    /// # Panics
    /// When the output ends or nothing comes for a long time, with what did come; `what` says what the test
    /// was waiting for.
    pub async fn line(&mut self, what: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
        let output = Arc::clone(&self.output);
        let next = async {
            loop {
                let changed = output.changed.notified();
                let ended = {
                    let mut state = output.lock();
                    let seen = state.seen;
                    let found = state.lines.iter().skip(seen).position(|line| wanted(line));
                    if let Some(ahead) = found {
                        state.seen += ahead + 1;
                        return state.lines.get(seen + ahead).cloned();
                    }
                    state.seen = state.lines.len();
                    state.ended == 2
                };
                if ended {
                    return None;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(crate::PATIENCE, next).await {
            Ok(Some(line)) => line,
            Ok(None) => panic!(
                "{} ended before {what}; it said:\n{}",
                self.name,
                self.transcript()
            ),
            Err(_) => panic!("{} never gave {what}; it said:\n{}", self.name, self.transcript()),
        }
    }

    /// The first line of all for which `wanted` holds. It passes over nothing: of the lines of the two outputs nobody
    /// can tell which came first.
    ///
    /// # Panics
    /// As [`Process::line`].
    pub async fn line_of_all(&mut self, what: &str, wanted: impl FnMut(&str) -> bool) -> String {
        let seen = std::mem::take(&mut self.output.lock().seen);
        let line = self.line(what, wanted).await;
        self.output.lock().seen = seen;
        line
    }

    /// Waits for `future`, which needs the child alive, within [`PATIENCE`](crate::PATIENCE).
    ///
    /// # Panics
    /// When the child ends first, or it takes longer, with what the child said; `what` says what the test was
    /// waiting for.
    pub async fn during<F: Future>(&mut self, what: &str, future: F) -> F::Output {
        tokio::select! {
            biased;
            output = tokio::time::timeout(crate::PATIENCE, future) => match output {
                Ok(output) => output,
                Err(_) => panic!("waited in vain for {what}; {} said:\n{}", self.name, self.transcript()),
            },
            status = self.wait() => {
                // What it said last may still be on its way; a grandchild may keep the output open.
                let all = async { while self.readers.join_next().await.is_some() {} };
                let _drained = tokio::time::timeout(Duration::from_secs(1), all).await;
                panic!("{} ended ({status}) before {what}; it said:\n{}", self.name, self.transcript())
            }
        }
    }

    /// All lines so far, of both outputs, in the order in which they were read.
    pub fn transcript(&self) -> String {
        let state = self.output.lock();
        state
            .lines
            .iter()
            .fold(String::new(), |text, line| text + line + "\n")
    }

    /// Writes one line to the child's standard input.
    ///
    /// # Panics
    /// When the input is closed.
    pub async fn write_line(&mut self, line: &str) {
        let name = &self.name;
        let Some(input) = &mut self.input else {
            panic!("the input of {name} was closed before")
        };
        let text = format!("{line}\n");
        let written = within("room in a child's input", input.write_all(text.as_bytes())).await;
        written.unwrap_or_else(|error| panic!("cannot write to {name}: {error}"));
    }

    /// Closes the child's standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Sends `signal` to the child alone, not to its group. Does nothing when it has been reaped.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
        }
    }

    /// Kills the child with its group and reaps it.
    pub async fn kill(&mut self) {
        self.kill_group();
        self.wait().await;
    }

    /// Waits for the child's end.
    ///
    /// # Panics
    /// When it doesn't end, with what it said.
    pub async fn wait(&mut self) -> ExitStatus {
        match tokio::time::timeout(crate::PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => panic!("cannot wait for {}: {error}", self.name),
            Err(_) => panic!("{} does not end; it said:\n{}", self.name, self.transcript()),
        }
    }

    fn pid(&self) -> Option<Pid> {
        // None once reaped, so a pid that the system has given to someone else is never signalled.
        self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
    }

    fn kill_group(&self) {
        if let Some(pid) = self.pid() {
            // It may be gone already, which is what is wanted.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: String) {
        let mut state = self.lock();
        if state.lines.len() == LINES_KEPT {
            state.lines.pop_front();
            state.seen = state.seen.saturating_sub(1);
        }
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_one();
    }
}

async fn read(stream: impl AsyncRead + Unpin, output: Arc<Output>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    // An error of the pipe is the end of what can be read, like its end.
    while reader.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        output.add(text.trim_end_matches('\n').to_owned());
        line.clear();
    }
    output.lock().ended += 1;
    output.changed.notify_one();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn(command)
    }

    #[tokio::test]
    async fn lines_are_awaited_in_order_and_input_reaches_the_child() {
        let mut child = shell("echo ready; read answer; echo \"got $answer\"; exit 3");
        child.line("its start", |line| line == "ready").await;
        child.write_line("42").await;
        assert_eq!(
            child.line("its answer", |line| line.starts_with("got")).await,
            "got 42"
        );
        assert_eq!(child.wait().await.code(), Some(3));
    }

    #[tokio::test]
    async fn what_is_sought_among_all_lines_leaves_the_others_to_come() {
        let mut child = shell("echo one; echo two; echo three");
        for _ in 0..2 {
            child.line_of_all("the third", |line| line == "three").await;
            child.line_of_all("the first", |line| line == "one").await;
        }
        child.line("the first", |line| line == "one").await;
        child.line_of_all("the third", |line| line == "three").await;
        child.line("the second", |line| line == "two").await;
    }

    #[tokio::test]
    #[should_panic(expected = "sh ended before the word")]
    async fn the_end_of_the_output_is_told_at_once() {
        shell("echo something else")
            .line("the word", |line| line == "word")
            .await;
    }

    #[tokio::test]
    #[should_panic(expected = "sh ended (exit status: 3) before the sun; it said:\nno")]
    async fn a_child_that_ends_ends_what_needs_it() {
        shell("echo no; exit 3")
            .during("the sun", std::future::pending::<()>())
            .await;
    }

    #[tokio::test]
    async fn a_kill_reaches_the_grandchildren() {
        // The grandchild holds the output open: its end shows that it is gone too.
        let mut child = shell("sleep 1000 & echo started; wait");
        child.line("its start", |line| line == "started").await;
        child.kill().await;
        let output = Arc::clone(&child.output);
        within("the end of the grandchild", async {
            loop {
                let changed = output.changed.notified();
                if output.lock().ended == 2 {
                    break;
                }
                changed.await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_signal_is_for_the_child_alone() {
        let mut child = shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done");
        child.line("its start", |line| line == "ready").await;
        child.signal(Signal::TERM);
        child.line("its farewell", |line| line == "bye").await;
        assert!(child.wait().await.success());
    }
}
