//! Every example runs, ends, and finds what it expects.
#![allow(missing_docs)]
#![allow(dead_code, reason = "an example's main is for `cargo run --example`")]

mod support;

#[path = "../examples/discovery.rs"]
mod discovery;
#[path = "../examples/news.rs"]
mod news;
#[path = "../examples/pipeline.rs"]
mod pipeline;
#[cfg(feature = "ipc")]
#[path = "../examples/reconnecting.rs"]
mod reconnecting;
#[path = "../examples/request_reply.rs"]
mod request_reply;
#[cfg(feature = "tls")]
#[path = "../examples/tls.rs"]
mod tls;

#[tokio::test]
async fn discovery() {
    support::bounded(discovery::run()).await.unwrap();
}

#[tokio::test]
async fn news() {
    support::bounded(news::run()).await.unwrap();
}

#[tokio::test]
async fn pipeline() {
    support::bounded(pipeline::run()).await.unwrap();
}

#[cfg(feature = "ipc")]
#[tokio::test]
async fn reconnecting() {
    support::bounded(reconnecting::run()).await.unwrap();
}

#[tokio::test]
async fn request_reply() {
    support::bounded(request_reply::run()).await.unwrap();
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls() {
    support::bounded(tls::run()).await.unwrap();
}
