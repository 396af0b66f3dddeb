//! The sockets of the cases, what they send to each other, and what must hold when a case ends.

use crate::points::until;
use crate::support::Transport;
use sp_proto::{
    Bus, Incoming, Message, Pair, Pair1, Protocol, Pub, Pull, Push, Raw, RawMessage, Rep, Req, Respondent,
    SocketOptions, Stats, Sub, SubContext, Surveyor,
};
use std::time::Duration;

pub(crate) fn transports() -> Vec<Transport> {
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
pub(crate) fn small(transport: &Transport) -> SocketOptions {
    SocketOptions {
        send_queue: 2,
        recv_queue: 2,
        ..transport.options()
    }
}

pub(crate) fn patient(options: SocketOptions) -> Surveyor {
    Surveyor::with_options(SocketOptions {
        survey_time: Duration::from_secs(3600),
        ..options
    })
}

pub(crate) fn raw(protocol: Protocol) -> impl Fn(SocketOptions) -> Raw {
    move |options| Raw::with_options(protocol, options)
}

pub(crate) fn subscribed(options: SocketOptions) -> Sub {
    let sub = Sub::with_options(options);
    assert!(sub.subscribe(""));
    sub
}

pub(crate) fn reader(sub: &Sub) -> SubContext {
    let context = sub.context();
    assert!(context.subscribe(""));
    context
}

pub(crate) fn reading(sub: &Sub) -> Incoming {
    reader(sub).into_stream()
}

/// A socket with one of its contexts, or with a half of it.
pub(crate) fn with<S, H>(
    open: impl Fn(SocketOptions) -> S,
    half: impl Fn(&S) -> H,
) -> impl Fn(SocketOptions) -> (S, H) {
    move |options| {
        let socket = open(options);
        let half = half(&socket);
        (socket, half)
    }
}

/// Large, so that the kernel's buffers are full soon too.
pub(crate) fn body(number: u32) -> Message {
    number.to_be_bytes().repeat(16 * 1024).into()
}

pub(crate) fn number(message: &[u8]) -> u32 {
    assert_eq!(message.len(), 64 * 1024);
    assert_eq!(message[..4], message[64 * 1024 - 4..]);
    u32::from_be_bytes(message[..4].try_into().unwrap())
}

pub(crate) fn plain(number: u32) -> RawMessage {
    carried(Protocol::Push, number)
}

/// With the header that a raw socket of this protocol is to send.
pub(crate) fn carried(protocol: Protocol, number: u32) -> RawMessage {
    let header: &[u8] = match protocol {
        Protocol::Pair1 => &[0, 0, 0, 1],
        Protocol::Req | Protocol::Surveyor => &[0x80, 0, 0, 1],
        _ => &[],
    };
    RawMessage {
        header: header.into(),
        body: body(number),
    }
}

pub(crate) fn received(raw: &Raw) -> Option<u32> {
    let message = raw.try_recv().unwrap();
    message.map(|message| number(&message.body))
}

pub(crate) trait Socket {
    async fn dial(&self, address: &str);
    fn stats(&self) -> Stats;
}

macro_rules! sockets {
    ($($socket:ty),*) => { $(
        impl Socket for $socket {
            async fn dial(&self, address: &str) {
                self.dial(address).await.unwrap();
            }

            fn stats(&self) -> Stats {
                self.stats()
            }
        }
    )* };
}

sockets!(
    Push, Pull, Pair, Pair1, Pub, Sub, Bus, Raw, Req, Rep, Surveyor, Respondent
);

impl<S: Socket, H> Socket for (S, H) {
    async fn dial(&self, address: &str) {
        self.0.dial(address).await;
    }

    fn stats(&self) -> Stats {
        self.0.stats()
    }
}

/// Connects the two, and both know it.
pub(crate) async fn connect(transport: &Transport, from: &impl Socket, to: &Raw) {
    let at = to.listen(&transport.address).await.unwrap();
    from.dial(&at.address).await;
    until(|| !to.pipes().is_empty()).await;
}

/// Everything was counted and nothing dropped.
pub(crate) async fn end(one: &impl Socket, other: &Raw) {
    let (one, two) = (one.stats(), other.stats());
    assert_eq!((one.sent, one.received), (two.received, two.sent));
    assert_eq!((one.dropped, two.dropped), Default::default());
    other.close().await;
}

pub(crate) fn push_and_pull(options: SocketOptions) -> (Push, Pull) {
    (Push::with_options(options.clone()), Pull::with_options(options))
}

pub(crate) async fn arrives(push: &Push, pull: &Pull) {
    push.send("x").await.unwrap();
    assert_eq!(&pull.recv().await.unwrap()[..], b"x");
}

pub(crate) async fn echo_one(raw: &Raw) {
    if let Some(question) = raw.try_recv().unwrap() {
        raw.send(question).await.unwrap();
    }
}

/// What comes of `asking` while every question is answered.
pub(crate) async fn while_echoing<T>(raw: &Raw, asking: impl Future<Output = T>) -> T {
    let echoing = async {
        loop {
            raw.send(raw.recv().await.unwrap()).await.unwrap();
        }
    };
    tokio::select! {
        answer = asking => answer,
        () = echoing => unreachable!(),
    }
}

/// Asks once more: the reply is to this question and to no one before.
pub(crate) async fn is_answered(req: &Req, rep: &Raw) {
    let reply = while_echoing(rep, req.request("the last")).await;
    assert_eq!(&reply.unwrap()[..], b"the last");
}
