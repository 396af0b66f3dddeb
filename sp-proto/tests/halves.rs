//! Sockets as streams and sinks.
#![allow(missing_docs)]

mod support;

use futures_util::{FutureExt, SinkExt, StreamExt};
use sp_proto::{
    Bus, Event, Message, Pair, Pair1, Pub, Pull, Push, RecvError, Rep, Req, Respondent, SendErrorKind,
    SocketOptions, Sub, Surveyor,
};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Transport, bounded};
use tokio::task::JoinSet;

/// A push and a pull socket that are connected.
async fn pipeline(push: SocketOptions, pull: SocketOptions) -> (Push, Pull) {
    let (push, pull) = (Push::with_options(push), Pull::with_options(pull));
    let address = Transport::inproc().address;
    pull.listen(&address).await.unwrap();
    push.dial(&address).await.unwrap();
    (push, pull)
}

#[tokio::test]
async fn a_stream_waits_for_messages_and_ends_with_its_socket() {
    bounded(async {
        let (push, pull) = pipeline(SocketOptions::default(), SocketOptions::default()).await;
        let mut stream = pull.stream();
        for text in ["a", "bb"] {
            let (received, sent) = tokio::join!(stream.next(), push.send(text));
            sent.unwrap();
            assert_eq!(received.unwrap().as_bytes(), text.as_bytes());
        }
        let (end, ()) = tokio::join!(stream.next(), pull.close());
        assert!(end.is_none());
        assert!(stream.next().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_left_alone_keeps_nobody_waiting() {
    bounded(async {
        let (push, pull) = pipeline(SocketOptions::default(), SocketOptions::default()).await;
        let (mut one, mut two) = (pull.stream(), pull.stream());
        assert!(one.next().now_or_never().is_none());
        assert!(two.next().now_or_never().is_none());
        let (received, sent) = tokio::join!(pull.recv(), push.send("hello"));
        sent.unwrap();
        assert_eq!(received.unwrap().as_bytes(), b"hello");
        push.send("again").await.unwrap();
        assert_eq!(one.next().await.unwrap().as_bytes(), b"again");
    })
    .await;
}

#[tokio::test]
async fn a_sink_that_is_left_alone_keeps_nobody_waiting() {
    bounded(async {
        let (push, pull) = (Push::new(), Pull::new());
        let mut sink = push.sink();
        assert!(sink.send("held".into()).now_or_never().is_none());
        let address = Transport::inproc().address;
        let connect = async {
            pull.listen(&address).await.unwrap();
            push.dial(&address).await.unwrap();
        };
        let (sent, ()) = tokio::join!(push.send("free"), connect);
        sent.unwrap();
        assert_eq!(pull.recv().await.unwrap().as_bytes(), b"free");
        sink.flush().await.unwrap();
        assert_eq!(pull.recv().await.unwrap().as_bytes(), b"held");
    })
    .await;
}

/// Sinks and streams beside each other on two workers, each stepped a little, left alone and taken up again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_halves_lose_nothing_and_hang_nowhere() {
    const HALVES: usize = 6;
    const EACH: usize = 2000;
    bounded(async {
        let narrow = || SocketOptions {
            send_queue: 2,
            recv_queue: 2,
            ..Default::default()
        };
        let (push, pull) = pipeline(narrow(), narrow()).await;
        let received = Arc::new(Mutex::new(Vec::new()));
        let mut receivers = JoinSet::new();
        for _ in 0..HALVES {
            let (mut stream, received) = (pull.stream(), Arc::clone(&received));
            receivers.spawn(async move {
                loop {
                    let next = match stream.next().now_or_never() {
                        Some(next) => next,
                        None => {
                            tokio::task::yield_now().await;
                            stream.next().await
                        }
                    };
                    let Some(message) = next else { return };
                    received.lock().unwrap().push(message);
                }
            });
        }
        let mut senders = JoinSet::new();
        for half in 0..HALVES {
            let mut sink = push.sink();
            senders.spawn(async move {
                for number in 0..EACH {
                    sink.feed(format!("{half} {number}").into()).await.unwrap();
                    if number % 3 == 0 {
                        let _ = sink.flush().now_or_never();
                        tokio::task::yield_now().await;
                    }
                }
                sink.close().await.unwrap();
            });
        }
        while let Some(sent) = senders.join_next().await {
            sent.unwrap();
        }
        while received.lock().unwrap().len() < HALVES * EACH {
            tokio::task::yield_now().await;
        }
        pull.close().await;
        while let Some(ended) = receivers.join_next().await {
            ended.unwrap();
        }
        let received: HashSet<Message> = received.lock().unwrap().drain(..).collect();
        assert_eq!(received.len(), HALVES * EACH);
    })
    .await;
}

#[tokio::test]
async fn a_sink_sends_in_order_and_gives_back_what_a_closed_socket_does_not_take() {
    bounded(async {
        let narrow = || SocketOptions {
            send_queue: 1,
            recv_queue: 1,
            ..Default::default()
        };
        let (push, pull) = pipeline(narrow(), narrow()).await;
        let mut sink = push.sink();
        let send = async {
            for number in 0..300 {
                sink.send(number.to_string().into()).await.unwrap();
            }
        };
        let receive = pull.stream().take(300).collect::<Vec<_>>();
        let ((), received) = tokio::join!(send, receive);
        let wanted: Vec<Message> = (0..300).map(|number| number.to_string().into()).collect();
        assert_eq!(received, wanted);
        push.close().await;
        let error = sink.send("late".into()).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::Closed);
        assert_eq!(error.message.as_bytes(), b"late");
    })
    .await;
}

#[tokio::test]
async fn time_limits_of_the_socket_do_not_end_its_halves() {
    bounded(async {
        let limited = || SocketOptions {
            recv_timeout: Some(Duration::from_millis(1)),
            send_timeout: Some(Duration::from_millis(1)),
            ..Default::default()
        };
        let pull = Pull::with_options(limited());
        let address = Transport::inproc().address;
        let push = Push::with_options(limited());
        let mut sink = push.sink();
        let late = async {
            for _ in 0..3 {
                assert_eq!(pull.recv().await, Err(RecvError::TimedOut));
            }
            pull.listen(&address).await.unwrap();
            push.dial(&address).await.unwrap();
        };
        let mut stream = pull.stream();
        let (received, sent, ()) = tokio::join!(stream.next(), sink.send("patience".into()), late);
        sent.unwrap();
        assert_eq!(received.unwrap().as_bytes(), b"patience");
    })
    .await;
}

#[tokio::test]
async fn every_socket_has_its_halves() {
    bounded(async {
        let address = || Transport::inproc().address;

        let (left, right, at) = (Pair::new(), Pair::new(), address());
        left.listen(&at).await.unwrap();
        right.dial(&at).await.unwrap();
        let ((mut to_right, mut from_right), (mut to_left, mut from_left)) = (left.split(), right.split());
        to_right.send("r".into()).await.unwrap();
        to_left.send("l".into()).await.unwrap();
        assert_eq!(from_left.next().await.unwrap().as_bytes(), b"r");
        assert_eq!(from_right.next().await.unwrap().as_bytes(), b"l");

        let (left, right, at) = (Pair1::new(), Pair1::new(), address());
        left.listen(&at).await.unwrap();
        right.dial(&at).await.unwrap();
        left.sink().send("r".into()).await.unwrap();
        assert_eq!(right.stream().next().await.unwrap().as_bytes(), b"r");

        let (left, right, at) = (Bus::new(), Bus::new(), address());
        left.listen(&at).await.unwrap();
        right.dial(&at).await.unwrap();
        left.sink().send("r".into()).await.unwrap();
        assert_eq!(right.stream().next().await.unwrap().as_bytes(), b"r");

        let (publisher, sub, at) = (Pub::new(), Sub::new(), address());
        sub.subscribe("");
        let mine = sub.context();
        mine.subscribe("b");
        sub.listen(&at).await.unwrap();
        publisher.dial(&at).await.unwrap();
        publisher.sink().send("a".into()).await.unwrap();
        publisher.sink().send("b".into()).await.unwrap();
        assert_eq!(sub.stream().next().await.unwrap().as_bytes(), b"a");
        assert_eq!(mine.into_stream().next().await.unwrap().as_bytes(), b"b");

        let (rep, req, at) = (Rep::new(), Req::new(), address());
        rep.listen(&at).await.unwrap();
        req.dial(&at).await.unwrap();
        let mut requests = rep.stream();
        let answer = async { requests.next().await.unwrap().reply("yes").await.unwrap() };
        let (reply, ()) = tokio::join!(req.request("really?"), answer);
        assert_eq!(reply.unwrap().as_bytes(), b"yes");
    })
    .await;
}

#[tokio::test]
async fn a_stream_of_responses_ends_with_its_survey() {
    bounded(async {
        let options = SocketOptions {
            survey_time: Duration::from_millis(500),
            ..Default::default()
        };
        let (surveyor, respondent) = (Surveyor::with_options(options), Respondent::new());
        let address = Transport::inproc().address;
        respondent.listen(&address).await.unwrap();
        surveyor.dial(&address).await.unwrap();
        let survey = surveyor.survey("who?").await.unwrap();
        let mut surveys = respondent.stream();
        surveys.next().await.unwrap().reply("me").await.unwrap();
        let responses: Vec<Message> = survey.into_stream().collect().await;
        assert_eq!(responses, ["me".into()]);
    })
    .await;
}

#[tokio::test]
async fn a_stream_of_events_ends_with_its_socket() {
    bounded(async {
        let (push, pull) = (Push::new(), Pull::new());
        let events = push.events().into_stream();
        let address = Transport::inproc().address;
        pull.listen(&address).await.unwrap();
        push.dial(&address).await.unwrap();
        push.close().await;
        let events: Vec<Event> = events.collect().await;
        assert!(matches!(events[0], Event::PipeAdded(_)), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn contexts_can_be_asked_without_waiting() {
    bounded(async {
        let (rep, req) = (Rep::new(), Req::new());
        let mut context = req.context();
        assert_eq!(context.try_recv(), Err(RecvError::State));
        let error = context.try_send("nobody is there").unwrap_err();
        assert_eq!(error.kind, SendErrorKind::WouldBlock);
        let address = Transport::inproc().address;
        rep.listen(&address).await.unwrap();
        req.dial(&address).await.unwrap();
        context.try_send("6 * 7").unwrap();
        let request = rep.recv().await.unwrap();
        assert_eq!(context.try_recv(), Ok(None));
        request.reply("42").await.unwrap();
        assert_eq!(context.recv().await.unwrap().as_bytes(), b"42");
        assert_eq!(context.try_recv(), Err(RecvError::State));

        let (surveyor, respondent) = (Surveyor::new(), Respondent::new());
        let address = Transport::inproc().address;
        respondent.listen(&address).await.unwrap();
        surveyor.dial(&address).await.unwrap();
        let mut survey = surveyor.context();
        assert_eq!(survey.try_recv(), Err(RecvError::State));
        survey.set_survey_time(Duration::from_secs(3600));
        survey.send("who?").await.unwrap();
        assert_eq!(survey.try_recv(), Ok(None));
        respondent.recv().await.unwrap().reply("me").await.unwrap();
        let response = loop {
            match survey.try_recv().unwrap() {
                Some(response) => break response,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(response.as_bytes(), b"me");
        survey.set_survey_time(Duration::ZERO);
        survey.send("too late").await.unwrap();
        assert_eq!(survey.try_recv(), Err(RecvError::SurveyEnded));
        assert_eq!(survey.try_recv(), Err(RecvError::State));
    })
    .await;
}
