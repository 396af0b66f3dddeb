//! Checks that what ships is Rust all the way down: no C library is linked and no C compiler runs. The exception is
//! ring, rustls' cryptography, in the host: it fetches packages over https.

use anyhow::Result;

use super::report::Outcome;
use super::{Checkout, output};

/// What ships.
const PACKAGES: &[&str] = &["sp-proto", "mangrove-protocol", "mangrove-sdk", "mangrove", "car"];

/// What may have C, and where.
const EXCEPTIONS: &[(&str, &str)] = &[("mangrove", "ring")];

/// Build dependencies that run a C compiler or look for a C library.
const BUILDERS: &[&str] = &["cc", "cmake", "bindgen", "pkg-config", "vcpkg", "autotools"];

/// Named `-sys`, yet nothing but Rust declarations.
const DECLARATIONS: &[&str] = &["inotify-sys", "linux-raw-sys"];

pub(super) fn check(checkout: &Checkout) -> Result<Outcome> {
    let mut found = Vec::new();
    for package in PACKAGES {
        let mut tree = checkout.cargo(["tree", "--edges", "normal,build", "--prefix", "none"]);
        tree.args(["--package", package, "--format", "{p}"]);
        for (_, exception) in EXCEPTIONS.iter().filter(|(by, _)| by == package) {
            tree.args(["--prune", exception]);
        }
        let tree = output(&mut tree)?;
        found.extend(foreign(&tree).map(|name| {
            format!(
                "{package} depends on {name}, which brings C; `cargo tree --invert {name}` shows through whom"
            )
        }));
    }
    found.sort();
    found.dedup();
    Ok(if found.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Failed(found.join("\n"))
    })
}

/// The packages of the output of `cargo tree` that bring C.
fn foreign(tree: &str) -> impl Iterator<Item = &str> {
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| BUILDERS.contains(name) || (name.ends_with("-sys") && !DECLARATIONS.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_and_their_builders_are_found() {
        let tree =
            "mangrove v0.1.0 (/somewhere)\nlinux-raw-sys v0.12.0\ncc v1.2.0\nzstd-sys v2.0.0 (*)\nserde v1";
        assert_eq!(foreign(tree).collect::<Vec<_>>(), ["cc", "zstd-sys"]);
    }
}
