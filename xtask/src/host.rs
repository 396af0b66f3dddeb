//! Owns a host process: starts it, learns its address, ends it as Ctrl-C would, or kills it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How long the host may take until it is ready, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many lines of the log a failure shows.
const LAST_WORDS: usize = 20;

/// What to start, and where.
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) home: PathBuf,
    /// Where its REST API is to listen.
    pub(crate) rest: SocketAddr,
    /// Where its log goes, which is appended to.
    pub(crate) log: PathBuf,
    /// More variables of its environment.
    pub(crate) environment: Vec<(String, String)>,
}

/// A running host.
pub(crate) struct Host {
    child: Child,
    address: SocketAddr,
    /// Kept open: the host may print to it at any time.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Host {
    /// Starts the host and waits until it is ready.
    pub(crate) async fn start(launch: &Launch) -> Result<Self> {
        let log = File::options().append(true).create(true).open(&launch.log);
        let log = log.with_context(|| format!("cannot write {}", launch.log.display()))?;
        let mut child = Command::new(&launch.program)
            .arg("serve")
            .arg("--home")
            .arg(&launch.home)
            .args(["--rest", &launch.rest.to_string()])
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A Ctrl-C in the terminal reaches us alone; we hand it on, so that it arrives exactly once.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", launch.program.display()))?;
        let output = child.stdout.take().context("the host has no output")?;
        let mut output = BufReader::new(output).lines();
        let ready = async {
            while let Some(line) = output.next_line().await? {
                if let Some(address) = address_in(&line) {
                    return Ok(address);
                }
            }
            bail!("the host ended before it was ready")
        };
        let address = match tokio::time::timeout(PATIENCE, ready).await {
            Ok(address) => address.with_context(|| last_words(&launch.log))?,
            Err(_) => bail!(
                "the host is not ready after {} s\n{}",
                PATIENCE.as_secs(),
                last_words(&launch.log)
            ),
        };
        Ok(Self {
            child,
            address,
            _output: output,
        })
    }

    /// Where its REST API listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process. None: it has ended.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        self.child.wait().await.context("cannot wait for the host")
    }

    /// Asks it to end, as Ctrl-C would, and waits until it has.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some(pid) = self.pid() {
            kill_process(pid, Signal::INT).context("cannot signal the host")?;
        }
        let Ok(status) = tokio::time::timeout(PATIENCE, self.ended()).await else {
            bail!("the host does not end, {} s after SIGINT", PATIENCE.as_secs());
        };
        let status = status?;
        ensure!(status.success(), "the host did not end cleanly: {status}");
        Ok(())
    }

    /// Kills it as nothing can be prepared for, and waits until it has ended.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill the host")
    }
}

/// The end of a host's log, for the text of a failure.
pub(crate) fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LAST_WORDS));
    last.fold(format!("{} ends with:", log.display()), |text, line| {
        text + "\n" + line
    })
}

/// The address in the line that says that the host is ready.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("http://")?;
    rest.split([' ', '/']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_address_is_found_in_the_line() {
        let address = address_in("mangrove is ready at http://127.0.0.1:9081");
        assert_eq!(address, Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9081))));
        assert_eq!(
            address_in("see http://[::1]:80/ for more"),
            "[::1]:80".parse().ok()
        );
        assert_eq!(address_in("starting"), None);
    }
}
