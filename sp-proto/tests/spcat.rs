//! `spcat` against itself, `nngcat` and `nanocat`.
#![cfg(feature = "cli")]
#![allow(missing_docs)]

mod support;

use std::path::PathBuf;
use std::process::{Output, Stdio};
use support::tls::Certificates;
use testkit::{Process, within};
use tokio::process::Command;

fn spcat() -> PathBuf {
    env!("CARGO_BIN_EXE_spcat").into()
}

fn start(program: &PathBuf, arguments: &[&str]) -> Process {
    let mut command = Command::new(program);
    command.args(arguments);
    Process::spawn(command)
}

/// Runs spcat to its end.
async fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(spcat());
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    within("the end of spcat", command.output()).await.unwrap()
}

/// spcat and who else has the options of this program.
fn programs(other: &str) -> Vec<PathBuf> {
    [Some(spcat()), testkit::program(other)]
        .into_iter()
        .flatten()
        .collect()
}

fn address() -> String {
    format!("tcp://127.0.0.1:{}", testkit::free_port())
}

/// What is told on the standard error comes in between.
async fn is_line(process: &mut Process, expected: &str) {
    process.line(expected, |line| line == expected).await;
}

#[tokio::test]
async fn it_stands_in_for_nngcat() {
    for program in programs("nngcat") {
        let at = address();
        let asked = ["--rep", "--listen", &at, "--data", "42", "--quoted"];
        let mut rep = start(&program, &asked);
        let answer = run(&["--req", "--dial", &at, "--async", "-D", "what\n?", "-Q", "-q"]).await;
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "\"42\"\n");
        is_line(&mut rep, "\"what\\n?\"").await;

        let at = address();
        let mut pull = start(&spcat(), &["--pull0", "--bind", &at, "--hex", "--count", "2"]);
        let _push = start(
            &program,
            &["--push0", "--dial", &at, "-D", "az", "--interval", "1", "--async"],
        );
        is_line(&mut pull, "\"\\x61\\x7a\"").await;
        is_line(&mut pull, "\"\\x61\\x7a\"").await;

        let at = address();
        let mut sub = start(
            &program,
            &["--sub", "--listen", &at, "--subscribe", "a", "--quoted"],
        );
        let _pub = start(
            &spcat(),
            &[
                "--pub", "--dial", &at, "--async", "-q", "-D", "a\tb", "-i", "0.05",
            ],
        );
        is_line(&mut sub, "\"a\\tb\"").await;

        let at = address();
        let mut pair = start(&program, &["--pair1", "--listen", &at, "-D", "ping", "-Q"]);
        let pong = [
            "--pair", "--async", "-q", "--dial", &at, "-D", "pong", "-C", "1", "-A",
        ];
        let output = run(&pong).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ping\n");
        is_line(&mut pair, "\"pong\"").await;

        let at = address();
        let _surveyed = start(&program, &["--respondent", "--listen", &at, "-D", "here"]);
        let mut survey = start(
            &spcat(),
            &[
                "--surveyor",
                "--async",
                "-q",
                "--dial",
                &at,
                "-D",
                "?",
                "-i",
                "0.2",
                "-Q",
            ],
        );
        is_line(&mut survey, "\"here\"").await;
    }
}

#[tokio::test]
async fn it_stands_in_for_nanocat() {
    for program in programs("nanocat") {
        let port = testkit::free_port().to_string();
        let mut rep = start(&program, &["--rep", "-L", &port, "--data", "42", "-Q"]);
        let answer = run(&[
            "--req", "--compat", "-q", "-l", &port, "-D", "?", "--format", "ascii",
        ])
        .await;
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "42\n");
        is_line(&mut rep, "\"?\"").await;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.ipc").display().to_string();
        let told = ["--pull", "-X", &path, "--quoted", "-v", "--socket-name", "here"];
        let mut pull = start(&spcat(), &told);
        pull.line("an address", |line| line.starts_with("here: listening on "))
            .await;
        let named = ["--push", "-x", &path, "-D", "work", "--socket-name", "there"];
        let _push = start(&program, &named);
        is_line(&mut pull, "\"work\"").await;

        let at = address();
        let mut bus = start(
            &program,
            &["--bus", "--bind", &at, "-A", "-D", "left", "-i", "0.1"],
        );
        let mut other = start(
            &spcat(),
            &[
                "--bus",
                "--compat",
                "-q",
                "--connect",
                &at,
                "-A",
                "-D",
                "right",
                "-i",
                "0.1",
            ],
        );
        is_line(&mut other, "left").await;
        is_line(&mut bus, "right").await;
    }
}

#[tokio::test]
async fn it_speaks_tls_with_files() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let authority = file("authority.pem", &certificates.authority);
    let both = format!("{}{}", certificates.certificate, certificates.key);
    let both = file("both.pem", &both);
    for program in programs("nngcat") {
        let at = format!("tls+tcp://localhost:{}", testkit::free_port());
        let _rep = start(
            &program,
            &["--rep", "--listen", &at, "-D", "secret", "--cert", &both],
        );
        let ask = [
            "--req", "--async", "-q", "--dial", &at, "-D", "?", "-A", "--cacert", &authority,
        ];
        let output = run(&ask).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "secret\n");

        let at = format!("tls+tcp://localhost:{}", testkit::free_port());
        let mut rep = start(
            &spcat(),
            &["--rep", "--listen", &at, "-D", "ours", "--cert", &both, "-A"],
        );
        let ask = [
            "--req", "--async", "--dial", &at, "-D", "?", "-A", "--cacert", &authority,
        ];
        let mut theirs = start(&program, &ask);
        is_line(&mut theirs, "ours").await;
        is_line(&mut rep, "?").await;
    }
}

#[tokio::test]
async fn its_failures_have_a_reason_and_a_status() {
    let at = address();
    for (arguments, reason) in [
        (&["--pull", "--dial", &at][..], "cannot connect to tcp://"),
        (&["--pull", "--dial", "udp://x"], "unknown transport"),
        (&["--pull"], "no address"),
        (&["--push", "--listen", &at], "needs something to send"),
        (
            &["--push", "--listen", &at, "-F", "/nonexistent/file"],
            "cannot read /nonexistent/file",
        ),
        (
            &["--push", "--listen", &at, "-D", "x", "--send-timeout", "0.05"],
            "within the time limit",
        ),
        (&["--pull", "--listen", "tls+tcp://localhost:0"], "identity"),
    ] {
        let output = run(arguments).await;
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && told.contains(reason),
            "{arguments:?}: {told}"
        );
    }
    let output = run(&["--pull", "--listen", &at, "--recv-timeout", "0.05"]).await;
    assert!(
        output.status.success(),
        "to receive nothing in time is no failure"
    );
}
