//! Sources: their batches, their end, their figures.

use mangrove_protocol::Object;
use mangrove_protocol::native::control::{Role, ToHost};
use mangrove_protocol::native::source::{SourceBatch, SourceContent};
use mangrove_sdk::Value;
use serde_json::json;
use sp_proto::{Pull, SocketOptions};

use crate::script::{Host, address, limits, place, soon, source_role};

async fn batch(pull: &Pull) -> SourceBatch<Object> {
    let message = soon("a batch", pull.recv()).await.unwrap();
    SourceBatch::decode(&message, limits().batch).unwrap()
}

/// The next `count` tuples' numbers, and how many messages brought them.
async fn numbers(pull: &Pull, count: usize) -> (Vec<u64>, u64) {
    let (mut found, mut seq) = (Vec::new(), 0);
    while found.len() < count {
        let next = batch(pull).await;
        assert_eq!(next.seq, seq + 1);
        seq = next.seq;
        match next.content {
            SourceContent::Tuples { tuples, offset, .. } => {
                found.extend(tuples.iter().filter_map(|tuple| tuple["n"].as_u64()));
                assert_eq!(offset, found.last().copied().map(Value::from));
            }
            other => panic!("{other:?}"),
        }
    }
    (found, seq)
}

#[tokio::test]
async fn what_is_sent_in_one_go_comes_in_full_batches() {
    let mut host = Host::start().await;
    let pull = host
        .source(4, "range", json!({"count": 100, "then": "end"}))
        .await;
    let (found, messages) = numbers(&pull, 100).await;
    assert_eq!(found, (1..=100).collect::<Vec<_>>());
    // 13 batches of at most 8: nothing was torn.
    assert_eq!(messages, 13);
    let last = batch(&pull).await;
    assert_eq!((last.seq, last.content), (14, SourceContent::End(None)));
    assert_eq!(host.stop_symbol(4, None).await, Ok(json!({"seq": 14})));
    host.shut_down().await;
}

#[tokio::test]
async fn errors_and_places_come_in_their_turn() {
    let mut host = Host::start().await;
    let pull = host
        .source(4, "range", json!({"count": 1, "then": "report"}))
        .await;
    assert!(matches!(batch(&pull).await.content, SourceContent::Tuples { .. }));
    let error = batch(&pull).await.content;
    assert_eq!(error, SourceContent::Error("a bad record".to_owned()));
    let SourceContent::Tuples { meta, offset, .. } = batch(&pull).await.content else {
        panic!("no tuple");
    };
    let place = json!({"rule": "rule1", "op": "op1", "instance": 2, "source": "topic"});
    assert_eq!((json!(meta), offset), (json!([place]), None));
    for (then, reason) in [
        ("fail", "the road ends"),
        ("panic", "panicked: the wheel fell off"),
    ] {
        let pull = host.source(5, "range", json!({"count": 0, "then": then})).await;
        let end = batch(&pull).await.content;
        assert_eq!(end, SourceContent::End(Some(reason.to_owned())));
        assert_eq!(host.stop_symbol(5, None).await, Ok(json!({"seq": 1})));
    }
    host.shut_down().await;
}

#[tokio::test]
async fn a_source_goes_on_behind_its_offset() {
    let mut host = Host::start().await;
    let (pull, address) = (Pull::new(), address());
    pull.listen(&address).await.unwrap();
    let role = Role::Source {
        place: place(),
        data_source: String::new(),
        config: json!({"count": 9, "then": "wait"}).as_object().unwrap().clone(),
        offset: Some(json!(7)),
    };
    host.start_symbol(4, "range", role, &address).await.unwrap();
    assert_eq!(numbers(&pull, 2).await.0, [8, 9]);
    host.shut_down().await;
}

#[tokio::test]
async fn the_answer_to_stop_names_the_last_batch_also_when_nobody_reads() {
    let mut host = Host::start().await;
    let address = address();
    let pull = Pull::with_options(SocketOptions {
        recv_queue: 1,
        ..SocketOptions::default()
    });
    pull.listen(&address).await.unwrap();
    let role = source_role(json!({"count": u64::MAX, "pad": 65_536, "then": "end"}));
    host.start_symbol(4, "range", role, &address).await.unwrap();
    soon("the first batch", pull.recv()).await.unwrap();
    let last = host.stop_symbol(4, None).await.unwrap()["seq"].as_u64().unwrap();
    assert!(last > 1, "{last}");
    for expected in 2..=last {
        assert_eq!(batch(&pull).await.seq, expected);
    }
    host.shut_down().await;
}

#[tokio::test]
async fn a_tuple_that_is_too_long_is_an_error_of_its_send() {
    let mut host = Host::start().await;
    let pull = host
        .source(4, "range", json!({"count": 0, "then": "too long"}))
        .await;
    match batch(&pull).await.content {
        SourceContent::Error(error) => assert!(error.contains("at most 1048576"), "{error}"),
        other => panic!("{other:?}"),
    }
    host.shut_down().await;
}

#[tokio::test]
async fn figures_are_told_before_the_end() {
    let mut host = Host::start().await;
    let pull = host
        .source(4, "range", json!({"count": 3, "then": "count"}))
        .await;
    numbers(&pull, 3).await;
    let stop = mangrove_protocol::native::control::Stop {
        number: 4,
        timeout: 10_000,
        seq: None,
    };
    host.send(mangrove_protocol::native::control::ToPlugin::Stop(50, stop))
        .await;
    let mut told = Vec::new();
    loop {
        match host.next().await {
            ToHost::Metric(metric) => told.push((metric.name, metric.value)),
            ToHost::Answer(answer) => break assert_eq!(answer.id, 50),
            other => panic!("{other:?}"),
        }
    }
    told.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(told, [("depth".to_owned(), 0.5), ("sent".to_owned(), 3.0)]);
    host.shut_down().await;
}
