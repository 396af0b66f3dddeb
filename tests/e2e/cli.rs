//! The commands that ask a running host, typed as the documents show them.

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Process, within};
use tokio::process::Command;

use crate::documents::packed_car;
use crate::host::Host;
use crate::plugins::home_with_car;
use crate::rules::home_with_cars;

/// What a command printed and how it ended.
struct Answer {
    code: Option<i32>,
    output: String,
    error: String,
}

fn command(host: &Host, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mangrove"));
    let words = line.strip_prefix("mangrove ").unwrap_or(line).split(' ');
    command.args(words).env("MANGROVE_HOST", host.url());
    command
}

async fn run(mut command: Command) -> Answer {
    let ended = within("the end of a command", command.output()).await.unwrap();
    Answer {
        code: ended.status.code(),
        output: String::from_utf8(ended.stdout).unwrap(),
        error: String::from_utf8(ended.stderr).unwrap(),
    }
}

async fn ask(host: &Host, line: &str) -> Answer {
    run(command(host, line)).await
}

/// A line without what differs from run to run: figures, and the widths that come of them.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    for c in line.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        match c.is_ascii_digit() {
            true if plain.ends_with('0') => {}
            true => plain.push('0'),
            false => plain.push(c),
        }
    }
    plain
}

/// Types the commands of a document. What it shows has to come, in order; more may come.
async fn play(host: &Host, document: &str, zip: &str) -> usize {
    let (mut count, mut typed, mut found) = (0, String::new(), Vec::new());
    let mut follower: Option<Process> = None;
    let mut elsewhere = false;
    let mut blocks = document.split("\n```").skip(1).step_by(2);
    while let Some((language, block)) = blocks.next().and_then(|block| block.split_once('\n')) {
        match language {
            "shell" => {
                elsewhere = false;
                (typed, found) = (block.to_owned(), Vec::new());
                for line in block.lines() {
                    count += 1;
                    let line = line.replace("/tmp/car.zip", zip);
                    match line.strip_suffix(" &") {
                        Some(line) => {
                            let mut process = Process::spawn(command(host, line));
                            found.push(process.line("the head", |line| line.starts_with("TIME")).await);
                            follower = Some(process);
                        }
                        None => {
                            let answer = ask(host, &line).await;
                            assert_eq!(answer.code, Some(0), "{line}: {}", answer.error);
                            found.extend(answer.output.lines().map(str::to_owned));
                        }
                    }
                }
            }
            // What needs no host, `author` plays, with what it shows.
            "sh" => elsewhere = true,
            _ if elsewhere => {}
            _ => {
                let mut rest = found.iter();
                for shown in block.lines() {
                    if rest.any(|found| plain(found) == plain(shown)) {
                        continue;
                    }
                    let Some(process) = &mut follower else {
                        panic!("{typed}\nshown: {shown}\nfound:\n{}", found.join("\n"));
                    };
                    process.line(shown, |found| plain(found) == plain(shown)).await;
                }
                follower = None;
            }
        }
    }
    count
}

#[tokio::test]
async fn the_commands_in_the_document_answer_what_it_shows() {
    let _car = testkit::exclusive("car");
    let home = home_with_cars();
    let zip = packed_car(home.path()).await;
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM demo () WITH (TYPE="simulator", CONF_KEY="cars")"#)
        .await;
    host.rule(&json!({"id": "rule1", "sql": "SELECT * FROM demo", "actions": [{"log": {}}]}))
        .await;
    host.logged("rule1").await;
    let typed = play(&host, include_str!("../../docs/cli.md"), zip.to_str().unwrap()).await;
    assert!(typed >= 13, "only {typed} commands were found");
    assert!(host.interrupt().await.success());
}

#[tokio::test]
async fn a_plugin_that_rules_use_is_removed_only_when_that_is_wanted() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let mut host = Host::start(home.path()).await;
    host.stream(r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="fast")"#)
        .await;
    host.rule(&json!({"id": "e2e-ask", "sql": "SELECT * FROM cars", "actions": [{"log": {}}]}))
        .await;
    host.logged("e2e-ask").await;

    for (answer, code) in [("n", 1), ("", 1), ("y", 0)] {
        let mut removal = Process::spawn(command(&host, "mangrove plugin remove car"));
        removal.write_line(answer).await;
        let ended = removal.wait().await;
        removal
            .line("the question", |line| {
                line.contains("will wait until it is back: e2e-ask. Remove it? [y/N]")
            })
            .await;
        assert_eq!(ended.code(), Some(code), "{}", removal.transcript());
        let left = host.get("/plugins/portables/car").await.status;
        assert_eq!(left, if code == 0 { 404 } else { 200 });
        if code == 0 {
            assert!(
                removal
                    .transcript()
                    .contains("portable plugin car is deleted; rules that wait for it: e2e-ask"),
                "{}",
                removal.transcript()
            );
        }
    }
    let waiting = ask(&host, "mangrove rule status e2e-ask").await;
    assert!(
        waiting.output.contains("waiting for plugin \"car\""),
        "{}",
        waiting.output
    );
    assert!(host.interrupt().await.success());
}

#[tokio::test]
async fn what_goes_wrong_is_said_with_an_exit_code() {
    let home = TempDir::new().unwrap();
    std::fs::create_dir_all(home.path().join("plugins/portable/odd")).unwrap();
    let zip = packed_car(home.path()).await;
    let host = Host::start(home.path()).await;
    let sum = "0".repeat(64);
    for (line, code, part) in [
        ("plugin status none", 1, "there is no plugin \"none\""),
        ("plugin remove ../odd", 1, "there is no plugin \"../odd\""),
        ("plugin start none", 1, "there is no plugin \"none\""),
        ("plugin logs none", 1, "there is no plugin \"none\""),
        ("rule status none", 1, "rule \"none\" is not found"),
        ("plugin install ..", 1, "--name"),
        ("plugin install /nowhere/car.zip", 1, "/nowhere/car.zip"),
        ("plugin list --host nowhere", 2, "\"nowhere\" is no host"),
        ("plugin list --host 127.0.0.1:1", 3, "cannot reach the host"),
        ("plugin lst", 2, "'lst'"),
    ] {
        let answer = ask(&host, line).await;
        assert_eq!(answer.code, Some(code), "{line}: {}", answer.error);
        assert!(answer.error.contains(part), "{line}: {}", answer.error);
        assert_eq!(answer.output, "", "{line}");
    }
    let wrong = format!("plugin install {} --sha256 {sum} -- a b", zip.display());
    let wrong = ask(&host, &wrong).await;
    assert!(wrong.error.contains("SHA-256"), "{}", wrong.error);
    let list = ask(&host, "plugin list").await.output;
    assert!(list.contains("odd   -        incomplete"), "{list}");
    let list: Value = serde_json::from_str(&ask(&host, "plugin list --json").await.output).unwrap();
    assert_eq!(list["odd"]["status"], "incomplete", "{list}");
    let completions = ask(&host, "completions bash").await;
    assert!(completions.output.contains("mangrove__"), "{}", completions.error);
}

#[tokio::test]
async fn what_is_followed_ends_with_the_host() {
    let _car = testkit::exclusive("car");
    let home = home_with_car();
    let host = Host::start(home.path()).await;
    within("the plugin", async {
        while host.get("/plugins/portables/car/status").await.json()["status"] != "running" {}
    })
    .await;
    let mut logs = Process::spawn(command(&host, "plugin logs car -f --json"));
    let mut events = Process::spawn(command(&host, "plugin events"));
    events.line("its head", |line| line.starts_with("TIME")).await;
    assert_eq!(ask(&host, "plugin stop car").await.code, Some(0));
    let line = logs
        .line("the plugin's last line", |line| line.contains("as the host asks"))
        .await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["stream"], "log");
    events
        .line("the event", |line| plain(line).contains("car v0.0.0 stopped"))
        .await;
    assert!(host.interrupt().await.success());
    assert!(events.wait().await.success());
    assert!(logs.wait().await.success());
}
