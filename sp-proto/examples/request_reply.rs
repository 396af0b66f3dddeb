//! A server that answers requests side by side, and a client that has several in flight.

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use sp_proto::{Rep, Req, Request, SocketOptions};

async fn answer(request: Request) -> anyhow::Result<()> {
    let answer = std::str::from_utf8(request.body())?.to_uppercase();
    // An error says that the client is gone. That is no trouble of the server.
    let _ = request.reply(answer).await;
    Ok(())
}

pub(crate) async fn run() -> anyhow::Result<()> {
    let server = Rep::with_options(SocketOptions {
        // As many requests as one client may have in flight.
        rep_backlog: 64,
        ..Default::default()
    });
    let address = server.listen("tcp://127.0.0.1:0").await?.address;
    // At most eight at once.
    let serve = server.stream().map(Ok).try_for_each_concurrent(8, answer);

    let client = Req::new();
    client.dial(&address).await?;
    let ask = async {
        let words = ["every", "request", "has", "a", "context", "of", "its", "own"];
        let replies: Vec<_> = stream::iter(words)
            .map(|word| client.request(word))
            .buffered(4)
            .try_collect()
            .await?;
        let text: Vec<_> = replies
            .iter()
            .map(|reply| String::from_utf8_lossy(reply))
            .collect();
        println!("{}", text.join(" "));
        assert_eq!(text.join(" "), "EVERY REQUEST HAS A CONTEXT OF ITS OWN");

        // A conversation of one's own: a new request cancels the one before.
        let mut context = client.context();
        context.send("changed my mind").await?;
        context.send("this one").await?;
        assert_eq!(context.recv().await?.as_bytes(), b"THIS ONE");
        anyhow::Ok(())
    };
    tokio::select! {
        served = serve => served.context("the server has ended"),
        asked = ask => asked,
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}
