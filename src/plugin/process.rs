//! Owns the processes of plugins: how one is started, awaited, signalled and reaped. Decides nothing: the
//! worker does, and drives it.
//!
//! - A process leads its own *process group*, so that what it starts (`conda run`, a shell) is stopped with
//!   it.
//! - It gets a *parent-death signal*: when the host dies, by whatever means, the kernel kills the process.
//!   The kernel means the parent *thread* by "parent", and the threads of the async runtime come and go. So
//!   every process is started by the thread of the [`Spawner`], which lives until all processes have ended.
//! - Its end is awaited on a pidfd. Between the end and the reaping the process is a zombie that still holds
//!   its pid: in this moment the rest of its group is killed, so no signal can ever hit a reused pid.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::launch::Launch;
use super::output::{Output, Stream};

/// How long the last output of a process that has ended is waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How many starts may be queued.
const QUEUE: usize = 16;

struct Job {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts processes on a thread of its own. Cheap to clone; the thread ends with the last clone.
#[derive(Clone, Debug)]
pub(super) struct Spawner {
    jobs: mpsc::Sender<Job>,
}

impl Spawner {
    /// Starts the thread. Whoever holds the returned handle joins it, after every process has ended.
    pub(super) fn start() -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("plugin-spawner".to_owned())
            .spawn(move || {
                while let Some(mut job) = queue.blocking_recv() {
                    if let Err(Ok(mut orphan)) = job.reply.send(job.command.spawn()) {
                        // Nobody waits for it any more.
                        let _ = orphan.kill();
                        let _ = orphan.wait();
                    }
                }
            })?;
        Ok((Self { jobs }, thread))
    }

    /// Starts a process; its output goes to `output`.
    pub(super) async fn spawn(&self, launch: &Launch, output: &Arc<Output>) -> io::Result<Process> {
        let (reply, started) = oneshot::channel();
        let ended = || io::Error::other("the host is stopping");
        self.jobs
            .send(Job {
                command: command(launch),
                reply,
            })
            .await
            .map_err(|_| ended())?;
        let child = started.await.map_err(|_| ended())??;
        Process::adopt(child, output)
    }
}

fn command(launch: &Launch) -> Command {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .current_dir(&launch.folder)
        .envs(&launch.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let host = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. These are two plain system
    // calls, and making an error of a constant allocates nothing.
    #[expect(unsafe_code, reason = "what runs between fork and exec")]
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The host may have died before the line above took effect: then nobody would send the signal.
            if rustix::process::getppid() == Some(host) {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(
                    rustix::io::Errno::SRCH.raw_os_error(),
                ))
            }
        });
    }
    command
}

/// A pidfd becomes readable when the process has ended.
#[expect(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
fn watch(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: the descriptor is open, the `OwnedFd` is the only one who closes it, and the `AsyncFd` owns
    // that.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE) }?)
}

/// A process that runs, or has ended and is not reaped yet. Dropped: killed with its group.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    readers: JoinSet<()>,
    reaped: bool,
    started: SystemTime,
}

impl Process {
    fn adopt(mut child: Child, output: &Arc<Output>) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let pidfd = match watch(pid) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut process = Self {
            child,
            pid,
            pidfd,
            readers: JoinSet::new(),
            reaped: false,
            started: SystemTime::now(),
        };
        if let Some(stdout) = stdout {
            let (output, from) = (Arc::clone(output), tokio::process::ChildStdout::from_std(stdout)?);
            process
                .readers
                .spawn(async move { output.follow(Stream::Stdout, from).await });
        }
        if let Some(stderr) = stderr {
            let (output, from) = (Arc::clone(output), tokio::process::ChildStderr::from_std(stderr)?);
            process
                .readers
                .spawn(async move { output.follow(Stream::Stderr, from).await });
        }
        Ok(process)
    }

    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn started(&self) -> SystemTime {
        self.started
    }

    /// Waits until the process has ended. It is a zombie then: call [`Process::reap`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Ends what is left of the group, reads the last output and frees the pid.
    pub(super) async fn reap(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        let status = self.child.wait();
        self.reaped = true;
        // A process that left the group may hold the pipes for ever.
        let _ = tokio::time::timeout(LAST_WORDS, async {
            while self.readers.join_next().await.is_some() {}
        })
        .await;
        status
    }

    /// Sends a signal to the whole group.
    pub(super) fn signal(&self, signal: Signal) {
        if self.reaped {
            return;
        }
        if let Err(error) = rustix::process::kill_process_group(self.pid, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.id(), "cannot signal the process group: {error}");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// How a process ended, in words.
pub(super) struct Ending<'a>(pub(super) &'a io::Result<ExitStatus>);

impl fmt::Display for Ending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "exit code {code}"),
                (None, Some(signal)) => write!(f, "killed by signal {signal}"),
                (None, None) => write!(f, "{status}"),
            },
            Err(error) => write!(f, "its end cannot be read: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Launch {
        Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            folder: std::env::temp_dir(),
            environment: [("WORD".to_owned(), "hello".to_owned())].into(),
        }
    }

    /// The process, what it says, and what must outlive it.
    async fn start(script: &str) -> (Process, Arc<Output>, Spawner) {
        let (spawner, _thread) = Spawner::start().unwrap();
        let output = Arc::new(Output::new("car", 16));
        let process = spawner.spawn(&shell(script), &output).await.unwrap();
        (process, output, spawner)
    }

    async fn end(process: Process) -> String {
        tokio::time::timeout(PATIENCE, async {
            process.ended().await.unwrap();
            Ending(&process.reap().await).to_string()
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn its_exit_code_and_last_words_are_known() {
        let (process, output, _spawner) = start("echo $WORD; echo sorry >&2; exit 3").await;
        assert_eq!(end(process).await, "exit code 3");
        assert_eq!(output.last_error(SystemTime::UNIX_EPOCH).unwrap(), "sorry");
        assert!(output.lines().iter().any(|line| line.text == "hello"));
    }

    #[tokio::test]
    async fn what_it_started_ends_with_it() {
        // The leader ends at once; its child would hold the pipes (and so delay the end of the output) for
        // minutes.
        let (process, output, _spawner) = start("sleep 300 & echo $!; exit 0").await;
        assert_eq!(end(process).await, "exit code 0");
        let child = Pid::from_raw(output.lines()[0].text.parse().unwrap()).unwrap();
        tokio::time::timeout(PATIENCE, async {
            // It may take the system a moment to hand the orphan to whoever reaps it.
            while is_running(child) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    fn is_running(pid: Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn a_process_dies_with_the_thread_that_started_it_as_it_does_with_the_host() {
        let (spawner, thread) = Spawner::start().unwrap();
        let output = Arc::new(Output::new("car", 16));
        let process = spawner.spawn(&shell("sleep 300"), &output).await.unwrap();
        drop(spawner);
        thread.join().unwrap();
        assert_eq!(end(process).await, "killed by signal 9");
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let (spawner, thread) = Spawner::start().unwrap();
        let launch = Launch {
            program: "/does/not/exist".into(),
            ..shell("")
        };
        let error = spawner
            .spawn(&launch, &Arc::new(Output::new("car", 1)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        drop(spawner);
        thread.join().unwrap();
    }
}
