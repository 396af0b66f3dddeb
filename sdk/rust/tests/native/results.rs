//! Sinks: batches, acknowledgements, state, the end.

use mangrove_protocol::native::control::{Ack, Answer, StateOperation, ToHost, ToPlugin};
use mangrove_protocol::native::sink::SinkWriter;
use mangrove_sdk::Value;
use serde_json::json;
use sp_proto::Push;

use crate::script::{Host, soon};
use crate::symbols::GATE;

async fn send(push: &Push, seq: u64, results: &[&str]) {
    let mut writer = SinkWriter::default();
    for result in results {
        writer.push(result.as_bytes());
    }
    soon("sending", push.send(writer.finish(seq))).await.unwrap();
}

/// The next message that is no request about state; those are answered.
async fn next(host: &Host) -> ToHost {
    loop {
        match host.next().await {
            ToHost::State(id, request) => {
                assert_eq!(request.operation, StateOperation::Add(1.into()));
                assert_eq!((request.key.as_str(), request.rule), ("taken", None));
                let outcome = Ok(json!(1));
                host.send(ToPlugin::Answer(Answer { id, outcome })).await;
            }
            other => return other,
        }
    }
}

async fn ack(host: &Host) -> Ack {
    match next(host).await {
        ToHost::Ack(ack) => ack,
        other => panic!("no acknowledgement: {other:?}"),
    }
}

#[tokio::test]
async fn batches_are_acknowledged_in_order_with_the_results_that_failed() {
    let mut host = Host::start().await;
    let push = host.sink(5, "obedient", true).await;
    send(&push, 1, &["[{\"n\":1}]"]).await;
    assert_eq!((ack(&host).await.seq, 5), (1, 5));
    send(&push, 2, &["[]", "\"disk full\"", "[]", "\"panic\""]).await;
    let failed = ack(&host).await;
    let expected = [
        (1, "disk full".to_owned()),
        (3, "panicked: out of hands".to_owned()),
    ];
    assert_eq!((failed.seq, failed.errors.as_slice()), (2, &expected[..]));
    send(&push, 3, &["[]"]).await;
    assert_eq!(ack(&host).await.errors, []);
    assert_eq!(host.stop_symbol(5, Some(3)).await, Ok(Value::Null));
    host.shut_down().await;
}

#[tokio::test]
async fn without_acknowledgements_errors_are_notes_and_garbage_is_survived() {
    let mut host = Host::start().await;
    let push = host.sink(5, "obedient", false).await;
    let error = async |host: &Host| match next(host).await {
        ToHost::Error(note) => note.error,
        other => panic!("{other:?}"),
    };
    send(&push, 1, &["\"disk full\"", "[]"]).await;
    assert_eq!(error(&host).await, "disk full");
    push.send("nonsense").await.unwrap();
    assert!(error(&host).await.contains("expected"));
    send(&push, 7, &["\"again\""]).await;
    assert_eq!(error(&host).await, "the batch has \"seq\" 7; expected 2");
    assert_eq!(error(&host).await, "again");
    host.shut_down().await;
}

#[tokio::test]
async fn everything_up_to_the_last_batch_is_taken_before_the_sink_stops() {
    let mut host = Host::start().await;
    let push = host.sink(5, "gated", true).await;
    for seq in 1..=20 {
        send(&push, seq, &["[]", "[]"]).await;
    }
    let stop = mangrove_protocol::native::control::Stop {
        number: 5,
        timeout: 30_000,
        seq: Some(20),
    };
    host.send(ToPlugin::Stop(50, stop)).await;
    assert_eq!(host.request(ToPlugin::Ping).await, Ok(Value::Null));
    GATE.add_permits(40);
    let mut last = 0;
    loop {
        match host.next().await {
            ToHost::Ack(ack) => {
                assert!(ack.seq > last && ack.errors.is_empty(), "{ack:?} after {last}");
                last = ack.seq;
            }
            ToHost::Answer(answer) => break assert_eq!((answer.id, answer.outcome), (50, Ok(Value::Null))),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(last, 20);
    host.shut_down().await;
}
