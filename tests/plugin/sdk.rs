//! A plugin written with the published Python SDK, unmodified. 2.4.2 is today's; 1.4.0 knows neither
//! keep-alives nor acknowledgements.

use std::path::Path;
use std::time::Duration;

use mangrove::plugin::{CallError, ChannelError, OpenError, State};
use mangrove_protocol::Object;
use mangrove_protocol::data::FunctionContext;
use serde_json::{Value, json};
use testkit::within;

use crate::home::{Home, Host, meta, unique};

struct Setup {
    home: Home,
    name: String,
    source: String,
    sink: String,
    function: String,
}

/// `None`: this machine has no such environment; the skip is recorded.
fn setup(release: &str) -> Option<Setup> {
    let interpreter = testkit::python(release)?;
    let mut home = Home::new();
    home.settings.python_bin = interpreter.to_string_lossy().into_owned();
    let name = unique("hpy");
    let (source, sink, function) = (unique("hsrc"), unique("hsnk"), unique("hfn"));
    let fields = format!(r#""sources":["{source}"],"sinks":["{sink}"],"functions":["{function}"]"#);
    home.add(&name, "python", &fields, include_str!("pysdk.py"));
    Some(Setup {
        home,
        name,
        source,
        sink,
        function,
    })
}

fn object(value: Value) -> Object {
    value.as_object().unwrap().clone()
}

fn context(rule: &str) -> FunctionContext {
    FunctionContext {
        rule_id: rule.parse().unwrap(),
        op_id: "op".parse().unwrap(),
        instance_id: 0,
        func_id: 0,
    }
}

async fn lines(path: &Path, count: usize) -> Vec<String> {
    within("the sink's lines", async {
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

async fn a_source_brings_its_tuples(release: &str) {
    let Some(setup) = setup(release) else { return };
    let host = setup.home.start().await;
    let rule = unique("hr");
    let open = |config| {
        host.plugins
            .open_source(&setup.source, meta(&rule), "topic", config)
    };
    let error = open(object(json!({"fail": true}))).await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Plugin { text, .. } if text.contains("it was told to fail")),
        "{error}"
    );

    let mut source = open(object(json!({"count": 2}))).await.unwrap();
    for n in 0..2 {
        let tuple = within("a tuple", source.recv()).await.unwrap().unwrap();
        assert_eq!(tuple.message.into_object().unwrap()["n"], n);
        assert_eq!(tuple.meta.unwrap()["datasource"], "topic");
    }
    let error = within("the source's error", source.recv())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(&error, ChannelError::Plugin(text) if text == "that was all"),
        "{error}"
    );
    assert_eq!(host.status(&setup.name).ref_count, [(rule.clone(), 1)].into());
    within("the source to stop", source.close()).await;
    assert!(host.status(&setup.name).ref_count.is_empty());
    let output = host.plugins.output(&setup.name).unwrap();
    assert!(
        output.iter().any(|line| line.text == "source closed"),
        "{output:?}"
    );
    // The same address again.
    let source = open(object(json!({}))).await.unwrap();
    drop(source);
    host.shutdown().await;
}

async fn a_function_answers(release: &str) {
    let Some(mut setup) = setup(release) else { return };
    setup.home.settings.call_timeout = Duration::from_secs(3);
    let host = setup.home.start().await;
    let function = host.plugins.function(&setup.function, "r1").await.unwrap();
    let again = host.plugins.function(&setup.function, "r2").await.unwrap();
    assert_eq!(host.status(&setup.name).ref_count.len(), 2);
    function.validate(vec![json!("a")]).await.unwrap();
    let error = function.validate(vec![]).await.unwrap_err();
    assert!(
        matches!(&error, CallError::Plugin(text) if text == "expected one argument"),
        "{error}"
    );
    assert!(!function.is_aggregate().await.unwrap());
    for n in 0..50 {
        let user = if n % 2 == 0 { &function } else { &again };
        assert_eq!(
            user.exec(vec![json!(n)], context("r1")).await.unwrap(),
            Some(json!(n))
        );
    }
    let error = function
        .exec(vec![json!("raise")], context("r1"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, CallError::Plugin(text) if text.contains("told to raise")),
        "{error}"
    );
    // A call that is given up: the next one waits for the late answer, and gets its own.
    let error = function
        .exec(vec![json!("sleep:3.5")], context("r1"))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    assert_eq!(
        again.exec(vec![json!("mine")], context("r2")).await.unwrap(),
        Some(json!("mine"))
    );
    host.shutdown().await;
}

async fn symbols_are_started_again_in_a_new_process(release: &str) {
    let Some(mut setup) = setup(release) else { return };
    setup.home.settings.restart_limit = 10;
    let host = setup.home.start().await;
    let rule = unique("hr");
    let function = host.plugins.function(&setup.function, &rule).await.unwrap();
    let config = object(json!({"count": 1}));
    let mut source = host
        .plugins
        .open_source(&setup.source, meta(&rule), "", config)
        .await
        .unwrap();
    let pid = |tuple: mangrove::plugin::Tuple| tuple.message.into_object().unwrap()["pid"].as_u64().unwrap();
    let first = pid(within("the first tuple", source.recv()).await.unwrap().unwrap());

    let error = function
        .exec(vec![json!("exit")], context(&rule))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Disconnected { .. }), "{error}");
    let second = within(
        "a tuple of the new process",
        next_tuple(&mut source, |error| {
            assert!(
                !matches!(error, ChannelError::Ended { .. } | ChannelError::Stopping),
                "{error}"
            );
        }),
    )
    .await;
    assert_ne!(first, pid(second.clone()));
    let answer = function.exec(vec![json!("pid")], context(&rule)).await.unwrap();
    assert_eq!(answer, Some(json!(pid(second))));
    let status = host.running(&setup.name).await;
    assert_eq!(status.restarts, 1);
    host.shutdown().await;
}

async fn next_tuple(
    source: &mut mangrove::plugin::Source,
    check: impl Fn(ChannelError),
) -> mangrove::plugin::Tuple {
    loop {
        match source.recv().await.expect("the source goes on") {
            Ok(tuple) => return tuple,
            Err(error) => check(error),
        }
    }
}

async fn a_sink_without_acknowledgements_gets_everything(release: &str) {
    let Some(setup) = setup(release) else { return };
    let host = setup.home.start().await;
    let path = setup.home.path().join("sink.txt");
    let config = object(json!({"path": path}));
    let mut sink = host
        .plugins
        .open_sink(&setup.sink, meta(&unique("hr")), config, false)
        .await
        .unwrap();
    for n in 0..20 {
        sink.send(json!([{"n": n}]).to_string().into()).await.unwrap();
    }
    let lines = lines(&path, 20).await;
    assert_eq!((lines.len(), lines[19].as_str()), (20, r#"[{"n":19}]"#));
    within("the sink to stop", sink.close()).await;
    host.shutdown().await;
}

macro_rules! for_releases {
    ($($test:ident),+ $(,)?) => {
        mod release_2_4_2 {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("2.4.2").await; })+
        }
        mod release_1_4_0 {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("1.4.0").await; })+
        }
    };
}

for_releases!(
    a_source_brings_its_tuples,
    a_function_answers,
    symbols_are_started_again_in_a_new_process,
    a_sink_without_acknowledgements_gets_everything,
);

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_acknowledges_is_believed() {
    let Some(mut setup) = setup("2.4.2") else { return };
    setup.home.settings.ack_timeout = Duration::from_secs(2);
    let host = setup.home.start().await;
    let path = setup.home.path().join("sink.txt");
    let config = object(json!({"path": path, "requireAck": true}));
    let mut sink = host
        .plugins
        .open_sink(&setup.sink, meta(&unique("hr")), config, true)
        .await
        .unwrap();
    for n in 0..20 {
        sink.send(json!([{"n": n}]).to_string().into()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), n + 1);
    }
    let error = sink.send("bad".into()).await.unwrap_err();
    assert!(
        matches!(&error, ChannelError::Plugin(text) if text == "it is bad"),
        "{error}"
    );
    sink.send("good".into()).await.unwrap();
    let error = sink.send("quiet".into()).await.unwrap_err();
    assert!(matches!(error, ChannelError::NotAcknowledged { .. }), "{error}");
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sdk_that_never_acknowledges_is_told_so() {
    let Some(mut setup) = setup("1.4.0") else { return };
    setup.home.settings.ack_timeout = Duration::from_millis(300);
    let host = setup.home.start().await;
    let path = setup.home.path().join("sink.txt");
    let config = object(json!({"path": path, "requireAck": true}));
    let mut sink = host
        .plugins
        .open_sink(&setup.sink, meta(&unique("hr")), config, true)
        .await
        .unwrap();
    let error = sink.send("one".into()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("never acknowledge: use them without requireAck"),
        "{error}"
    );
    assert_eq!(lines(&path, 1).await, ["one"]);
    host.shutdown().await;
}

/// Starts the plugin as its author does, in a shell or a debugger.
fn by_hand(setup: &Setup) -> testkit::Process {
    let mut command = tokio::process::Command::new(&setup.home.settings.python_bin);
    command
        .arg("run")
        .current_dir(setup.home.plugin_folder(&setup.name));
    testkit::Process::spawn(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_its_author_starts_is_attached_and_gets_what_is_open() {
    let Some(mut setup) = setup("2.4.2") else { return };
    setup.home.settings.peers = "plugin".to_owned();
    let host = setup.home.start().await;
    let path = setup.home.path().join("sink.txt");
    let (rule, plugins) = (unique("hr"), &host.plugins);
    let config = object(json!({"path": path, "requireAck": true}));
    let mut sink = plugins
        .open_sink(&setup.sink, meta(&rule), config, true)
        .await
        .unwrap();
    let function = plugins.function(&setup.function, &rule).await.unwrap();
    let pid = async || {
        let called = within("the call", function.exec(vec![json!("pid")], context(&rule)));
        called.await.unwrap().and_then(|pid| pid.as_u64())
    };
    let first = host.running(&setup.name).await.pid;
    assert_eq!(pid().await, first.map(u64::from));

    within("the wait for it", plugins.attach(&setup.name))
        .await
        .unwrap();
    assert_eq!(host.status(&setup.name).pid, None);
    for word in ["one", "two"] {
        let mut process = by_hand(&setup);
        let status = host.running(&setup.name).await;
        assert_eq!((status.pid, status.attached), (process.id(), true));
        within("the sink", sink.send(word.into())).await.unwrap();
        assert_eq!(pid().await, process.id().map(u64::from));
        // However it ends, the next one is waited for.
        process.kill().await;
        host.until("its end", &setup.name, |status| status.pid.is_none())
            .await;
    }
    assert_eq!(lines(&path, 2).await, ["one", "two"]);
    within("the start", plugins.start(&setup.name)).await.unwrap();
    let status = host.running(&setup.name).await;
    assert!(!status.attached && status.pid != first);
    within("the sink", sink.send("three".into())).await.unwrap();
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_cannot_import_its_sdk_says_why() {
    let Some(setup) = setup("2.4.2") else { return };
    let mut home = setup.home;
    home.add(
        &setup.name,
        "python",
        &format!(r#""sources":["{}"]"#, setup.source),
        "import nothing_of_this_name\n",
    );
    home.settings.restart_limit = 1;
    let host: Host = home.start().await;
    let status = host
        .until("the host to give up", &setup.name, |status| {
            status.status == State::Failed
        })
        .await;
    assert!(
        status.err_msg.contains("No module named 'nothing_of_this_name'"),
        "{}",
        status.err_msg
    );
    host.shutdown().await;
}
