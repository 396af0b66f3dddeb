//! Peers that die and come back. What was handed to a pipe that then dies is lost, so each message is sent
//! only once the events say that the new pipe is there.

use sp_proto::{Event, Events, Push, Rep};
use testkit::{Process, within};

use crate::cats::{Cat, next_is, text};
use crate::meeting::{Kind, Listener, Peer, Transport, ipc, meet};

#[tokio::test]
async fn a_dialer_finds_nngcat_again_after_its_death() {
    let Some(cat) = Cat::nng() else { return };
    a_dialer_finds_its_peer_again(&cat).await;
}

#[tokio::test]
async fn a_dialer_finds_nanocat_again_after_its_death() {
    let Some(cat) = Cat::nanomsg() else { return };
    a_dialer_finds_its_peer_again(&cat).await;
}

/// A killed listener leaves its socket file behind, which the next one takes over.
async fn a_dialer_finds_its_peer_again(cat: &Cat) {
    for transport in [Transport::Ipc, Transport::Tcp] {
        let folder = tempfile::tempdir().unwrap();
        let address = transport.address(folder.path(), Listener::Theirs);
        let push = Push::new();
        let mut events = push.events();
        push.dial_in_background(&address).unwrap();
        for life in 0..3 {
            let mut foreign = Process::spawn(cat.command(Kind::Pull, true, &address));
            pipe_added(&mut events).await;
            within("room for a message", push.send(format!("life {life}")))
                .await
                .unwrap();
            let expected = format!("life {life}");
            foreign.line(&expected, |line| next_is(line, &expected)).await;
            foreign.kill().await;
            pipe_removed(&mut events).await;
        }
    }
}

#[tokio::test]
async fn nngcat_finds_our_listener_again() {
    let Some(cat) = Cat::nng() else { return };
    they_find_our_listener_again(&cat).await;
}

#[tokio::test]
async fn nanocat_finds_our_listener_again() {
    let Some(cat) = Cat::nanomsg() else { return };
    they_find_our_listener_again(&cat).await;
}

async fn they_find_our_listener_again(cat: &Cat) {
    let folder = tempfile::tempdir().unwrap();
    let address = ipc(folder.path());
    let mut foreign: Option<Process> = None;
    for life in 0..3 {
        let push = Push::new();
        let mut events = push.events();
        push.listen(&address).await.unwrap();
        let foreign = foreign.get_or_insert_with(|| Process::spawn(cat.command(Kind::Pull, false, &address)));
        pipe_added(&mut events).await;
        let expected = format!("life {life}");
        within("room for a message", push.send(expected.clone()))
            .await
            .unwrap();
        foreign.line(&expected, |line| next_is(line, &expected)).await;
        within("the end of the socket", push.close()).await;
    }
}

#[tokio::test]
async fn a_reply_for_a_dead_requester_is_told_and_the_next_requester_is_served() {
    let Some(cat) = Cat::nng() else { return };
    let way = (Listener::Ours, Transport::Tcp);
    let rep = Rep::new();
    let mut events = rep.events();
    let mut foreign = meet(&rep, way, &cat, Kind::Req, &["--data", "first"]).await;
    let orphan = within("the first request", rep.recv()).await.unwrap();
    foreign.process.kill().await;
    pipe_removed(&mut events).await;
    orphan.reply("too late").await.unwrap_err();

    let mut foreign = meet(&rep, way, &cat, Kind::Req, &["--data", "second"]).await;
    let request = within("the second request", rep.recv()).await.unwrap();
    assert_eq!(text(request.body()), "second");
    request.reply("in time").await.unwrap();
    foreign
        .process
        .line("the answer", |line| next_is(line, "in time"))
        .await;
}

async fn pipe_added(events: &mut Events) {
    let added = |event: &Event| matches!(event, Event::PipeAdded(_));
    wait_for(events, "a new pipe", added).await;
}

async fn pipe_removed(events: &mut Events) {
    let removed = |event: &Event| matches!(event, Event::PipeRemoved { .. });
    wait_for(events, "the end of a pipe", removed).await;
}

async fn wait_for(events: &mut Events, what: &str, wanted: impl Fn(&Event) -> bool) {
    within(what, async {
        while !wanted(&events.recv().await.expect("an open socket")) {}
    })
    .await;
}
