//! `spperf`: every mode gives its line, and what the documents tell to type works.
#![cfg(feature = "cli")]
#![allow(missing_docs)]

use std::process::{Output, Stdio};
use testkit::within;
use tokio::process::Command;

async fn run(arguments: &[&str], peer: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spperf"));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(peer) = peer {
        command.env("SPPERF_PEER", peer);
    }
    within("the end of spperf", command.output()).await.unwrap()
}

/// The value that the line of JSON has by this name.
fn value(line: &str, name: &str) -> Option<f64> {
    let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
    rest.split([',', '}']).next()?.parse().ok()
}

async fn measured(arguments: &[&str]) -> String {
    let output = run(arguments, None).await;
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    assert_eq!(line.lines().count(), 1, "{arguments:?}: {line}");
    let start = format!(
        "{{\"mode\":\"{}\",\"tr\":\"{}\",\"size\":{},",
        arguments[0], arguments[1], arguments[2]
    );
    assert!(
        line.starts_with(&start) && line.ends_with("}\n"),
        "{arguments:?}: {line}"
    );
    for name in ["n", "sec", "rate"] {
        let value = value(&line, name).unwrap_or_default();
        assert!(value > 0.0, "{arguments:?}: {name} is {value} in {line}");
    }
    for name in ["cpu_parent_ns", "cpu_child_ns", "mean_us", "p50_us", "p99_us"] {
        assert!(value(&line, name).is_some(), "{arguments:?}: no {name} in {line}");
    }
    line
}

#[tokio::test]
async fn every_mode_gives_its_line() {
    for transport in ["ipc", "tcp"] {
        for mode in ["thr", "ctx:8"] {
            measured(&[mode, transport, "64", "10", "50"]).await;
        }
        for mode in ["lat", "rr"] {
            let line = measured(&[mode, transport, "100000", "10", "50"]).await;
            assert!(value(&line, "p99_us").is_some_and(|time| time > 0.0), "{line}");
        }
        let line = measured(&["pub", transport, "64", "10", "50"]).await;
        assert!(value(&line, "lost").is_some_and(|lost| lost < 1.0), "{line}");
        let line = measured(&["fan:5", transport, "64", "10", "50"]).await;
        assert!(value(&line, "idle_pipe_bytes").is_some(), "{line}");
    }
}

#[tokio::test]
async fn the_commands_of_the_readme_work() {
    let readme = include_str!("../README.md");
    let lines: Vec<_> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("spperf "))
        .collect();
    assert!(!lines.is_empty(), "the README has no line for spperf");
    for line in lines {
        let arguments: Vec<_> = line.split(' ').collect();
        measured(&arguments).await;
    }
}

#[tokio::test]
async fn its_failures_have_a_reason_and_a_status() {
    for (arguments, peer, reason) in [
        (&["thr", "udp", "64"][..], None, "possible values: ipc, tcp"),
        (&["fan:0", "tcp", "64"], None, "expected a number from 1"),
        (
            &["thr", "tcp", "64"],
            Some("/nonexistent/peer"),
            "cannot run /nonexistent/peer",
        ),
    ] {
        let output = run(arguments, peer).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && told.contains(reason),
            "{arguments:?}: {told}"
        );
    }
}
