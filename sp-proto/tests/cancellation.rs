//! Every future of the crate, dropped at every one of its await points: nothing is lost, nothing comes twice,
//! and nothing is stuck afterwards.
//!
//! Each case runs with a future that is polled 0, 1, 2 … times and then dropped, until it is ready before
//! that. Between polls the tasks of the sockets run and the case does one step of its own. Messages are
//! numbers; at the other end there is mostly a raw socket.
#![allow(missing_docs)]

#[path = "cancellation/ends.rs"]
mod ends;
#[path = "cancellation/points.rs"]
mod points;
mod support;

use ends::{
    Socket, arrives, body, carried, connect, echo_one, end, is_answered, number, patient, plain,
    push_and_pull, raw, reader, reading, received, small, subscribed, transports, while_echoing, with,
};
use futures_util::{SinkExt, StreamExt};
use points::{at_every_point, at_the_end_of_a_turn, polled, until};
use sp_proto::{
    Bus, Incoming, Listener, ListenerOptions, Message, Pair, Pair1, Protocol, Pub, Pull, Push, Raw,
    RawMessage, RecvError, Rep, Req, ReqContext, Respondent, SendErrorKind, SocketOptions, Stats, Sub,
    SurveyContext, Surveyor, device,
};
use support::{Transport, pipe_added};

/// One test per case, over every transport and every point.
macro_rules! cases {
    ($($name:ident = $case:ident($($part:expr),*);)*) => { $(
        #[tokio::test]
        async fn $name() {
            for transport in transports() {
                at_every_point(async |polls| $case(&transport, polls, $($part),*).await).await;
            }
        }
    )* };
}

cases! {
    push_send = send(Push::with_options, Protocol::Pull, false, async |push, n| push.send(body(n)).await.unwrap());
    pair_send = send(Pair::with_options, Protocol::Pair0, false, async |pair, n| pair.send(body(n)).await.unwrap());
    pair1_send = send(Pair1::with_options, Protocol::Pair1, false, async |pair, n| pair.send(body(n)).await.unwrap());
    raw_send = send(raw(Protocol::Push), Protocol::Pull, false, async |raw, n| raw.send(plain(n)).await.unwrap());
    rep_recv_and_reply = send(Rep::with_options, Protocol::Req, false, async |rep, n| {
        rep.recv().await.unwrap().reply(body(n)).await.unwrap();
    });
    respondent_recv_and_reply = send(Respondent::with_options, Protocol::Surveyor, false, async |respondent, n| {
        respondent.recv().await.unwrap().reply(body(n)).await.unwrap();
    });
    sink_send = send(with(Push::with_options, Push::sink), Protocol::Pull, true, async |(_, sink), n| {
        sink.send(body(n)).await.unwrap();
    });
    raw_sink_send = send(with(raw(Protocol::Push), Raw::sink), Protocol::Pull, true, async |(_, sink), n| {
        sink.send(plain(n)).await.unwrap();
    });

    pub_send = send_to_all(Pub::with_options, Protocol::Sub, async |publisher, n| {
        publisher.send(body(n)).await.unwrap();
    });
    bus_send = send_to_all(Bus::with_options, Protocol::Bus, async |bus, n| bus.send(body(n)).await.unwrap());

    pull_recv = recv(Protocol::Push, Pull::with_options, async |pull| pull.recv().await.unwrap());
    pair_recv = recv(Protocol::Pair0, Pair::with_options, async |pair| pair.recv().await.unwrap());
    pair1_recv = recv(Protocol::Pair1, Pair1::with_options, async |pair| pair.recv().await.unwrap());
    bus_recv = recv(Protocol::Bus, Bus::with_options, async |bus| bus.recv().await.unwrap());
    sub_recv = recv(Protocol::Pub, subscribed, async |sub| sub.recv().await.unwrap());
    raw_recv = recv(Protocol::Bus, raw(Protocol::Bus), async |raw| raw.recv().await.unwrap().body);
    rep_recv = recv(Protocol::Req, Rep::with_options, async |rep| rep.recv().await.unwrap().body().clone());
    respondent_recv = recv(Protocol::Surveyor, Respondent::with_options, async |respondent| {
        respondent.recv().await.unwrap().body().clone()
    });
    sub_context_recv = recv(Protocol::Pub, with(Sub::with_options, reader), async |(_, context)| {
        context.recv().await.unwrap()
    });
    stream_next = recv(Protocol::Push, with(Pull::with_options, Pull::stream), async |(_, stream)| {
        stream.next().await.unwrap()
    });
    raw_stream_next = recv(Protocol::Bus, with(raw(Protocol::Bus), Raw::stream), async |(_, stream)| {
        stream.next().await.unwrap().body
    });
    rep_stream_next = recv(Protocol::Req, with(Rep::with_options, Rep::stream), async |(_, stream)| {
        stream.next().await.unwrap().body().clone()
    });
    sub_context_stream_next = recv(Protocol::Pub, with(Sub::with_options, reading), async |(_, stream)| {
        stream.next().await.unwrap()
    });

    req_request = request();
    req_send_while_nobody_is_there = request_of_nobody();
    surveyor_survey = survey();
    req_recv = answer(Req::with_options, Protocol::Rep, requested, async |context| context.recv().await.ok());
    surveyor_recv = answer(patient, Protocol::Respondent, surveyed, async |survey| survey.recv().await.ok());
    surveyor_stream_next = answer(patient, Protocol::Respondent, streamed, async |stream| stream.next().await);

    dial = dialing();
    listen_and_close_endpoint = listening();
    close = closing();
    listener_bind_and_accept = accepting();
    events_recv = events();
    device_both_ways = forwarding();
}

/// Sending while the queues are full, where that waits for room. A half `holds` a message whose sending was
/// cancelled, and may send it all the same.
async fn send<S: Socket>(
    transport: &Transport,
    polls: usize,
    open: impl Fn(SocketOptions) -> S,
    peer: Protocol,
    holds: bool,
    send: impl AsyncFn(&mut S, u32),
) -> bool {
    let (mut from, to) = (open(small(transport)), raw(peer)(small(transport)));
    connect(transport, &from, &to).await;
    let mut asked = 0;
    let mut ask = async |from: &S| {
        if matches!(peer, Protocol::Req | Protocol::Surveyor) {
            let header = carried(peer, 0).header;
            let body = "?".into();
            to.send(RawMessage { header, body }).await.unwrap();
            asked += 1;
            until(|| from.stats().received.messages == asked).await;
        }
    };
    ask(&from).await;
    let mut next = 0;
    while polled(send(&mut from, next), 20, async || {}).await.is_some() {
        ask(&from).await;
        next += 1;
    }
    next += u32::from(holds);
    ask(&from).await;
    let mut got = Vec::new();
    let sent = polled(send(&mut from, next), polls, async || got.extend(received(&to))).await;
    let last = next + 1;
    ask(&from).await;
    let rest = async {
        while got.last() != Some(&last) {
            got.push(number(&to.recv().await.unwrap().body));
        }
    };
    tokio::join!(send(&mut from, last), rest);
    let all = 0..=last;
    let without = all.clone().filter(|number| *number != next);
    let expected = if sent.is_some() || (holds && got.contains(&next)) {
        all.collect()
    } else {
        without.collect::<Vec<_>>()
    };
    assert_eq!(got, expected);
    assert!(to.try_recv().unwrap().is_none());
    assert_eq!(from.stats().sent.messages, got.len() as u64);
    end(&from, &to).await;
    sent.is_some()
}

/// Sending that waits for no peer, only for the next turn of a task that has used this one up.
async fn send_to_all<S: Socket>(
    transport: &Transport,
    polls: usize,
    open: impl Fn(SocketOptions) -> S,
    peer: Protocol,
    send: impl AsyncFn(&mut S, u32),
) -> bool {
    let (mut from, to) = (open(transport.options()), raw(peer)(transport.options()));
    connect(transport, &from, &to).await;
    let sent = polled(at_the_end_of_a_turn(send(&mut from, 0)), polls, async || {}).await;
    assert!(polls > 1 || sent.is_none(), "it yields before it sends");
    send(&mut from, 1).await;
    let mut got = vec![number(&to.recv().await.unwrap().body)];
    while got.last() != Some(&1) {
        got.push(number(&to.recv().await.unwrap().body));
    }
    let expected: &[u32] = if sent.is_some() { &[0, 1] } else { &[1] };
    assert_eq!(got, expected);
    assert!(to.try_recv().unwrap().is_none());
    end(&from, &to).await;
    sent.is_some()
}

/// Receiving while messages come in.
async fn recv<S: Socket>(
    transport: &Transport,
    polls: usize,
    peer: Protocol,
    open: impl Fn(SocketOptions) -> S,
    recv: impl AsyncFn(&mut S) -> Message,
) -> bool {
    let (from, mut to) = (raw(peer)(transport.options()), open(transport.options()));
    connect(transport, &to, &from).await;
    let (mut sent, mut steps) = (0, 0);
    let first = polled(recv(&mut to), polls, async || {
        steps += 1;
        // The first polls find nothing.
        if steps > 3 {
            from.send(carried(peer, sent)).await.unwrap();
            sent += 1;
        }
    });
    let first = first.await;
    let ready = first.is_some();
    from.send(carried(peer, sent)).await.unwrap();
    let mut got: Vec<_> = first.iter().map(|message| number(message)).collect();
    while got.len() <= sent as usize {
        got.push(number(&recv(&mut to).await));
    }
    assert!(got.iter().copied().eq(0..=sent), "{got:?}");
    assert!(polled(recv(&mut to), 20, async || {}).await.is_none());
    end(&to, &from).await;
    ready
}

/// Receiving the answer to a question that is outstanding.
async fn answer<S: Socket, C>(
    transport: &Transport,
    polls: usize,
    open: impl Fn(SocketOptions) -> S,
    peer: Protocol,
    ask: impl AsyncFn(&S) -> C,
    recv: impl AsyncFn(&mut C) -> Option<Message>,
) -> bool {
    let (asker, answerer) = (open(transport.options()), raw(peer)(transport.options()));
    connect(transport, &asker, &answerer).await;
    let mut context = ask(&asker).await;
    let answered = polled(recv(&mut context), polls, async || echo_one(&answerer).await).await;
    let ready = answered.is_some();
    let answered = match answered {
        Some(answered) => answered,
        // Not answered yet, or answered and kept.
        None => while_echoing(&answerer, recv(&mut context)).await,
    };
    assert_eq!(number(&answered.unwrap()), 1);
    end(&asker, &answerer).await;
    ready
}

async fn requested(req: &Req) -> ReqContext {
    let mut context = req.context();
    context.send(body(1)).await.unwrap();
    context
}

async fn surveyed(surveyor: &Surveyor) -> SurveyContext {
    surveyor.survey(body(1)).await.unwrap()
}

async fn streamed(surveyor: &Surveyor) -> Incoming {
    surveyed(surveyor).await.into_stream()
}

async fn request(transport: &Transport, polls: usize) -> bool {
    let req = Req::with_options(transport.options());
    let rep = raw(Protocol::Rep)(transport.options());
    connect(transport, &req, &rep).await;
    let reply = polled(req.request(body(1)), polls, async || echo_one(&rep).await).await;
    if let Some(reply) = &reply {
        assert_eq!(number(reply.as_ref().unwrap()), 1);
    }
    is_answered(&req, &rep).await;
    assert!(rep.try_recv().unwrap().is_none(), "no request comes twice");
    // A reply that nobody waited for any more is counted.
    let Stats {
        received, dropped, ..
    } = req.stats();
    let taken = 1 + u64::from(reply.is_some());
    assert_eq!(dropped.unexpected + dropped.unread + taken, received.messages);
    rep.close().await;
    reply.is_some()
}

async fn request_of_nobody(transport: &Transport, polls: usize) -> bool {
    let req = Req::with_options(transport.options());
    let rep = raw(Protocol::Rep)(transport.options());
    let at = rep.listen(&transport.address).await.unwrap();
    let mut context = req.context();
    let mut steps = 0;
    let sent = polled(context.send("?"), polls, async || {
        steps += 1;
        if steps == 3 {
            req.dial(&at.address).await.unwrap();
        }
    });
    let sent = sent.await.map(Result::unwrap);
    if steps < 3 {
        req.dial(&at.address).await.unwrap();
    }
    is_answered(&req, &rep).await;
    if sent.is_none() {
        assert_eq!(
            context.recv().await,
            Err(RecvError::State),
            "nothing is outstanding"
        );
    }
    rep.close().await;
    sent.is_some()
}

async fn survey(transport: &Transport, polls: usize) -> bool {
    let surveyor = Surveyor::with_options(transport.options());
    let respondent = raw(Protocol::Respondent)(transport.options());
    connect(transport, &surveyor, &respondent).await;
    let asked = polled(surveyor.survey(body(1)), polls, async || {}).await;
    let _last = surveyor.survey(body(2)).await.unwrap();
    for expected in asked.iter().map(|_| 1).chain([2]) {
        assert_eq!(number(&respondent.recv().await.unwrap().body), expected);
    }
    end(&surveyor, &respondent).await;
    asked.is_some()
}

async fn dialing(transport: &Transport, polls: usize) -> bool {
    let (push, pull) = push_and_pull(transport.options());
    let at = pull.listen(&transport.address).await.unwrap();
    let dialed = polled(push.dial(&at.address), polls, async || {}).await;
    if let Some(dialed) = &dialed {
        push.close_endpoint(dialed.as_ref().unwrap().id).await;
    }
    until(|| push.pipes().is_empty() && pull.pipes().is_empty()).await;
    let error = push.try_send("x").unwrap_err();
    assert_eq!(error.kind, SendErrorKind::WouldBlock, "it does not dial");
    push.dial(&at.address).await.unwrap();
    arrives(&push, &pull).await;
    pull.close().await;
    dialed.is_some()
}

async fn listening(transport: &Transport, polls: usize) -> bool {
    if let Some(path) = transport.address.strip_prefix("ipc://") {
        // A stale file, which has to be looked into first.
        let _ = std::fs::remove_file(path);
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    }
    let (push, pull) = push_and_pull(transport.options());
    let listened = polled(pull.listen(&transport.address), polls, async || {}).await;
    let ready = listened.is_some();
    let address = match listened {
        None => transport.address.clone(),
        Some(listened) => {
            let at = listened.unwrap();
            push.dial(&at.address).await.unwrap();
            let _closed = polled(pull.close_endpoint(at.id), polls, async || {}).await;
            until(|| push.pipes().is_empty() && pull.pipes().is_empty()).await;
            at.address
        }
    };
    // The address is free, now or once what was dropped has come to its end.
    let next = Pull::with_options(transport.options());
    while next.listen(&address).await.is_err() {
        tokio::task::yield_now().await;
    }
    next.close().await;
    ready
}

async fn closing(transport: &Transport, polls: usize) -> bool {
    let push = Push::with_options(small(transport));
    let pull = raw(Protocol::Pull)(small(transport));
    connect(transport, &push, &pull).await;
    let mut sent = 0;
    while push.try_send(body(sent)).is_ok() {
        sent += 1;
    }
    let mut got = Vec::new();
    let closed = polled(push.close(), polls, async || {
        got.extend(received(&pull));
    });
    let closed = closed.await;
    if polls == 0 {
        assert_ne!(push.try_send("x").unwrap_err().kind, SendErrorKind::Closed);
    } else {
        assert_eq!(push.try_send("x").unwrap_err().kind, SendErrorKind::Closed);
    }
    // What was not written is gone, but nothing is in between.
    push.close().await;
    until(|| {
        got.extend(received(&pull));
        pull.pipes().is_empty()
    })
    .await;
    got.extend(std::iter::from_fn(|| received(&pull)));
    assert!(got.iter().copied().eq(0..got.len() as u32), "{got:?}");
    if closed.is_some() {
        assert_eq!(
            got.len(),
            sent as usize,
            "a close that ends has written everything"
        );
    }
    pull.close().await;
    closed.is_some()
}

async fn accepting(transport: &Transport, polls: usize) -> bool {
    let bind = async |address: &str| {
        #[allow(clippy::needless_update, reason = "without TLS it is everything")]
        let options = ListenerOptions {
            #[cfg(feature = "tls")]
            tls: transport.options().tls,
            ..Default::default()
        };
        Listener::bind(address, &[Protocol::Push], options).await
    };
    let bound = polled(bind(&transport.address), polls, async || {}).await;
    let listener = match bound {
        Some(bound) => bound.unwrap(),
        None => bind(&transport.address).await.unwrap(),
    };
    let (push, pull) = push_and_pull(transport.options());
    push.dial_in_background(listener.local_address()).unwrap();
    let accepted = polled(listener.accept(), polls, async || {}).await;
    let ready = accepted.is_some();
    let accepted = match accepted {
        Some(accepted) => accepted,
        None => listener.accept().await,
    };
    pull.attach(accepted.unwrap()).unwrap();
    arrives(&push, &pull).await;
    drop(listener);
    pull.close().await;
    push.close().await;
    ready
}

async fn events(transport: &Transport, polls: usize) -> bool {
    let (push, pull) = push_and_pull(transport.options());
    let (mut events, mut stream) = (pull.events(), pull.events().into_stream());
    let at = pull.listen(&transport.address).await.unwrap();
    push.dial_in_background(&at.address).unwrap();
    let first = polled(pipe_added(&mut events), polls, async || {}).await;
    let ready = first.is_some();
    let added = match first {
        Some(added) => added,
        None => pipe_added(&mut events).await,
    };
    assert_eq!(added.endpoint, Some(at.id));
    pull.close().await;
    let next = polled(stream.next(), polls, async || {}).await.flatten();
    let rest: Vec<_> = stream.collect().await;
    assert_eq!(next.iter().chain(&rest).count(), 2, "{next:?} {rest:?}");
    ready
}

/// A device never ends, so its points are those that it meets while messages go through it.
async fn forwarding(transport: &Transport, polls: usize) -> bool {
    let front = Raw::with_options(Protocol::Pull, small(transport));
    let back = Raw::with_options(Protocol::Push, small(transport));
    let push = Push::with_options(small(transport));
    let pull = raw(Protocol::Pull)(small(transport));
    connect(transport, &push, &front).await;
    let far = Transport::ipc();
    connect(&far, &back, &pull).await;
    let (mut sent, mut got) = (0, Vec::new());
    let end = polled(device(&front, &back), polls, async || {
        sent += u32::from(push.try_send(body(sent)).is_ok());
        if sent % 2 == 0 {
            got.extend(received(&pull));
        }
    });
    assert!(end.await.is_none(), "it goes on");
    let rest = async {
        while got.last() != Some(&sent) {
            got.push(number(&pull.recv().await.unwrap().body));
        }
    };
    tokio::select! {
        end = device(&front, &back) => panic!("{end:?}"),
        (last, ()) = async { tokio::join!(push.send(body(sent)), rest) } => last.unwrap(),
    }
    assert!(got.is_sorted_by(|one, next| one < next), "{got:?}");
    let lost = sent as usize + 1 - got.len();
    assert!(lost <= 1, "{lost} messages are lost");
    tokio::join!(push.close(), front.close(), back.close(), pull.close());
    polls >= 60
}
