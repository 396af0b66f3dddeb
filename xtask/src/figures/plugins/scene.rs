//! Owns the scene of a measurement: a host as it ships, in a home of its own, with the plugins that are measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::kuiperd::{Kuiperd, Peer};
use super::processes::{self, Usage};
use crate::command::cargo;
use crate::host::{Host, Launch};
use crate::http;

/// How long plugins may take to be up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is measured with.
pub(super) struct Programs {
    root: PathBuf,
    folder: PathBuf,
    /// eKuiper's host and the published Python SDK, or why there is none.
    pub(super) peer: Result<Peer, String>,
}

impl Programs {
    /// Builds the host and the plugin as they ship; or, when nothing but that they run is of interest, as they are
    /// developed.
    pub(super) fn build(root: &Path, released: bool) -> Result<Self> {
        let mut build = cargo();
        build.current_dir(root);
        build.args(["build", "--package", "mangrove", "--package", "gauge"]);
        if released {
            build.arg("--release");
        }
        let status = build.status().context("cannot run cargo")?;
        ensure!(status.success(), "the host or the plugin does not build");
        let profile = if released { "release" } else { "debug" };
        Ok(Self {
            root: root.to_owned(),
            folder: testkit::target_folder().join(profile),
            peer: Peer::find(),
        })
    }

    pub(super) fn gauge(&self) -> PathBuf {
        self.folder.join("gauge")
    }
}

/// A plugin that is measured.
#[derive(Clone, Copy)]
pub(super) enum Plugin<'a> {
    /// `gauge`, by a name with this number.
    Rust(usize),
    /// `gaugepy`.
    Python,
    /// `pysam` of the examples, with the published SDK in the environment of this interpreter.
    Published(&'a Path),
}

/// Whose host is measured.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    /// Ours, with this setting of `portable`.
    Ours(&'static str),
    Ekuiper(&'a Peer),
}

enum Running {
    Ours(Host),
    Ekuiper(Kuiperd),
}

/// A running host with plugins.
pub(super) struct Scene {
    running: Running,
    address: SocketAddr,
    pub(super) home: PathBuf,
}

impl Scene {
    /// Starts a host with these plugins.
    pub(super) async fn start(programs: &Programs, kind: Kind<'_>, plugins: &[Plugin<'_>]) -> Result<Self> {
        let home = testkit::target_folder().join("figures/plugins");
        if home.exists() {
            std::fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
        }
        let mut python = None;
        for plugin in plugins {
            plugin.install(programs, &home)?;
            if let Plugin::Published(interpreter) = plugin {
                python = Some(*interpreter);
            }
        }
        let (running, address) = match kind {
            Kind::Ours(setting) => {
                let mut portable = setting.to_owned();
                if let Some(python) = python {
                    portable += &format!("\n  pythonBin: {}", python.display());
                }
                let settings = format!("log:\n  level: warn\nportable:\n  {portable}\n");
                write(&home.join("etc/mangrove.yaml"), &settings)?;
                let launch = Launch {
                    program: programs.folder.join("mangrove"),
                    home: home.clone(),
                    rest: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                    log: home.join("log"),
                    environment: Vec::new(),
                };
                let host = Host::start(&launch).await?;
                let address = host.address();
                (Running::Ours(host), address)
            }
            Kind::Ekuiper(peer) => {
                let kuiperd = Kuiperd::start(peer, &home, python).await?;
                let address = kuiperd.address();
                (Running::Ekuiper(kuiperd), address)
            }
        };
        let scene = Self {
            running,
            address,
            home,
        };
        if let Running::Ours(_) = scene.running {
            for plugin in plugins {
                let path = format!("/plugins/portables/{}/status", plugin.name());
                scene.until_running(&path).await?;
            }
        }
        Ok(scene)
    }

    /// Waits until what has its status there runs.
    async fn until_running(&self, path: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = http::find(self.address, path).await?.unwrap_or_default();
            if status["status"] == "running" {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{path} does not come up: {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a rule over a stream of its own.
    pub(super) async fn rule(
        &self,
        id: &str,
        source: &Source<'_>,
        select: &str,
        action: &Value,
    ) -> Result<()> {
        let conf = json!({ "default": {}, id: { "rate": source.rate, "interval": 0 } }).to_string();
        write(
            &self.home.join(format!("etc/sources/{}.yaml", source.symbol)),
            &conf,
        )?;
        let sql = format!(
            r#"CREATE STREAM {id} () WITH (TYPE="{}", DATASOURCE="", FORMAT="JSON", CONF_KEY="{id}")"#,
            source.symbol
        );
        http::post(self.address, "/streams", &json!({ "sql": sql })).await?;
        let rule = json!({ "id": id, "sql": format!("SELECT {select} FROM {id}"), "actions": [action] });
        http::post(self.address, "/rules", &rule).await?;
        self.until_running(&format!("/rules/{id}/status")).await
    }

    /// The first figure of a rule's status whose name begins and ends so.
    pub(super) async fn figure(&self, rule: &str, begin: &str, end: &str) -> Result<u64> {
        let status = http::find(self.address, &format!("/rules/{rule}/status")).await?;
        let status = status.with_context(|| format!("there is no rule {rule}"))?;
        let fields = status.as_object().context("the status is no object")?;
        let mut found = fields
            .iter()
            .filter(|(name, _)| name.starts_with(begin) && name.ends_with(end));
        match found.next().and_then(|(_, value)| value.as_u64()) {
            Some(figure) => Ok(figure),
            None => bail!("the rule has no figure {begin}…{end}: {status}"),
        }
    }

    /// Ends a rule and its stream.
    pub(super) async fn end(&self, rule: &str) -> Result<()> {
        http::delete(self.address, &format!("/rules/{rule}")).await?;
        http::delete(self.address, &format!("/streams/{rule}")).await
    }

    /// What the host and the plugins' processes use.
    pub(super) fn usage(&self) -> Result<Usage> {
        processes::usage(self.pid()?)
    }

    /// The processors' time of them, to the nanosecond, while no thread ends.
    pub(super) fn exact_time(&self) -> Result<Duration> {
        processes::exact_time(self.pid()?)
    }

    fn pid(&self) -> Result<rustix::process::Pid> {
        let pid = match &self.running {
            Running::Ours(host) => host.pid(),
            Running::Ekuiper(kuiperd) => kuiperd.pid(),
        };
        pid.context("the host has ended")
    }

    pub(super) async fn stop(self) -> Result<()> {
        match self.running {
            Running::Ours(mut host) => host.stop().await,
            Running::Ekuiper(kuiperd) => kuiperd.stop().await,
        }
    }
}

impl Plugin<'_> {
    fn name(self) -> String {
        match self {
            Self::Rust(number) => format!("gauge{number}"),
            Self::Python => "gaugepy".to_owned(),
            Self::Published(_) => "pysam".to_owned(),
        }
    }

    /// Puts its folder into the home.
    fn install(self, programs: &Programs, home: &Path) -> Result<()> {
        let name = self.name();
        let folder = home.join("plugins/portable").join(&name);
        let manifest = match self {
            // eKuiper knows no language but these two; go stands for any program.
            Self::Rust(_) => json!({
                "version": "1", "language": "go", "executable": "gauge", "environment": { "GAUGE_NAME": name },
                "sources": [format!("{name}_flood")], "sinks": [format!("{name}_swallow")],
                "functions": [format!("{name}_same")],
            }),
            Self::Python => json!({
                "version": "1", "language": "python", "executable": "gauge.py",
                "environment": { "PYTHONPATH": programs.root.join("sdk/python/src") },
                "sources": ["gaugepy_flood"], "functions": ["gaugepy_same"],
            }),
            Self::Published(_) => {
                return copy_files(&programs.root.join("examples/pysam"), &folder);
            }
        };
        write(&folder.join(format!("{name}.json")), &manifest.to_string())?;
        let program = match self {
            Self::Rust(_) => programs.gauge(),
            _ => programs.root.join("xtask/plugins/gauge-python/gauge.py"),
        };
        let file = program.file_name().context("a program without a name")?;
        std::fs::copy(&program, folder.join(file))?;
        Ok(())
    }
}

/// A source and how fast it is to be.
pub(super) struct Source<'a> {
    pub(super) symbol: &'a str,
    /// Tuples per second; 0: as fast as it can.
    pub(super) rate: u32,
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a file without a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies the files of a folder and of those in it.
pub(super) fn copy_files(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_files(&from, &to)?;
        } else {
            std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}
