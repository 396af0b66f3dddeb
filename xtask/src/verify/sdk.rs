//! The SDKs of the other languages, each checked with its own language's tools; the sample plugin of every
//! language; and the conformance kit, played against these. The checkout is only read: what these tools write
//! lies in cargo's target folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use testkit::foreign::{
    NPM_LIMITS, find_program, is_npm_offline, prepare_environment, prepare_environment_of,
};

use super::report::Outcome;
use super::{Checkout, output};

/// What the Python SDK's checks need, in its folder.
const REQUIREMENTS: &str = "requirements-dev.txt";

/// What building leaves beside the sources of a checkout in which somebody works.
const MADE: &[&str] = &["node_modules", "dist", "build", "__pycache__"];

/// A program, how it says its version, and the oldest that will do.
type Tool = (&'static str, &'static str, (u32, u32));

const GO: Tool = ("go", "version", (1, 22));
const NODE: Tool = ("node", "--version", (18, 0));
/// The SDK is content with [`OLDEST_PYTHON`], the tools that check its types are not.
const PYTHON: Tool = ("python3", "--version", (3, 10));

/// The oldest that the Python SDK says it works with. Its tests run on it, where there is one.
const OLDEST_PYTHON: &str = "3.9";

/// Makes the environment with the tools that check the Python SDK.
pub(super) fn set_up(checkout: &Checkout) -> Result<Outcome> {
    Ok(match python_tools(checkout, true) {
        Ok(_) => Outcome::Passed,
        Err(reason) => Outcome::Skipped(reason),
    })
}

fn python_tools(checkout: &Checkout, may_install: bool) -> Result<PathBuf, String> {
    lacking(PYTHON).map_or(Ok(()), Err)?;
    let requirements = checkout.root.join("sdk/python").join(REQUIREMENTS);
    prepare_environment("python-sdk", &requirements, may_install)
}

/// Makes the environment that has the oldest Python.
pub(super) fn set_up_oldest(checkout: &Checkout) -> Result<Outcome> {
    Ok(match oldest_python_tools(checkout, true) {
        Ok(_) => Outcome::Passed,
        Err(reason) => Outcome::Skipped(reason),
    })
}

fn oldest_python_tools(checkout: &Checkout, may_install: bool) -> Result<PathBuf, String> {
    let requirements = checkout.root.join("sdk/python").join(REQUIREMENTS);
    prepare_environment_of(OLDEST_PYTHON, "python-sdk-oldest", &requirements, may_install)
}

/// Tests, types and style of the Python SDK, and of the sample on it.
pub(super) fn python(checkout: &Checkout) -> Result<Outcome> {
    let interpreter = match python_tools(checkout, !checkout.prepared) {
        Ok(interpreter) => interpreter,
        Err(reason) => return Ok(Outcome::Skipped(reason)),
    };
    let caches = testkit::target_folder().join("python/caches");
    let tool = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(&interpreter);
        command
            .current_dir(checkout.root.join("sdk/python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("MYPY_CACHE_DIR", caches.join("mypy"))
            .env("RUFF_CACHE_DIR", caches.join("ruff"))
            .args(["-m", name])
            .args(arguments);
        command
    };
    let sample = "../../examples/samples-python";
    checkout.each([
        // Quiet by the SDK's own settings; more so, and it would not say how many have passed.
        ("sdk-python-tests", tool("pytest", &["-p", "no:cacheprovider"])),
        ("sdk-python-types", tool("mypy", &[])),
        ("sdk-python-lint", tool("ruff", &["check", ".", sample])),
        (
            "sdk-python-format",
            tool("ruff", &["format", "--check", ".", sample]),
        ),
    ])
}

/// The Python SDK's tests on the oldest Python. Elsewhere ruff holds its syntax against that version, and no more.
pub(super) fn oldest_python(checkout: &Checkout) -> Result<Outcome> {
    let interpreter = match oldest_python_tools(checkout, !checkout.prepared) {
        Ok(interpreter) => interpreter,
        Err(reason) => return Ok(Outcome::Skipped(reason)),
    };
    let mut tests = Command::new(interpreter);
    tests
        .current_dir(checkout.root.join("sdk/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["-m", "pytest", "-p", "no:cacheprovider"]);
    checkout.tool("sdk-python-oldest", &mut tests)
}

/// Style and tests of the Go SDK and of the sample on it.
pub(super) fn go(checkout: &Checkout) -> Result<Outcome> {
    if let Some(reason) = lacking(GO) {
        return Ok(Outcome::Skipped(reason));
    }
    let folders = ["sdk/go", "examples/samples-go"].map(|folder| checkout.root.join(folder));
    for folder in &folders {
        let unformatted = output(Command::new("gofmt").current_dir(folder).args(["-l", "."]))?;
        if !unformatted.is_empty() {
            return Ok(Outcome::Failed(format!(
                "gofmt would change in {}:\n{unformatted}",
                folder.display()
            )));
        }
    }
    let [sdk, sample] = &folders;
    // What has passed before is tried again: what it ran beside is another.
    let test = ["test", "-count=1", "./..."];
    let outcome = checkout.each([
        ("sdk-go-vet", in_go(sdk, &["vet", "./..."])),
        ("sdk-go-tests", in_go(sdk, &test)),
        ("sample-go-vet", in_go(sample, &["vet", "./..."])),
        ("sample-go-tests", in_go(sample, &test)),
    ])?;
    match outcome {
        Outcome::Passed => go_sample(checkout),
        other => Ok(other),
    }
}

/// Go with what there is: the SDK needs no other module, and is to be built by the Go that was found.
fn in_go(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(folder)
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .args(arguments);
    command
}

/// The Node SDK's tests and those of the sample on it, which is left as it would be packed.
pub(super) fn node(checkout: &Checkout) -> Result<Outcome> {
    let copies = node_folder();
    remove(&copies)?;
    let missing = find_program("npm")
        .is_none()
        .then(|| "npm is not installed".to_owned());
    if let Some(reason) = lacking(NODE).or(missing) {
        return Ok(Outcome::Skipped(reason));
    }
    let run = |folder: &str, arguments: &[&str]| {
        let mut command = Command::new("npm");
        command.current_dir(copies.join(folder)).args(arguments);
        command
    };
    // The sample's manifest says where the SDK is from where it is itself.
    let (sdk, sample) = ("sdk/node", "examples/samples-node");
    for (log, folder) in [("sdk-node", sdk), ("sample-node", sample)] {
        copy_all(&checkout.root.join(folder), &copies.join(folder))?;
        let mut install = run(folder, &["ci", "--no-audit", "--no-fund"]);
        install.args(NPM_LIMITS);
        match checkout.tool(&format!("{log}-packages"), &mut install)? {
            Outcome::Passed => {}
            Outcome::Failed(reason) if is_npm_offline(&reason) => {
                return Ok(Outcome::Skipped("npm reaches no registry".to_owned()));
            }
            other => return Ok(other),
        }
        match checkout.tool(&format!("{log}-tests"), &mut run(folder, &["test"]))? {
            Outcome::Passed => {}
            other => return Ok(other),
        }
    }
    checkout.tool("sample-node-prune", &mut run(sample, &["prune", "--omit=dev"]))
}

/// The kit against the sample of every language.
pub(super) fn kit(checkout: &Checkout) -> Result<Outcome> {
    let mut skipped = Vec::new();
    let samples: [Sample; 4] = [
        ("samples-rust", rust_sample),
        ("samples-go", go_sample),
        ("samples-python", python_sample),
        ("samples-node", node_sample),
    ];
    for (name, prepare) in samples {
        // Of the addresses that the published SDKs dial, and the kit tries, the machine has one each.
        let _addresses = testkit::exclusive(name);
        let outcome = match prepare(checkout)? {
            Outcome::Passed => play(checkout, name)?,
            other => other,
        };
        match outcome {
            Outcome::Passed => {}
            Outcome::Skipped(reason) => skipped.push(format!("{name}: {reason}")),
            failed @ Outcome::Failed(_) => return Ok(failed),
        }
    }
    Ok(if skipped.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Skipped(skipped.join("; "))
    })
}

type Sample = (&'static str, fn(&Checkout) -> Result<Outcome>);

/// What the kit leaves out would fail here: the samples' `check.json` tell it everything that it can try.
fn play(checkout: &Checkout, name: &str) -> Result<Outcome> {
    let log = format!("check-{name}");
    let mut check = checkout.cargo(["run", "--quiet", "--package", "mangrove", "--", "plugin", "check"]);
    let outcome = checkout.tool(&log, check.arg(sample_folder(name)))?;
    if outcome != Outcome::Passed {
        return Ok(outcome);
    }
    let log = checkout.logs.join(format!("{log}.log"));
    let said = std::fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    println!("    {}", last_line(&said));
    Ok(if is_complete(&said) {
        Outcome::Passed
    } else {
        Outcome::Failed(format!("{said}\nnot everything was tried"))
    })
}

/// Whether a check that did not fail has left nothing out, by its closing line.
fn is_complete(said: &str) -> bool {
    last_line(said).ends_with(" ok, 0 failed, 0 skipped")
}

fn rust_sample(checkout: &Checkout) -> Result<Outcome> {
    let name = "samples-rust";
    let mut build = checkout.cargo(["build", "--quiet", "--package", name]);
    let outcome = checkout.tool("sample-rust", &mut build)?;
    if outcome == Outcome::Passed {
        let to = stage(checkout, name)?;
        copy(&testkit::target_folder().join("debug").join(name), &to.join(name))?;
    }
    Ok(outcome)
}

fn go_sample(checkout: &Checkout) -> Result<Outcome> {
    if let Some(reason) = lacking(GO) {
        return Ok(Outcome::Skipped(reason));
    }
    let name = "samples-go";
    let program = stage(checkout, name)?.join(name);
    let mut build = in_go(
        &checkout.root.join("examples").join(name),
        &["build", "-trimpath", "-o"],
    );
    checkout.tool("sample-go", build.arg(program).arg("."))
}

/// With the SDK as a wheel, as its `requirements.txt` wants it.
fn python_sample(checkout: &Checkout) -> Result<Outcome> {
    let interpreter = match python_tools(checkout, !checkout.prepared) {
        Ok(interpreter) => interpreter,
        Err(reason) => return Ok(Outcome::Skipped(reason)),
    };
    let to = stage(checkout, "samples-python")?;
    // Building leaves files beside the sources.
    let sources = testkit::target_folder().join("python/sdk");
    remove(&sources)?;
    copy_all(&checkout.root.join("sdk/python"), &sources)?;
    let mut wheel = Command::new(interpreter);
    wheel
        .args([
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        // With the setuptools of the environment, so that nothing is downloaded.
        .args(["--no-build-isolation", "--wheel-dir"])
        .args([&to, &sources]);
    checkout.tool("sample-python", &mut wheel)
}

/// The SDK's step has made it ready, if it came before.
fn node_sample(checkout: &Checkout) -> Result<Outcome> {
    if checkout.prepared && sample_folder("samples-node").is_dir() {
        return Ok(Outcome::Passed);
    }
    node(checkout)
}

/// Where a sample lies when it is ready to run.
fn sample_folder(name: &str) -> PathBuf {
    match name {
        "samples-node" => node_folder().join("examples").join(name),
        _ => testkit::target_folder().join("plugins").join(name),
    }
}

fn node_folder() -> PathBuf {
    testkit::target_folder().join("node")
}

/// Lays what a sample needs besides its program where it will run, anew.
fn stage(checkout: &Checkout, name: &str) -> Result<PathBuf> {
    let (from, to) = (checkout.root.join("examples").join(name), sample_folder(name));
    remove(&to)?;
    std::fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries = std::fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let path = entry?.path();
        let kind = path.extension().and_then(|extension| extension.to_str());
        if let (Some("json" | "py" | "txt"), Some(name)) = (kind, path.file_name()) {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(to)
}

/// Copies a folder of sources, without what was made of them.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries = std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let hidden = name.starts_with('.') && entry.file_type()?.is_dir();
        if MADE.contains(&name.as_ref()) || hidden || name.ends_with(".egg-info") {
            continue;
        }
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &to)?;
        } else {
            copy(&entry.path(), &to)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Why this machine's `tool` cannot be used, if so.
fn lacking((name, question, oldest): Tool) -> Option<String> {
    let Some(program) = find_program(name) else {
        return Some(format!("{name} is not installed"));
    };
    let mut ask = Command::new(program);
    let said = match output(ask.arg(question).env("GOTOOLCHAIN", "local")) {
        Ok(said) => said,
        Err(error) => return Some(format!("{error:#}")),
    };
    let (major, minor) = oldest;
    match version(&said) {
        Some(found) if found >= oldest => None,
        _ => Some(format!(
            "{name} is {}; expected {major}.{minor} or newer",
            said.trim()
        )),
    }
}

/// The first two numbers of a version in what a program says of itself.
fn version(said: &str) -> Option<(u32, u32)> {
    let digits = said.get(said.find(|c: char| c.is_ascii_digit())?..)?;
    let mut numbers = digits.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn last_line(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_say() {
        assert_eq!(version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(version("v20.20.2\n"), Some((20, 20)));
        assert_eq!(version("Python 3.9.18\n"), Some((3, 9)));
        assert_eq!(version("unknown"), None);
        assert!(lacking(("no-such-program-anywhere", "", (1, 0))).is_some());
        assert!(lacking(("cargo", "--version", (1, 0))).is_none());
        assert!(lacking(("cargo", "--version", (1000, 0))).is_some());
    }

    #[test]
    fn a_check_that_leaves_something_out_is_not_complete() {
        assert!(is_complete("ok  hello  says hello\n36 ok, 0 failed, 0 skipped\n"));
        assert!(!is_complete("36 ok, 0 failed, 1 skipped\n"));
        assert!(!is_complete(""));
    }

    #[test]
    fn a_copy_leaves_out_what_was_made() {
        let home = tempfile::tempdir().unwrap();
        let from = home.path().join("from");
        for folder in ["src", "node_modules/x", ".venv-1"] {
            std::fs::create_dir_all(from.join(folder)).unwrap();
        }
        for file in ["src/main.ts", ".npmrc", "node_modules/x/y.js"] {
            std::fs::write(from.join(file), file).unwrap();
        }
        let to = home.path().join("to");
        copy_all(&from, &to).unwrap();
        let mut found: Vec<_> = to
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        found.sort();
        assert_eq!(found, [".npmrc", "src"]);
        assert!(to.join("src/main.ts").is_file());
    }
}
