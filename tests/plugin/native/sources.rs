//! What a source brings, how it ends, and where it goes on.

use std::time::Duration;

use mangrove::plugin::ChannelError;
use mangrove_protocol::native::control::{Role, ToHost, ToPlugin};
use mangrove_protocol::native::source::{encode_end, encode_error};
use serde_json::json;
use testkit::within;

use super::{Peer, batch, numbers, scene};

#[tokio::test]
async fn a_hello_is_welcome_and_tuples_reach_whoever_receives() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, start, push) = scene.open_source(&peer).await;
    assert_eq!(start.symbol.as_str(), scene.source);
    match &start.role {
        Role::Source {
            place,
            data_source,
            offset,
            ..
        } => {
            assert_eq!(
                (place.rule_id.as_str(), data_source.as_str()),
                (scene.rule.as_str(), "topic")
            );
            assert_eq!(offset, &None);
        }
        other => panic!("expected a source, not {other:?}"),
    }
    push.send(batch(1, 0..3, None)).await.unwrap();
    assert_eq!(numbers(&mut source).await, [0, 1, 2]);
    push.send(encode_error(2, "no route")).await.unwrap();
    let error = within("its error", source.recv()).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, ChannelError::Plugin(text) if text == "no route"),
        "{error}"
    );
    // It breaks the contract, and goes on.
    push.send(batch(7, 0..1, None)).await.unwrap();
    let error = within("its fault", source.recv()).await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "it broke the contract: batch 7 came where batch 3 was expected"
    );
    push.send("nonsense").await.unwrap();
    assert!(matches!(
        within("its garbage", source.recv()).await.unwrap(),
        Err(ChannelError::Garbage(_))
    ));
    push.send(batch(8, 5..6, None)).await.unwrap();
    assert_eq!(numbers(&mut source).await, [5]);
    push.send(encode_end(9, Some("eof"))).await.unwrap();
    let end = within("its end", source.recv()).await.unwrap().unwrap_err();
    assert_eq!(end.to_string(), "eof");
    assert!(within("nothing more", source.recv()).await.is_none());
    assert!(source.has_ended_by_itself());
    scene.host.shutdown().await;
}

#[tokio::test]
async fn what_a_source_has_sent_before_it_stops_is_read() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, start, push) = scene.open_source(&peer).await;
    push.send(batch(1, 0..2, None)).await.unwrap();
    source.stop();
    let stopping = async {
        let (id, stop) = peer.stop().await;
        assert_eq!(stop.number, start.number);
        push.send(batch(2, 2..4, None)).await.unwrap();
        peer.answer(id, Ok(json!({ "seq": 2 }))).await;
    };
    let reading = async {
        let mut read = Vec::new();
        while let Some(batch) = source.recv_batch(1000).await {
            read.extend(batch.unwrap().into_iter().map(|tuple| {
                tuple.message.clone().into_object().unwrap()["n"]
                    .as_u64()
                    .unwrap()
            }));
        }
        read
    };
    let (read, ()) = within("the end", async { tokio::join!(reading, stopping) }).await;
    assert_eq!(read, [0, 1, 2, 3]);
    within("the source to close", source.close()).await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_source_that_is_ahead_of_its_rule_is_told_to_stop_at_once() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, _start, push) = scene.open_source(&peer).await;
    for seq in 1..=100 {
        push.send(batch(seq, seq..seq + 1, None)).await.unwrap();
    }
    within("a tuple", source.recv()).await.unwrap().unwrap();
    source.stop();
    // Of all that is there, one is read.
    within("a tuple", source.recv()).await.unwrap().unwrap();
    let (id, _) = peer.stop().await;
    peer.answer(id, Ok(json!({ "seq": 100 }))).await;
    within("the source to close", source.close()).await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_source_is_told_what_is_safe_when_that_is_on_the_disk() {
    let scene = scene(|home| home.settings.checkpoint_interval = Duration::from_secs(3600)).await;
    let peer = scene.peer().await;
    let (mut source, start, push) = scene.open_source(&peer).await;
    for seq in 1..=100 {
        push.send(batch(seq, seq..seq + 1, Some(seq))).await.unwrap();
        while numbers(&mut source).await != [seq] {}
        source.commit(&json!(seq)).await.unwrap();
    }
    // Had it been told before, it would hear that first.
    peer.say(ToHost::Ping(7)).await;
    match peer.hear().await {
        ToPlugin::Answer(answer) => assert_eq!(answer.id, 7),
        other => panic!("expected an answer, not {other:?}"),
    }
    scene.host.states.checkpoint().await.unwrap();
    match peer.hear().await {
        ToPlugin::Commit(commit) => assert_eq!((commit.number, commit.seq), (start.number, 100)),
        other => panic!("expected a commit, not {other:?}"),
    }
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_committed_offset_comes_back_with_the_next_start() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, start, push) = scene.open_source(&peer).await;
    push.send(batch(1, 0..2, Some(2))).await.unwrap();
    push.send(batch(2, 2..4, Some(4))).await.unwrap();
    let mut tuples = Vec::new();
    while tuples.len() < 4 {
        tuples.extend(within("tuples", source.recv_batch(10)).await.unwrap().unwrap());
    }
    let offsets: Vec<_> = tuples
        .iter()
        .map(|tuple| tuple.offset.as_deref().cloned())
        .collect();
    assert_eq!(offsets, [None, Some(json!(2)), None, Some(json!(4))]);
    source.commit(&json!(2)).await.unwrap();
    match peer.hear().await {
        ToPlugin::Commit(commit) => assert_eq!((commit.number, commit.seq), (start.number, 1)),
        other => panic!("expected a commit, not {other:?}"),
    }
    // The next process goes on there.
    let old = scene.kill().await;
    drop((push, peer));
    let peer = Peer::dial(&scene, Some(old)).await.open().await;
    let (start, push) = peer.start_source().await;
    assert!(matches!(start.role, Role::Source { offset: Some(offset), .. } if offset == json!(2)));
    push.send(batch(1, 2..5, None)).await.unwrap();
    within("tuples of the next process", async {
        loop {
            // News of the process that has ended come first.
            match source.recv_batch(10).await.unwrap() {
                Ok(tuples) => break assert_eq!(tuples[0].message.clone().into_object().unwrap()["n"], 2),
                Err(error) => assert!(
                    matches!(error, ChannelError::Down { .. } | ChannelError::Closed { .. }),
                    "{error}"
                ),
            }
        }
    })
    .await;
    scene.host.shutdown().await;
}
