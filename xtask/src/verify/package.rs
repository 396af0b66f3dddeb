//! Packages what is meant to be published and checks what is in it: all that a stranger needs, nothing that
//! only this checkout has, and every target builds from the packaged sources.

use std::path::Path;

use anyhow::{Context, Result};

use super::report::Outcome;
use super::{Checkout, metadata, output, run_logged};

/// What every package must have.
const NEEDED: &[&str] = &["Cargo.toml", "LICENSE", "README.md", "src/lib.rs"];

/// Endings of certificates, keys and captures: fixtures at best.
const UNWANTED: &[&str] = &["pem", "key", "crt", "der", "p12", "pcap", "log"];

/// Tests that need the test kit, which is not published, stay behind; cargo mentions each.
const LEFT_OUT: &str = "warning: ignoring test ";

pub(super) fn check(checkout: &Checkout) -> Result<Outcome> {
    for package in metadata(checkout, "Cargo.toml")? {
        // An empty list of registries: never.
        if package["publish"].as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        let name = package["name"].as_str().context("a package has no name")?;
        let version = package["version"].as_str().context("a package has no version")?;
        let outcome = check_one(checkout, name, version)?;
        if outcome != Outcome::Passed {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Passed)
}

fn check_one(checkout: &Checkout, name: &str, version: &str) -> Result<Outcome> {
    let packaging = ["package", "--locked", "--allow-dirty", "--package", name];
    let mut found = problems(&output(checkout.cargo(packaging).arg("--list"))?);
    let log = checkout.logs.join(format!("package-{name}.log"));
    println!("    cargo {}", packaging.join(" "));
    let packaged = run_logged(&mut checkout.cargo(packaging), &log)?;
    let text = std::fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    if !packaged {
        return Ok(Outcome::Failed(format!("{text}\n{name} cannot be packaged")));
    }
    let warnings = text.lines().filter(|line| line.starts_with("warning:"));
    found.extend(
        warnings
            .filter(|line| !line.starts_with(LEFT_OUT))
            .map(str::to_owned),
    );
    if !found.is_empty() {
        return Ok(Outcome::Failed(format!(
            "the package of {name}:\n{}",
            found.join("\n")
        )));
    }
    let target = testkit::target_folder();
    let sources = target.join(format!("package/{name}-{version}/Cargo.toml"));
    let mut build = checkout.cargo(["check", "--all-targets", "--all-features"]);
    build
        .arg("--manifest-path")
        .arg(sources)
        .arg("--target-dir")
        .arg(&target);
    checkout.tool(&format!("packaged-{name}"), &mut build)
}

/// What is wrong with a package of these files.
fn problems(listing: &str) -> Vec<String> {
    let has = |wanted: &str| listing.lines().any(|file| file == wanted);
    let missing = NEEDED.iter().filter(|file| !has(file));
    let missing = missing.map(|file| format!("{file} is missing"));
    let unwanted = listing.lines().filter(|file| {
        let ending = Path::new(file).extension().unwrap_or_default();
        UNWANTED.iter().any(|unwanted| ending == *unwanted)
    });
    missing
        .chain(unwanted.map(|file| format!("{file} does not belong there")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_has_what_it_needs_and_no_keys() {
        let whole = NEEDED.join("\n");
        assert_eq!(problems(&whole), [""; 0]);
        assert_eq!(
            problems("Cargo.toml\nREADME.md\nsrc/lib.rs"),
            ["LICENSE is missing"]
        );
        let key = format!("{whole}\ntests/server.key");
        assert_eq!(problems(&key), ["tests/server.key does not belong there"]);
    }
}
