//! What the documents say must be there: the commands that they tell a reader to type, and the files that they
//! point to.

use std::path::{Path, PathBuf};

/// Cargo's own commands that the documents may use; all others must be aliases of this project.
const CARGO: &[&str] = &[
    "add", "bench", "build", "check", "clippy", "doc", "fmt", "fuzz", "install", "new", "run", "test", "tree",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every committed document, by its path.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
                folders.push(path);
            } else if name.ends_with(".md") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The lines of the fenced blocks that are meant for a shell.
fn shell_lines(text: &str) -> Vec<&str> {
    let mut inside = None;
    let mut lines = Vec::new();
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), inside) {
            (Some(language), None) => {
                inside = Some(matches!(language.trim(), "sh" | "shell" | "bash" | "console"));
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(true)) => lines.push(line.trim().trim_start_matches("$ ")),
            (None, _) => {}
        }
    }
    lines
}

#[test]
fn cargo_commands_in_the_documents_exist() {
    let aliases = std::fs::read_to_string(root().join(".cargo/config.toml")).unwrap();
    for (path, text) in documents() {
        for line in shell_lines(&text) {
            let mut words = line.split_whitespace();
            if words.next() != Some("cargo") {
                continue;
            }
            let command = words
                .find(|word| !word.starts_with(['-', '+']))
                .unwrap_or_default();
            let alias = aliases
                .lines()
                .any(|alias| alias.starts_with(&format!("{command} =")));
            assert!(
                alias || CARGO.contains(&command),
                "{}: `{line}` uses a command that is neither cargo's nor an alias here",
                path.display()
            );
        }
    }
}

#[test]
fn bodies_of_requests_in_the_documents_are_json() {
    for (path, text) in documents() {
        for line in shell_lines(&text)
            .into_iter()
            .filter(|line| line.starts_with("curl"))
        {
            let Some((_, rest)) = line.split_once("-d '") else {
                continue;
            };
            let (body, _) = rest
                .split_once('\'')
                .unwrap_or_else(|| panic!("{}: {line}", path.display()));
            serde_json::from_str::<serde_json::Value>(body)
                .unwrap_or_else(|error| panic!("{}: `{line}`: {error}", path.display()));
        }
    }
}

#[test]
fn files_that_the_documents_point_to_exist() {
    for (path, text) in documents() {
        let folder = path.parent().unwrap();
        // Code has brackets of its own.
        let prose: String = text.split("```").step_by(2).collect();
        for link in prose.split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap();
            // What is a path in Rust is for rustdoc to check.
            if target.is_empty() || target.contains("::") {
                continue;
            }
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            assert!(
                folder.join(target).exists(),
                "{}: there is no {target}",
                path.display()
            );
        }
    }
}

#[test]
fn the_two_commands_are_in_the_readme() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let lines = shell_lines(&readme);
    for command in ["cargo demo", "cargo verify"] {
        assert!(
            lines.iter().any(|line| line.starts_with(command)),
            "the README has no `{command}`"
        );
    }
}

#[test]
fn only_shell_blocks_are_read() {
    let text = "```shell\n$ cargo demo\n```\n```rust\ncargo nonsense\n```\ncargo prose\n  ```console\n  cargo verify\n  ```\n";
    assert_eq!(shell_lines(text), ["cargo demo", "cargo verify"]);
}
