//! The rep socket.

use crate::engine::{Attempt, Core, Owner, Place, Sends, State, Waiters};
use crate::pattern::{self, Origin, Unsent};
use crate::{Message, PipeId, Protocol, RecvError, SendError, SendErrorKind};
use std::fmt;
use std::sync::Arc;

/// Answers requests. A cloneable handle; the socket closes when the last one is dropped.
///
/// There are no contexts as in nng and mangos: each [`Request`] is one. It knows where its reply goes, so any
/// number of tasks may receive from clones of one handle and answer side by side.
///
/// Pipes are read all the time, whether or not anybody receives; of each pipe the newest
/// [`rep_backlog`](crate::SocketOptions::rep_backlog) requests that nobody has received yet are kept, where nng
/// and mangos stop reading a connection whose requests nobody takes. A connection that brings a malformed request
/// is closed, as by them; one whose request has come through too many devices
/// ([`ttl`](crate::SocketOptions::ttl)) is not. Requests that were received may be answered in any order,
/// each once.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{Rep, Req};
/// let (rep, req) = (Rep::new(), Req::new());
/// rep.listen("inproc://rep-example").await?;
/// req.dial("inproc://rep-example").await?;
/// let answer = async {
///     let request = rep.recv().await?;
///     assert_eq!(request.body().as_bytes(), b"6 * 7");
///     request.reply("42").await?;
///     Ok::<_, Box<dyn std::error::Error>>(())
/// };
/// let (reply, answered) = tokio::join!(req.request("6 * 7"), answer);
/// answered?;
/// assert_eq!(reply?.as_bytes(), b"42");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Rep {
    owner: Arc<Owner<pattern::Rep>>,
}

super::socket!(Rep, |options: &crate::SocketOptions| pattern::Rep::new(
    Protocol::Rep,
    super::backlog(options),
    options.ttl
));

impl Rep {
    /// The next request; pipes take turns.
    ///
    /// # Errors
    /// The time limit passed or the socket was closed.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped before it is ready, no request was taken.
    pub async fn recv(&self) -> Result<Request, RecvError> {
        Request::recv(&self.owner, Place::Kept).await
    }

    /// The next request, waiting so.
    pub(super) fn recv_at(
        &self,
        place: Place,
    ) -> impl Future<Output = Result<Request, RecvError>> + Send + '_ {
        Request::recv(&self.owner, place)
    }

    /// The next request if one is there now.
    ///
    /// # Errors
    /// The socket was closed.
    pub fn try_recv(&self) -> Result<Option<Request>, RecvError> {
        Request::try_recv(&self.owner)
    }
}

/// One request or survey, which knows where its reply goes. Dropped, it is never answered. It does not keep
/// its socket open.
pub struct Request {
    core: Arc<Core<pattern::Rep>>,
    origin: Origin,
    body: Message,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("pipe", &self.pipe())
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// A reply that was not sent, with the reason, and its request: so it can be tried again.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct ReplyError {
    /// The request, not answered yet.
    pub request: Box<Request>,
    /// The reply, as it was.
    pub message: Message,
    /// Why it was not sent.
    pub kind: SendErrorKind,
}

struct Back<'a>(&'a Origin);

impl Sends<pattern::Rep> for Back<'_> {
    const IN_TURN: bool = false;

    fn attempt(&mut self, state: &mut State<pattern::Rep>, message: Message) -> Attempt {
        match state.pattern.reply(&mut state.pipes, self.0, message) {
            Ok(key) => Attempt::Sent(Some(key)),
            Err(Unsent::Full(message)) => Attempt::Full(message),
            Err(Unsent::Gone(message)) => Attempt::Failed(SendErrorKind::PeerGone, message),
        }
    }

    fn queue<'a>(&self, state: &'a mut State<pattern::Rep>) -> Option<&'a mut Waiters> {
        state.writers(self.0.key)
    }
}

impl Request {
    pub(super) async fn recv(owner: &Owner<pattern::Rep>, place: Place) -> Result<Self, RecvError> {
        let received = owner.core.recv(|state| state.pattern.recv()).with(place);
        let (origin, body) = received.await?;
        Ok(Self {
            core: Arc::clone(&owner.core),
            origin,
            body,
        })
    }

    pub(super) fn try_recv(owner: &Owner<pattern::Rep>) -> Result<Option<Self>, RecvError> {
        let taken = owner.core.try_recv(|state| state.pattern.recv())?;
        Ok(taken.map(|(origin, body)| Self {
            core: Arc::clone(&owner.core),
            origin,
            body,
        }))
    }

    /// The payload.
    pub fn body(&self) -> &Message {
        &self.body
    }

    /// The pipe that it came from.
    pub fn pipe(&self) -> PipeId {
        self.origin.key.id
    }

    /// The id that the requester gave it, of 31 bits. A request that comes again, because its reply was late,
    /// has the same one; so on one pipe a repetition can be told from a new request.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (rep, req) = (sp_proto::Rep::new(), sp_proto::Req::new());
    /// rep.listen("inproc://request-id-example").await?;
    /// req.dial("inproc://request-id-example").await?;
    /// let mut context = req.context();
    /// context.send("a").await?;
    /// let first = rep.recv().await?;
    /// context.send("b").await?;
    /// assert_ne!(first.id(), rep.recv().await?.id());
    /// # Ok(()) }
    /// ```
    pub fn id(&self) -> u32 {
        self.origin.id()
    }

    /// Queues the reply on the pipe that asked, waiting until it has room.
    ///
    /// # Errors
    /// [`PeerGone`](SendErrorKind::PeerGone) when that pipe is gone; or the time limit passed or the socket
    /// was closed. The reply and the request come back.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the reply was not sent, and the request is never answered.
    pub async fn reply(self, message: impl Into<Message>) -> Result<(), ReplyError> {
        let sent = self.core.send(Back(&self.origin), message.into()).await;
        sent.map_err(|error| self.unanswered(error))
    }

    /// Queues the reply on the pipe that asked if that has room now.
    ///
    /// # Errors
    /// [`WouldBlock`](SendErrorKind::WouldBlock), [`PeerGone`](SendErrorKind::PeerGone) or closed. The reply and
    /// the request come back.
    pub fn try_reply(self, message: impl Into<Message>) -> Result<(), ReplyError> {
        let sent = self.core.try_send(Back(&self.origin), message.into());
        sent.map_err(|error| self.unanswered(error))
    }

    fn unanswered(self, SendError { message, kind }: SendError) -> ReplyError {
        ReplyError {
            request: Box::new(self),
            message,
            kind,
        }
    }
}
