//! Processes that are stopped in their tracks, fall silent, or are not the plugin's.

use std::time::Duration;

use mangrove::plugin::State;
use rustix::process::Signal;

use crate::home::{Home, Host, SLEEP, unique};
use crate::peer::Peer;

async fn sleeper(any_process: bool) -> (Home, Host, String) {
    let mut home = Home::new();
    home.settings.peers = if any_process { "user" } else { "plugin" }.to_owned();
    let name = unique("hsup");
    home.add(
        &name,
        "go",
        &format!(r#""sources":["{}"]"#, unique("hsrc")),
        SLEEP,
    );
    let host = home.start().await;
    (home, host, name)
}

async fn unhealthy(host: &Host, name: &str) -> String {
    let is_unhealthy = |status: &mangrove::plugin::Status| status.status == State::Unhealthy;
    host.until("it to be unhealthy", name, is_unhealthy).await.err_msg
}

#[tokio::test]
async fn a_process_that_is_stopped_in_its_tracks_is_unhealthy_until_it_goes_on() {
    let (_home, host, name) = sleeper(true).await;
    let _peer = Peer::control(&name).await;
    let status = host.running(&name).await;
    let pid = rustix::process::Pid::from_raw(status.pid.unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    assert_eq!(
        unhealthy(&host, &name).await,
        "its process is stopped by a signal"
    );
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    let status = host.running(&name).await;
    assert_eq!((status.restarts, status.err_msg.as_str()), (0, ""));
    host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_whose_keep_alives_stop_is_unhealthy_until_the_next_one() {
    let (_home, host, name) = sleeper(true).await;
    let mut peer = Peer::control(&name).await;
    let mut period = tokio::time::interval(Duration::from_millis(20));
    // More than it takes: of several that come at once only the newest is read.
    for _ in 0..25 {
        period.tick().await;
        peer.say("handshake").await;
    }
    let reason = unhealthy(&host, &name).await;
    assert_eq!(reason, "it has sent no keep-alive for 1.0s");
    peer.say("handshake").await;
    host.running(&name).await;
    host.shutdown().await;
}

#[tokio::test]
async fn a_process_that_the_host_has_not_started_is_refused_and_counted() {
    let (_home, host, name) = sleeper(false).await;
    let _stranger = Peer::control(&name).await;
    let status = host
        .until("the refusal", &name, |status| status.refused_peers > 0)
        .await;
    assert_eq!(status.status, State::Starting, "nobody has shaken hands");
    host.shutdown().await;
}
