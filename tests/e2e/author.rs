//! What authors do, from nothing to a running rule, typed as the documents show it.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::process::Signal;
use testkit::{Process, within};
use tokio::process::Command;

use crate::host::Host;
use crate::languages::{fresh_node_sdk, npm};

/// What stands in the documents for the folder of this project.
const HERE: &str = "/where/mangrove/is";

/// Where the documents expect the host.
const ADDRESS: &str = "http://127.0.0.1:9081";

fn root() -> &'static str {
    env!("CARGO_MANIFEST_DIR")
}

fn mangrove(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mangrove"));
    command.current_dir(folder);
    command
}

async fn output(mut command: Command, what: &str) -> Output {
    within(what, command.output()).await.unwrap()
}

/// The command must succeed; its standard output.
async fn done(command: Command, what: &str) -> String {
    let output = output(command, what).await;
    let (said, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{what}: {said}{error}");
    said.into_owned()
}

/// A line of a document, in `folder`.
fn typed(line: &str, folder: &Path) -> Command {
    let line = line.replace(HERE, root());
    match line.strip_prefix("mangrove ") {
        Some(words) => {
            let mut command = mangrove(folder);
            command.args(words.split(' '));
            command
        }
        None => {
            let mut command = Command::new("sh");
            command.args(["-c", &line]).current_dir(folder);
            command
        }
    }
}

/// The lines of the blocks for a shell in the part of a document that is headed so.
fn lines_of(document: &'static str, part: &str) -> Vec<&'static str> {
    let (_, part) = document.split_once(part).expect("the document has this part");
    let part = part.split("\n## ").next().unwrap_or(part);
    let blocks = part.split("\n```").skip(1).step_by(2);
    let shell = blocks.filter_map(|block| block.strip_prefix("sh\n"));
    shell.flat_map(str::lines).collect()
}

/// A host in which the plugin in `folder` runs and is followed.
async fn run(folder: &Path) -> Host {
    let mut command = mangrove(folder);
    command.args(["plugin", "run", ".", "--rest", "127.0.0.1:0"]);
    Host::ready(Process::spawn(command)).await
}

#[tokio::test]
async fn five_minutes_lead_from_nothing_to_a_running_rule() {
    let _name = testkit::exclusive("megaphone");
    let home = TempDir::new().unwrap();
    let mut folder = home.path().to_owned();
    let mut host: Option<Host> = None;
    let mut calls = 0;
    for line in lines_of(
        include_str!("../../docs/plugins.md"),
        "## From nothing to a running rule",
    ) {
        if let Some(name) = line.strip_prefix("cd ") {
            folder.push(name);
        } else if line == "mangrove plugin run ." {
            let mut started = run(&folder).await;
            let running = |line: &str| line.contains("running plugin=megaphone");
            started.process.line("the plugin", running).await;
            host = Some(started);
        } else if line.starts_with("curl ") {
            let host = host.as_mut().expect("run comes before");
            let (_, rest) = line.split_once(ADDRESS).unwrap();
            let (path, body) = rest.split_once(" -d ").unwrap();
            let reply = host.request("POST", path, body.trim_matches('\'')).await;
            assert_eq!(reply.status, 201, "{line}: {}", reply.body);
            calls += 1;
        } else if let Some(line) = line.strip_prefix("sed ") {
            done(typed(&format!("sed {line}"), &folder), line).await;
            let host = host.as_mut().expect("run comes before");
            while host.logged("shouting").await != json!([{"n": 0, "text": "hello"}]) {}
        } else {
            let said = done(typed(line, &folder), line).await;
            assert!(!line.contains("check") || said.contains(" 0 failed"), "{said}");
        }
        if calls == 2 {
            let host = host.as_mut().unwrap();
            let first = host.logged("shouting").await;
            assert_eq!(first[0]["text"], "HELLO", "{first}");
            calls += 1;
        }
    }
    assert_eq!(calls, 3, "the document has a stream and a rule");
    let mut host = host.unwrap();
    host.process.signal(Signal::INT);
    assert!(host.process.wait().await.success());
}

#[tokio::test]
async fn the_commands_for_authors_do_what_they_are_for() {
    if !Path::new(env!("CARGO_BIN_EXE_mangrove")).starts_with(root()) {
        testkit::skip(
            "the SDK beside the program",
            "the program is built outside of the checkout",
        );
        return;
    }
    let _name = testkit::exclusive("megaphone");
    let home = TempDir::new().unwrap();
    let lines = lines_of(include_str!("../../docs/cli.md"), "## Writing plugins");
    assert_eq!(lines.len(), 4, "{lines:?}");
    for line in lines {
        let mut command = typed(line, home.path());
        if !line.contains(" run ") {
            done(command, line).await;
            continue;
        }
        command.args(["--rest", "127.0.0.1:0"]);
        let mut host = Host::ready(Process::spawn(command)).await;
        let running = |line: &str| line.contains("running plugin=megaphone");
        host.process.line("the plugin", running).await;
        assert!(host.interrupt().await.success());
    }
    assert!(home.path().join("megaphone.zip").is_file());
}

/// Types what `plugin new` says comes next, but for the host that runs until Ctrl-C. `None`: npm reaches no registry.
async fn type_what_it_says(said: &str, parent: &Path) -> Option<()> {
    let mut folder = parent.to_owned();
    let steps = said.lines().filter_map(|line| line.strip_prefix("  "));
    let mut count = 0;
    for step in steps.filter(|step| !step.contains("plugin run")) {
        count += 1;
        match (step.strip_prefix("cd "), step.strip_prefix("npm ")) {
            (Some(name), _) => folder.push(name),
            (_, Some(words)) => npm(&folder, words)?,
            _ => drop(done(typed(step, &folder), step).await),
        }
    }
    assert!(count >= 3, "{said}");
    Some(())
}

#[tokio::test]
async fn a_new_python_plugin_passes_its_test_and_the_kit_with_the_commands_that_are_printed() {
    let home = TempDir::new().unwrap();
    let said = new(home.path(), "fresh-python", "python").await;
    type_what_it_says(&said, home.path()).await.unwrap();
}

#[tokio::test]
async fn a_new_typescript_plugin_builds_from_a_fresh_checkout_and_passes_its_test_and_the_kit() {
    let Some(checkout) = fresh_node_sdk() else { return };
    let home = TempDir::new().unwrap();
    let sdk = checkout.path().join("sdk/node");
    let said = new_with(home.path(), "fresh-typescript", "typescript", &sdk).await;
    if type_what_it_says(&said, home.path()).await.is_some() {
        check(&home.path().join("fresh-typescript")).await;
    }
}

#[tokio::test]
async fn what_is_saved_runs_and_what_is_broken_is_told() {
    let _name = testkit::exclusive("follow");
    let home = TempDir::new().unwrap();
    new(home.path(), "follow", "python").await;
    let folder = home.path().join("follow");
    let mut host = run(&folder).await;
    let loaded = |line: &str| line.contains("the plugin is loaded");
    host.process.line("the first copy", loaded).await;
    std::fs::write(folder.join("follow.json"), "{").unwrap();
    let broken = |line: &str| line.contains("not loaded: ");
    host.process.line("what is broken", broken).await;
    let status = host.get("/plugins/portables/follow/status").await.json();
    assert_ne!(status["status"], "refused", "the copy stays as it was: {status}");
    assert!(host.interrupt().await.success());
}

/// Makes a plugin with the SDK of the checkout; what is said then.
async fn new(parent: &Path, name: &str, language: &str) -> String {
    new_with(
        parent,
        name,
        language,
        &Path::new(root()).join("sdk").join(language),
    )
    .await
}

async fn new_with(parent: &Path, name: &str, language: &str, sdk: &Path) -> String {
    let mut command = mangrove(parent);
    command
        .args(["plugin", "new", name, "--language", language, "--sdk"])
        .arg(sdk);
    done(command, "plugin new").await
}

/// Plays the conformance kit.
async fn check(folder: &Path) {
    let mut command = mangrove(folder);
    command.args(["plugin", "check", ".", "--json"]);
    let said = done(command, "plugin check").await;
    let lines = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let tried = lines.filter(|line| line["result"] == "ok").count();
    assert!(tried >= 30, "{said}");
}

#[tokio::test]
async fn a_new_rust_plugin_builds_passes_its_test_and_the_kit() {
    let home = TempDir::new().unwrap();
    new(home.path(), "fresh-rust", "rust").await;
    let folder = home.path().join("fresh-rust");
    // Nothing is fetched: the versions are those of this project.
    std::fs::copy(Path::new(root()).join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let target = testkit::target_folder().join("templates");
    for word in ["build", "test"] {
        let mut command = Command::new(env!("CARGO"));
        command.args([word, "--offline", "--quiet"]).current_dir(&folder);
        command.env("CARGO_TARGET_DIR", &target);
        // The first time, everything that the SDK needs is built.
        let output = command.output().await.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    std::fs::create_dir_all(folder.join("target/release")).unwrap();
    std::fs::copy(
        target.join("debug/fresh-rust"),
        folder.join("target/release/fresh-rust"),
    )
    .unwrap();
    check(&folder).await;
}

#[tokio::test]
async fn a_new_go_plugin_builds_passes_its_test_and_the_kit() {
    if testkit::program("go").is_none() {
        return;
    }
    let home = TempDir::new().unwrap();
    new(home.path(), "fresh-go", "go").await;
    let folder = home.path().join("fresh-go");
    for words in [["test", "./..."], ["build", "."]] {
        let mut command = Command::new("go");
        command.args(words).current_dir(&folder);
        let output = command.output().await.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    check(&folder).await;
}

#[tokio::test]
async fn a_package_is_installed_over_rest() {
    let _name = testkit::exclusive("packed");
    let home = TempDir::new().unwrap();
    new(home.path(), "packed", "python").await;
    let folder = home.path().join("packed");
    let mut command = mangrove(home.path());
    command.args(["plugin", "pack", "packed", "--json"]);
    let packed: Value = serde_json::from_str(&done(command, "plugin pack").await).unwrap();
    let zip: PathBuf = home.path().join(packed["file"].as_str().unwrap());
    let host = Host::start(&home.path().join("host")).await;
    let body = json!({
        "name": "packed", "file": format!("file://{}", zip.display()), "sha256": packed["sha256"]
    });
    let reply = host.post("/plugins/portables", &body).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    let status = host.get("/plugins/portables/packed/status").await.json();
    assert_eq!(status["status"], "running", "{status}");
    // What has no name is not packed, and says so.
    std::fs::remove_file(folder.join("main.py")).unwrap();
    let mut command = mangrove(home.path());
    command.args(["plugin", "pack", "packed"]);
    let refused = output(command, "plugin pack").await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(1) && said.contains("main.py cannot be found"),
        "{said}"
    );
    assert!(host.interrupt().await.success());
}
