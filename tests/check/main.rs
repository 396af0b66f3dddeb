//! The conformance kit against a plugin that is sound, and against the same plugin with one fault at a time: each must
//! make the behaviour fail that is about it, with a reason that says so.

mod peer;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// What is wrong, which behaviour has to notice it, and part of the reason.
const FAULTS: &[(&str, &str, &str)] = &[
    ("has another token", "hello", "its token is not the one"),
    (
        "speaks a later version only",
        "hello",
        "it speaks the versions [2]",
    ),
    ("lacks a symbol", "hello", "does not name the sink keep"),
    (
        "is content to be refused",
        "refused",
        "it ended with exit code 0; expected exit code 1",
    ),
    ("does what it does not know", "later-versions", "without an error"),
    ("answers pings late", "ping", "a ping only after a call of slow"),
    (
        "does not reconnect",
        "reconnect",
        "its process ended before its connection came",
    ),
    (
        "goes on without the host",
        "reconnect",
        "the end of what counter did",
    ),
    (
        "does not answer stop",
        "start-stop",
        "the answer to stop of echo did not come",
    ),
    ("keeps files open", "restart", "open files instead of"),
    (
        "stops all uses at once",
        "uses",
        "the acknowledgement of batch 2 by the sink keep did not come",
    ),
    (
        "starts anything",
        "unknown-symbol",
        "it starts a source that it does not have",
    ),
    (
        "takes any configuration",
        "wrong-config",
        "the source counter starts with the configuration",
    ),
    ("skips a number", "batches", "sent batch 4 after batch 2"),
    ("sends too many at once", "batches", "at most 16 are allowed"),
    ("gives meta for one", "batches", "1 items in \"meta\""),
    (
        "forgets its last batch",
        "drain",
        "as its last one, and sent batch",
    ),
    (
        "loses tuples when the host is slow",
        "back-pressure",
        "after batch",
    ),
    ("queues without end", "back-pressure", "MiB more"),
    ("never ends", "ends", "of the source counter did not come"),
    ("begins anew", "offset", "begins where it began"),
    (
        "acknowledges what was not sent",
        "acks",
        "it acknowledges batch 90",
    ),
    (
        "acknowledges backwards",
        "acks",
        "it acknowledges batch 1 after batch 2",
    ),
    ("acknowledges unasked", "no-acks", "though it was not asked to"),
    (
        "names another result",
        "sink-errors",
        "{(1, 2)} failed; expected {(1, 1)}",
    ),
    ("answers stop too early", "sink-stop", "when it had acknowledged"),
    (
        "gives up in a flood",
        "flood",
        "an acknowledgement of the sink keep did not come",
    ),
    ("returns something else", "calls", "echo(1) is 42; expected 1"),
    ("answers another call", "calls", "a result of call 1001"),
    ("gives two results", "calls", "two results of call 1"),
    ("loses a call", "in-flight", "a result of echo did not come"),
    (
        "loses a call of total",
        "in-flight",
        "a result of total did not come",
    ),
    ("holds up fast calls", "deadlines", "only after a slow one"),
    (
        "makes calls whose time is up",
        "deadlines",
        "a result of slow, behind 60 calls whose time was up, did not come",
    ),
    (
        "hides errors",
        "call-errors",
        "expected an error with \"no such luck\" in it",
    ),
    (
        "dies of a panic",
        "panics",
        "its process ended before a result of fail came",
    ),
    (
        "accepts all arguments",
        "validate",
        "it accepts the arguments of echo()",
    ),
    ("answers another request", "validate", "which nobody has asked"),
    ("answers twice", "validate", "a second time"),
    (
        "hides that it works on groups",
        "aggregates",
        "it does not say that total works on groups",
    ),
    ("stops after a cancellation", "cancel", "did not come"),
    (
        "counts by itself",
        "state",
        "has not asked the host for its state",
    ),
    (
        "asks for a state of nobody",
        "state",
        "a function asks for a state without a rule",
    ),
    ("keeps nothing", "state", "keep has kept nothing with the host"),
    (
        "asks for nothing",
        "state",
        "keep does not ask, in the next process",
    ),
    ("knows ASCII only", "unicode", "expected the same"),
    (
        "is choked by long messages",
        "large",
        "bytes for a text of 16777216",
    ),
    ("cuts long tuples", "large", "the source counter sends 1"),
    ("exits on garbage", "garbage-control", "its process ended before"),
    ("ends on garbage data", "garbage-data", "its process ended before"),
    ("ignores shutdown", "shutdown", "did not end within"),
    (
        "ends with another status",
        "shutdown",
        "it ended with exit code 3; expected exit code 0",
    ),
    ("ignores SIGTERM", "sigterm", "after SIGTERM"),
    ("leaves a child", "nothing-left", "1 processes"),
];

fn folder(fault: &str) -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("faulty");
    std::fs::create_dir(&folder).unwrap();
    let manifest = json!({
        "version": "1", "language": "rust", "executable": "run", "environment": {peer::FAULT: fault},
        "sources": ["counter"], "sinks": ["keep"], "functions": ["echo", "slow", "fail", "total", "tally"]
    });
    std::fs::write(folder.join("faulty.json"), manifest.to_string()).unwrap();
    std::fs::write(folder.join("check.json"), include_str!("check.json")).unwrap();
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nexec '{}' --exact peer::be_a_plugin --nocapture\n",
        program.display()
    );
    std::fs::write(folder.join("run"), script).unwrap();
    std::fs::set_permissions(folder.join("run"), PermissionsExt::from_mode(0o755)).unwrap();
    (home, folder)
}

/// What the kit says of the plugin in `folder`, one value per behaviour, and how the command ended.
fn check(folder: &Path, more: &[&str]) -> (Vec<Value>, Output) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mangrove"));
    command.args(["plugin", "check", "--json"]).arg(folder).args(more);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.collect(), output)
}

#[test]
fn a_sound_plugin_does_everything() {
    let (_home, folder) = folder("");
    let (lines, output) = check(&folder, &[]);
    let bad: Vec<&Value> = lines.iter().filter(|line| line["result"] != "ok").collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(output.status.success() && lines.len() > 30, "{output:?}");
}

#[test]
fn each_fault_fails_the_behaviour_that_is_about_it() {
    let work = std::sync::Mutex::new(FAULTS.iter());
    let wrong = std::sync::Mutex::new(Vec::new());
    // They mostly wait.
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some((fault, behaviour, part)) = { work.lock().unwrap().next() } {
                    let (_home, folder) = folder(fault);
                    let (lines, output) = check(&folder, &["--only", behaviour, "--patience", "10"]);
                    let line = lines
                        .iter()
                        .find(|line| line["name"] == *behaviour)
                        .cloned()
                        .unwrap_or_default();
                    let reason = line["reason"].as_str().unwrap_or_default();
                    let noticed = line["result"] == "failed" && reason.contains(part);
                    if !noticed || output.status.code() != Some(1) {
                        wrong
                            .lock()
                            .unwrap()
                            .push(format!("{fault}: {line} {:?}", output.status));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_is_a_fault_for_every_behaviour() {
    let (_home, folder) = folder("has another token");
    let (lines, output) = check(&folder, &[]);
    assert_eq!(output.status.code(), Some(1));
    for line in &lines {
        let name = line["name"].as_str().unwrap();
        // Without a hello, nothing else is tried.
        assert_eq!(
            line["result"],
            if name == "hello" { "failed" } else { "skipped" },
            "{line}"
        );
        assert!(
            FAULTS.iter().any(|(_, behaviour, _)| *behaviour == name),
            "{name}"
        );
    }
}

#[test]
fn what_is_no_plugin_is_not_tried() {
    let home = tempfile::tempdir().unwrap();
    let (lines, output) = check(home.path(), &[]);
    assert!(lines.is_empty() && output.status.code() == Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is no plugin: "), "{said}");
    let (_home, folder) = folder("");
    std::fs::write(folder.join("check.json"), r#"{"sinks":{"none":{}}}"#).unwrap();
    let said = String::from_utf8(check(&folder, &[]).1.stderr).unwrap();
    assert!(
        said.contains("check.json cannot be used: it tells of the sink \"none\""),
        "{said}"
    );
}

/// The published packages, which know nothing of the kit.
#[test]
fn a_plugin_that_speaks_ekuipers_contract_is_known() {
    let Some(python) = testkit::python("2.4.2") else {
        return;
    };
    let _pysam = testkit::exclusive("pysam");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mangrove"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pysam");
    let copy = tempfile::tempdir().unwrap();
    let mut pending = vec![(folder, copy.path().join("pysam"))];
    while let Some((from, to)) = pending.pop() {
        std::fs::create_dir(&to).unwrap();
        for entry in from.read_dir().unwrap() {
            let (path, to) = (
                entry.as_ref().unwrap().path(),
                to.join(entry.unwrap().file_name()),
            );
            match path.is_dir() {
                true => pending.push((path, to)),
                false => drop(std::fs::copy(path, to).unwrap()),
            }
        }
    }
    command
        .args(["plugin", "check", "--json"])
        .arg(copy.path().join("pysam"));
    command.env("MANGROVE__PORTABLE__PYTHONBIN", python);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let result = |name: &str| {
        let line = lines.iter().find(|line| line["name"] == name);
        line.map(|line| line["result"].clone()).unwrap_or_default()
    };
    assert_eq!(result("handshake"), "ok", "{text}");
    assert_eq!(result("shutdown"), "ok", "{text}");
    assert_eq!(lines.len(), 6, "{text}");
}
