//! Checks that what ships is Rust all the way down: no C library is linked and no C compiler runs. The one
//! exception is ring, where TLS is asked for: by the feature of `sp-proto`, and by the host, which fetches packages over
//! https.

use anyhow::Result;

use super::report::Outcome;
use super::{Checkout, output};

/// What ships, with which features, and which package may bring C there.
struct Shipped {
    arguments: &'static [&'static str],
    except: Option<&'static str>,
}

const SHIPPED: &[Shipped] = &[
    Shipped {
        arguments: &["--package", "sp-proto", "--all-features"],
        except: Some("ring"),
    },
    // The same without TLS.
    Shipped {
        arguments: &["--package", "sp-proto", "--features", "ws"],
        except: None,
    },
    // The host, with its whole data path, and both ends of the plugins' protocol.
    Shipped {
        arguments: &["--package", "mangrove", "--all-features"],
        except: Some("ring"),
    },
    Shipped {
        arguments: &["--package", "mangrove-protocol", "--all-features"],
        except: None,
    },
    Shipped {
        arguments: &["--package", "mangrove-sdk", "--all-features"],
        except: Some("ring"),
    },
    // The same without TLS.
    Shipped {
        arguments: &["--package", "mangrove-sdk", "--features", "testing"],
        except: None,
    },
    Shipped {
        arguments: &["--package", "car", "--all-features"],
        except: None,
    },
    Shipped {
        arguments: &["--package", "samples-rust", "--all-features"],
        except: None,
    },
];

/// Build dependencies that run a C compiler or look for a C library.
const BUILDERS: &[&str] = &["cc", "cmake", "bindgen", "pkg-config", "vcpkg", "autotools"];

/// Named `-sys`, yet nothing but Rust declarations.
const DECLARATIONS: &[&str] = &["inotify-sys", "linux-raw-sys"];

pub(super) fn check(checkout: &Checkout) -> Result<Outcome> {
    let mut found = Vec::new();
    for Shipped { arguments, except } in SHIPPED {
        let mut tree = checkout.cargo(["tree", "--locked", "--edges", "normal,build", "--no-dedupe"]);
        tree.args(["--prefix", "depth", "--format", " {p}"])
            .args(*arguments);
        let what = arguments[1..].join(" ");
        found.extend(foreign(&output(&mut tree)?, *except).map(|name| {
            format!(
                "{what} depends on {name}, which brings C; `cargo tree --invert {name}` shows through whom"
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

/// The packages of the output of `cargo tree` that bring C, each line being a depth and a package; without
/// `except` and what only that needs.
fn foreign<'a>(tree: &'a str, except: Option<&str>) -> impl Iterator<Item = &'a str> {
    let mut hidden_below = None;
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse::<usize>().ok()?, words.next()?))
        })
        .filter(move |(depth, name)| {
            if hidden_below.is_some_and(|root| *depth <= root) {
                hidden_below = None;
            }
            if hidden_below.is_none() && except == Some(*name) {
                hidden_below = Some(*depth);
            }
            hidden_below.is_none()
        })
        .map(|(_, name)| name)
        .filter(|name| BUILDERS.contains(name) || (name.ends_with("-sys") && !DECLARATIONS.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_and_their_builders_are_found() {
        let tree = "0 mangrove v0.1.0 (/somewhere)\n1 linux-raw-sys v0.12.0\n2 cc v1.2.0\n1 zstd-sys v2.0.0\n\
                    1 serde v1";
        assert_eq!(foreign(tree, None).collect::<Vec<_>>(), ["cc", "zstd-sys"]);
    }

    #[test]
    fn what_only_the_exception_needs_is_left_out() {
        let tree =
            "0 sp-proto v0.1.0\n1 rustls v0.23.0\n2 ring v0.17.0\n3 cc v1.2.0\n2 zeroize v1\n1 cc v1.2.0";
        assert_eq!(foreign(tree, Some("ring")).collect::<Vec<_>>(), ["cc"]);
        let (only_ring, _) = tree.rsplit_once('\n').unwrap();
        assert_eq!(foreign(only_ring, Some("ring")).count(), 0);
        assert_eq!(foreign(only_ring, None).collect::<Vec<_>>(), ["cc"]);
    }
}
