//! The patterns that send to everybody: pub and sub, surveys, the bus.

use crate::support::{Transport, pipe_added, pipe_removed};
use sp_proto::{Bus, Message, Overflow, Pub, RecvError, Respondent, SocketOptions, Sub, Surveyor};
use std::time::Duration;

fn text(message: &Message) -> &str {
    str::from_utf8(message).unwrap()
}

pub(crate) async fn topics(transport: &Transport) {
    let publisher = Pub::with_options(transport.options());
    let mut joined = publisher.events();
    let at = publisher.listen(&transport.address).await.unwrap();
    let (all, sport, none) = (
        Sub::with_options(transport.options()),
        Sub::with_options(transport.options()),
        Sub::with_options(transport.options()),
    );
    all.subscribe("");
    sport.subscribe("sport/");
    for sub in [&all, &sport, &none] {
        sub.dial(&at.address).await.unwrap();
        pipe_added(&mut joined).await;
    }
    let mut weather = none.context();
    weather.subscribe(b"weather/".to_vec());
    for message in ["sport/1", "weather/1", "other", "sport/2", "weather/2"] {
        publisher.send(message).await.unwrap();
    }
    for expected in ["sport/1", "weather/1", "other", "sport/2", "weather/2"] {
        assert_eq!(text(&all.recv().await.unwrap()), expected);
    }
    for expected in ["sport/1", "sport/2"] {
        assert_eq!(text(&sport.recv().await.unwrap()), expected);
    }
    for expected in ["weather/1", "weather/2"] {
        assert_eq!(text(&weather.recv().await.unwrap()), expected);
    }
    assert_eq!(none.try_recv(), Ok(None), "the others' topics are not ours");
    assert_eq!(sport.stats().dropped.not_subscribed, 3);

    assert!(sport.unsubscribe("sport/"));
    sport.subscribe("end");
    publisher.send("sport/3").await.unwrap();
    publisher.send("end").await.unwrap();
    assert_eq!(text(&sport.recv().await.unwrap()), "end");
}

pub(crate) async fn slow_subscriber(transport: &Transport) {
    const COUNT: u32 = 2000;
    for (overflow, kept) in [(Overflow::DropOldest, None), (Overflow::DropNewest, Some(0))] {
        let publisher = Pub::with_options(SocketOptions {
            send_queue: 8,
            linger: Duration::from_secs(60),
            ..transport.options()
        });
        let sub = Sub::with_options(SocketOptions {
            recv_queue: 4,
            sub_overflow: overflow,
            ..transport.options()
        });
        sub.subscribe("");
        let (mut joined, mut left) = (publisher.events(), sub.events());
        let at = sub.listen(&transport.address).await.unwrap();
        publisher.dial(&at.address).await.unwrap();
        pipe_added(&mut joined).await;
        pipe_added(&mut left).await;
        for number in 0..COUNT {
            // Nobody receives, and nothing ever waits.
            publisher
                .send([&number.to_be_bytes()[..], &[0; 20_000]].concat())
                .await
                .unwrap();
        }
        publisher.close().await;
        pipe_removed(&mut left).await;
        let got: Vec<u32> = std::iter::from_fn(|| sub.try_recv().unwrap())
            .map(|message| u32::from_be_bytes(message[..4].try_into().unwrap()))
            .collect();
        assert_eq!(got.len(), 4);
        assert!(got.is_sorted(), "in order: {got:?}");
        if let Some(first) = kept {
            assert_eq!(got[0], first);
        }
        // Every message is accounted for.
        let (sent, received) = (publisher.stats(), sub.stats());
        assert_eq!(sent.sent.messages + sent.dropped.slow_peer, COUNT.into());
        assert_eq!(received.received, sent.sent);
        assert_eq!(received.dropped.slow_reader + 4, received.received.messages);
        sub.close().await;
    }
}

pub(crate) async fn cancelled_readers(transport: &Transport) {
    const COUNT: u32 = 500;
    let large = SocketOptions {
        send_queue: COUNT as usize,
        send_queue_bytes: usize::MAX,
        recv_queue: COUNT as usize,
        recv_queue_bytes: usize::MAX,
        ..transport.options()
    };
    let (publisher, sub) = (Pub::with_options(large.clone()), Sub::with_options(large));
    let mut joined = publisher.events();
    let at = publisher.listen(&transport.address).await.unwrap();
    sub.dial(&at.address).await.unwrap();
    pipe_added(&mut joined).await;
    sub.subscribe("");
    let mut context = sub.context();
    context.subscribe("");
    let send = async {
        for number in 0..COUNT {
            publisher.send(number.to_be_bytes().to_vec()).await.unwrap();
        }
    };
    let main = async {
        let mut expected = 0;
        while expected < COUNT {
            tokio::select! {
                biased;
                message = sub.recv() => {
                    assert_eq!(message.unwrap()[..], expected.to_be_bytes());
                    expected += 1;
                }
                () = tokio::task::yield_now() => {}
            }
        }
    };
    let other = async {
        let mut expected = 0;
        while expected < COUNT {
            tokio::select! {
                biased;
                message = context.recv() => {
                    assert_eq!(message.unwrap()[..], expected.to_be_bytes());
                    expected += 1;
                }
                () = tokio::task::yield_now() => {}
            }
        }
    };
    tokio::join!(send, main, other);
}

pub(crate) async fn surveys(transport: &Transport) {
    let patient = SocketOptions {
        survey_time: Duration::from_secs(600),
        ..transport.options()
    };
    let surveyor = Surveyor::with_options(patient);
    let mut joined = surveyor.events();
    let at = surveyor.listen(&transport.address).await.unwrap();
    let respondents = [
        Respondent::with_options(transport.options()),
        Respondent::with_options(transport.options()),
        Respondent::with_options(transport.options()),
    ];
    for respondent in &respondents {
        respondent.dial(&at.address).await.unwrap();
        pipe_added(&mut joined).await;
    }
    let mut survey = surveyor.survey("first").await.unwrap();
    for (respondent, name) in respondents.iter().zip(["a", "b"]) {
        let request = respondent.recv().await.unwrap();
        assert_eq!(&request.body()[..], b"first");
        request.reply(name).await.unwrap();
    }
    let silent = respondents[2].recv().await.unwrap();
    let mut responses = [survey.recv().await.unwrap(), survey.recv().await.unwrap()];
    responses.sort_unstable_by(|left, right| left.as_bytes().cmp(right));
    assert_eq!(responses, ["a".into(), "b".into()]);

    // Two at a time; each hears its own.
    let mut other = surveyor.survey("second").await.unwrap();
    survey.set_survey_time(Duration::from_millis(20));
    for respondent in &respondents {
        let request = respondent.recv().await.unwrap();
        assert_eq!(&request.body()[..], b"second");
        request.reply("to the second").await.unwrap();
    }
    silent.reply("late").await.unwrap();
    for _ in &respondents {
        assert_eq!(&other.recv().await.unwrap()[..], b"to the second");
    }
    assert_eq!(&survey.recv().await.unwrap()[..], b"late", "but not too late");

    survey.send("nobody answers").await.unwrap();
    assert_eq!(survey.recv().await, Err(RecvError::SurveyEnded));
    assert_eq!(survey.recv().await, Err(RecvError::State));
    assert_eq!(surveyor.context().recv().await, Err(RecvError::State));

    let (ended, ()) = tokio::join!(other.recv(), surveyor.close());
    assert_eq!(ended, Err(RecvError::Closed));
}

pub(crate) async fn neighbours(transport: &Transport) {
    let (hub, left, right) = (
        Bus::with_options(transport.options()),
        Bus::with_options(transport.options()),
        Bus::with_options(transport.options()),
    );
    let mut joined = hub.events();
    let at = hub.listen(&transport.address).await.unwrap();
    for bus in [&left, &right] {
        bus.dial(&at.address).await.unwrap();
        pipe_added(&mut joined).await;
    }
    left.send("from the left").await.unwrap();
    assert_eq!(text(&hub.recv().await.unwrap()), "from the left");
    hub.send("from the hub").await.unwrap();
    for bus in [&left, &right] {
        assert_eq!(text(&bus.recv().await.unwrap()), "from the hub");
        assert_eq!(bus.try_recv(), Ok(None), "one hop, and never back");
    }
    left.close().await;
    right.send("still here").await.unwrap();
    assert_eq!(text(&hub.recv().await.unwrap()), "still here");
}
