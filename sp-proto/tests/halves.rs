//! Sockets as streams and sinks.
#![allow(missing_docs)]

mod support;

use futures_util::{FutureExt, SinkExt, StreamExt, future};
use sp_proto::{
    Bus, Event, Message, Pair, Pair1, Protocol, Pub, Pull, Push, Raw, RawMessage, RecvError, Rep, Req,
    Respondent, SendError, SendErrorKind, SocketOptions, Sub, Surveyor,
};
use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Transport, bounded};
use tokio::sync::mpsc;
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

/// So many wait that any chain from one to the next on one stack overflows it.
const CROWD: usize = 10_000;

/// Tasks that wait on a half each, in order, and how often all of them were polled.
struct Crowd {
    tasks: JoinSet<()>,
    polls: Arc<AtomicUsize>,
}

impl Crowd {
    async fn wait<F: Future<Output = ()> + Send + 'static>(half: impl Fn(usize) -> F) -> Self {
        let (mut tasks, polls) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for number in 0..CROWD {
            let (mut half, polls) = (Box::pin(half(number)), Arc::clone(&polls));
            tasks.spawn(poll_fn(move |cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                half.as_mut().poll(cx)
            }));
        }
        while polls.load(Ordering::Relaxed) < CROWD {
            tokio::task::yield_now().await;
        }
        let crowd = Self { tasks, polls };
        assert_eq!(crowd.taken_polls(), CROWD);
        crowd
    }

    fn taken_polls(&self) -> usize {
        self.polls.swap(0, Ordering::Relaxed)
    }

    async fn join(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

#[tokio::test]
async fn of_many_streams_only_the_one_whose_turn_it_is_comes_for_a_message() {
    bounded(async {
        let (push, pull) = pipeline(SocketOptions::default(), SocketOptions::default()).await;
        let (sender, mut received) = mpsc::channel(1);
        let crowd = Crowd::wait(|number| {
            let (mut stream, sender) = (pull.stream(), sender.clone());
            async move {
                if let Some(message) = stream.next().await {
                    sender.send((number, message)).await.unwrap();
                }
            }
        })
        .await;
        for number in 0..100 {
            push.send(number.to_string()).await.unwrap();
            let (by, message) = received.recv().await.unwrap();
            assert_eq!((by, message), (number, number.to_string().into()));
            assert_eq!(crowd.taken_polls(), 1);
        }
        pull.close().await;
        crowd.join().await;
    })
    .await;
}

#[tokio::test]
async fn of_many_sinks_only_those_for_which_there_is_room_come() {
    bounded(async {
        let narrow = SocketOptions {
            send_queue: 1,
            recv_queue: 1,
            ..Default::default()
        };
        let (push, pull) = (Push::with_options(narrow.clone()), Pull::with_options(narrow));
        let crowd = Crowd::wait(|number| {
            let mut sink = push.sink();
            async move { sink.send(number.to_string().into()).await.unwrap() }
        })
        .await;
        let address = Transport::inproc().address;
        pull.listen(&address).await.unwrap();
        push.dial(&address).await.unwrap();
        for number in 0..CROWD {
            assert_eq!(pull.recv().await.unwrap(), number.to_string().into());
        }
        assert_eq!(crowd.taken_polls(), CROWD, "each once more");
        crowd.join().await;
    })
    .await;
}

#[tokio::test]
async fn many_halves_that_are_left_alone_keep_nobody_waiting() {
    bounded(async {
        let (push, pull) = (Push::new(), Pull::new());
        let mut streams: Vec<_> = (0..CROWD).map(|_| pull.stream()).collect();
        let mut sinks: Vec<_> = (0..CROWD).map(|_| push.sink()).collect();
        for (stream, sink) in streams.iter_mut().zip(&mut sinks) {
            assert!(stream.next().now_or_never().is_none());
            assert!(sink.send("held".into()).now_or_never().is_none());
        }
        let address = Transport::inproc().address;
        let connect = async {
            pull.listen(&address).await.unwrap();
            push.dial(&address).await.unwrap();
        };
        let (received, sent, ()) = tokio::join!(pull.recv(), push.send("free"), connect);
        sent.unwrap();
        assert_eq!(received.unwrap().as_bytes(), b"free");
        sinks[7].flush().await.unwrap();
        assert_eq!(streams[7].next().await.unwrap().as_bytes(), b"held");
    })
    .await;
}

#[tokio::test]
async fn who_comes_after_a_sink_that_was_woken_and_left_alone_is_served() {
    bounded(async {
        let (push, pull) = (Push::new(), Pull::new());
        let mut sink = push.sink();
        assert!(sink.send("held".into()).now_or_never().is_none());
        let address = Transport::inproc().address;
        pull.listen(&address).await.unwrap();
        push.dial(&address).await.unwrap();
        // It is woken by now, and nothing happens any more that would let others past.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        push.send("free").await.unwrap();
        assert_eq!(pull.recv().await.unwrap().as_bytes(), b"free");
    })
    .await;
}

#[tokio::test]
async fn who_only_tries_is_served_after_a_sink_that_was_woken_and_left_alone() {
    bounded(async {
        let (push, pull) = (Push::new(), Pull::new());
        let (mut one, mut two) = (push.sink(), push.sink());
        for sink in [&mut one, &mut two] {
            assert!(sink.send("held".into()).now_or_never().is_none());
        }
        let address = Transport::inproc().address;
        pull.listen(&address).await.unwrap();
        push.dial(&address).await.unwrap();
        while push.try_send("tried").is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(pull.recv().await.unwrap().as_bytes(), b"tried");
        one.flush().await.unwrap();
        assert_eq!(pull.recv().await.unwrap().as_bytes(), b"held");
    })
    .await;
}

#[tokio::test]
async fn who_gives_up_at_once_is_served_after_a_sink_that_was_woken_and_left_alone() {
    bounded(async {
        let (push, pull) = (Push::new(), Pull::new());
        let mut sink = push.sink();
        assert!(sink.send("held".into()).now_or_never().is_none());
        let address = Transport::inproc().address;
        pull.listen(&address).await.unwrap();
        push.dial(&address).await.unwrap();
        while push.send("hasty").now_or_never().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(pull.recv().await.unwrap().as_bytes(), b"hasty");
    })
    .await;
}

#[tokio::test]
async fn who_only_tries_receives_beside_a_stream_that_was_woken_and_left_alone() {
    bounded(async {
        let (push, pull) = pipeline(SocketOptions::default(), SocketOptions::default()).await;
        let mut stream = pull.stream();
        assert!(stream.next().now_or_never().is_none());
        push.send("hello").await.unwrap();
        let received = loop {
            match pull.try_recv().unwrap() {
                Some(received) => break received,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(received.as_bytes(), b"hello");
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

        let (left, right, at) = (Raw::new(Protocol::Bus), Bus::new(), address());
        left.listen(&at).await.unwrap();
        right.dial(&at).await.unwrap();
        right.send("back").await.unwrap();
        let (sink, mut stream) = left.split();
        let RawMessage { body, .. } = stream.next().await.unwrap();
        let mut sink = sink.with(|body| {
            let header = Default::default();
            future::ok::<_, SendError<_>>(RawMessage { header, body })
        });
        sink.send(body).await.unwrap();
        assert_eq!(right.stream().next().await.unwrap().as_bytes(), b"back");

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

/// What a device does, with combinators.
#[tokio::test]
async fn the_halves_of_raw_sockets_forward() {
    bounded(async {
        let at: Vec<String> = (0..2).map(|_| Transport::inproc().address).collect();
        let (front, back) = (Raw::new(Protocol::Rep), Raw::new(Protocol::Req));
        front.listen(&at[0]).await.unwrap();
        back.listen(&at[1]).await.unwrap();
        let (req, rep) = (Req::new(), Rep::new());
        req.dial(&at[0]).await.unwrap();
        rep.dial(&at[1]).await.unwrap();
        let there = front.stream().map(Ok).forward(back.sink());
        let home = back.stream().map(Ok).forward(front.sink());
        let work = async {
            let answer = async { rep.recv().await.unwrap().reply("yes").await.unwrap() };
            let (reply, ()) = tokio::join!(req.request("really?"), answer);
            assert_eq!(reply.unwrap().as_bytes(), b"yes");
            front.close().await;
            back.close().await;
        };
        let (there, home, ()) = tokio::join!(there, home, work);
        assert_eq!((there, home), (Ok(()), Ok(())));
    })
    .await;
}

#[tokio::test]
async fn the_halves_of_raw_sockets_know_their_direction() {
    bounded(async {
        assert!(Raw::new(Protocol::Push).stream().next().await.is_none());
        let message = RawMessage {
            header: Default::default(),
            body: "no".into(),
        };
        let error = Raw::new(Protocol::Pull)
            .sink()
            .send(message.clone())
            .await
            .unwrap_err();
        assert_eq!((error.message, error.kind), (message, SendErrorKind::ReceiveOnly));
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
        let error = req.try_request("nobody").unwrap_err();
        assert_eq!(
            (error.message, error.kind),
            ("nobody".into(), SendErrorKind::WouldBlock)
        );
        let address = Transport::inproc().address;
        rep.listen(&address).await.unwrap();
        req.dial(&address).await.unwrap();
        context.try_send("6 * 7").unwrap();
        let request = rep.recv().await.unwrap();
        assert_eq!(context.try_recv(), Ok(None));
        request.try_reply("42").unwrap();
        assert_eq!(context.recv().await.unwrap().as_bytes(), b"42");
        assert_eq!(context.try_recv(), Err(RecvError::State));
        let mut other = req.try_request("6 * 8").unwrap();
        rep.recv().await.unwrap().reply("48").await.unwrap();
        assert_eq!(other.recv().await.unwrap().as_bytes(), b"48");

        let (surveyor, respondent) = (Surveyor::new(), Respondent::new());
        let address = Transport::inproc().address;
        respondent.listen(&address).await.unwrap();
        surveyor.dial(&address).await.unwrap();
        let mut survey = surveyor.context();
        assert_eq!(survey.try_recv(), Err(RecvError::State));
        survey.set_survey_time(Duration::from_secs(3600));
        survey.try_send("who?").unwrap();
        assert_eq!(survey.try_recv(), Ok(None));
        respondent.recv().await.unwrap().try_reply("me").unwrap();
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
        let mut survey = surveyor.try_survey("again?").unwrap();
        assert_eq!(respondent.recv().await.unwrap().body().as_bytes(), b"too late");
        respondent.recv().await.unwrap().try_reply("me").unwrap();
        assert_eq!(survey.recv().await.unwrap().as_bytes(), b"me");
        surveyor.close().await;
        let error = surveyor.try_survey("closed?").unwrap_err();
        assert_eq!(
            (error.message, error.kind),
            ("closed?".into(), SendErrorKind::Closed)
        );
    })
    .await;
}

#[tokio::test]
async fn a_reply_that_finds_no_room_comes_back_with_its_request() {
    bounded(async {
        let asker = Raw::new(Protocol::Req);
        let rep = Rep::with_options(SocketOptions {
            send_queue: 1,
            send_timeout: Some(Duration::from_millis(1)),
            rep_backlog: 1000,
            ..Default::default()
        });
        let address = Transport::inproc().address;
        rep.listen(&address).await.unwrap();
        asker.dial(&address).await.unwrap();
        let question = || RawMessage {
            header: vec![0x80, 0, 0, 1].into(),
            body: "?".into(),
        };
        let mut asked = 0;
        // Nobody takes the answers, and sooner or later there is no room for another.
        let error = loop {
            asker.send(question()).await.unwrap();
            asked += 1;
            let request = rep.recv().await.unwrap();
            if let Err(error) = request.reply("!").await {
                break error;
            }
        };
        assert_eq!(error.kind, SendErrorKind::TimedOut);
        assert_eq!(error.message.as_bytes(), b"!");
        let error = error.request.try_reply(error.message).unwrap_err();
        assert_eq!(error.kind, SendErrorKind::WouldBlock);
        let mut request = error.request;
        let mut answered = 0;
        loop {
            answered += usize::from(asker.try_recv().unwrap().is_some());
            match request.try_reply("!") {
                Ok(()) => break,
                Err(error) => request = error.request,
            }
            tokio::task::yield_now().await;
        }
        while answered < asked {
            asker.recv().await.unwrap();
            answered += 1;
        }
        asker.send(question()).await.unwrap();
        let request = rep.recv().await.unwrap();
        let mut events = rep.events();
        asker.close().await;
        while !matches!(events.recv().await.unwrap(), Event::PipeRemoved { .. }) {}
        let error = request.try_reply("gone").unwrap_err();
        assert_eq!(
            (error.message, error.kind),
            ("gone".into(), SendErrorKind::PeerGone)
        );
        assert_eq!(error.request.body().as_bytes(), b"?");
    })
    .await;
}
