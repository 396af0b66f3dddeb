//! Every future of the crate, dropped at every one of its await points: nothing is lost, nothing comes twice,
//! and nothing is stuck afterwards.
//!
//! Each case runs with a future that is polled 0, 1, 2 … times and then dropped, until it is ready before
//! that. Between polls the tasks of the sockets run and the case does one step of its own.
#![allow(missing_docs)]

mod support;

use sp_proto::{
    Bus, Listener, ListenerOptions, Message, Pair, Pair1, Protocol, Pub, Pull, Push, Raw, RawMessage, Rep,
    Req, Request, Respondent, SendErrorKind, SocketOptions, Sub, Surveyor, device,
};
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use support::{Transport, bounded, pipe_added};

/// More polls than any of these futures needs.
const ENOUGH: usize = 2000;

/// Polls `future` so many times and drops it; its output if it was ready by then.
async fn polled<F: Future>(future: F, polls: usize, mut step: impl AsyncFnMut()) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
        step().await;
    }
    None
}

/// Runs `case` with ever more polls until it says that its future was ready.
async fn at_every_point(mut case: impl AsyncFnMut(usize) -> bool) {
    for polls in 0..ENOUGH {
        if bounded(case(polls)).await {
            assert!(polls > 0, "a future does nothing before it is polled");
            return;
        }
    }
    panic!("never ready");
}

/// Waits for what other tasks are about to do.
async fn until(mut done: impl FnMut() -> bool) {
    bounded(async {
        while !done() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn transports() -> Vec<Transport> {
    vec![
        Transport::inproc(),
        Transport::ipc(),
        Transport::tcp(),
        #[cfg(feature = "tls")]
        Transport::tls(),
        #[cfg(feature = "ws")]
        Transport::ws(),
    ]
}

/// Queues that are full soon.
fn small(transport: &Transport) -> SocketOptions {
    SocketOptions {
        send_queue: 2,
        recv_queue: 2,
        ..transport.options()
    }
}

/// Large, so that the kernel's buffers are full soon too.
fn body(number: u32) -> Message {
    number.to_be_bytes().repeat(16 * 1024).into()
}

fn number(message: &[u8]) -> u32 {
    assert_eq!(message.len(), 64 * 1024);
    assert_eq!(message[..4], message[64 * 1024 - 4..]);
    u32::from_be_bytes(message[..4].try_into().unwrap())
}

fn raw(body: Message) -> RawMessage {
    RawMessage {
        header: Default::default(),
        body,
    }
}

fn plain(message: Message) -> Message {
    message
}

/// Connects the two, and both know it.
macro_rules! connect {
    ($transport:expr, $from:expr, $to:expr) => {{
        let at = $to.listen(&$transport.address).await.unwrap();
        $from.dial(&at.address).await.unwrap();
        until(|| !$to.pipes().is_empty()).await;
    }};
}

/// `send` at every point while the queues are full, for a socket that waits for room.
macro_rules! waiting_send {
    ($name:ident, $from:expr, $to:expr, $wrap:expr, $unwrap:expr) => {
        #[tokio::test]
        async fn $name() {
            for transport in transports() {
                at_every_point(async |polls| {
                    let (from, to) = ($from(small(&transport)), $to(small(&transport)));
                    connect!(transport, from, to);
                    let (mut queued, mut still) = (0, 0);
                    while still < 20 {
                        if from.try_send($wrap(body(queued))).is_ok() {
                            (queued, still) = (queued + 1, 0);
                        } else {
                            still += 1;
                            tokio::task::yield_now().await;
                        }
                    }
                    let mut got = Vec::new();
                    let sent = polled(from.send($wrap(body(queued))), polls, async || {
                        got.extend(to.try_recv().unwrap());
                    });
                    let sent = sent.await.map(Result::unwrap).is_some();
                    let last = queued + 1;
                    let finish = async {
                        from.send($wrap(body(last))).await.unwrap();
                    };
                    let receive = async {
                        while got
                            .last()
                            .is_none_or(|message| number(&$unwrap(message.clone())) != last)
                        {
                            got.push(to.recv().await.unwrap());
                        }
                    };
                    tokio::join!(finish, receive);
                    let got: Vec<_> = got
                        .into_iter()
                        .map(|message| number(&$unwrap(message)))
                        .collect();
                    let expected: Vec<_> = (0..=last)
                        .filter(|number| sent || *number != queued)
                        .collect();
                    assert_eq!(got, expected);
                    assert!(to.try_recv().unwrap().is_none());
                    assert_eq!(from.stats().sent, to.stats().received);
                    assert_eq!(from.stats().sent.messages, got.len() as u64);
                    assert_eq!(from.stats().dropped, Default::default());
                    assert_eq!(to.stats().dropped, Default::default());
                    from.close().await;
                    to.close().await;
                    sent
                })
                .await;
            }
        }
    };
}

waiting_send! { push_send, Push::with_options, Pull::with_options, plain, plain }
waiting_send! { pair_send, Pair::with_options, Pair::with_options, plain, plain }
waiting_send! { pair1_send, Pair1::with_options, Pair1::with_options, plain, plain }
waiting_send! {
    raw_send,
    |options| Raw::with_options(Protocol::Push, options),
    |options| Raw::with_options(Protocol::Pull, options),
    raw,
    |message: RawMessage| message.body
}

/// `recv` at every point while messages come in.
macro_rules! recv {
    ($name:ident, $from:expr, $to:expr, $wrap:expr, $unwrap:expr) => {
        #[tokio::test]
        async fn $name() {
            for transport in transports() {
                at_every_point(async |polls| {
                    let (from, to) = ($from(transport.options()), $to(transport.options()));
                    connect!(transport, from, to);
                    until(|| !from.pipes().is_empty()).await;
                    let mut sent = 0;
                    // The first polls find nothing.
                    let mut steps = 0;
                    let first = polled(to.recv(), polls, async || {
                        steps += 1;
                        if steps > 3 {
                            from.send($wrap(body(sent))).await.unwrap();
                            sent += 1;
                        }
                    });
                    let first = first.await.map(Result::unwrap);
                    let ready = first.is_some();
                    from.send($wrap(body(sent))).await.unwrap();
                    let mut expected = 0..=sent;
                    if let Some(first) = first {
                        assert_eq!(Some(number(&$unwrap(first))), expected.next());
                    }
                    for number_ in expected {
                        assert_eq!(number(&$unwrap(to.recv().await.unwrap())), number_);
                    }
                    assert!(to.try_recv().unwrap().is_none());
                    assert_eq!(from.stats().sent, to.stats().received);
                    assert_eq!(to.stats().dropped, Default::default());
                    from.close().await;
                    to.close().await;
                    ready
                })
                .await;
            }
        }
    };
}

recv! { pull_recv, Push::with_options, Pull::with_options, plain, plain }
recv! { pair_recv, Pair::with_options, Pair::with_options, plain, plain }
recv! { pair1_recv, Pair1::with_options, Pair1::with_options, plain, plain }
recv! { bus_recv, Bus::with_options, Bus::with_options, plain, plain }
recv! { sub_recv, Pub::with_options, subscribed, plain, plain }
recv! { sub_context_recv, Pub::with_options, SubscribedContext::with_options, plain, plain }
recv! {
    raw_recv,
    |options| Raw::with_options(Protocol::Bus, options),
    |options| Raw::with_options(Protocol::Bus, options),
    raw,
    |message: RawMessage| message.body
}

fn subscribed(options: SocketOptions) -> Sub {
    let sub = Sub::with_options(options);
    assert!(sub.subscribe(""));
    sub
}

/// A context of a sub socket in the place of a socket.
struct SubscribedContext {
    sub: Sub,
    context: RefCell<sp_proto::SubContext>,
}

impl SubscribedContext {
    fn with_options(options: SocketOptions) -> Self {
        let sub = Sub::with_options(options);
        let context = RefCell::new(sub.context());
        assert!(context.borrow_mut().subscribe(""));
        Self { sub, context }
    }

    #[allow(clippy::await_holding_refcell_ref, reason = "one receives at a time")]
    async fn recv(&self) -> Result<Message, sp_proto::RecvError> {
        self.context.borrow_mut().recv().await
    }

    fn try_recv(&self) -> Result<Option<Message>, sp_proto::RecvError> {
        self.context.borrow_mut().try_recv()
    }
}

impl std::ops::Deref for SubscribedContext {
    type Target = Sub;

    fn deref(&self) -> &Sub {
        &self.sub
    }
}

async fn echo(request: Request) {
    let body = request.body().clone();
    request.reply(body).await.unwrap();
}

/// Asks once more: the reply is to this question and to no one before.
async fn is_answered(req: &Req, rep: &Rep) {
    let (reply, ()) = tokio::join!(req.request("the last"), async {
        loop {
            let request = rep.recv().await.unwrap();
            let last = &request.body()[..] == b"the last";
            echo(request).await;
            if last {
                return;
            }
        }
    });
    assert_eq!(&reply.unwrap()[..], b"the last");
}

#[tokio::test]
async fn req_request() {
    for transport in transports() {
        at_every_point(async |polls| {
            let (req, rep) = (
                Req::with_options(transport.options()),
                Rep::with_options(transport.options()),
            );
            connect!(transport, req, rep);
            let reply = polled(req.request(body(1)), polls, async || {
                if let Some(request) = rep.try_recv().unwrap() {
                    echo(request).await;
                }
            });
            let reply = reply.await;
            if let Some(reply) = &reply {
                assert_eq!(number(reply.as_ref().unwrap()), 1);
            }
            is_answered(&req, &rep).await;
            assert!(rep.try_recv().unwrap().is_none(), "no request comes twice");
            // A reply that nobody waited for any more is counted.
            let late = req.stats().received.messages - 1 - u64::from(reply.is_some());
            let dropped = req.stats().dropped;
            assert_eq!(dropped.unexpected + dropped.unread, late);
            rep.close().await;
            reply.is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn req_send_while_nobody_is_there() {
    for transport in transports() {
        at_every_point(async |polls| {
            let (req, rep) = (
                Req::with_options(transport.options()),
                Rep::with_options(transport.options()),
            );
            let at = rep.listen(&transport.address).await.unwrap();
            let mut context = req.context();
            let mut steps = 0;
            let sent = polled(context.send("?"), polls, async || {
                steps += 1;
                if steps == 3 {
                    req.dial(&at.address).await.unwrap();
                }
            });
            let sent = sent.await.map(Result::unwrap).is_some();
            if steps < 3 {
                req.dial(&at.address).await.unwrap();
            }
            is_answered(&req, &rep).await;
            if !sent {
                let state = context.recv().await;
                assert_eq!(state, Err(sp_proto::RecvError::State), "nothing is outstanding");
            }
            rep.close().await;
            sent
        })
        .await;
    }
}

#[tokio::test]
async fn req_recv() {
    for transport in transports() {
        at_every_point(async |polls| {
            let (req, rep) = (
                Req::with_options(transport.options()),
                Rep::with_options(transport.options()),
            );
            connect!(transport, req, rep);
            let mut context = req.context();
            context.send(body(1)).await.unwrap();
            let reply = polled(context.recv(), polls, async || {
                if let Some(request) = rep.try_recv().unwrap() {
                    echo(request).await;
                }
            });
            let reply = reply.await;
            let ready = reply.is_some();
            if let Some(request) = rep.try_recv().unwrap() {
                echo(request).await;
            }
            let reply = match reply {
                Some(reply) => reply,
                // Not answered yet, or answered and kept.
                None => {
                    tokio::select! {
                        reply = context.recv() => reply,
                        () = async { loop { echo(rep.recv().await.unwrap()).await } } => unreachable!(),
                    }
                }
            };
            assert_eq!(number(&reply.unwrap()), 1);
            is_answered(&req, &rep).await;
            assert_eq!(req.stats().dropped, Default::default());
            rep.close().await;
            ready
        })
        .await;
    }
}

/// `recv` of a request or survey, then its answer, at every point.
macro_rules! answering {
    ($name:ident, $answerer:ident, $asker:expr) => {
        #[tokio::test]
        async fn $name() {
            for transport in transports() {
                at_every_point(async |polls| {
                    let asker = Raw::with_options($asker, small(&transport));
                    let answerer = $answerer::with_options(small(&transport));
                    connect!(transport, asker, answerer);
                    let ask = async |id: u32| {
                        let header = (id | 1 << 31).to_be_bytes().to_vec().into();
                        asker
                            .send(RawMessage {
                                header,
                                body: "?".into(),
                            })
                            .await
                            .unwrap();
                    };
                    let id = |reply: &RawMessage| {
                        number(&reply.body);
                        u32::from_be_bytes(reply.header[..].try_into().unwrap()) & !(1 << 31)
                    };
                    // Nobody reads the answers, so after some of them one has to wait.
                    let mut answered = Vec::new();
                    for next in 0.. {
                        ask(next).await;
                        let request = answerer.recv().await.unwrap();
                        match polled(request.reply(body(next)), 20, async || {}).await {
                            Some(sent) => sent.unwrap(),
                            None => break,
                        }
                        answered.push(next);
                    }
                    let last = answered.len() as u32 + 2;
                    let mut asked = false;
                    let request = polled(answerer.recv(), polls, async || {
                        if !asked {
                            asked = true;
                            ask(last - 1).await;
                        }
                    });
                    let request = match request.await {
                        Some(request) => request.unwrap(),
                        None => {
                            if !asked {
                                ask(last - 1).await;
                            }
                            answerer.recv().await.unwrap()
                        }
                    };
                    assert_eq!(request.id(), last - 1);
                    let mut got = Vec::new();
                    let sent = polled(request.reply(body(last - 1)), polls, async || {
                        got.extend(asker.try_recv().unwrap());
                    });
                    let ready = sent.await.map(Result::unwrap).is_some();
                    if ready {
                        answered.push(last - 1);
                    }
                    ask(last).await;
                    let request = answerer.recv().await.unwrap();
                    let answer = async {
                        request.reply(body(last)).await.unwrap();
                    };
                    answered.push(last);
                    let receive = async {
                        while got.last().is_none_or(|reply| id(reply) != last) {
                            got.push(asker.recv().await.unwrap());
                        }
                    };
                    tokio::join!(answer, receive);
                    assert_eq!(got.iter().map(id).collect::<Vec<_>>(), answered);
                    assert_eq!(answerer.stats().sent, asker.stats().received);
                    assert_eq!(answerer.stats().dropped, Default::default());
                    answerer.close().await;
                    ready
                })
                .await;
            }
        }
    };
}

answering! { rep_recv_and_reply, Rep, Protocol::Req }
answering! { respondent_recv_and_reply, Respondent, Protocol::Surveyor }

#[tokio::test]
async fn surveyor_survey_and_recv() {
    for transport in transports() {
        at_every_point(async |polls| {
            let surveyor = Surveyor::with_options(SocketOptions {
                survey_time: Duration::from_secs(3600),
                ..transport.options()
            });
            let respondent = Respondent::with_options(transport.options());
            connect!(transport, surveyor, respondent);
            until(|| !surveyor.pipes().is_empty()).await;
            let asked = polled(surveyor.survey("cancelled?"), polls, async || {}).await;
            assert_eq!(asked.is_some(), polls > 0, "asking waits for nobody");
            let mut survey = surveyor.survey(body(1)).await.unwrap();
            let response = polled(survey.recv(), polls, async || {
                if let Some(request) = respondent.try_recv().unwrap() {
                    echo(request).await;
                }
            });
            let response = response.await;
            let ready = response.is_some();
            let response = match response {
                Some(response) => response,
                None => tokio::select! {
                    response = survey.recv() => response,
                    () = async { loop { echo(respondent.recv().await.unwrap()).await } } => unreachable!(),
                },
            };
            assert_eq!(number(&response.unwrap()), 1);
            assert!(
                polled(survey.recv(), 20, async || {}).await.is_none(),
                "one answer"
            );
            respondent.close().await;
            ready
        })
        .await;
    }
}

#[tokio::test]
async fn dial() {
    for transport in transports() {
        at_every_point(async |polls| {
            let (push, pull) = (
                Push::with_options(transport.options()),
                Pull::with_options(transport.options()),
            );
            let at = pull.listen(&transport.address).await.unwrap();
            let dialed = polled(push.dial(&at.address), polls, async || {}).await;
            if let Some(dialed) = &dialed {
                push.close_endpoint(dialed.as_ref().unwrap().id).await;
            }
            until(|| push.pipes().is_empty() && pull.pipes().is_empty()).await;
            assert_eq!(
                push.try_send("x").unwrap_err().kind,
                SendErrorKind::WouldBlock,
                "it does not dial"
            );
            push.dial(&at.address).await.unwrap();
            push.send("x").await.unwrap();
            assert_eq!(&pull.recv().await.unwrap()[..], b"x");
            pull.close().await;
            dialed.is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn listen_and_close_endpoint() {
    for transport in transports() {
        at_every_point(async |polls| {
            if let Some(path) = transport.address.strip_prefix("ipc://") {
                // A stale file, which has to be looked into first.
                let _ = std::fs::remove_file(path);
                drop(std::os::unix::net::UnixListener::bind(path).unwrap());
            }
            let pull = Pull::with_options(transport.options());
            let listened = polled(pull.listen(&transport.address), polls, async || {}).await;
            let ready = listened.is_some();
            let address = match listened {
                None => transport.address.clone(),
                Some(listened) => {
                    let at = listened.unwrap();
                    let push = Push::with_options(transport.options());
                    push.dial(&at.address).await.unwrap();
                    let _closed = polled(pull.close_endpoint(at.id), polls, async || {}).await;
                    if polls > 0 {
                        until(|| push.pipes().is_empty() && pull.pipes().is_empty()).await;
                    } else {
                        pull.close_endpoint(at.id).await;
                    }
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
        })
        .await;
    }
}

#[tokio::test]
async fn close() {
    for transport in transports() {
        at_every_point(async |polls| {
            let (push, pull) = (
                Push::with_options(small(&transport)),
                Pull::with_options(small(&transport)),
            );
            connect!(transport, push, pull);
            let mut sent = 0;
            while push.try_send(body(sent)).is_ok() {
                sent += 1;
            }
            let mut got = Vec::new();
            let closed = polled(push.close(), polls, async || got.extend(pull.try_recv().unwrap())).await;
            let refused = push
                .try_send("x")
                .is_err_and(|error| error.kind == SendErrorKind::Closed);
            assert_eq!(refused, polls > 0);
            // What was not written is gone, but nothing is in between.
            push.close().await;
            until(|| {
                got.extend(pull.try_recv().unwrap());
                pull.pipes().is_empty()
            })
            .await;
            got.extend(std::iter::from_fn(|| pull.try_recv().unwrap()));
            let got: Vec<_> = got
                .iter()
                .filter(|message| message.len() > 1)
                .map(|message| number(message))
                .collect();
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
        })
        .await;
    }
}

#[tokio::test]
async fn listener_bind_and_accept() {
    for transport in transports() {
        at_every_point(async |polls| {
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
            let push = Push::with_options(transport.options());
            push.dial_in_background(listener.local_address()).unwrap();
            let accepted = polled(listener.accept(), polls, async || {}).await;
            let ready = accepted.is_some();
            let accepted = match accepted {
                Some(accepted) => accepted,
                None => listener.accept().await,
            };
            let pull = Pull::new();
            pull.attach(accepted.unwrap()).unwrap();
            push.send("x").await.unwrap();
            assert_eq!(&pull.recv().await.unwrap()[..], b"x");
            drop(listener);
            pull.close().await;
            push.close().await;
            ready
        })
        .await;
    }
}

#[tokio::test]
async fn events_recv() {
    for transport in transports() {
        at_every_point(async |polls| {
            let (push, pull) = (
                Push::with_options(transport.options()),
                Pull::with_options(transport.options()),
            );
            let mut events = pull.events();
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
            ready
        })
        .await;
    }
}

/// A device never ends, so its points are those that it meets while messages go through it.
#[tokio::test]
async fn device_both_ways() {
    for transport in transports() {
        at_every_point(async |polls| {
            let (front, back) = (
                Raw::with_options(Protocol::Pull, small(&transport)),
                Raw::with_options(Protocol::Push, small(&transport)),
            );
            let (push, pull) = (
                Push::with_options(small(&transport)),
                Pull::with_options(small(&transport)),
            );
            let far = Transport::ipc();
            connect!(transport, push, front);
            connect!(far, back, pull);
            let (mut sent, mut got) = (0, Vec::new());
            let end = polled(device(&front, &back), polls, async || {
                if push.try_send(body(sent)).is_ok() {
                    sent += 1;
                }
                if sent % 2 == 0 {
                    got.extend(pull.try_recv().unwrap());
                }
            });
            assert!(end.await.is_none(), "it goes on");
            let last = async {
                push.send(body(sent)).await.unwrap();
            };
            let rest = async {
                while got.last().is_none_or(|message| number(message) != sent) {
                    got.push(pull.recv().await.unwrap());
                }
            };
            tokio::select! {
                end = device(&front, &back) => panic!("{end:?}"),
                _ = async { tokio::join!(last, rest) } => {}
            }
            let got: Vec<_> = got.iter().map(|message| number(message)).collect();
            assert!(got.is_sorted_by(|one, next| one < next), "{got:?}");
            let lost = sent as usize + 1 - got.len();
            assert!(lost <= 1, "{lost} messages are lost");
            push.close().await;
            front.close().await;
            back.close().await;
            pull.close().await;
            polls >= 60
        })
        .await;
    }
}
