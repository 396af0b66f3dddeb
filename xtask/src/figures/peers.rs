//! The programs that are measured: ours, and those of other libraries from `xtask/peers`. All have one command line
//! and print one line of JSON. What cannot be built is named with its reason.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cells::Cell;
use crate::command::{cargo, output};

/// Both sides of a connection.
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) ours: bool,
    /// The library that has one of the two sides, where the other one is ours.
    pub(super) with: Option<&'static str>,
    /// The peer of which this one is what is left without sp-proto.
    pub(super) floor_of: Option<String>,
    /// What sends first, asks or receives what is measured; see [`Cell::child_begins`].
    begins: PathBuf,
    other: PathBuf,
    /// For `SPPERF_RUNTIME`.
    runtime: &'static str,
    /// Modes that it cannot do, and why.
    lacks: Lacks,
}

type Lacks = &'static [(&'static str, &'static str)];

/// Another library.
struct Foreign {
    name: &'static str,
    build: Build,
    lacks: Lacks,
    /// Whether it speaks SP, so that sp-proto is measured with it as well.
    sp: bool,
}

enum Build {
    /// `bench.c`, with these flags; the header without which that makes no sense, and its Debian package.
    C(Option<(&'static str, &'static str)>, &'static [&'static str]),
    Go,
    /// A cargo package of its own.
    Cargo,
}

const ONE_WAY: &str = "it gathers messages, which makes sense one way only";
const NO_PUB: &str = "a raw socket with one peer has nothing to drop";

const FOREIGN: &[Foreign] = &[
    Foreign {
        name: "raw1",
        build: Build::C(None, &["-DLIB_RAW", "-DBATCH=1"]),
        lacks: &[("pub", NO_PUB)],
        sp: false,
    },
    Foreign {
        name: "raw64",
        build: Build::C(None, &["-DLIB_RAW", "-DBATCH=64"]),
        lacks: &[
            ("pub", NO_PUB),
            ("lat", ONE_WAY),
            ("rr", ONE_WAY),
            ("ctx", ONE_WAY),
        ],
        sp: false,
    },
    Foreign {
        name: "nng",
        build: Build::C(Some(("nng/nng.h", "libnng-dev")), &["-DLIB_NNG", "-lnng"]),
        lacks: &[],
        sp: true,
    },
    Foreign {
        name: "nanomsg",
        build: Build::C(
            Some(("nanomsg/nn.h", "libnanomsg-dev")),
            &["-DLIB_NANOMSG", "-lnanomsg"],
        ),
        lacks: &[("ctx", "it has no contexts")],
        sp: true,
    },
    Foreign {
        name: "libzmq",
        build: Build::C(Some(("zmq.h", "libzmq3-dev")), &["-DLIB_ZMQ", "-lzmq"]),
        lacks: &[],
        sp: false,
    },
    Foreign {
        name: "mangos",
        build: Build::Go,
        lacks: &[],
        sp: true,
    },
    Foreign {
        name: "zmq.rs",
        build: Build::Cargo,
        lacks: &[("lat", "it has no pair socket"), ("ctx", "it has no contexts")],
        sp: false,
    },
];

/// What cannot be measured, and why.
pub(super) type Missing = (String, String);

/// Builds everything.
pub(super) fn prepare(root: &Path) -> Result<(Vec<Peer>, Vec<Missing>)> {
    let folder = super::folder()?;
    let target = folder.parent().context("the folder has a parent")?;
    let build = |package: &str, features: &[&str], program: &str| {
        let mut build = cargo();
        build
            .current_dir(root)
            .args(["build", "--quiet", "--release", "--package", package])
            .args(features)
            .args(["--bin", program]);
        output(&mut build).map(|_| target.join("release").join(program))
    };
    let ours = build("sp-proto", &["--features", "cli"], "spperf")?;
    let floor = build("floor", &[], "floor")?;
    let pair = |name: &str, begins: &Path, other: &Path| Peer {
        name: name.to_owned(),
        ours: false,
        with: None,
        floor_of: None,
        begins: begins.to_owned(),
        other: other.to_owned(),
        runtime: "multi",
        lacks: &[],
    };
    let mut peers: Vec<_> = [("sp", "multi"), ("sp-current", "current")]
        .map(|(name, runtime)| Peer {
            ours: true,
            runtime,
            ..pair(name, &ours, &ours)
        })
        .into();
    let (mut mixed, mut missing) = (Vec::new(), Vec::new());
    for foreign in FOREIGN {
        let program = match foreign.build(root, &folder) {
            Ok(program) => program,
            Err(error) => {
                missing.push((foreign.name.to_owned(), format!("{error:#}")));
                continue;
            }
        };
        let library = |peer| Peer {
            lacks: foreign.lacks,
            ..peer
        };
        peers.push(library(pair(foreign.name, &program, &program)));
        for &(mode, reason) in foreign.lacks {
            missing.push((format!("{} in {mode}", foreign.name), reason.to_owned()));
        }
        if foreign.sp {
            let name = foreign.name;
            let with = |peer| Peer {
                with: Some(name),
                ..library(peer)
            };
            mixed.push(with(pair(&format!("sp to {name}"), &ours, &program)));
            mixed.push(with(pair(&format!("{name} to sp"), &program, &ours)));
        }
    }
    peers.append(&mut mixed);
    let floors: Vec<_> = peers
        .iter()
        .filter(|peer| peer.ours || peer.with.is_some())
        .map(|peer| peer.floor(&ours, &floor))
        .collect();
    peers.extend(floors);
    Ok((peers, missing))
}

impl Foreign {
    fn build(&self, root: &Path, folder: &Path) -> Result<PathBuf> {
        let sources = root.join("xtask/peers");
        let program = folder.join(self.name);
        match self.build {
            Build::C(header, flags) => {
                if let Some((header, package)) = header {
                    let header = Path::new("/usr/include").join(header);
                    ensure!(
                        header.exists(),
                        "{} is not there (Debian: {package})",
                        header.display()
                    );
                }
                let (defines, libraries): (Vec<&str>, Vec<&str>) =
                    flags.iter().partition(|flag| flag.starts_with("-D"));
                output(
                    Command::new("gcc")
                        .args(["-O2", "-Wall", "-Wno-unused-function"])
                        .args(defines)
                        .arg(sources.join("bench.c"))
                        .arg("-o")
                        .arg(&program)
                        .args(libraries),
                )?;
                Ok(program)
            }
            Build::Go => {
                let mut build = Command::new("go");
                build
                    .current_dir(sources.join("mangos"))
                    .args(["build", "-mod=readonly", "-o"])
                    .arg(&program)
                    .arg(".");
                output(&mut build)?;
                Ok(program)
            }
            Build::Cargo => {
                let mut build = cargo();
                build
                    .args(["build", "--quiet", "--release", "--locked", "--manifest-path"])
                    .arg(sources.join("zeromq/Cargo.toml"))
                    .arg("--target-dir")
                    .arg(folder.join("zeromq"));
                output(&mut build)?;
                Ok(folder.join("zeromq/release/zeromq-perf"))
            }
        }
    }
}

impl Peer {
    /// What is left of it without sp-proto.
    fn floor(&self, ours: &Path, floor: &Path) -> Self {
        let replace = |program: &PathBuf| {
            if program == ours {
                floor.to_owned()
            } else {
                program.clone()
            }
        };
        Self {
            name: self.name.replace("sp", "floor"),
            ours: false,
            with: self.with,
            floor_of: Some(self.name.clone()),
            begins: replace(&self.begins),
            other: replace(&self.other),
            runtime: self.runtime,
            lacks: self.lacks,
        }
    }

    /// Whether it takes part in this cell.
    pub(super) fn does(&self, cell: &Cell) -> bool {
        let mode = cell.mode.split(':').next();
        // What a publisher drops depends on what else it does.
        let no_floor = self.floor_of.is_some() && mode == Some("pub");
        !no_floor && !self.lacks.iter().any(|&(lacking, _)| mode == Some(lacking))
    }

    /// One run as part of `wrapper`, whose processes end with it. A run that hangs is ended as well.
    fn command(&self, wrapper: &[&str], mode: &str, cell: &Cell, warmup: u64, measure: u64) -> Command {
        let (parent, child) = if cell.child_begins() {
            (&self.other, &self.begins)
        } else {
            (&self.begins, &self.other)
        };
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", &(10 + measure / 1000).to_string()])
            .args(wrapper)
            .arg(parent)
            .args([mode, cell.transport, &cell.size.to_string()])
            .args([warmup.to_string(), measure.to_string()])
            .env("SPPERF_RUNTIME", self.runtime)
            .env("SPPERF_PEER", child);
        command
    }

    /// Runs once and gives the line of JSON.
    pub(super) fn run(&self, mode: &str, cell: &Cell, ms: u64) -> Result<serde_json::Value> {
        let text = output(&mut self.command(&[], mode, cell, 100, ms))?;
        let line = text.lines().last().context("it printed nothing")?;
        serde_json::from_str(line).with_context(|| format!("it printed {line:?}"))
    }

    /// System calls per message of both processes, if `perf` may count them here.
    pub(super) fn syscalls(&self, cell: &Cell, ms: u64) -> Option<f64> {
        let perf = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "--"];
        let counted = self.command(&perf, cell.mode, cell, 0, ms).output().ok()?;
        let result: serde_json::Value = serde_json::from_slice(&counted.stdout).ok()?;
        let calls = String::from_utf8_lossy(&counted.stderr);
        let line = calls.lines().find(|line| line.contains("sys_enter"))?;
        let calls: f64 = line.split(',').next()?.parse().ok()?;
        Some(calls / result["n"].as_f64()?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cells::CELLS;
    use super::*;

    /// The program that measures, and the one that dials.
    fn sides(peer: &Peer, mode: &str) -> (String, String) {
        let cell = CELLS.iter().find(|cell| cell.mode == mode).unwrap();
        let command = peer.command(&[], mode, cell, 0, 0);
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.display().to_string())
            .collect();
        let at = words.iter().position(|word| word == mode).unwrap();
        let dials = command
            .get_envs()
            .find_map(|(name, value)| value.filter(|_| name == "SPPERF_PEER"));
        (words[at - 1].clone(), dials.unwrap().display().to_string())
    }

    #[test]
    fn the_first_of_two_sends_or_asks() {
        let peer = Peer {
            name: "sp to nng".to_owned(),
            ours: false,
            with: Some("nng"),
            floor_of: None,
            begins: "sp".into(),
            other: "nng".into(),
            runtime: "multi",
            lacks: &[("ctx", "a reason")],
        };
        // One way the receiver measures, there and back the asker.
        assert_eq!(sides(&peer, "thr"), ("nng".to_owned(), "sp".to_owned()));
        assert_eq!(sides(&peer, "lat"), ("sp".to_owned(), "nng".to_owned()));
        let floor = peer.floor(Path::new("sp"), Path::new("floor"));
        assert_eq!(sides(&floor, "thr"), ("nng".to_owned(), "floor".to_owned()));
        assert_eq!(
            (&*floor.name, floor.floor_of),
            ("floor to nng", Some(peer.name.clone()))
        );
        let left_out: Vec<_> = CELLS
            .iter()
            .filter(|cell| !peer.does(cell))
            .map(|cell| cell.mode)
            .collect();
        assert_eq!(left_out, ["ctx:64", "ctx:64"]);
    }
}
