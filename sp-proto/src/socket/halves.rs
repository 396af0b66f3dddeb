//! Sockets as streams and sinks, for the combinators that work on those. Knows the handles only: a half is a
//! handle, and the future of its next step while that has to wait. Polled by whoever has it.

use crate::engine::{Events, Place};
use crate::socket::{
    Bus, Pair, Pair1, Pub, Pull, Push, Raw, Rep, Request, Respondent, Sub, SubContext, SurveyContext,
};
use crate::{Event, Message, RawMessage, RecvError, SendError, SendErrorKind};
use futures_core::Stream;
use futures_sink::Sink;
use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::task::coop;

/// What a socket, context or survey receives, as a [`Stream`]. It is a handle of its own: the socket stays open
/// while it lives, and other handles can be used beside it.
///
/// It ends when the socket is closed, that of a survey when the survey has ended, and that of a raw socket which
/// only sends at once. The socket's
/// `recv_timeout` does not apply: a stream waits, so put a time limit around `next()` where one is wanted.
///
/// # Cancel safety
/// A dropped `next()` takes nothing. The stream itself, dropped, loses no message of a socket; that of a context
/// or survey ends it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use futures_util::StreamExt;
/// use sp_proto::{Pull, Push};
/// let (push, pull) = (Push::new(), Pull::new());
/// pull.listen("inproc://stream-example").await?;
/// push.dial("inproc://stream-example").await?;
/// push.send("one").await?;
/// push.send("two").await?;
/// let lengths: Vec<usize> = pull.stream().map(|message| message.len()).take(2).collect().await;
/// assert_eq!(lengths, [3, 3]);
/// # Ok(()) }
/// ```
#[must_use = "a stream does nothing unless it is polled"]
pub struct Incoming<T = Message> {
    /// `None` once it has ended.
    source: Option<Box<dyn Source<T>>>,
}

type Step<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whatever can be received from, its type forgotten.
trait Source<T>: Send {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, RecvError>>;
}

trait Receive<T>: Send + 'static {
    fn receive(&mut self) -> impl Future<Output = Result<T, RecvError>> + Send;
}

enum Steps<S, T> {
    Idle(S),
    /// The step gives the source back.
    Waiting(Step<(S, Result<T, RecvError>)>),
    /// Between the two.
    Moving,
}

impl<T: Send + 'static, S: Receive<T>> Source<T> for Steps<S, T> {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, RecvError>> {
        let mut step = match std::mem::replace(self, Self::Moving) {
            Self::Idle(mut source) => {
                // Mostly there is something, and nothing has to be allocated to wait for it.
                let received = pin!(source.receive()).poll(cx);
                if received.is_ready() {
                    *self = Self::Idle(source);
                    return received;
                }
                let step: Step<_> = Box::pin(async move {
                    let received = source.receive().await;
                    (source, received)
                });
                step
            }
            Self::Waiting(step) => step,
            Self::Moving => return Poll::Ready(Err(RecvError::Closed)),
        };
        if let Poll::Ready((source, received)) = step.as_mut().poll(cx) {
            *self = Self::Idle(source);
            return Poll::Ready(received);
        }
        *self = Self::Waiting(step);
        Poll::Pending
    }
}

impl<T: Send + 'static> Incoming<T> {
    fn new(source: impl Receive<T>) -> Self {
        Self {
            source: Some(Box::new(Steps::Idle(source))),
        }
    }
}

impl<T> Stream for Incoming<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        while let Some(source) = &mut self.source {
            match ready!(source.poll_recv(cx)) {
                Ok(item) => return Poll::Ready(Some(item)),
                Err(RecvError::TimedOut) => {}
                Err(_) => self.source = None,
            }
        }
        Poll::Ready(None)
    }
}

impl<T> fmt::Debug for Incoming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("ended", &self.source.is_none())
            .finish()
    }
}

/// What a socket sends, as a [`Sink`] of messages, [`RawMessage`] for raw sockets. It is a handle of its own: the socket stays open while it
/// lives, and other handles can be used beside it.
///
/// It holds at most one message that found no room; `flush` waits until the socket's queues have it, not until
/// it is written. The socket's `send_timeout` does not apply. Closing the sink flushes it, and closes no socket. An error gives its message back and leaves
/// the sink usable, except that nothing can be sent once the socket is closed.
///
/// # Cancel safety
/// A sink takes a message before there is room for it: when `SinkExt::send` is dropped half-way, the message
/// may be sent by the next step of the sink. Dropped with the sink it is not sent. Where that matters, the
/// socket's own `send` says for sure.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use futures_util::{SinkExt, StreamExt, stream};
/// use sp_proto::{Message, Pair};
/// let (left, right) = (Pair::new(), Pair::new());
/// left.listen("inproc://sink-example").await?;
/// right.dial("inproc://sink-example").await?;
/// let (mut sink, _) = left.split();
/// sink.send_all(&mut stream::iter(["one", "two"]).map(|text| Ok(Message::from(text)))).await?;
/// assert_eq!(right.recv().await?.as_bytes(), b"one");
/// assert_eq!(right.recv().await?.as_bytes(), b"two");
/// # Ok(()) }
/// ```
#[must_use = "a sink does nothing unless messages are sent to it"]
pub struct Outgoing<M = Message> {
    target: Box<dyn Target<M>>,
    /// The message that found no room yet, on its way.
    held: Option<Step<Result<(), SendError<M>>>>,
}

/// Whatever can be sent to.
trait Target<M>: Send {
    fn try_send(&self, message: M) -> Result<(), SendError<M>>;

    fn send(&self, message: M) -> Step<Result<(), SendError<M>>>;
}

impl<M: 'static> Outgoing<M> {
    fn new(target: impl Target<M> + 'static) -> Self {
        Self {
            target: Box::new(target),
            held: None,
        }
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError<M>>> {
        while let Some(step) = &mut self.held {
            let sent = ready!(step.as_mut().poll(cx));
            self.held = None;
            match sent {
                Err(SendError {
                    message,
                    kind: SendErrorKind::TimedOut,
                }) => self.held = Some(self.target.send(message)),
                sent => return Poll::Ready(sent),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<M: Unpin + 'static> Sink<M> for Outgoing<M> {
    type Error = SendError<M>;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError<M>>> {
        ready!(self.poll_held(cx))?;
        // Sending at once leaves the pipes' tasks no time, so the budget must.
        ready!(coop::poll_proceed(cx)).made_progress();
        Poll::Ready(Ok(()))
    }

    fn start_send(mut self: Pin<&mut Self>, message: M) -> Result<(), SendError<M>> {
        if self.held.is_some() {
            let kind = SendErrorKind::WouldBlock;
            return Err(SendError { message, kind });
        }
        match self.target.try_send(message) {
            Err(SendError {
                message,
                kind: SendErrorKind::WouldBlock,
            }) => {
                self.held = Some(self.target.send(message));
                Ok(())
            }
            sent => sent,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError<M>>> {
        self.poll_held(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError<M>>> {
        self.poll_held(cx)
    }
}

impl<M> fmt::Debug for Outgoing<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("holds_one", &self.held.is_some())
            .finish()
    }
}

macro_rules! receives {
    ($($socket:ty => $item:ty),*) => { $(
        impl Receive<$item> for $socket {
            async fn receive(&mut self) -> Result<$item, RecvError> {
                self.recv_at(Place::Yielded).await
            }
        }

        impl $socket {
            /// What is received, as a stream.
            pub fn stream(&self) -> Incoming<$item> {
                Incoming::new(self.clone())
            }
        }
    )* };
}

receives! {
    Pull => Message, Pair => Message, Pair1 => Message, Sub => Message, Bus => Message, Raw => RawMessage,
    Rep => Request, Respondent => Request
}

macro_rules! sends {
    ($($socket:ty => $item:ty),*) => { $(
        impl Target<$item> for $socket {
            fn try_send(&self, message: $item) -> Result<(), SendError<$item>> {
                <$socket>::try_send(self, message)
            }

            fn send(&self, message: $item) -> Step<Result<(), SendError<$item>>> {
                let socket = self.clone();
                Box::pin(async move { socket.send_at(Place::Yielded, message).await })
            }
        }

        impl $socket {
            /// Messages to be sent, as a sink.
            pub fn sink(&self) -> Outgoing<$item> {
                Outgoing::new(self.clone())
            }
        }
    )* };
}

sends! {
    Push => Message, Pair => Message, Pair1 => Message, Pub => Message, Bus => Message, Raw => RawMessage
}

macro_rules! splits {
    ($($socket:ty => $item:ty),*) => { $(
        impl $socket {
            /// A sink and a stream of the same socket, which closes when both are dropped and no other handle is
            /// left.
            pub fn split(self) -> (Outgoing<$item>, Incoming<$item>) {
                (self.sink(), self.stream())
            }
        }
    )* };
}

splits!(Pair => Message, Pair1 => Message, Bus => Message, Raw => RawMessage);

impl Receive<Message> for SubContext {
    async fn receive(&mut self) -> Result<Message, RecvError> {
        self.recv().await
    }
}

impl SubContext {
    /// What it receives, as a stream; its topics stay as they are. For topics that change, use [`Sub::stream`]
    /// and another handle of that socket.
    pub fn into_stream(self) -> Incoming {
        Incoming::new(self)
    }
}

impl Receive<Message> for SurveyContext {
    async fn receive(&mut self) -> Result<Message, RecvError> {
        self.recv().await
    }
}

impl SurveyContext {
    /// The responses to the survey that is outstanding, as a stream that ends with it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use futures_util::StreamExt;
    /// use sp_proto::{Respondent, SocketOptions, Surveyor};
    /// use std::time::Duration;
    /// let survey_time = Duration::from_millis(500);
    /// let surveyor = Surveyor::with_options(SocketOptions { survey_time, ..Default::default() });
    /// let respondent = Respondent::new();
    /// respondent.listen("inproc://responses-example").await?;
    /// surveyor.dial("inproc://responses-example").await?;
    /// let survey = surveyor.survey("who is there?").await?;
    /// respondent.recv().await?.reply("me").await?;
    /// let responses: Vec<_> = survey.into_stream().collect().await;
    /// assert_eq!(responses, ["me".into()]);
    /// # Ok(()) }
    /// ```
    pub fn into_stream(self) -> Incoming {
        Incoming::new(self)
    }
}

impl Receive<Event> for Events {
    async fn receive(&mut self) -> Result<Event, RecvError> {
        self.recv().await.ok_or(RecvError::Closed)
    }
}

impl Events {
    /// The events as a stream, which ends when the socket is closed.
    pub fn into_stream(self) -> Incoming<Event> {
        Incoming::new(self)
    }
}
