//! Checks that nothing committed holds what is true only here: paths of this machine, hosts of its package
//! mirrors, or any registry's host name beyond what the lock files of package managers need.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result};

use super::report::Outcome;
use super::{Checkout, output};

/// Where people's folders lie. Written in halves, so that this file passes its own check.
const HOMES: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
];

/// Hosts of registries; Cargo and Go know their own.
const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("golang", ".org"),
];

/// The only source that a `Cargo.lock` may name.
const CARGO_SOURCE: &str = concat!(
    "source = \"registry+https://github.com/rust-lang/crates",
    ".io-index\""
);

/// What the names of Go's own modules begin with.
const GO_MODULES: &str = concat!("golang", ".org/x/");

/// Variables that hold the address of a package mirror, as the tools name them.
const MIRROR_VARIABLES: &[&str] = &["INDEX", "REGISTRY", "REGISTRIES", "GOPROXY"];

pub(super) fn check(checkout: &Checkout) -> Result<Outcome> {
    let listing = output(
        Command::new("git")
            .current_dir(&checkout.root)
            .args(["ls-files", "-z"]),
    );
    let Ok(listing) = listing else {
        return Ok(Outcome::Skipped(
            "this is no git checkout, or git is not installed".to_owned(),
        ));
    };
    let mut forbidden: BTreeSet<String> = HOMES.iter().chain(REGISTRIES).map(ToString::to_string).collect();
    forbidden.insert(checkout.root.display().to_string());
    forbidden.extend(mirrors(std::env::vars()));

    let mut found = Vec::new();
    for name in listing.split_terminator('\0') {
        let path = checkout.root.join(name);
        if path.is_symlink() || !path.exists() {
            continue; // deleted but not yet committed
        }
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        let Ok(text) = String::from_utf8(bytes) else {
            continue; // no text, such as a corpus
        };
        found.extend(problems(name, &text, &forbidden));
    }
    Ok(if found.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Failed(found.join("\n"))
    })
}

fn problems(name: &str, text: &str, forbidden: &BTreeSet<String>) -> Vec<String> {
    let lock = name.ends_with("Cargo.lock");
    let modules = name.ends_with("go.mod") || name.ends_with("go.sum");
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if lock && line == CARGO_SOURCE {
            continue;
        }
        if lock && line.starts_with("source = ") {
            found.push(format!("{name}:{}: an unusual source: {line}", number + 1));
        }
        // Go's own modules are named after its host, without being fetched from there.
        let named = modules && line.trim_start().starts_with(GO_MODULES);
        let hits = forbidden
            .iter()
            .filter(|text| line.contains(text.as_str()) && !(named && GO_MODULES.starts_with(text.as_str())));
        found.extend(hits.map(|hit| format!("{name}:{}: contains {hit:?}", number + 1)));
    }
    found
}

/// The hosts that the environment names as package mirrors.
fn mirrors(variables: impl Iterator<Item = (String, String)>) -> impl Iterator<Item = String> {
    variables
        .filter(|(name, _)| {
            MIRROR_VARIABLES
                .iter()
                .any(|part| name.to_uppercase().contains(part))
        })
        .flat_map(|(_, value)| value.split([',', '|', ' ']).filter_map(host).collect::<Vec<_>>())
}

fn host(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let host = authority.rsplit('@').next()?.split(':').next()?;
    (!host.is_empty()).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_hosts_are_found_with_their_line() {
        let forbidden = BTreeSet::from([concat!("/ro", "ot/").to_owned(), "mirror.example".to_owned()]);
        let text = format!("fine\nsee {}x\nhttps://mirror.example/simple\n", HOMES[1]);
        let found = problems("README.md", &text, &forbidden);
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("README.md:2: contains"), "{found:?}");
        assert_eq!(found[1], "README.md:3: contains \"mirror.example\"");
    }

    #[test]
    fn a_lock_file_may_name_the_public_registry_only() {
        let forbidden = REGISTRIES.iter().map(ToString::to_string).collect();
        assert_eq!(problems("fuzz/Cargo.lock", CARGO_SOURCE, &forbidden), [""; 0]);
        let other = "source = \"sparse+https://mirror.example/index/\"";
        assert_eq!(problems("Cargo.lock", other, &forbidden).len(), 1);
    }

    #[test]
    fn go_modules_may_have_their_names() {
        let forbidden = REGISTRIES.iter().map(ToString::to_string).collect();
        let line = format!("\t{GO_MODULES}sys v0.0.1 // indirect");
        assert_eq!(problems("peer/go.mod", &line, &forbidden), [""; 0]);
        assert_eq!(problems("peer/main.go", &line, &forbidden).len(), 1);
        assert_eq!(
            problems("peer/go.sum", &format!("proxy.{GO_MODULES}"), &forbidden).len(),
            1
        );
    }

    #[test]
    fn mirrors_are_read_from_the_environment() {
        let variables = [
            ("PIP_INDEX_URL", "https://user:secret@mirror.example:8443/simple"),
            ("GOPROXY", "https://go.example,direct"),
            ("EDITOR", "https://not.example"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found: Vec<String> = mirrors(variables.into_iter()).collect();
        assert_eq!(found, ["mirror.example", "go.example"]);
    }
}
