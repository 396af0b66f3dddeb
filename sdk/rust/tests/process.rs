//! A plugin as a process of its own: its argument, its log and its end. This program is both the test and, started
//! again by it, the plugin; so it has no test harness.

use std::process::{ExitCode, Output, Stdio};
use std::time::Duration;

use mangrove_protocol::address;
use mangrove_protocol::control::HANDSHAKE;
use mangrove_sdk::{Context, Function, Options, Plugin, Result, Value};
use sp_proto::{Pair, Rep};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Says to this program that it is the plugin, and its name.
const PLUGIN: &str = "SDKT_PLUGIN";

/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(30);

struct Nothing;

impl Function for Nothing {
    async fn exec(&self, _: Vec<Value>, _: &Context) -> Result<Value> {
        Ok(Value::Null)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    if let Ok(name) = std::env::var(PLUGIN) {
        return plugin(name).await;
    }
    a_signal_ends_the_process_cleanly("-TERM").await;
    a_signal_ends_the_process_cleanly("-INT").await;
    a_wrong_argument_is_named().await;
    a_host_that_is_not_there_ends_the_process().await;
    a_mangrove_host_gets_the_log_and_ends_the_process().await;
    a_mangrove_host_that_refuses_it_is_quoted().await;
    println!("plugin process: ok");
    ExitCode::SUCCESS
}

async fn plugin(name: String) -> ExitCode {
    let options = Options {
        host_timeout: if name.contains("gone") {
            Duration::from_millis(50)
        } else {
            LIMIT
        },
        ..Options::default()
    };
    match Plugin::new(name)
        .options(options)
        .function("nothing", Nothing)
        .run()
        .await
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn start(name: &str, argument: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .arg(argument)
        .env(PLUGIN, name)
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn end(child: Child) -> (Output, String) {
    let output = timeout(LIMIT, child.wait_with_output())
        .await
        .expect("the process goes on")
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, log)
}

fn unusual(name: &str) -> String {
    format!("sdkp-{name}-{}", std::process::id())
}

async fn a_signal_ends_the_process_cleanly(signal: &str) {
    let name = unusual("signal");
    let control = Rep::new();
    control
        .listen(&address::control(&name.parse().unwrap()).unwrap())
        .await
        .unwrap();
    let child = start(&name, r#"{"sendTimeout":1000}"#);
    let request = timeout(LIMIT, control.recv())
        .await
        .expect("no handshake")
        .unwrap();
    assert_eq!(&**request.body(), HANDSHAKE);
    let pid = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
            .status()
            .await
            .unwrap()
            .success()
    );
    let (output, log) = end(child).await;
    assert!(output.status.success(), "{}: {log}", output.status);
    assert!(log.contains("stopping"), "{log:?}");
    assert!(output.stdout.is_empty());
    control.close().await;
}

async fn a_wrong_argument_is_named() {
    let (output, log) = end(start(&unusual("argument"), "serve")).await;
    assert!(!output.status.success());
    assert!(
        log.contains("the first argument is \"serve\"; expected a JSON object"),
        "{log:?}"
    );
}

async fn a_host_that_is_not_there_ends_the_process() {
    let (output, log) = end(start(&unusual("gone"), "{}")).await;
    assert!(!output.status.success());
    assert!(log.contains("is the host running?"), "{log:?}");
}

/// Starts the plugin for a host of Mangrove's, and takes its hello.
async fn start_native(name: &str) -> (Child, Pair, String) {
    let path = format!("/tmp/{}.ipc", unusual(name));
    let control = Pair::new();
    control.listen(&format!("ipc://{path}")).await.unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .arg(r#"{"sendTimeout":1000}"#)
        .env(PLUGIN, unusual(name))
        .env("MANGROVE_CONTROL", format!("ipc://{path}"))
        .env("MANGROVE_TOKEN", "a secret")
        .env("MANGROVE_PLUGIN", "renamed")
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let hello = timeout(LIMIT, control.recv()).await.expect("no hello").unwrap();
    let hello = String::from_utf8_lossy(&hello).into_owned();
    (child, control, hello)
}

async fn a_mangrove_host_gets_the_log_and_ends_the_process() {
    let (child, control, hello) = start_native("native").await;
    assert!(
        hello.contains(r#""token":"a secret""#) && hello.contains(r#""plugin":"renamed""#),
        "{hello}"
    );
    control.send(r#"{"type":"welcome","version":1}"#).await.unwrap();
    control.send(r#"{"type":"ping","id":1}"#).await.unwrap();
    let answer = timeout(LIMIT, control.recv()).await.expect("no answer").unwrap();
    assert_eq!(answer.as_bytes(), br#"{"type":"answer","id":1}"#);
    let pid = child.id().unwrap().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    assert!(killed.success());
    let line = timeout(LIMIT, control.recv()).await.expect("no log").unwrap();
    let line = String::from_utf8_lossy(&line).into_owned();
    assert!(
        line.contains(r#""type":"log""#) && line.contains("SIGTERM: stopping"),
        "{line}"
    );
    let (output, log) = end(child).await;
    assert!(output.status.success(), "{}: {log}", output.status);
    assert_eq!(log, "");
    control.close().await;
}

async fn a_mangrove_host_that_refuses_it_is_quoted() {
    let (child, control, _) = start_native("refused").await;
    control
        .send(r#"{"type":"refused","reason":"wrong token","versions":[1]}"#)
        .await
        .unwrap();
    let (output, log) = end(child).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        log.contains("the host does not take this plugin: wrong token"),
        "{log:?}"
    );
    control.close().await;
}
