//! What a sink is given, and what it acknowledges.

use std::time::Duration;

use bytes::Bytes;
use mangrove::plugin::ChannelError;
use mangrove_protocol::native::control::Role;
use serde_json::{Value, json};
use testkit::within;

use super::{Peer, results, scene, taken};

#[tokio::test]
async fn results_are_acknowledged_together_and_failures_are_told() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut sink, start, pull) = scene.open_sink(&peer, true).await;
    assert!(matches!(start.role, Role::Sink { ack: true, .. }));
    let settled = sink.put(results(&["[1]", "[2]", "[3]"])).await;
    assert_eq!((settled.delivered, sink.outstanding()), (0, 3));
    assert_eq!(taken(&pull).await, (1, vec![json!([1]), json!([2]), json!([3])]));
    sink.put(results(&["[4]"])).await;
    assert_eq!(taken(&pull).await, (2, vec![json!([4])]));
    peer.ack(start.number, 1, vec![(1, "disk full".to_owned())]).await;
    let settled = within("the first batch", sink.settle()).await;
    assert_eq!(
        (settled.delivered, settled.failed.len(), sink.outstanding()),
        (2, 1, 1)
    );
    assert_eq!(settled.failed[0].to_string(), "disk full");
    peer.ack(start.number, 2, Vec::new()).await;
    assert_eq!(within("the second batch", sink.settle()).await.delivered, 1);
    assert_eq!(within("nothing", sink.settle()).await.delivered, 0);
    let status = scene.host.status(&scene.name);
    assert_eq!(status.symbols.sinks[&scene.sink].last_error, "disk full");
    scene.host.shutdown().await;
}

#[tokio::test]
async fn what_was_not_acknowledged_goes_to_the_next_process() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut sink, start, pull) = scene.open_sink(&peer, true).await;
    sink.put(results(&["1", "2"])).await;
    taken(&pull).await;
    peer.ack(start.number, 1, Vec::new()).await;
    assert_eq!(within("the first batch", sink.settle()).await.delivered, 2);
    sink.put(results(&["3", "4"])).await;
    taken(&pull).await;
    let old = scene.kill().await;
    drop((pull, peer));
    let working = async {
        let settled = sink.put(results(&["5"])).await;
        assert_eq!(settled.delivered, 0);
        let mut delivered = 0;
        while delivered < 3 {
            let settled = sink.settle().await;
            assert!(settled.failed.is_empty(), "{settled:?}");
            delivered += settled.delivered;
        }
    };
    let speaking = async {
        let peer = Peer::dial(&scene, Some(old)).await.open().await;
        let (start, pull) = peer.start_sink().await;
        let mut got = Vec::new();
        while got.len() < 3 {
            let (seq, results) = taken(&pull).await;
            got.extend(results);
            peer.ack(start.number, seq, Vec::new()).await;
        }
        assert_eq!(got, [json!(3), json!(4), json!(5)]);
        peer
    };
    within("everything to be acknowledged", async {
        tokio::join!(working, speaking)
    })
    .await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn what_is_insisted_on_is_overdue_and_may_be_acknowledged_until_the_sink_is_closed() {
    let scene = scene(|home| home.settings.ack_timeout = Duration::from_millis(50)).await;
    let peer = scene.peer().await;
    let (mut sink, start, pull) = scene.open_sink(&peer, true).await;
    sink.insist();
    sink.put(results(&["1", "2"])).await;
    taken(&pull).await;
    let settled = within("it to be overdue", sink.settle()).await;
    assert_eq!(
        (settled.delivered, settled.failed.len(), sink.outstanding()),
        (0, 0, 2)
    );
    assert!(
        matches!(settled.overdue, Some(ChannelError::Overdue { .. })),
        "{settled:?}"
    );
    let stopping = async {
        let (id, stop) = peer.stop().await;
        peer.ack(stop.number, 1, Vec::new()).await;
        peer.answer(id, Ok(Value::Null)).await;
        assert_eq!((stop.number, stop.seq), (start.number, Some(1)));
    };
    let (settled, ()) = within("the sink to close", async {
        tokio::join!(sink.close(), stopping)
    })
    .await;
    assert_eq!((settled.delivered, settled.failed.len()), (2, 0));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn put_waits_when_the_window_is_full() {
    let scene = scene(|home| home.settings.ack_window = 2).await;
    let peer = scene.peer().await;
    let (mut sink, start, pull) = scene.open_sink(&peer, true).await;
    let mut putting = tokio::task::JoinSet::new();
    putting.spawn(async move {
        let mut settled = 0;
        for _ in 0..100 {
            settled += sink.put(vec![Bytes::from_static(b"1")]).await.delivered;
            assert!(sink.outstanding() <= 2);
        }
        while sink.outstanding() > 0 {
            settled += sink.settle().await.delivered;
        }
        settled
    });
    let mut got = 0;
    while got < 100 {
        let (seq, results) = taken(&pull).await;
        got += results.len();
        peer.ack(start.number, seq, Vec::new()).await;
    }
    let settled = within("everything to settle", putting.join_next()).await;
    assert_eq!(settled.unwrap().unwrap(), 100);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_sink_is_told_its_last_batch_when_it_stops() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut sink, start, pull) = scene.open_sink(&peer, false).await;
    let settled = sink.put(results(&["1", "2"])).await;
    assert_eq!((settled.delivered, sink.outstanding()), (2, 0));
    let stopping = async {
        let (id, stop) = peer.stop().await;
        assert_eq!((stop.number, stop.seq), (start.number, Some(1)));
        assert_eq!(taken(&pull).await.0, 1);
        peer.answer(id, Ok(Value::Null)).await;
    };
    within("the sink to close", async {
        tokio::join!(sink.close(), stopping)
    })
    .await;
    scene.host.shutdown().await;
}
