//! The raw socket.

use crate::engine::{Attempt, Core, Owner, Place, Sends, State};
use crate::pattern::{self, NotSent};
use crate::{Message, Protocol, RawMessage, RecvError, SendError, SendErrorKind, SocketOptions};
use bytes::Bytes;
use std::sync::{Arc, LazyLock};

/// Speaks any protocol without keeping its state: headers are received with the message and sent as they are
/// given, replies are matched with nothing, subscriptions filter nothing. For [devices](fn@crate::device) and
/// for patterns of one's own. A cloneable handle; the socket closes when the last one is dropped.
///
/// What the header of a [`RawMessage`] holds, in words of 32 bits, big-endian:
///
/// | protocol | received | to send | goes to |
/// |---|---|---|---|
/// | pair | nothing | nothing | the peer; waits for room |
/// | pair1 | the hop count | the same; it goes out increased by one | the peer; waits for room |
/// | push, pull | nothing | nothing | one puller in turn; waits for room |
/// | pub, sub | nothing | nothing | every subscriber with room |
/// | req | the backtrace | a backtrace | one replier in turn; waits for room |
/// | rep | the pipe, then the backtrace | the same | that pipe, if it is there and has room |
/// | surveyor | the backtrace | a backtrace | every respondent with room |
/// | respondent | the pipe, then the backtrace | the same | that pipe, if it is there and has room |
/// | bus | the pipe | a pipe or nothing | every neighbour with room but that pipe |
///
/// A backtrace ends with the first word whose top bit is set: the request's id. Messages of pair1, rep and
/// respondent that have come through more sockets than [`ttl`](crate::SocketOptions::ttl) are dropped. What
/// is dropped is counted in [`stats`](Raw::stats). A pipe that nobody receives from is no longer read once
/// `recv_queue` messages are queued.
///
/// nng and mangos split a reply's header differently (one word in the header, the others stay in the body),
/// which cannot be seen on the wire.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{Protocol, Raw, RawMessage, Req};
/// let (raw, req) = (Raw::new(Protocol::Rep), Req::new());
/// raw.listen("inproc://raw-example").await?;
/// req.dial("inproc://raw-example").await?;
/// let echo = async {
///     let RawMessage { header, body } = raw.recv().await?;
///     raw.send(RawMessage { header, body }).await?;
///     Ok::<_, Box<dyn std::error::Error>>(())
/// };
/// let (reply, echoed) = tokio::join!(req.request("hello"), echo);
/// echoed?;
/// assert_eq!(reply?.as_bytes(), b"hello");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Raw {
    owner: Arc<Owner<pattern::Raw>>,
}

super::endpoints!(Raw);

/// See [`pattern::Raw::new`].
static SALT: LazyLock<u32> = LazyLock::new(|| fastrand::u32(..));

struct Forward(Bytes);

impl Sends<pattern::Raw> for Forward {
    fn attempt(&mut self, state: &mut State<pattern::Raw>, message: Message) -> Attempt {
        match state.pattern.send(&mut state.pipes, &self.0, message) {
            Ok(key) => Attempt::Sent(key),
            Err((NotSent::Full, message)) => Attempt::Full(message),
            Err((NotSent::Header, message)) => Attempt::Failed(SendErrorKind::Header, message),
            Err((NotSent::ReceiveOnly, message)) => Attempt::Failed(SendErrorKind::ReceiveOnly, message),
        }
    }
}

impl Raw {
    /// A socket with the default options, connected to nobody.
    pub fn new(protocol: Protocol) -> Self {
        Self::with_options(protocol, SocketOptions::default())
    }

    /// A socket with these options, connected to nobody.
    pub fn with_options(protocol: Protocol, options: SocketOptions) -> Self {
        let limits = super::recv_limits(&options);
        let pattern = pattern::Raw::new(protocol, options.ttl, limits, *SALT);
        Self {
            owner: Arc::new(Owner::new(Core::new(pattern, options))),
        }
    }

    /// What it announces.
    pub fn protocol(&self) -> Protocol {
        self.owner.core.protocol
    }

    /// Are both handles of the same socket?
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.owner, &other.owner)
    }

    pub(super) fn count_not_forwarded(&self) {
        self.owner.core.with(|state| state.pipes.drops.not_forwarded += 1);
    }

    /// Sends a message as its header says, waiting for room where the table above says so.
    ///
    /// # Errors
    /// The header is none of this protocol, the protocol only receives, the time limit passed or the socket
    /// was closed; the message comes back.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message was not sent.
    pub fn send(
        &self,
        message: RawMessage,
    ) -> impl Future<Output = Result<(), SendError<RawMessage>>> + Send + '_ {
        self.send_at(Place::Kept, message)
    }

    /// The same, waiting so.
    pub(super) async fn send_at(
        &self,
        place: Place,
        message: RawMessage,
    ) -> Result<(), SendError<RawMessage>> {
        let RawMessage { header, body } = message;
        let sending = self.owner.core.send(Forward(header.clone()), body).with(place);
        sending.await.map_err(|error| with_header(header, error))
    }

    /// The same if that needs no waiting.
    ///
    /// # Errors
    /// As [`Raw::send`], and [`WouldBlock`](SendErrorKind::WouldBlock).
    pub fn try_send(&self, message: RawMessage) -> Result<(), SendError<RawMessage>> {
        let RawMessage { header, body } = message;
        let sent = self.owner.core.try_send(Forward(header.clone()), body);
        sent.map_err(|error| with_header(header, error))
    }

    /// The next message; pipes take turns.
    ///
    /// # Errors
    /// The protocol only sends, the time limit passed or the socket was closed.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped before it is ready, no message was taken.
    pub fn recv(&self) -> impl Future<Output = Result<RawMessage, RecvError>> + Send + '_ {
        self.recv_at(Place::Kept)
    }

    /// The next message, waiting so.
    pub(super) async fn recv_at(&self, place: Place) -> Result<RawMessage, RecvError> {
        self.check_receives()?;
        self.owner
            .core
            .recv(|state| state.pattern.recv(&mut state.pipes))
            .with(place)
            .await
    }

    /// The next message if one is there now.
    ///
    /// # Errors
    /// The protocol only sends or the socket was closed.
    pub fn try_recv(&self) -> Result<Option<RawMessage>, RecvError> {
        self.check_receives()?;
        self.owner
            .core
            .try_recv(|state| state.pattern.recv(&mut state.pipes))
    }

    fn check_receives(&self) -> Result<(), RecvError> {
        if pattern::receives(self.protocol()) {
            Ok(())
        } else {
            Err(RecvError::SendOnly)
        }
    }
}

fn with_header(header: Bytes, SendError { message: body, kind }: SendError) -> SendError<RawMessage> {
    SendError {
        message: RawMessage { header, body },
        kind,
    }
}
