//! Owns the demo's host process: starts it, learns its address, ends it as Ctrl-C would.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::home::Home;

/// Where eKuiper's users expect the REST API.
const PORT: u16 = 9081;

/// How long the host may take until it is ready, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running host.
pub(super) struct Host {
    child: Child,
    address: SocketAddr,
    /// Kept open: the host may print to it at any time.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Host {
    /// Starts the host and waits until it is ready.
    pub(super) async fn start(home: &Home) -> Result<Self> {
        let log =
            File::create(home.log()).with_context(|| format!("cannot write {}", home.log().display()))?;
        let mut child = Command::new(home.host())
            .arg("serve")
            .arg("--home")
            .arg(home.folder())
            .args(["--rest", &rest_address().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A Ctrl-C in the terminal reaches us alone; we hand it on, so that it arrives exactly once.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", home.host().display()))?;
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
            Ok(address) => address.with_context(|| home.last_words())?,
            Err(_) => bail!(
                "the host is not ready after {} s\n{}",
                PATIENCE.as_secs(),
                home.last_words()
            ),
        };
        Ok(Self {
            child,
            address,
            _output: output,
        })
    }

    /// Where its REST API listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus> {
        self.child.wait().await.context("cannot wait for the host")
    }

    /// Asks it to end, as Ctrl-C would, and waits until it has.
    pub(super) async fn stop(&mut self) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, Signal::INT).context("cannot signal the host")?;
        }
        let Ok(status) = tokio::time::timeout(PATIENCE, self.ended()).await else {
            bail!("the host does not end, {} s after SIGINT", PATIENCE.as_secs());
        };
        let status = status?;
        ensure!(status.success(), "the host did not end cleanly: {status}");
        Ok(())
    }
}

/// The usual address, or a free port when someone has it.
fn rest_address() -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    if TcpListener::bind(usual).is_ok() {
        return usual;
    }
    println!("The port {PORT} is taken; the REST API gets another one.");
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// The address in the line that says that the host is ready.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("http://")?;
    rest.split([' ', '/']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
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
