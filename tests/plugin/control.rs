//! Plugins that start badly, answer badly, or die.

use std::time::Duration;

use mangrove::plugin::{ChannelError, OpenError, State};
use mangrove_protocol::Object;
use mangrove_protocol::address;
use mangrove_protocol::control::Command;
use mangrove_protocol::data::SourceMessage;
use sp_proto::Push;
use testkit::within;

use crate::home::{Home, Host, SLEEP, meta, unique};
use crate::peer::Peer;

/// A plugin with a source whose process only sleeps; the test speaks for it.
async fn sleeper(adjust: impl FnOnce(&mut Home)) -> (Home, Host, String, String) {
    let mut home = Home::new();
    adjust(&mut home);
    let (name, source) = (unique("hctl"), unique("hsrc"));
    home.add(&name, "go", &format!(r#""sources":["{source}"]"#), SLEEP);
    let host = home.start().await;
    (home, host, name, source)
}

/// The test's end of a source's data channel.
async fn feed(rule: &str) -> Push {
    let push = Push::new();
    let address = address::data(&rule.parse().unwrap(), &"op".parse().unwrap(), 0).unwrap();
    within("the host's data channel", push.dial(&address))
        .await
        .unwrap();
    push
}

fn tuple(n: u64) -> Vec<u8> {
    let message = Object::from_iter([("n".to_owned(), n.into())]);
    SourceMessage::Tuple {
        message,
        meta: Object::new(),
    }
    .encode()
}

#[tokio::test]
async fn a_plugin_that_dies_at_once_is_given_up_with_its_last_words() {
    let home = Home::new();
    let (name, source) = (unique("hctl"), unique("hsrc"));
    let script = "#!/bin/sh\necho 'cannot find libcar.so' >&2\nexit 3\n";
    home.add(&name, "go", &format!(r#""sources":["{source}"]"#), script);
    let host = home.start().await;
    let error = host
        .plugins
        .open_source(&source, meta("r"), "", Object::new())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Down { .. }), "{error}");
    let status = host
        .until("the host to give up", &name, |status| {
            status.status == State::Failed
        })
        .await;
    assert_eq!(
        status.err_msg,
        "it ended before its handshake: exit code 3; it said last: cannot find libcar.so; \
         given up after failure 3"
    );
    assert_eq!((status.restarts, status.pid), (2, None));
    host.shutdown().await;
}

#[tokio::test]
async fn a_program_that_the_system_cannot_run_is_given_up_with_the_reason() {
    let home = Home::new();
    let name = unique("hctl");
    home.add(&name, "go", r#""sources":["s"]"#, "#!/no/such/interpreter\n");
    let host = home.start().await;
    let status = host
        .until("the host to give up", &name, |status| {
            status.status == State::Failed
        })
        .await;
    assert!(
        status.err_msg.contains("cannot start ") && status.err_msg.contains("No such file"),
        "{}",
        status.err_msg
    );
    host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_that_never_speaks_is_ended() {
    let limit = Duration::from_millis(100);
    let (_home, host, name, _) = sleeper(|home| {
        home.settings.start_timeout = limit;
        home.settings.restart_limit = 1;
    })
    .await;
    let status = host
        .until("the host to give up", &name, |status| {
            status.status == State::Failed
        })
        .await;
    assert!(
        status.err_msg.starts_with("no handshake within 100ms"),
        "{}",
        status.err_msg
    );
    host.shutdown().await;
}

#[tokio::test]
async fn a_command_that_crosses_a_keep_alive_is_sent_again() {
    let (_home, host, name, source) = sleeper(|_| ()).await;
    let mut peer = Peer::control(&name).await;
    let rule = unique("hr");
    let plugins = host.plugins.clone();
    let opening = async {
        plugins
            .open_source(&source, meta(&rule), "topic", Object::new())
            .await
    };
    let plugin = async {
        let first = peer.command().await;
        // As if the command had not been read: the keep-alive goes out in place of an answer.
        peer.say("handshake").await;
        let second = peer.command().await;
        assert_eq!(first, second);
        assert!(matches!(first, Command::Start(symbol) if symbol.name.as_str() == source));
        peer.say("ok").await;
    };
    let (opened, ()) = within("the source to open", async { tokio::join!(opening, plugin) }).await;
    let mut opened = opened.unwrap();
    feed(&rule).await.send(tuple(1)).await.unwrap();
    assert_eq!(
        within("the tuple", opened.recv())
            .await
            .unwrap()
            .unwrap()
            .message
            .into_object()
            .unwrap()["n"],
        1
    );
    host.shutdown().await;
}

#[tokio::test]
async fn garbage_in_place_of_an_answer_is_the_error() {
    let (_home, host, name, source) = sleeper(|_| ()).await;
    let mut peer = Peer::control(&name).await;
    let opening = host
        .plugins
        .open_source(&source, meta("hgarbage"), "", Object::new());
    let plugin = async {
        peer.command().await;
        peer.say("\u{0}{]").await;
    };
    let (opened, ()) = within("the refusal", async { tokio::join!(opening, plugin) }).await;
    let error = opened.unwrap_err();
    assert!(
        matches!(&error, OpenError::Plugin { text, .. } if text == "\u{0}{]"),
        "{error}"
    );
    host.shutdown().await;
}

#[tokio::test]
async fn an_answer_that_never_comes_is_an_error_and_its_late_success_is_undone() {
    let (_home, host, name, source) =
        sleeper(|home| home.settings.command_timeout = Duration::from_millis(100)).await;
    let mut peer = Peer::control(&name).await;
    let rule = unique("hr");
    let opening = host.plugins.open_source(&source, meta(&rule), "", Object::new());
    let (opened, _) = within("the time limit", async { tokio::join!(opening, peer.command()) }).await;
    let error = opened.unwrap_err();
    assert!(matches!(error, OpenError::TimedOut { .. }), "{error}");
    let status = host
        .until("it to be unhealthy", &name, |status| {
            status.status == State::Unhealthy
        })
        .await;
    assert!(
        status
            .err_msg
            .contains("has not answered the command start source"),
        "{}",
        status.err_msg
    );
    // Late, but done.
    peer.say("ok").await;
    assert!(matches!(peer.command().await, Command::Stop(symbol) if symbol.name.as_str() == source));
    peer.say("ok").await;
    host.running(&name).await;
    assert!(host.status(&name).ref_count.is_empty());
    host.shutdown().await;
}

#[tokio::test]
async fn a_month_of_keep_alives_leaves_the_next_command_quick() {
    let (_home, host, name, source) = sleeper(|_| ()).await;
    let mut peer = Peer::control(&name).await;
    for _ in 0..2_000 {
        peer.say("handshake").await;
    }
    let opening = host
        .plugins
        .open_source(&source, meta("hmonth"), "", Object::new());
    let plugin = async {
        peer.command().await;
        peer.say("ok").await;
    };
    let (opened, ()) = within("the source to open", async { tokio::join!(opening, plugin) }).await;
    opened.unwrap();
    host.shutdown().await;
}

#[tokio::test]
async fn a_killed_process_is_replaced_and_its_source_goes_on() {
    let (_home, host, name, source) = sleeper(|_| ()).await;
    let mut peer = Peer::control(&name).await;
    let rule = unique("hr");
    let opening = host.plugins.open_source(&source, meta(&rule), "", Object::new());
    let plugin = async {
        peer.command().await;
        peer.say("ok").await;
    };
    let (opened, ()) = within("the source to open", async { tokio::join!(opening, plugin) }).await;
    let mut opened = opened.unwrap();
    let first = host.running(&name).await.pid.unwrap();

    drop(peer);
    kill(first);
    let error = within("the news", opened.recv()).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, ChannelError::Down { reason, .. } if reason.contains("killed by signal 9")),
        "{error}"
    );
    let mut peer = host.next_peer(&name, Some(first)).await;
    assert!(matches!(peer.command().await, Command::Start(symbol) if symbol.name.as_str() == source));
    peer.say("ok").await;
    feed(&rule).await.send(tuple(2)).await.unwrap();
    assert_eq!(
        within("the tuple", opened.recv())
            .await
            .unwrap()
            .unwrap()
            .message
            .into_object()
            .unwrap()["n"],
        2
    );
    let status = host.running(&name).await;
    assert_eq!(status.restarts, 1);
    assert_ne!(status.pid, Some(first));

    // A new process that refuses the source: it is over for good.
    drop(peer);
    kill(status.pid.unwrap());
    let mut peer = host.next_peer(&name, status.pid).await;
    peer.command().await;
    peer.say("no longer").await;
    let last = within("the end", async {
        loop {
            match opened.recv().await.expect("an error says why before it ends") {
                Err(error @ ChannelError::Ended { .. }) => return error,
                Err(_) => {}
                Ok(tuple) => panic!("{tuple:?} out of nowhere"),
            }
        }
    })
    .await;
    assert!(last.to_string().ends_with("no longer"), "{last}");
    assert!(within("the end", opened.recv()).await.is_none());
    host.shutdown().await;
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_dropped_source_is_stopped() {
    let (_home, host, name, source) = sleeper(|_| ()).await;
    let mut peer = Peer::control(&name).await;
    let opening = host
        .plugins
        .open_source(&source, meta("hdrop"), "", Object::new());
    let plugin = async {
        peer.command().await;
        peer.say("ok").await;
    };
    let (opened, ()) = within("the source to open", async { tokio::join!(opening, plugin) }).await;
    drop(opened.unwrap());
    assert!(matches!(peer.command().await, Command::Stop(symbol) if symbol.name.as_str() == source));
    host.shutdown().await;
}

#[tokio::test]
async fn an_opening_that_is_dropped_half_way_is_undone() {
    let (_home, host, name, source) = sleeper(|_| ()).await;
    let mut peer = Peer::control(&name).await;
    let opening = host
        .plugins
        .open_source(&source, meta("hhalf"), "", Object::new());
    tokio::select! {
        _ = opening => panic!("nobody answered"),
        command = peer.command() => assert!(matches!(command, Command::Start(_))),
    }
    peer.say("ok").await;
    assert!(matches!(peer.command().await, Command::Stop(symbol) if symbol.name.as_str() == source));
    host.shutdown().await;
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_at_shutdown() {
    let mut home = Home::new();
    home.settings.stop_grace = Duration::from_millis(200);
    let name = unique("hctl");
    let script = "#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 600; done\n";
    home.add(&name, "go", r#""sources":["s"]"#, script);
    let host = home.start().await;
    let pid = host
        .until("the process", &name, |status| status.pid.is_some())
        .await
        .pid
        .unwrap();
    host.heard("the trap", &name, |line| line == "ready").await;
    host.shutdown().await;
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "the process is still there"
    );
}

#[tokio::test]
async fn what_nobody_defines_cannot_be_opened() {
    let (_home, host, _, _) = sleeper(|_| ()).await;
    let error = host
        .plugins
        .open_sink("hnobody", meta("r"), Object::new(), false)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), r#"no plugin defines the sink "hnobody""#);
    host.shutdown().await;
}
