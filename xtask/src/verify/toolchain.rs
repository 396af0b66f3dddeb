//! Checks that the oldest Rust that we promise is the one that everything is built and tested with: the
//! pinned toolchain, every manifest and the README of `sp-proto` name the same.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::report::Outcome;
use super::{Checkout, metadata, output};

pub(super) fn check(checkout: &Checkout) -> Result<Outcome> {
    let read = |name: &str| {
        std::fs::read_to_string(checkout.root.join(name)).with_context(|| format!("cannot read {name}"))
    };
    let pinned = pinned(&read("rust-toolchain.toml")?)?;
    let mut stated = BTreeSet::new();
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        for package in metadata(checkout, manifest)? {
            let version = package["rust_version"].as_str().unwrap_or("none").to_owned();
            stated.insert((package["name"].to_string(), version));
        }
    }
    let mut found = problems(&pinned, &stated, &read("sp-proto/README.md")?);
    let running = output(&mut checkout.cargo(["--version"]))?;
    if running.split_whitespace().nth(1) != Some(pinned.as_str()) {
        found.push(format!(
            "this runs with {}, and rust-toolchain.toml pins {pinned}",
            running.trim()
        ));
    }
    Ok(if found.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Failed(found.join("\n"))
    })
}

/// The version in `rust-toolchain.toml`.
fn pinned(text: &str) -> Result<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("channel = "));
    let line = line.context("rust-toolchain.toml names no channel")?;
    Ok(line.trim().trim_matches('"').to_owned())
}

fn problems(pinned: &str, stated: &BTreeSet<(String, String)>, readme: &str) -> Vec<String> {
    // 1.95 and 1.95.0 are the same.
    let promise = pinned.strip_suffix(".0").unwrap_or(pinned);
    let mut found: Vec<_> = stated
        .iter()
        .filter(|(_, version)| version != promise && version != pinned)
        .map(|(name, version)| {
            format!("the manifest of {name} has rust-version {version}, and the pinned toolchain is {pinned}")
        })
        .collect();
    let sentence = format!("Rust {promise} or newer");
    if !readme.contains(&sentence) {
        found.push(format!(
            "sp-proto/README.md does not say {sentence:?}, as the pinned toolchain has it"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_must_name_the_pinned_version() {
        let pinned = pinned("[toolchain]\nchannel = \"1.95.0\"\n").unwrap();
        let stated = |version: &str| BTreeSet::from([("sp-proto".to_owned(), version.to_owned())]);
        let readme = "Rust 1.95 or newer is needed.";
        assert_eq!(problems(&pinned, &stated("1.95"), readme), [""; 0]);
        assert_eq!(problems(&pinned, &stated("1.95.0"), readme), [""; 0]);
        assert_eq!(problems(&pinned, &stated("1.94"), readme).len(), 1);
        assert_eq!(problems(&pinned, &stated("none"), readme).len(), 1);
        assert_eq!(problems("1.96.0", &stated("1.95"), readme).len(), 2);
    }
}
