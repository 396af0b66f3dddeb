//! What a host can be: a name, nothing, an address of either kind.
#![cfg(feature = "tcp")]
#![allow(missing_docs)]

mod support;

use sp_proto::{Pull, Push};
use support::bounded;

async fn arrives(listen: &str, dial: impl Fn(&str) -> String) {
    let (pull, push) = (Pull::new(), Push::new());
    let at = pull.listen(listen).await.unwrap().address;
    let port = at.rsplit(':').next().unwrap();
    assert_ne!(port, "0", "{at} has the port that the system chose");
    push.dial(&dial(port)).await.unwrap();
    push.send("x").await.unwrap();
    assert_eq!(&pull.recv().await.unwrap()[..], b"x");
}

#[tokio::test]
async fn names_and_any_interface() {
    bounded(async {
        arrives("tcp://127.0.0.1:0", |port| format!("tcp://localhost:{port}")).await;
        arrives("tcp://*:0", |port| format!("tcp://127.0.0.1:{port}")).await;
        arrives("tcp://*:0", |port| format!("tcp://*:{port}")).await;
        assert!(Push::new().dial("tcp://no-such-host.invalid:1").await.is_err());
    })
    .await;
}

#[tokio::test]
async fn version_6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        testkit::skip("tcp over IPv6", "this machine has no ::1");
        return;
    }
    bounded(arrives("tcp://[::1]:0", |port| format!("tcp://[::1]:{port}"))).await;
}
