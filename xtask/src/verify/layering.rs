//! Checks the arrows of the code map: which module may import which. It reads `crate::` and `super::` paths
//! in the sources, so what it knows is the text, not the meaning; privacy does the rest. A name that the
//! crate's root re-exports counts as an import of the module that it comes from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Checkout;
use super::report::Outcome;

/// The rules of one crate.
struct Crate {
    sources: &'static str,
    layers: &'static [Layer],
}

/// A top-level module of a crate and what it may import of that crate; what isn't listed is forbidden.
struct Layer {
    module: &'static str,
    may_import: &'static [&'static str],
    /// Paths outside of the crate that would break its purpose.
    never: &'static [&'static str],
}

/// What pure code doesn't touch.
const IO: &[&str] = &[
    "tokio",
    "tokio_util",
    "rustix",
    "sp_proto",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
];

/// The host never builds on the SDK: a plugin's author and the host meet only in the contract.
const SDK: &[&str] = &["mangrove_sdk"];

const CRATES: &[Crate] = &[
    Crate {
        sources: "src",
        layers: &[
            Layer {
                module: "config",
                may_import: &[],
                never: SDK,
            },
            Layer {
                module: "store",
                may_import: &[],
                never: SDK,
            },
            Layer {
                module: "function",
                may_import: &["sql"],
                never: IO,
            },
            Layer {
                module: "sql",
                may_import: &["function"],
                never: IO,
            },
            Layer {
                module: "plugin",
                may_import: &["config", "store"],
                never: SDK,
            },
            Layer {
                module: "io",
                may_import: &["config"],
                never: SDK,
            },
            Layer {
                module: "rule",
                may_import: &["config", "function", "io", "plugin", "sql", "store"],
                never: SDK,
            },
            Layer {
                module: "api",
                may_import: &["config", "plugin", "rule"],
                never: SDK,
            },
            Layer {
                module: "app",
                may_import: &[
                    "api", "config", "function", "io", "plugin", "rule", "sql", "store",
                ],
                never: SDK,
            },
            Layer {
                module: "author",
                may_import: &["config", "plugin"],
                never: SDK,
            },
            Layer {
                module: "check",
                may_import: &["config", "plugin"],
                never: SDK,
            },
            Layer {
                module: "cli",
                may_import: &["app", "author", "check", "config"],
                never: SDK,
            },
        ],
    },
    Crate {
        sources: "sp-proto/src",
        layers: &[
            Layer {
                module: "guide",
                may_import: &[],
                never: IO,
            },
            Layer {
                module: "id",
                may_import: &[],
                never: IO,
            },
            Layer {
                module: "message",
                may_import: &[],
                never: IO,
            },
            Layer {
                module: "protocol",
                may_import: &[],
                never: IO,
            },
            Layer {
                module: "stats",
                may_import: &["id"],
                never: IO,
            },
            Layer {
                module: "sync",
                may_import: &[],
                never: &[],
            },
            Layer {
                module: "wire",
                may_import: &["id", "message", "protocol"],
                never: IO,
            },
            Layer {
                module: "pattern",
                may_import: &["id", "message", "protocol", "stats", "wire"],
                never: IO,
            },
            Layer {
                module: "transport",
                may_import: &["error", "id", "message", "protocol", "sync", "wire"],
                never: &[],
            },
            Layer {
                module: "error",
                may_import: &["id", "message", "protocol", "transport", "wire"],
                never: &[],
            },
            Layer {
                module: "engine",
                may_import: &[
                    "error",
                    "id",
                    "message",
                    "pattern",
                    "protocol",
                    "socket",
                    "stats",
                    "sync",
                    "transport",
                    "wire",
                ],
                never: &[],
            },
            Layer {
                module: "socket",
                may_import: &[
                    "engine",
                    "error",
                    "id",
                    "message",
                    "pattern",
                    "protocol",
                    "stats",
                    "transport",
                    "wire",
                ],
                never: &[],
            },
        ],
    },
    Crate {
        sources: "sdk/protocol/src",
        layers: &[
            Layer {
                module: "native",
                may_import: &["Object", "data", "excerpt", "fields", "manifest", "name"],
                never: IO,
            },
            Layer {
                module: "fields",
                may_import: &["Object"],
                never: IO,
            },
            Layer {
                module: "name",
                may_import: &[],
                never: IO,
            },
            Layer {
                module: "excerpt",
                may_import: &[],
                never: IO,
            },
            Layer {
                module: "address",
                may_import: &["name"],
                never: IO,
            },
            Layer {
                module: "manifest",
                may_import: &["name"],
                never: IO,
            },
            Layer {
                module: "control",
                may_import: &["Object", "excerpt", "name"],
                never: IO,
            },
            Layer {
                module: "data",
                may_import: &["Object", "excerpt", "name"],
                never: IO,
            },
        ],
    },
];

pub(super) fn check(checkout: &Checkout) -> Result<Outcome> {
    let mut found = Vec::new();
    for Crate { sources, layers } in CRATES {
        let root = checkout.root.join(sources).join("lib.rs");
        let root =
            std::fs::read_to_string(&root).with_context(|| format!("cannot read {}", root.display()))?;
        let root = re_exports(&root);
        let mut files = Vec::new();
        rust_files(&checkout.root.join(sources), &mut files)?;
        files.sort();
        for file in files {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let inside = file.strip_prefix(checkout.root.join(sources)).unwrap_or(&file);
            found.extend(
                violations(layers, &root, inside, &text)
                    .into_iter()
                    .map(|what| format!("{sources}/{}: {what}", inside.display())),
            );
        }
    }
    Ok(if found.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Failed(found.join("\n"))
    })
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The types that a crate's root re-exports, with the modules they come from.
type ReExports = HashMap<String, String>;

fn re_exports(root: &str) -> ReExports {
    let code = production_code(root);
    let statements = places(&code, "pub use ").map(|(_, rest)| rest.split(';').next().unwrap_or(rest));
    let mut found = ReExports::new();
    for statement in statements {
        let mut names = statement
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|name| !name.is_empty());
        let Some(module) = names.find(|name| !matches!(*name, "crate" | "self")) else {
            continue;
        };
        let types = names.filter(|name| name.starts_with(char::is_uppercase));
        found.extend(types.map(|name| (name.to_owned(), module.to_owned())));
    }
    found
}

/// What is wrong in the file `path`, relative to the crate's sources.
fn violations(layers: &[Layer], root: &ReExports, path: &Path, text: &str) -> Vec<String> {
    let modules = modules(path);
    let Some(module) = modules.first() else {
        return Vec::new(); // the crate's root, which may do anything
    };
    if modules.iter().any(|module| module == "tests") {
        return Vec::new();
    }
    let Some(layer) = layers.iter().find(|layer| layer.module == module) else {
        return vec![format!(
            "the module `{module}` has no layer; give it one in xtask/src/verify/layering.rs"
        )];
    };
    let code = production_code(text);
    let own_root = "super::".repeat(modules.len());
    let mut found = Vec::new();
    for (number, rest) in places(&code, &own_root).chain(places(&code, "crate::")) {
        for name in first_names(rest) {
            let name = root.get(name).map_or(name, String::as_str);
            if name != layer.module && !layer.may_import.contains(&name) {
                let may = layer.may_import.join(", ");
                found.push(format!(
                    "line {number}: `{module}` imports `{name}`; it may import: {may}"
                ));
            }
        }
    }
    for forbidden in layer.never {
        found.extend(
            places(&code, forbidden)
                .filter(|(_, rest)| rest.starts_with([':', ';', ' ', ',']))
                .map(|(number, _)| {
                    format!("line {number}: `{module}` uses `{forbidden}`, which it must not know")
                }),
        );
    }
    found
}

/// `plugin/worker/mod.rs` → plugin, worker; `lib.rs` and `main.rs` → nothing.
fn modules(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = path
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if names.last().is_some_and(|last| last == "mod") || names == ["lib"] || names == ["main"] {
        names.pop();
    }
    names
}

/// The text without line comments, up to the tests, which may import what they like.
fn production_code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let tests_follow = lines.peek().is_some_and(|next| next.starts_with("mod "));
        if line == "#[cfg(test)]" && tests_follow {
            break;
        }
        let comment = line.find("//").filter(|at| !line[..*at].ends_with(':'));
        code.push_str(&line[..comment.unwrap_or(line.len())]);
        code.push('\n');
    }
    code
}

/// Where `path` begins in the code: the line's number and what follows.
fn places<'a>(code: &'a str, path: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let inside_a_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '$');
    code.match_indices(path)
        .filter(move |(at, _)| !code[..*at].ends_with(inside_a_name))
        .map(move |(at, _)| (code[..at].matches('\n').count() + 1, &code[at + path.len()..]))
}

/// The first name of a path, or those of each path of a group: `{a, b::{c, d}}` → a, b.
fn first_names(rest: &str) -> Vec<&str> {
    let identifier = |text: &str| {
        text.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![&rest[..identifier(rest)]];
    };
    let mut names = Vec::new();
    let mut depth = 0usize;
    let mut expected = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            c if depth == 0 && expected && !c.is_whitespace() => {
                names.push(&group[at..at + identifier(&group[at..])]);
                expected = false;
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: &[Layer] = &[
        Layer {
            module: "plugin",
            may_import: &["config"],
            never: &["mangrove_sdk"],
        },
        Layer {
            module: "sql",
            may_import: &[],
            never: &["tokio", "std::fs"],
        },
    ];

    fn found(path: &str, text: &str) -> Vec<String> {
        let root = re_exports(
            "mod rule;\npub use rule::{\n    Handle as Rules, Rule,\n};\npub use config::Config;\n",
        );
        violations(LAYERS, &root, Path::new(path), text)
    }

    #[test]
    fn arrows_that_are_not_listed_are_found_with_their_line() {
        assert_eq!(
            found(
                "plugin/manager.rs",
                "use crate::config::Config;\nuse crate::rule::Handle;\n"
            ),
            ["line 2: `plugin` imports `rule`; it may import: config"]
        );
        assert_eq!(
            found("plugin/mod.rs", "use crate::{config, plugin::x, api::{a, b}};\n").len(),
            1
        );
        assert_eq!(found("plugin/mod.rs", "use super::rule;\n").len(), 1);
        assert_eq!(
            found(
                "plugin/a/b.rs",
                "use super::super::super::rule;\nuse super::super::worker;"
            )
            .len(),
            1
        );
        assert_eq!(found("sql/mod.rs", "fn f() { crate::store::open(); }\n").len(), 1);
    }

    #[test]
    fn a_re_exported_name_belongs_to_its_module() {
        assert_eq!(found("plugin/mod.rs", "use crate::{Config, Rule};").len(), 1);
        assert_eq!(found("plugin/mod.rs", "use crate::Rules;").len(), 1);
        assert_eq!(found("plugin/mod.rs", "use crate::Config;"), [""; 0]);
    }

    #[test]
    fn foreign_paths_that_break_a_layers_purpose_are_found() {
        assert_eq!(
            found("sql/parse.rs", "use tokio::sync::mpsc;\nuse std::fs;\n").len(),
            2
        );
        assert_eq!(found("plugin/mod.rs", "use mangrove_sdk::Source;").len(), 1);
        assert_eq!(
            found(
                "sql/parse.rs",
                "use tokio_like::x; use my::tokio::x; let tokiox = 1;"
            ),
            [""; 0]
        );
    }

    #[test]
    fn comments_and_tests_may_say_anything() {
        let text =
            "//! see crate::rule\n// crate::api\n#[cfg(test)]\nmod tests {\n    use crate::api::x;\n}\n";
        assert_eq!(found("plugin/mod.rs", text), [""; 0]);
        assert_eq!(found("sql/tests/hostile.rs", "use tokio::x;"), [""; 0]);
        assert_eq!(found("sql/tests.rs", "use tokio::x;"), [""; 0]);
    }

    #[test]
    fn roots_are_free_and_unknown_modules_are_named() {
        assert_eq!(found("lib.rs", "use crate::rule;"), [""; 0]);
        assert!(
            found("mystery/mod.rs", "")
                .concat()
                .contains("`mystery` has no layer")
        );
    }
}
