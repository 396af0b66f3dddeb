//! Prepares what the tests need beyond Rust: packages of the distribution, when we may install them, Go
//! programs and Python environments. What doesn't work out is a skip, here and in each test that needs it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use testkit::foreign::{find_program, prepare_go, prepare_python, prepare_uv};

use super::report::Outcome;
use super::{Checkout, output, run_logged};

/// A program that tests and fuzz targets need, the Debian packages that bring it, and a way to tell that it works.
struct Need {
    program: &'static str,
    packages: &'static [&'static str],
    check: &'static [&'static str],
}

/// The Go module of the peer that speaks with mangos.
const MANGOS: &str = "sp-proto/tests/interop/mangos";

const NEEDS: &[Need] = &[
    Need {
        program: "nngcat",
        packages: &["nng-utils"],
        check: &["--version"],
    },
    Need {
        program: "nanocat",
        packages: &["nanomsg-utils"],
        check: &["--help"],
    },
    // Debian ships Python without what `venv` needs.
    Need {
        program: "python3",
        packages: &["python3", "python3-venv"],
        check: &["-c", "import ensurepip"],
    },
    // For the SDKs, and for a peer. How new they must be, who needs them says.
    Need {
        program: "go",
        packages: &["golang-go"],
        check: &["version"],
    },
    Need {
        program: "node",
        packages: &["nodejs"],
        check: &["--version"],
    },
    Need {
        program: "npm",
        packages: &["npm"],
        check: &["--version"],
    },
    // Folders of plugins come by these, among others.
    Need {
        program: "rsync",
        packages: &["rsync"],
        check: &["--version"],
    },
    Need {
        program: "unzip",
        packages: &["unzip"],
        check: &["-v"],
    },
    Need {
        program: "git",
        packages: &["git"],
        check: &["--version"],
    },
    // For the fuzzer.
    Need {
        program: "c++",
        packages: &["g++"],
        check: &["--version"],
    },
];

/// Installs what is missing, as root on Debian and its kin.
pub(super) fn programs(checkout: &Checkout) -> Result<Outcome> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !need.works()).collect();
    if missing.is_empty() {
        return Ok(Outcome::Passed);
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    let reason = if find_program("apt-get").is_none() {
        "this is no Debian or Ubuntu".to_owned()
    } else if !is_root() {
        format!("install the packages {} or run as root", packages.join(" "))
    } else {
        install(checkout, &packages)?
    };
    let still: Vec<&str> = missing
        .iter()
        .filter(|need| !need.works())
        .map(|need| need.program)
        .collect();
    Ok(if still.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Skipped(format!("{} not available: {reason}", still.join(", ")))
    })
}

/// Makes the Python environment that has this release of the published SDK.
pub(super) fn python(_: &Checkout, ekuiper: &str) -> Result<Outcome> {
    Ok(match prepare_python(ekuiper, true) {
        Ok(_) => Outcome::Passed,
        Err(reason) => Outcome::Skipped(reason),
    })
}

/// Finds or downloads `uv`, which builds Python environments.
pub(super) fn uv(_: &Checkout) -> Result<Outcome> {
    Ok(match prepare_uv(true) {
        Ok(_) => Outcome::Passed,
        Err(reason) => Outcome::Skipped(reason),
    })
}

/// Builds the peer that speaks with mangos.
pub(super) fn mangos(checkout: &Checkout) -> Result<Outcome> {
    Ok(match prepare_go(&checkout.root.join(MANGOS), true) {
        Ok(_) => Outcome::Passed,
        Err(reason) => Outcome::Skipped(reason),
    })
}

/// Returns what went wrong, empty if nothing did.
fn install(checkout: &Checkout, packages: &[&str]) -> Result<String> {
    let log = checkout.logs.join("packages.log");
    // One package that this release lacks must not keep the others out.
    let installs = packages
        .iter()
        .map(|package| ["install", "--yes", "--no-install-recommends", package].to_vec());
    let mut reason = String::new();
    for arguments in std::iter::once(vec!["update"]).chain(installs) {
        let mut command = Command::new("apt-get");
        command.args(&arguments).env("DEBIAN_FRONTEND", "noninteractive");
        println!("    apt-get {}", arguments.join(" "));
        if !run_logged(&mut command, &log)? {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last = text
                .lines()
                .rev()
                .find(|line| !line.is_empty())
                .unwrap_or_default();
            reason = format!("`apt-get {}` failed: {last}", arguments.join(" "));
        }
    }
    Ok(reason)
}

impl Need {
    fn works(&self) -> bool {
        find_program(self.program).is_some_and(|path| output(Command::new(path).args(self.check)).is_ok())
    }
}

fn is_root() -> bool {
    Path::new("/proc/self").metadata().is_ok_and(|own| own.uid() == 0)
}
