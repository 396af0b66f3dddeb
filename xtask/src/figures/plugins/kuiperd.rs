//! Owns eKuiper's own host, `kuiperd`, as the peer on the contract that both speak. It is no part of the project: it
//! is found, not built.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::scene::copy_files;
use crate::http;

/// How long it may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The published Python SDK that both hosts are measured with.
const SDK: &str = "2.4.2";

/// eKuiper's host, and an interpreter with the published SDK.
pub(super) struct Peer {
    program: PathBuf,
    /// What is in its folder `etc`.
    settings: PathBuf,
    pub(super) python: PathBuf,
}

impl Peer {
    /// `KUIPERD`, or `kuiperd` on the PATH; its folder `etc` is beside it or beside its folder.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn find() -> Result<Self, String> {
        let named = std::env::var_os("KUIPERD").map(PathBuf::from);
        let program = named.or_else(|| testkit::foreign::find_program("kuiperd"));
        let program = program.ok_or("there is no kuiperd: KUIPERD is not set, and none is on the PATH")?;
        let program = std::fs::canonicalize(&program)
            .map_err(|error| format!("kuiperd: {}: {error}", program.display()))?;
        let settings = program
            .ancestors()
            .skip(1)
            .take(2)
            .map(|folder| folder.join("etc"));
        let settings = settings
            .into_iter()
            .find(|folder| folder.join("kuiper.yaml").is_file());
        Ok(Self {
            settings: settings
                .ok_or_else(|| format!("{} has no etc/kuiper.yaml beside it", program.display()))?,
            program,
            python: testkit::foreign::prepare_python(SDK, true)?,
        })
    }
}

/// A running one.
pub(super) struct Kuiperd {
    child: Child,
    address: SocketAddr,
}

impl Kuiperd {
    /// Starts it in `home`, in which the plugins are, and waits until it answers.
    pub(super) async fn start(peer: &Peer, home: &Path, python: Option<&Path>) -> Result<Self> {
        copy_files(&peer.settings, &home.join("etc"))?;
        for folder in ["data", "log", "plugins/portable"] {
            std::fs::create_dir_all(home.join(folder))?;
        }
        let log = std::fs::File::create(home.join("log/output"))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, testkit::free_port()));
        let mut command = Command::new(&peer.program);
        command
            .current_dir(home)
            .env("KuiperBaseKey", home)
            .env("KUIPER__BASIC__RESTIP", address.ip().to_string())
            .env("KUIPER__BASIC__RESTPORT", address.port().to_string())
            .env("KUIPER__BASIC__PORT", testkit::free_port().to_string())
            .env("KUIPER__BASIC__PPROF", "false")
            .env("KUIPER__BASIC__LOGLEVEL", "warn")
            // It gives its plugins its own environment, not one of their manifests.
            .env("GAUGE_NAME", "gauge0")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        if let Some(python) = python {
            command.env("KUIPER__PORTABLE__PYTHONBIN", python);
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", peer.program.display()))?;
        let kuiperd = Self { child, address };
        let deadline = Instant::now() + PATIENCE;
        while http::get(address, "/").await.is_err() {
            ensure!(
                Instant::now() < deadline,
                "kuiperd does not answer; {} says why",
                home.join("log").display()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(kuiperd)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// None: it has ended.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
    }

    /// Asks it to end, and kills it if it does not.
    pub(super) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.pid() {
            kill_process(pid, Signal::TERM).context("cannot signal kuiperd")?;
        }
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(ended) => ended.map(drop).context("cannot wait for kuiperd"),
            Err(_) => self.child.kill().await.context("cannot kill kuiperd"),
        }
    }
}
