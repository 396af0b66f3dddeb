//! Owns the processes of plugins: how one is started, awaited, ended and reaped. Decides nothing: the worker
//! does, and drives it.
//!
//! Between the host and each plugin there is a [`guard`](super::guard), which is what the host starts, asks to end
//! the plugin, and waits for. When the guard has ended, nothing is left of whatever the plugin had started.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::guard::{self, Order, Report};
use super::launch::Launch;
use super::output::{Output, Stream};
use super::peers::Peers;

/// How long the last output of a process that has ended is waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a guard may take until it has started its plugin. It takes milliseconds.
const GUARD: Duration = Duration::from_secs(30);

/// After which time a guard that should have done something is told to go on, in case it is stopped. Then after
/// longer and longer times, up to the second one: to look at all processes is work.
const NUDGE: Duration = Duration::from_millis(50);
const LAST_NUDGE: Duration = Duration::from_secs(1);

/// How long a guard may take to end everything. Then it is kept from it, as by a debugger, and is ended itself.
const END: Duration = Duration::from_secs(10);

/// How often it is looked whether a killed guard has left something.
const ROUNDS: usize = 32;

/// The longest report of a guard, in bytes.
const REPORT: u64 = 64;

/// The variable in the environment of a guard and of all that descends from it.
const MARK: &str = "MANGROVE_GUARD";

/// Starts processes. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Spawner {
    /// This program.
    program: PathBuf,
    /// What makes it a guard.
    words: &'static [&'static str],
}

impl Spawner {
    /// `guard` is this program.
    pub(super) fn new(guard: PathBuf) -> Self {
        Self {
            program: guard,
            words: &[guard::COMMAND],
        }
    }

    /// With this test's program as the guard: unit tests have no other.
    #[cfg(test)]
    pub(super) fn of_this_test() -> Self {
        Self {
            program: std::env::current_exe().unwrap(),
            words: guard::TEST,
        }
    }

    /// Starts a process; its output goes to `output`, and it becomes one of `peers` before it can connect.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, no process is left.
    pub(super) async fn spawn(
        &self,
        launch: &Launch,
        output: &Arc<Output>,
        peers: &Arc<Peers>,
    ) -> io::Result<Process> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mark = new_mark();
        let mut command = self.command(launch, theirs);
        command.env(MARK, &mark);
        let spawned = tokio::task::spawn_blocking(move || {
            let guard = command.spawn()?;
            Ok::<_, io::Error>(Unreaped { guard, mark })
        });
        let guard = spawned.await.map_err(io::Error::other)??;
        Process::adopt(guard, ours, output, peers).await
    }

    fn command(&self, launch: &Launch, channel: StdUnixStream) -> Command {
        let mut command = Command::new(&self.program);
        command
            // For whoever looks at the system's processes.
            .arg0(env!("CARGO_PKG_NAME"))
            .args(self.words)
            .arg(launch.limits.encode())
            .arg(&launch.program)
            .args(&launch.args)
            .current_dir(&launch.folder)
            .envs(&launch.environment)
            .stdin(OwnedFd::from(channel))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A signal to the host's own group, as Ctrl-C is, is for the host to pass on.
            .process_group(0);
        command
    }
}

/// A guard. Dropped: its channel is closed by then, so it is about to end; who waits for it must not be a thread of
/// the runtime, since a plugin can stop its guard.
#[derive(Debug)]
struct Unreaped {
    guard: Child,
    mark: String,
}

impl Unreaped {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.guard)
    }
}

impl Drop for Unreaped {
    fn drop(&mut self) {
        if matches!(self.guard.try_wait(), Ok(Some(status)) if status.code().is_some()) {
            return;
        }
        let (guard, mark) = (self.pid(), std::mem::take(&mut self.mark));
        let reaper = std::thread::Builder::new().name("reaper".to_owned());
        if let Err(error) = reaper.spawn(move || reap(guard, &mark)) {
            tracing::warn!("no thread can be started, so a guard that ends is not reaped: {error}");
        }
    }
}

/// Waits for a guard that is about to end; one that was killed leaves its work to whoever waits for it.
fn reap(guard: Pid, mark: &str) {
    let (mut pause, since) = (NUDGE, Instant::now());
    let mut killed = false;
    while let Ok(None) = rustix::process::waitpid(Some(guard), WaitOptions::NOHANG) {
        std::thread::sleep(pause);
        end(guard);
        if since.elapsed() >= END && !killed {
            killed = rustix::process::kill_process(guard, Signal::KILL).is_ok();
        }
        pause = (pause * 2).min(LAST_NUDGE);
    }
    end_marked(mark);
}

/// What no other guard has, whichever host starts it.
fn new_mark() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

/// Ends what a guard has left that was killed: whatever has its mark. A process that has cleared its environment
/// is not found. Blocking.
fn end_marked(mark: &str) {
    let variable = format!("{MARK}={mark}");
    // Whoever was about to start another one is followed by it.
    for _ in 0..ROUNDS {
        match guard::kill_marked(&variable) {
            Ok(0) => return,
            Ok(killed) => tracing::debug!("ending {killed} processes that a killed guard has left"),
            Err(error) => return tracing::warn!("what a killed guard has left cannot be found: {error}"),
        }
        std::thread::sleep(NUDGE);
    }
    tracing::warn!("what a killed guard has left goes on starting processes");
}

/// Ends what the guard is to end, should it be kept from doing so itself.
fn end(guard: Pid) {
    // Without the list of processes only the guard can do it.
    let _unlisted = guard::kill_descendants(guard);
    let_go_on(guard);
}

/// `guard` must not be reaped, so that its pid is its own.
fn let_go_on(guard: Pid) {
    let _ended = rustix::process::kill_process(guard, Signal::CONT);
}

/// Awaits what a guard does next, and does `nudge` now and then, since somebody may have stopped the guard.
async fn nudging<T>(guard: Pid, nudge: fn(Pid), next: impl Future<Output = T>) -> T {
    let (mut next, mut pause) = (pin!(next), NUDGE);
    loop {
        match timeout(pause, next.as_mut()).await {
            Ok(done) => return done,
            Err(_) => nudge(guard),
        }
        pause = (pause * 2).min(LAST_NUDGE);
    }
}

/// The right to connect, of a guard and its descendants. Ends when it is dropped.
#[derive(Debug)]
struct Admitted {
    peers: Arc<Peers>,
    guard: u32,
}

impl Admitted {
    fn enter(peers: &Arc<Peers>, guard: u32) -> Self {
        peers.enter(guard);
        Self {
            peers: Arc::clone(peers),
            guard,
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.peers.leave(self.guard);
    }
}

/// A pidfd becomes readable when the process has ended.
#[expect(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
fn watch(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: the descriptor is open, the `OwnedFd` is the only one who closes it, and the `AsyncFd` owns
    // that.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE) }?)
}

/// A process that runs, or has ended and is not reaped yet. Dropped: killed with everything that it started.
#[derive(Debug)]
pub(super) struct Process {
    /// To the guard; and the same socket once more, to hear from it. Closed first: that is its order to end
    /// everything.
    orders: StdUnixStream,
    reports: BufReader<UnixStream>,
    readers: JoinSet<()>,
    guard: Unreaped,
    pidfd: AsyncFd<OwnedFd>,
    _admitted: Admitted,
    pid: Pid,
    started: SystemTime,
    /// Since when it has to end.
    killed: Option<Instant>,
}

impl Process {
    async fn adopt(
        mut guard: Unreaped,
        channel: StdUnixStream,
        output: &Arc<Output>,
        peers: &Arc<Peers>,
    ) -> io::Result<Self> {
        let mut readers = JoinSet::new();
        if let Some(stdout) = guard.guard.stdout.take() {
            let (output, from) = (Arc::clone(output), tokio::process::ChildStdout::from_std(stdout)?);
            readers.spawn(async move { output.follow(Stream::Stdout, from).await });
        }
        if let Some(stderr) = guard.guard.stderr.take() {
            let (output, from) = (Arc::clone(output), tokio::process::ChildStderr::from_std(stderr)?);
            readers.spawn(async move { output.follow(Stream::Stderr, from).await });
        }
        let pidfd = watch(guard.pid())?;
        let admitted = Admitted::enter(peers, guard.guard.id());
        let mut reports = BufReader::new(UnixStream::from_std(channel.try_clone()?)?);
        // Taken before: its first words may be read before the guard's report is.
        let started = SystemTime::now();
        (&channel).write_all(&[Order::Start.encode()])?;
        let report = nudging(guard.pid(), let_go_on, hear(&mut reports));
        let report = timeout(GUARD, report).await;
        match report.map_err(|_| io::ErrorKind::TimedOut)?? {
            Some(Report::Started(pid)) => Ok(Self {
                orders: channel,
                reports,
                readers,
                guard,
                pidfd,
                _admitted: admitted,
                pid,
                started,
                killed: None,
            }),
            Some(Report::Failed(number)) if number != 0 => Err(io::Error::from_raw_os_error(number)),
            _ => Err(io::Error::other("its guard did not start it")),
        }
    }

    /// The plugin's own process.
    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn started(&self) -> SystemTime {
        self.started
    }

    /// The guard: whatever belongs to the plugin descends from it.
    pub(super) fn root(&self) -> u32 {
        self.guard.guard.id()
    }

    /// Is `pid` the plugin, or something that it has started?
    pub(super) fn owns(&self, pid: u32) -> bool {
        guard::descends(pid, self.root())
    }

    /// Whether it is stopped by a signal, or by a debugger.
    pub(super) fn is_halted(&self) -> bool {
        guard::is_halted(self.pid)
    }

    /// Waits until the process and everything that it started has ended. Call [`Process::reap`] then.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn ended(&self) -> io::Result<()> {
        let ended = async { self.pidfd.readable().await.map(|mut guard| guard.retain_ready()) };
        let Some(killed) = self.killed else {
            return ended.await;
        };
        let guard = self.guard.pid();
        let mut ended = pin!(nudging(guard, end, ended));
        match tokio::time::timeout_at((killed + END).into(), ended.as_mut()).await {
            Ok(ended) => ended,
            Err(_) => {
                tracing::warn!(
                    pid = self.id(),
                    "its guard does not end it within {END:?}: killing the guard"
                );
                // It is not reaped before this value is dropped.
                let _ended = rustix::process::kill_process(guard, Signal::KILL);
                ended.await
            }
        }
    }

    /// Ends whatever is left, reads the last output and says how the process ended.
    pub(super) async fn reap(mut self) -> Ending {
        self.kill();
        // Should it not have ended: then it is about to, and says how when it has.
        let _ended = self.ended().await;
        // Whoever may look into the guard may have a copy of its socket, so that it does not close.
        let report = timeout(LAST_WORDS, hear(&mut self.reports)).await;
        let ending = match report {
            Ok(Ok(Some(Report::Exited(code)))) => Ending::Exited(code),
            Ok(Ok(Some(Report::Signalled(signal)))) => Ending::Signalled(signal),
            _ => Ending::Unknown,
        };
        if ending == Ending::Unknown {
            let mark = self.guard.mark.clone();
            let ended = tokio::task::spawn_blocking(move || end_marked(&mark)).await;
            if let Err(error) = ended {
                tracing::error!("ending what a guard has left: {error}");
            }
        }
        let _ = timeout(LAST_WORDS, async {
            while self.readers.join_next().await.is_some() {}
        })
        .await;
        ending
    }

    /// Asks the plugin's process group to end.
    pub(super) fn terminate(&self) {
        self.order(Order::Terminate);
    }

    /// Ends the plugin and everything that it has started.
    pub(super) fn kill(&mut self) {
        self.killed.get_or_insert_with(Instant::now);
        self.order(Order::Kill);
        let_go_on(self.guard.pid());
    }

    fn order(&self, order: Order) {
        // A guard that is gone has nothing left to end.
        let _gone = (&self.orders).write(&[order.encode()]);
    }
}

/// The guard's next report; `None` when it is gone or says what is no report.
async fn hear(reports: &mut BufReader<UnixStream>) -> io::Result<Option<Report>> {
    let mut line = String::new();
    reports.take(REPORT).read_line(&mut line).await?;
    Ok(Report::decode(&line))
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Exited(i32),
    Signalled(i32),
    /// The guard was killed before it could tell.
    Unknown,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signalled(signal) => write!(f, "killed by signal {signal}"),
            Self::Unknown => f.write_str("killed together with its guard"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Launch {
        Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            folder: std::env::temp_dir(),
            environment: [("WORD".to_owned(), "hello".to_owned())].into(),
            limits: Default::default(),
        }
    }

    async fn spawn(launch: &Launch) -> io::Result<(Process, Arc<Output>)> {
        let (output, peers) = (
            Output::new("car", 16),
            Peers::new("car", false, Default::default()),
        );
        let output = Arc::new(output);
        let process = Spawner::of_this_test()
            .spawn(launch, &output, &Arc::new(peers))
            .await?;
        Ok((process, output))
    }

    async fn until(what: impl Fn() -> bool) {
        timeout(PATIENCE, async {
            while !what() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn its_exit_code_and_last_words_are_known() {
        let script = shell("echo $WORD; echo sorry >&2; exit 3");
        let (process, output) = spawn(&script).await.unwrap();
        timeout(PATIENCE, process.ended()).await.unwrap().unwrap();
        assert_eq!(process.reap().await, Ending::Exited(3));
        assert_eq!(output.last_error(SystemTime::UNIX_EPOCH).unwrap(), "sorry");
        assert!(output.lines().iter().any(|line| line.text == "hello"));
    }

    #[tokio::test]
    async fn a_process_owns_itself_and_what_it_starts() {
        let (process, output) = spawn(&shell("sleep 300 & echo pid $!; wait")).await.unwrap();
        let child = || {
            let mut lines = output.lines().into_iter();
            lines.find_map(|line| line.text.strip_prefix("pid ")?.parse().ok())
        };
        until(|| child().is_some()).await;
        let child: u32 = child().unwrap();
        assert!(process.owns(process.id()) && process.owns(child));
        assert!(!process.owns(std::process::id()));
        assert!(!process.is_halted());
        rustix::process::kill_process(process.pid, Signal::STOP).unwrap();
        until(|| process.is_halted()).await;
    }

    /// However fast it is: it runs before its guard has reported it, mostly.
    #[tokio::test]
    async fn a_plugin_that_keeps_stopping_its_guard_starts_and_ends() {
        let script = "while :; do kill -STOP $PPID; done & kill -STOP $PPID; wait";
        let (mut process, _output) = spawn(&shell(script)).await.unwrap();
        process.kill();
        timeout(PATIENCE, process.ended()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn dropping_a_process_does_not_wait_for_a_guard_that_is_stopped() {
        let (process, _output) = spawn(&shell("exec sleep 300")).await.unwrap();
        let guard = process.guard.pid();
        // By the plugin it might be done before the start is over, which lets a guard go on.
        rustix::process::kill_process(guard, Signal::STOP).unwrap();
        until(|| guard::is_halted(guard)).await;
        let pidfd = rustix::process::pidfd_open(process.pid, PidfdFlags::empty()).unwrap();
        drop(process);
        let ended = || {
            rustix::event::poll(
                &mut [PollFd::new(&pidfd, PollFlags::IN)],
                Some(&Timespec::default()),
            )
        };
        until(|| ended() == Ok(1)).await;
        until(|| rustix::process::test_kill_process(guard).is_err()).await;
    }

    /// Whoever may look into its guard can keep the guard's socket open, and say what he likes on it.
    #[tokio::test]
    async fn the_end_of_a_guard_is_known_though_somebody_has_its_socket() {
        let (process, _output) = spawn(&shell("exec sleep 300")).await.unwrap();
        let guard = process.guard.pid();
        let pidfd = rustix::process::pidfd_open(guard, PidfdFlags::empty()).unwrap();
        let flags = rustix::process::PidfdGetfdFlags::empty();
        let copied = match rustix::process::pidfd_getfd(&pidfd, 0, flags) {
            Ok(copied) => copied,
            Err(error) => return testkit::skip("a copy of another process's socket", &error.to_string()),
        };
        rustix::process::kill_process(guard, Signal::KILL).unwrap();
        let mut talker = std::fs::File::from(copied);
        talker.write_all(b"started 1").unwrap();
        timeout(PATIENCE, process.ended()).await.unwrap().unwrap();
        assert_eq!(timeout(PATIENCE, process.reap()).await.unwrap(), Ending::Unknown);
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let missing = Launch {
            program: "/does/not/exist".into(),
            ..shell("")
        };
        let error = spawn(&missing).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
