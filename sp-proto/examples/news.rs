//! A publisher, a device in the middle, and subscribers with topics of their own.

use sp_proto::{Event, Events, Protocol, Pub, Raw, Sub, device};

/// Waits until a peer is connected: what is published before, it misses.
async fn connected(events: &mut Events) {
    while let Some(event) = events.recv().await {
        if let Event::PipeAdded(_) = event {
            return;
        }
    }
}

pub(crate) async fn run() -> anyhow::Result<()> {
    // Publishers dial the front, subscribers the back: neither needs to know the other's address.
    let (front, back) = (Raw::new(Protocol::Sub), Raw::new(Protocol::Pub));
    let (mut at_front, mut at_back) = (front.events(), back.events());
    let front_address = front.listen("tcp://127.0.0.1:0").await?.address;
    let back_address = back.listen("tcp://127.0.0.1:0").await?.address;

    let publisher = Pub::new();
    publisher.dial(&front_address).await?;
    connected(&mut at_front).await;

    let sub = Sub::new();
    sub.subscribe("sport/");
    sub.subscribe("weather/");
    let mut everything = sub.context();
    everything.subscribe("");
    sub.dial(&back_address).await?;
    connected(&mut at_back).await;

    let talk = async {
        for news in ["sport/2:1", "politics/election", "weather/rain"] {
            publisher.send(news).await?;
        }
        for wanted in ["sport/2:1", "weather/rain"] {
            let heard = sub.recv().await?;
            println!("some: {}", String::from_utf8_lossy(&heard));
            assert_eq!(heard.as_bytes(), wanted.as_bytes());
        }
        for _ in 0..3 {
            println!("all: {}", String::from_utf8_lossy(&everything.recv().await?));
        }
        // From now on only one topic.
        sub.unsubscribe("sport/");
        publisher.send("sport/3:1").await?;
        publisher.send("weather/sun").await?;
        assert_eq!(sub.recv().await?.as_bytes(), b"weather/sun");
        anyhow::Ok(())
    };
    tokio::select! {
        ended = device(&front, &back) => Ok(ended?),
        talked = talk => talked,
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}
