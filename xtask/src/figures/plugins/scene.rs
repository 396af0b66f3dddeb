//! Owns the scene of a measurement: a host as it ships, in a home of its own, with the plugins that are measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::command::cargo;
use crate::host::{Host, Launch};
use crate::http;

/// How long plugins may take to be up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is measured with.
pub(super) struct Programs {
    root: PathBuf,
    folder: PathBuf,
}

impl Programs {
    /// Builds the host and the plugin as they ship.
    pub(super) fn build(root: &Path) -> Result<Self> {
        let mut build = cargo();
        build.current_dir(root);
        build.args([
            "build",
            "--release",
            "--package",
            "mangrove",
            "--package",
            "gauge",
        ]);
        let status = build.status().context("cannot run cargo")?;
        ensure!(status.success(), "the host or the plugin does not build");
        Ok(Self {
            root: root.to_owned(),
            folder: testkit::target_folder().join("release"),
        })
    }
}

/// A running host with plugins.
pub(super) struct Scene {
    pub(super) host: Host,
    pub(super) home: PathBuf,
}

impl Scene {
    /// Starts a host with so many plugins in Rust, `gauge0` and so on, and with the one in Python or without it.
    pub(super) async fn start(programs: &Programs, plugins: usize, python: bool) -> Result<Self> {
        let home = testkit::target_folder().join("figures/plugins");
        if home.exists() {
            std::fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
        }
        let mut names = Vec::new();
        for n in 0..plugins {
            let name = format!("gauge{n}");
            let folder = home.join("plugins/portable").join(&name);
            let manifest = json!({
                "version": "1", "language": "rust", "executable": "gauge", "environment": { "GAUGE_NAME": name },
                "sources": [format!("{name}_flood")], "sinks": [format!("{name}_swallow")],
                "functions": [format!("{name}_same")],
            });
            write(&folder.join(format!("{name}.json")), &manifest.to_string())?;
            std::fs::copy(programs.folder.join("gauge"), folder.join("gauge"))?;
            names.push(name);
        }
        if python {
            let folder = home.join("plugins/portable/gaugepy");
            let manifest = json!({
                "version": "1", "language": "python", "executable": "gauge.py",
                "environment": { "PYTHONPATH": programs.root.join("sdk/python/src") },
                "sources": ["gaugepy_flood"], "functions": ["gaugepy_same"],
            });
            write(&folder.join("gaugepy.json"), &manifest.to_string())?;
            let program = programs.root.join("xtask/plugins/gauge-python/gauge.py");
            std::fs::copy(program, folder.join("gauge.py"))?;
            names.push("gaugepy".to_owned());
        }
        write(&home.join("etc/mangrove.yaml"), "log:\n  level: warn\n")?;
        let launch = Launch {
            program: programs.folder.join("mangrove"),
            home: home.clone(),
            rest: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            log: home.join("log"),
            environment: Vec::new(),
        };
        let host = Host::start(&launch).await?;
        let scene = Self { host, home };
        let deadline = Instant::now() + PATIENCE;
        for name in names {
            let path = format!("/plugins/portables/{name}/status");
            loop {
                let status = http::find(scene.host.address(), &path).await?.unwrap_or_default();
                if status["status"] == "running" {
                    break;
                }
                ensure!(Instant::now() < deadline, "{name} does not come up: {status}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(scene)
    }

    /// Starts a rule over a stream of its own.
    pub(super) async fn rule(
        &self,
        id: &str,
        source: &Source<'_>,
        select: &str,
        action: &Value,
    ) -> Result<()> {
        let conf = json!({ id: { "rate": source.rate } }).to_string();
        write(
            &self.home.join(format!("etc/sources/{}.yaml", source.symbol)),
            &conf,
        )?;
        let sql = format!(
            r#"CREATE STREAM {id} () WITH (TYPE="{}", DATASOURCE="", FORMAT="JSON", CONF_KEY="{id}")"#,
            source.symbol
        );
        http::post(self.host.address(), "/streams", &json!({ "sql": sql })).await?;
        let rule = json!({ "id": id, "sql": format!("SELECT {select} FROM {id}"), "actions": [action] });
        http::post(self.host.address(), "/rules", &rule).await
    }

    /// A figure of a rule's status.
    pub(super) async fn figure(&self, rule: &str, name: &str) -> Result<u64> {
        let status = http::find(self.host.address(), &format!("/rules/{rule}/status")).await?;
        let status = status.with_context(|| format!("there is no rule {rule}"))?;
        match status[name].as_u64() {
            Some(figure) => Ok(figure),
            None => bail!("the rule has no figure {name}: {status}"),
        }
    }

    /// Ends a rule and its stream.
    pub(super) async fn end(&self, rule: &str) -> Result<()> {
        http::delete(self.host.address(), &format!("/rules/{rule}")).await?;
        http::delete(self.host.address(), &format!("/streams/{rule}")).await
    }

    /// The host's resident memory, in bytes, and what it has used of the processors.
    pub(super) fn usage(&self) -> Result<(u64, Duration)> {
        let pid = self.host.pid().context("the host has ended")?.as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit_once(')').context("no stat of the host")?.1;
        let ticks: Vec<u64> = fields
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse().ok())
            .collect();
        let ticks: u64 = ticks.iter().sum();
        let each = 1_000_000 / rustix::param::clock_ticks_per_second();
        Ok((
            kib.context("no memory in the status of the host")? * 1024,
            Duration::from_micros(ticks * each),
        ))
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        self.host.stop().await
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
