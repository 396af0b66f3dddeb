//! What stands between the host and a plugin's processes: nothing outlives its plugin, no plugin outlives the
//! host, nobody else gets a word in, and limits hold.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mangrove::plugin::State;
use mangrove_protocol::address;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use sp_proto::{Event, Req};
use testkit::{PATIENCE, within};

use crate::home::{Home, unique};

/// Starts a process of each kind that gets away from its parent, and notes their pids in the file `pids`.
const FAMILY: &str = "#!/bin/sh
: > pids.tmp
note() { echo $$ >> pids.tmp; exec sleep 600; }
( note ) &
setsid sh -c 'echo $$ >> pids.tmp; exec sleep 600' &
setsid sh -c 'setsid sh -c \"echo \\$\\$ >> pids.tmp; exec sleep 600\" &' &
sh -c 'trap \"\" TERM; echo $$ >> pids.tmp; exec sleep 600' &
while [ $(wc -l < pids.tmp) -lt 4 ]; do :; done
mv pids.tmp pids
";

/// Waits for the end of a process that need not be a child of this one.
async fn ended(pid: Pid) {
    if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        // With a limit of its own: a thread that waits for ever would keep the test from failing.
        let limit = Timespec::try_from(PATIENCE).unwrap();
        let wait = move || rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit));
        let ready = tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
        assert_eq!(ready, 1, "process {} does not end", pid.as_raw_nonzero());
    }
}

/// The processes that the program [`FAMILY`] has started in `folder`.
async fn family(folder: &Path) -> Vec<Pid> {
    let pids = folder.join("pids");
    within("the plugin's family", async {
        while !pids.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let pids = std::fs::read_to_string(pids).unwrap();
    let pids: Vec<Pid> = pids
        .lines()
        .map(|line| Pid::from_raw(line.parse().unwrap()).unwrap())
        .collect();
    assert_eq!(pids.len(), 4);
    pids
}

#[tokio::test]
async fn nothing_that_a_plugin_has_started_outlives_it() {
    for end in ["exit 3", "kill -9 $$", "exec sleep 600"] {
        let mut home = Home::new();
        home.settings.restart_limit = 1;
        let name = unique("hguard");
        home.add(&name, "go", r#""sources":["none"]"#, &format!("{FAMILY}{end}\n"));
        let host = home.start().await;
        let family = family(&home.plugin_folder(&name)).await;
        if end.starts_with("exec") {
            within("the removal", host.plugins.remove(&name)).await.unwrap();
        } else {
            let status = host
                .until("the plugin to be given up", &name, |status| {
                    status.status == State::Failed
                })
                .await;
            let how = if end.starts_with("kill") {
                "signal 9"
            } else {
                "exit code 3"
            };
            assert!(status.err_msg.contains(how), "{}", status.err_msg);
        }
        for pid in family {
            ended(pid).await;
        }
        host.shutdown().await;
    }
}

/// A guard without a host: the test is at the other end of its standard input.
struct Guard {
    child: Child,
    host: UnixStream,
}

impl Guard {
    fn start(folder: &Path, script: &str) -> Self {
        let (host, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mangrove"))
            .args(["guard", "-,-,-", "/bin/sh", "-c", script])
            .current_dir(folder)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        // No end of it may keep a test from failing.
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut guard = Self { child, host };
        guard.host.write_all(b"S").unwrap();
        guard
    }

    /// Waits for its end, and says whether all went well.
    async fn end(mut self) -> bool {
        ended(Pid::from_child(&self.child)).await;
        self.child.wait().unwrap().success()
    }

    fn report(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(&self.host).read_line(&mut line).unwrap();
        line
    }
}

#[tokio::test]
async fn nothing_outlives_a_host_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("trap '' TERM HUP\n{FAMILY}exec sleep 600");
    let mut guard = Guard::start(folder.path(), &script);
    let family = family(folder.path()).await;
    let plugin = guard.report();
    let plugin: i32 = plugin.trim().strip_prefix("started ").unwrap().parse().unwrap();
    // All that a dead host leaves behind is a closed socket.
    guard.host.shutdown(Shutdown::Both).unwrap();
    ended(Pid::from_raw(plugin).unwrap()).await;
    for pid in family {
        ended(pid).await;
    }
    assert!(guard.end().await);
}

#[tokio::test]
async fn nothing_outlives_a_host_that_was_killed_before_it_knew_the_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let script = "setsid sh -c 'echo $$ > pid; exec sleep 600' & exec sleep 600";
    for _ in 0..10 {
        let guard = Guard::start(folder.path(), script);
        guard.host.shutdown(Shutdown::Both).unwrap();
        assert!(guard.end().await, "it gave up before its plugin had ended");
        let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            ended(pid).await;
        }
    }
}

#[tokio::test]
async fn a_plugin_ends_with_its_guard() {
    let folder = tempfile::tempdir().unwrap();
    let mut guard = Guard::start(folder.path(), "exec sleep 600");
    let plugin = guard.report();
    let plugin: i32 = plugin.trim().strip_prefix("started ").unwrap().parse().unwrap();
    guard.child.kill().unwrap();
    assert!(!guard.end().await);
    ended(Pid::from_raw(plugin).unwrap()).await;
}

/// A guard that somebody kills cannot end what has left the plugin's process; the host does it.
#[tokio::test]
async fn nothing_outlives_a_guard_that_was_killed() {
    let mut home = Home::new();
    home.settings.restart_limit = 1;
    let name = unique("hguard");
    // The plugin itself kills it, once its family is there.
    let script = format!("{FAMILY}kill -9 $PPID\nexec sleep 600\n");
    home.add(&name, "go", r#""sources":["none"]"#, &script);
    let host = home.start().await;
    let family = family(&home.plugin_folder(&name)).await;
    for pid in family {
        ended(pid).await;
    }
    let status = host
        .until("the plugin to be given up", &name, |status| {
            status.status == State::Failed
        })
        .await;
    let how = "killed together with its guard";
    assert!(status.err_msg.contains(how), "{}", status.err_msg);
    host.shutdown().await;
}

#[tokio::test]
async fn a_guard_tells_how_its_plugin_ended() {
    let folder = tempfile::tempdir().unwrap();
    for (script, end) in [("exit 7", "exited 7\n"), ("kill -15 $$", "signalled 15\n")] {
        let guard = Guard::start(folder.path(), script);
        let mut lines = BufReader::new(&guard.host).lines();
        assert!(lines.next().unwrap().unwrap().starts_with("started "));
        assert_eq!(lines.next().unwrap().unwrap() + "\n", end);
        assert!(guard.end().await);
    }
}

#[tokio::test]
async fn a_plugin_is_ended_though_its_guard_was_stopped() {
    let home = Home::new();
    let name = unique("hguard");
    // The plugin stops its guard.
    home.add(
        &name,
        "go",
        r#""sources":["none"]"#,
        "#!/bin/sh\nkill -STOP $PPID; exec sleep 600\n",
    );
    let host = home.start().await;
    let first = host
        .until("a process", &name, |status| status.pid.is_some())
        .await
        .pid;
    within("the removal", host.plugins.remove(&name)).await.unwrap();
    let first = Pid::from_raw(i32::try_from(first.unwrap()).unwrap()).unwrap();
    ended(first).await;
    host.shutdown().await;
}

#[tokio::test]
async fn strangers_are_not_listened_to() {
    let mut home = Home::new();
    home.settings.peers = "plugin".to_owned();
    let name = unique("hguard");
    home.add(&name, "go", r#""sources":["none"]"#, crate::home::SLEEP);
    let host = home.start().await;
    host.until("a process", &name, |status| status.pid.is_some())
        .await;
    // This process is of the right user, but the plugin has not started it.
    let stranger = Req::new();
    let mut events = stranger.events();
    let address = address::control(&name.parse().unwrap()).unwrap();
    within("the connection", stranger.dial(&address)).await.unwrap();
    within("the refusal", async {
        while !matches!(events.recv().await, Some(Event::PipeRemoved { .. })) {}
    })
    .await;
    assert_eq!(host.status(&name).status, State::Starting);
    stranger.close().await;
    host.shutdown().await;
}

#[tokio::test]
async fn limits_hold_for_a_plugin_and_not_for_its_guard() {
    let mut home = Home::new();
    home.settings.limit_open_files = 100;
    home.settings.restart_limit = 1;
    let name = unique("hguard");
    let limits = r#""sources":["none"],"limits":{"memory":1073741824,"openFiles":200,"cpuShare":50}"#;
    let program = "#!/bin/sh\necho $(ulimit -d) $(ulimit -n) $(nice) >&2\n";
    home.add(&name, "go", limits, program);
    let host = home.start().await;
    let status = host
        .until("the plugin to end", &name, |status| {
            status.status == State::Failed
        })
        .await;
    let usual = rustix::process::getpriority_process(None).unwrap();
    let said = format!("it said last: 1048576 100 {}", usual.max(3));
    assert!(status.err_msg.contains(&said), "{}", status.err_msg);
    host.shutdown().await;
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let folder = tempfile::tempdir().unwrap();
    let mut guard = Guard::start(folder.path(), "sleep 600; exit 5");
    assert!(guard.report().starts_with("started "));
    guard.host.write_all(b"T").unwrap();
    assert_eq!(guard.report(), format!("signalled {}\n", Signal::TERM.as_raw()));
}
