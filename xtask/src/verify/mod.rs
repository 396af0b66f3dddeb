//! `cargo verify`: every check and test, each a named step. A step that fails doesn't stop the others; the
//! closing line counts them. What this machine cannot provide is a skip by name, and in continuous
//! integration (`CI=true`) a failure.

mod contents;
mod dependencies;
mod fuzz;
mod layering;
mod package;
mod report;
mod sdk;
mod setup;
mod toolchain;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use testkit::foreign::PREPARED;
use testkit::skip::SKIPS_FILE;

use crate::command::{cargo, command_line, output, run_logged};
use report::{Outcome, Report};

/// Runs every check and test.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the steps whose name contains this text.
    only: Option<String>,
}

/// `sp-proto` is meant to be used with the features that its user picks, so it is checked with all.
const SP_PROTO_WHOLE: &[&str] = &["--package", "sp-proto", "--all-features"];

/// What the steps share.
pub(crate) struct Checkout {
    /// The folder of the checkout.
    root: PathBuf,
    /// Where the output of tools goes.
    logs: PathBuf,
    /// To which tests append what they had to skip, a line each.
    skips: PathBuf,
    /// Whether the set-up steps come before the tests.
    prepared: bool,
}

type Step = (&'static str, fn(&Checkout) -> Result<Outcome>);

/// In this order: preparations first, then what fails fast.
const STEPS: &[Step] = &[
    (
        "set-up: foreign peers, Go, Node and a C++ compiler",
        setup::programs,
    ),
    ("set-up: python with ekuiper 2.4.2", |checkout| {
        setup::python(checkout, "2.4.2")
    }),
    ("set-up: python with ekuiper 1.4.0", |checkout| {
        setup::python(checkout, "1.4.0")
    }),
    ("set-up: uv", setup::uv),
    ("set-up: the mangos peer", setup::mangos),
    ("set-up: what checks the Python SDK", sdk::set_up),
    ("set-up: the oldest Python", sdk::set_up_oldest),
    ("committed content", contents::check),
    ("layering", layering::check),
    ("lock files", lock_files),
    ("one Rust version in every place", toolchain::check),
    ("no C among the dependencies", dependencies::check),
    ("formatting", formatting),
    ("clippy", clippy),
    ("documentation", documentation),
    ("sp-proto with its features one by one", features),
    ("tests", tests),
    ("the Python SDK", sdk::python),
    ("the Python SDK on the oldest Python", sdk::oldest_python),
    ("the Go SDK", sdk::go),
    ("the Node SDK", sdk::node),
    ("the conformance kit on the samples", sdk::kit),
    ("sp-proto's engine under loom", models),
    ("fuzz targets, some seconds each", fuzz::check),
    ("packages", package::check),
    ("cargo demo", demo),
    ("cargo soak, in short", soak),
    ("cargo figures", figures),
];

/// Runs the steps and prints what came of them.
///
/// # Errors
/// The run as a whole cannot be prepared.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let root = crate::workspace_folder()?;
    let logs = testkit::target_folder().join("verify");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let skips = logs.join("skips.txt");
    std::fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
    let prepared = arguments.only.is_none();
    let checkout = Checkout {
        root,
        logs,
        skips,
        prepared,
    };
    let wanted = |step: &&Step| arguments.only.as_ref().is_none_or(|only| step.0.contains(only));
    let steps: Vec<&Step> = STEPS.iter().filter(wanted).collect();
    anyhow::ensure!(!steps.is_empty(), "no step has such a name");

    let mut report = Report::new(steps.len());
    for (name, step) in steps {
        report.start(name);
        // A step that couldn't even begin has not passed.
        let outcome = step(&checkout).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        report.end(outcome);
    }
    let skipped_tests = std::fs::read_to_string(&checkout.skips)
        .with_context(|| format!("cannot read {}", checkout.skips.display()))?;
    report.skipped_in_tests(skipped_tests.lines());
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    Ok(report.close(in_ci))
}

impl Checkout {
    fn cargo<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root).args(arguments);
        command
    }

    /// Runs one tool; it passes when the tool does, else its output is the reason.
    fn tool(&self, log: &str, command: &mut Command) -> Result<Outcome> {
        let log = self.logs.join(format!("{log}.log"));
        println!("    {}", command_line(command));
        if run_logged(command, &log)? {
            return Ok(Outcome::Passed);
        }
        let output = std::fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let output = String::from_utf8_lossy(&output);
        Ok(Outcome::Failed(format!(
            "{output}\n`{}` failed",
            command_line(command)
        )))
    }

    /// Runs tools one after another until one fails. The log is that of the last.
    fn tools(&self, log: &str, commands: impl IntoIterator<Item = Command>) -> Result<Outcome> {
        self.each(commands.into_iter().map(|command| (log, command)))
    }

    /// The same with a log for each.
    fn each<'a>(&self, commands: impl IntoIterator<Item = (&'a str, Command)>) -> Result<Outcome> {
        for (log, mut command) in commands {
            match self.tool(log, &mut command)? {
                Outcome::Passed => {}
                other => return Ok(other),
            }
        }
        Ok(Outcome::Passed)
    }
}

/// A package outside of the workspace: the figures' peer that speaks with zmq.rs.
const ZEROMQ: &str = "xtask/peers/zeromq/Cargo.toml";

/// The packages of the workspace with this manifest.
fn metadata(checkout: &Checkout, manifest: &str) -> Result<Vec<serde_json::Value>> {
    let mut command = checkout.cargo(["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let text = output(command.args(["--manifest-path", manifest]))?;
    let mut metadata: serde_json::Value = serde_json::from_str(&text)?;
    match metadata["packages"].take() {
        serde_json::Value::Array(packages) => Ok(packages),
        _ => anyhow::bail!("`cargo metadata` names no packages"),
    }
}

/// All lock files agree with the manifests; else each run would silently change them.
fn lock_files(checkout: &Checkout) -> Result<Outcome> {
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml", ZEROMQ] {
        let mut metadata = checkout.cargo(["metadata", "--locked", "--format-version", "1"]);
        if let Err(error) = output(metadata.args(["--manifest-path", manifest])) {
            return Ok(Outcome::Failed(format!(
                "the lock file beside {manifest} is stale: {error:#}"
            )));
        }
    }
    Ok(Outcome::Passed)
}

fn formatting(checkout: &Checkout) -> Result<Outcome> {
    if output(&mut checkout.cargo(["fmt", "--version"])).is_err() {
        return Ok(Outcome::Skipped("rustfmt is not installed".to_owned()));
    }
    checkout.tools(
        "formatting",
        [
            checkout.cargo(["fmt", "--all", "--check"]),
            checkout.cargo(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]),
            checkout.cargo(["fmt", "--manifest-path", ZEROMQ, "--check"]),
        ],
    )
}

fn has_clippy(checkout: &Checkout) -> bool {
    output(&mut checkout.cargo(["clippy", "--version"])).is_ok()
}

fn clippy(checkout: &Checkout) -> Result<Outcome> {
    if !has_clippy(checkout) {
        return Ok(Outcome::Skipped("clippy is not installed".to_owned()));
    }
    let lint = |what: &[&str]| {
        let mut command = checkout.cargo(["clippy"]);
        command.args(what).args(["--all-targets", "--", "-D", "warnings"]);
        command
    };
    checkout.tools("clippy", [lint(&["--workspace"]), lint(SP_PROTO_WHOLE)])
}

fn documentation(checkout: &Checkout) -> Result<Outcome> {
    let document = |what: &[&str]| {
        let mut command = checkout.cargo(["doc", "--no-deps"]);
        command.args(what).env("RUSTDOCFLAGS", "-D warnings");
        command
    };
    checkout.tools(
        "documentation",
        [document(&["--workspace"]), document(SP_PROTO_WHOLE)],
    )
}

/// The combinations of `sp-proto`'s features that mean something; the first is the pure core without tokio.
const FEATURES: &[&str] = &[
    "",
    "tokio",
    "ipc",
    "tcp",
    "tls",
    "ws",
    "ipc,ws",
    "ipc,tls,ws",
    "cli",
];

fn features(checkout: &Checkout) -> Result<Outcome> {
    if !has_clippy(checkout) {
        return Ok(Outcome::Skipped("clippy is not installed".to_owned()));
    }
    let check = |features: &&str| {
        let mut command = checkout.cargo(["clippy", "--package", "sp-proto"]);
        command
            .args(["--no-default-features", "--features", features, "--target-dir"])
            .arg(testkit::target_folder().join("features"))
            .args(["--", "--deny", "warnings"]);
        command
    };
    checkout.tools("features", FEATURES.iter().map(check))
}

/// The models of `sp-proto/src/engine/model.rs`, in a build of their own: what is shared between threads in
/// every order that they can meet in, up to a bound.
fn models(checkout: &Checkout) -> Result<Outcome> {
    const LOG: &str = "loom";
    let mut test = checkout.cargo(["test", "--locked", "--package", "sp-proto", "--lib"]);
    test.args(["--no-default-features", "--features", "tokio", "--target-dir"])
        .arg(testkit::target_folder().join(LOG))
        .args(["engine::model", "--", "--nocapture"])
        .env("RUSTFLAGS", "--cfg sp_loom -D warnings")
        // Some hundred thousand orders.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    let outcome = checkout.tool(LOG, &mut test)?;
    let log = checkout.logs.join(format!("{LOG}.log"));
    let log = std::fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    if outcome == Outcome::Passed && log.contains("ok. 0 passed") {
        return Ok(Outcome::Failed("there was no model to check".to_owned()));
    }
    Ok(outcome)
}

fn tests(checkout: &Checkout) -> Result<Outcome> {
    let test = |what: &[&str]| {
        let mut command = checkout.cargo(["test", "--no-fail-fast"]);
        command.args(what).env(SKIPS_FILE, &checkout.skips);
        if checkout.prepared {
            command.env(PREPARED, "1");
        }
        command
    };
    let others = ["--workspace", "--exclude", "sp-proto"];
    checkout.tools("tests", [test(&others), test(SP_PROTO_WHOLE)])
}

/// The demo as a newcomer meets it, ended after a few results.
fn demo(checkout: &Checkout) -> Result<Outcome> {
    // Tests of another checkout may have the plugin's addresses, of which the machine has one each.
    let _car = testkit::exclusive("car");
    checkout.tool("demo", &mut checkout.cargo(["demo", "--results", "3"]))
}

/// Every case of the soak with a few rounds.
fn soak(checkout: &Checkout) -> Result<Outcome> {
    let mut soak = checkout.cargo(["soak", "--short"]);
    checkout.tool("soak", soak.env(SKIPS_FILE, &checkout.skips))
}

/// One quick round of one cell of the sockets, and of every cell of the plugins: that everything of the figures builds and
/// runs, not how fast it is. A library that this machine lacks is named in the log.
fn figures(checkout: &Checkout) -> Result<Outcome> {
    let sockets = [
        "figures",
        "sp",
        "thr.tcp.64",
        "--json",
        "--rounds",
        "1",
        "--ms",
        "50",
    ];
    match checkout.tool("figures-sp", &mut checkout.cargo(sockets))? {
        Outcome::Passed => {}
        other => return Ok(other),
    }
    let plugins = ["figures", "plugins", "--short", "--json"];
    checkout.tool("figures-plugins", &mut checkout.cargo(plugins))
}
