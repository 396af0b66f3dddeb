//! A dialer whose target is not there yet, comes, goes and comes back; its events tell of everything.

use sp_proto::{Event, Events, Pull, Push, SocketOptions};
use std::time::Duration;

/// Prints events up to the first that `wanted` takes.
async fn until(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> anyhow::Result<()> {
    while let Some(event) = events.recv().await {
        match &event {
            Event::PipeAdded(pipe) => println!("connected with {}", pipe.peer_address),
            Event::PipeRemoved { reason, .. } => println!("connection lost: {reason}"),
            Event::DialFailed { reason, retry_in, .. } => println!("{reason}, again in {retry_in:?}"),
            other => println!("{other:?}"),
        }
        if wanted(&event) {
            return Ok(());
        }
    }
    anyhow::bail!("the socket was closed")
}

pub(crate) async fn run() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let address = format!("ipc://{}", folder.path().join("reconnecting.ipc").display());
    let push = Push::with_options(SocketOptions {
        reconnect_min: Duration::from_millis(5),
        reconnect_max: Duration::from_millis(50),
        ..Default::default()
    });
    let mut events = push.events();
    push.dial_in_background(&address)?;
    until(&mut events, |event| matches!(event, Event::DialFailed { .. })).await?;

    for life in ["first", "second"] {
        let pull = Pull::new();
        pull.listen(&address).await?;
        until(&mut events, |event| matches!(event, Event::PipeAdded(_))).await?;
        push.send(life).await?;
        assert_eq!(pull.recv().await?.as_bytes(), life.as_bytes());
        pull.close().await;
        until(&mut events, |event| matches!(event, Event::PipeRemoved { .. })).await?;
    }
    println!("sent {} messages in two lives", push.stats().sent.messages);
    push.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}
