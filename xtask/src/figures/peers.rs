//! The programs that are measured: ours and, built from `xtask/peers/bench.c`, those of the other libraries.
//! All have one command line and print one line of JSON.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cells::Cell;
use crate::command::{cargo, output};

/// A program that can be measured.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) ours: bool,
    /// Gathers messages by itself, so it makes sense one way only.
    pub(super) batches: bool,
    program: PathBuf,
    /// For `SPPERF_RUNTIME`.
    runtime: &'static str,
}

/// A name, the header without which it cannot be built, the Debian package, and flags for the compiler.
const FOREIGN: &[(&str, Option<&str>, &str, &[&str])] = &[
    ("raw1", None, "gcc", &["-DLIB_RAW", "-DBATCH=1"]),
    ("raw64", None, "gcc", &["-DLIB_RAW", "-DBATCH=64"]),
    ("nng", Some("nng/nng.h"), "libnng-dev", &["-DLIB_NNG", "-lnng"]),
    (
        "nanomsg",
        Some("nanomsg/nn.h"),
        "libnanomsg-dev",
        &["-DLIB_NANOMSG", "-lnanomsg"],
    ),
    ("libzmq", Some("zmq.h"), "libzmq3-dev", &["-DLIB_ZMQ", "-lzmq"]),
];

/// The name of a peer that cannot be measured, and why.
pub(super) type Missing = (&'static str, String);

/// Builds everything.
pub(super) fn prepare(root: &Path) -> Result<(Vec<Peer>, Vec<Missing>)> {
    let folder = super::folder()?;
    let target = folder.parent().context("the folder has a parent")?;
    output(cargo().current_dir(root).args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "sp-proto",
        "--example",
        "spperf",
    ]))?;
    let program = target.join("release/examples/spperf");
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    for (name, runtime) in [("sp", "multi"), ("sp-current", "current")] {
        peers.push(Peer {
            name,
            ours: true,
            batches: false,
            program: program.clone(),
            runtime,
        });
    }
    for &(name, header, package, flags) in FOREIGN {
        if let Some(header) = header
            && !Path::new("/usr/include").join(header).exists()
        {
            missing.push((
                name,
                format!("/usr/include/{header} is not there (Debian: {package})"),
            ));
            continue;
        }
        let program = folder.join(name);
        let (defines, libraries): (Vec<&str>, Vec<&str>) =
            flags.iter().partition(|flag| flag.starts_with("-D"));
        let built = output(
            Command::new("gcc")
                .args(["-O2", "-Wall", "-Wno-unused-function"])
                .args(defines)
                .arg(root.join("xtask/peers/bench.c"))
                .arg("-o")
                .arg(&program)
                .args(libraries),
        );
        match built {
            Ok(_) => peers.push(Peer {
                name,
                ours: false,
                batches: name == "raw64",
                program,
                runtime: "",
            }),
            Err(error) => missing.push((name, format!("{error:#}"))),
        }
    }
    for (name, reason) in [
        ("mangos", "a Go module; not part of this harness"),
        ("zmq.rs", "another protocol's crate; not part of this harness"),
    ] {
        missing.push((name, reason.to_owned()));
    }
    Ok((peers, missing))
}

impl Peer {
    fn command(&self, program: &Path, mode: &str, cell: &Cell, warmup: u64, measure: u64) -> Command {
        let mut command = Command::new(program);
        command
            .env("SPPERF_RUNTIME", self.runtime)
            .args([mode, cell.transport, &cell.size.to_string()])
            .args([warmup.to_string(), measure.to_string()]);
        command
    }

    /// Runs once and gives the line of JSON.
    pub(super) fn run(&self, mode: &str, cell: &Cell, ms: u64) -> Result<serde_json::Value> {
        let mut command = Command::new("timeout");
        command.arg(format!("{}", 20 + ms / 1000)).arg(&self.program);
        let inner = self.command(&self.program, mode, cell, 100, ms);
        command.args(inner.get_args()).env("SPPERF_RUNTIME", self.runtime);
        let text = output(&mut command)?;
        let line = text.lines().last().context("it printed nothing")?;
        serde_json::from_str(line).with_context(|| format!("it printed {line:?}"))
    }

    /// System calls per message of both processes, if `perf` may count them here.
    pub(super) fn syscalls(&self, cell: &Cell, ms: u64) -> Option<f64> {
        let count = || -> Result<f64> {
            let inner = self.command(&self.program, cell.mode, cell, 0, ms);
            let counted = Command::new("perf")
                .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "--"])
                .arg(&self.program)
                .args(inner.get_args())
                .env("SPPERF_RUNTIME", self.runtime)
                .output()?;
            ensure!(counted.status.success(), "perf failed");
            let result: serde_json::Value = serde_json::from_slice(&counted.stdout)?;
            let calls = String::from_utf8_lossy(&counted.stderr);
            let calls: f64 = calls
                .lines()
                .find(|line| line.contains("sys_enter"))
                .and_then(|line| line.split(',').next()?.parse().ok())
                .context("perf counted nothing")?;
            let messages = result["n"].as_f64().context("no number of messages")?;
            Ok(calls / messages)
        };
        count().ok()
    }
}
