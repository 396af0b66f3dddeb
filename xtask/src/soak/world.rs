//! Owns a running host and asks it over REST; at the end, checks that nothing of it is left.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::home::{Contract, Home, Package};
use super::processes::{Marked, marked};
use super::records::Records;
use super::wait::until;
use crate::host::Host;
use crate::http;

/// Tuples that each source sends in a second.
pub(super) const RATE: u32 = 200;

/// How long a listener may take to let somebody in.
const CONNECT: Duration = Duration::from_secs(1);

/// A host in its home.
pub(super) struct World {
    pub(super) home: Home,
    host: Option<Host>,
}

/// A rule with what it is made of.
pub(super) struct Wiring<'a> {
    /// The plugin of the source.
    pub(super) from: &'a Package,
    /// The plugin of a function to call.
    pub(super) through: Option<&'a Package>,
    /// The plugin of the sink.
    pub(super) to: &'a Package,
}

/// How a plugin is.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub(super) state: String,
    reason: String,
    /// Why an update was not taken, among others.
    pub(super) note: String,
    pub(super) pid: Option<u64>,
    /// Connections of strangers that the host has turned away.
    pub(super) refused_peers: u64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            state,
            reason,
            note,
            pid,
            ..
        } = self;
        write!(f, "{state} ({reason}; {note}), process {pid:?}")
    }
}

impl World {
    /// Starts a host in this home.
    pub(super) async fn start(home: Home) -> Result<Self> {
        let host = Host::start(&home.launch()).await?;
        let host = Some(host);
        Ok(Self { home, host })
    }

    /// Kills the host.
    pub(super) async fn kill(&mut self) -> Result<()> {
        let host = self.host.take().context("the host does not run")?;
        host.kill().await
    }

    /// Starts the host again.
    pub(super) async fn start_again(&mut self) -> Result<()> {
        self.host = Some(Host::start(&self.home.launch()).await?);
        Ok(())
    }

    /// Ends the host, which has to leave nothing behind: no process, no socket.
    pub(super) async fn finish(mut self) -> Result<()> {
        if let Some(mut host) = self.host.take() {
            host.stop().await?;
        }
        let left = self.processes()?;
        ensure!(left.is_empty(), "processes are left behind: {left:?}");
        let mut sockets = self.sockets()?;
        // A link stands for what lay elsewhere.
        sockets.retain(|path| !path.is_symlink());
        ensure!(sockets.is_empty(), "sockets are left behind: {sockets:?}");
        Ok(())
    }

    /// Waits until every socket of this run has somebody who listens there.
    pub(super) async fn no_stale_socket(&self) -> Result<()> {
        until("there is no stale socket", async || {
            for path in self.sockets()? {
                // One who listens but accepts nobody is there, too.
                if let Ok(Err(error)) = timeout(CONNECT, UnixStream::connect(&path)).await {
                    let is_stale = error.kind() == ErrorKind::ConnectionRefused;
                    ensure!(!is_stale, "nobody listens at {}", path.display());
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until the plugin has been seen to speak the contract of this case. Whoever speaks our own leaves eKuiper's
    /// address of the plugin to nobody.
    pub(super) async fn speaks(&self, package: &Package) -> Result<()> {
        let path = control(package);
        let expected = self.home.contract == Contract::EKuiper;
        until("the plugin speaks the contract", async || {
            ensure!(
                path.exists() == expected,
                "{} speaks the other contract: {} is {}there",
                package.name,
                path.display(),
                if expected { "not " } else { "" }
            );
            Ok(())
        })
        .await
    }

    /// The host's process, which has to be the one that was started.
    pub(super) fn pid(&self) -> Result<Pid> {
        let host = self.host.as_ref().context("the host does not run")?;
        host.pid().context("the host has ended by itself")
    }

    /// All processes of this run.
    pub(super) fn processes(&self) -> Result<Vec<Marked>> {
        marked(self.home.prefix())
    }

    /// The sockets of this run's plugins and rules: those that lie in `/tmp`, and those of our own contract.
    fn sockets(&self) -> Result<Vec<PathBuf>> {
        let mut found = self.own_sockets()?;
        let shared = sockets_in(Path::new("/tmp"))?;
        found.extend(
            shared
                .into_iter()
                .filter(|path| path.to_string_lossy().contains(self.home.prefix())),
        );
        Ok(found)
    }

    /// The sockets of our own contract.
    pub(super) fn own_sockets(&self) -> Result<Vec<PathBuf>> {
        sockets_in(&self.home.run())
    }

    pub(super) fn records(&self) -> Records {
        self.home.records()
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        let found = http::find(self.address()?, path).await?;
        found.with_context(|| format!("there is no {path}"))
    }

    /// Creates a stream and a rule over it, both of this name. The sink has to acknowledge.
    pub(super) async fn rule(&self, rule: &str, wiring: &Wiring<'_>) -> Result<()> {
        let (from, to) = (&wiring.from.name, &wiring.to.name);
        let stream = format!(
            r#"CREATE STREAM {rule} () WITH (TYPE="{from}_source", DATASOURCE="{RATE}", FORMAT="JSON")"#
        );
        http::post(self.address()?, "/streams", &json!({ "sql": stream })).await?;
        let n = match wiring.through {
            Some(package) => format!("{}_function(n) AS n", package.name),
            None => "n".to_owned(),
        };
        let mut action = json!({});
        action[format!("{to}_sink")] = json!({ "requireAck": true });
        let rule = json!({
            "id": rule,
            "sql": format!("SELECT run, {n} FROM {rule}"),
            "actions": [action],
        });
        http::post(self.address()?, "/rules", &rule).await
    }

    /// Creates a stream that needs no plugin.
    pub(super) async fn memory_stream(&self, name: &str) -> Result<()> {
        let sql = format!(r#"CREATE STREAM {name} () WITH (TYPE="memory", DATASOURCE="{name}")"#);
        http::post(self.address()?, "/streams", &json!({ "sql": sql })).await
    }

    /// Waits until all these rules run and all have taken more than they have now.
    pub(super) async fn flowing(&self, rules: &[String]) -> Result<()> {
        let records = self.records();
        for rule in rules {
            let before = records.lines(rule)?;
            until("the rule runs and its tuples arrive", async || {
                let status = self.get(&format!("/rules/{rule}/status")).await?;
                let arrived = records.lines(rule)?;
                ensure!(
                    status["status"] == "running" && arrived > before + 5,
                    "{rule}: {before} tuples before, {arrived} now; {status}"
                );
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// The status of a plugin; an error when there is none.
    pub(super) async fn plugin(&self, name: &str) -> Result<Status> {
        let status = self.get(&format!("/plugins/portables/{name}/status")).await?;
        let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
        Ok(Status {
            state: text("status"),
            reason: text("errMsg"),
            note: text("note"),
            pid: status["pid"].as_u64(),
            refused_peers: status["refusedPeers"].as_u64().unwrap_or_default(),
        })
    }

    /// Waits until the plugin runs, in a process other than `not`.
    pub(super) async fn running(&self, name: &str, not: Option<u64>) -> Result<u64> {
        until("the plugin runs", async || {
            let status = self.plugin(name).await?;
            let pid = status.pid.filter(|pid| Some(*pid) != not);
            match pid {
                Some(pid) if status.state == "running" => Ok(pid),
                _ => anyhow::bail!("{name} is {status}"),
            }
        })
        .await
    }

    /// Waits until the plugin is gone, and the process that it had.
    pub(super) async fn gone(&self, name: &str, pid: u64) -> Result<()> {
        until("the plugin is gone", async || {
            let path = format!("/plugins/portables/{name}");
            let found = http::find(self.address()?, &path).await?;
            ensure!(found.is_none(), "{name} is still there");
            ensure!(!super::processes::is_alive(pid), "its process {pid} still runs");
            Ok(())
        })
        .await
    }

    /// Makes the package what the plugin is, over REST.
    pub(super) async fn put(&self, package: &Package) -> Result<()> {
        let zip = self.home.zip(package).await?;
        let path = format!("/plugins/portables/{}", package.name);
        let body = json!({ "file": format!("file://{}", zip.display()) });
        http::put(self.address()?, &path, &body).await
    }

    fn address(&self) -> Result<std::net::SocketAddr> {
        let host = self.host.as_ref().context("the host does not run")?;
        Ok(host.address())
    }
}

/// Where eKuiper's contract has the plugin's control channel.
pub(super) fn control(package: &Package) -> PathBuf {
    format!("/tmp/plugin_{}.ipc", package.name).into()
}

fn sockets_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "ipc"))
        .collect())
}
