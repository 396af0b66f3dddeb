//! The README's calls of the REST API, as they stand there.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::Host;

const README: &str = include_str!("../../README.md");

#[tokio::test]
async fn the_calls_in_the_readme_do_what_it_says() {
    let home = TempDir::new().unwrap();
    let mut host = Host::start(home.path()).await;
    let mut calls = 0;
    for line in README.lines().filter(|line| line.starts_with("curl ")) {
        let (_, call) = line
            .split_once("http://127.0.0.1:9081")
            .expect("a call goes to the default address");
        let reply = match call.split_once(" -d ") {
            Some((path, body)) => {
                let body: Value = serde_json::from_str(body.trim_matches('\'')).expect("a body is JSON");
                host.post(path, &body).await
            }
            None => host.get(call).await,
        };
        assert!(reply.status < 300, "{line}: {reply:?}");
        calls += 1;
    }
    assert_eq!(calls, 3);
    assert_eq!(host.logged("warm").await, json!([{"celsius": 22.5}]));
}
