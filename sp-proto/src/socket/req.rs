//! The req socket and its contexts.

use crate::engine::{Attempt, Owner, Sends, State, now};
use crate::pattern::{self, ContextId, Progress};
use crate::{Message, RecvError, RequestError, SendError};
use std::fmt;
use std::sync::Arc;

/// Asks, and waits for the reply. A cloneable handle; the socket closes when the last handle and the last
/// context are dropped.
///
/// Requests are dealt out round-robin over the pipes. One that has no reply is sent again when its pipe goes
/// away and when [`resend_time`](crate::SocketOptions::resend_time) has passed, whether or not somebody waits
/// for the reply, so a request may be executed twice. [`Rep`](crate::Rep) has an example.
#[derive(Clone)]
pub struct Req {
    owner: Arc<Owner<pattern::Req>>,
}

super::socket!(Req, |options: &crate::SocketOptions| pattern::Req::new(
    options.resend_time,
    fastrand::u32(..)
));

impl Req {
    /// Sends a request and waits for its reply, in a context of its own: many may be in flight.
    ///
    /// # Errors
    /// It was not sent, or no reply came within the time limit.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the request may or may not have been sent; its reply will be dropped.
    pub async fn request(&self, message: impl Into<Message>) -> Result<Message, RequestError> {
        let mut context = self.context();
        context.send(message).await?;
        Ok(context.recv().await?)
    }

    /// Sends a request if a pipe has room now, in a context of its own, which then has the reply.
    ///
    /// # Errors
    /// [`WouldBlock`](crate::SendErrorKind::WouldBlock) or closed; the message comes back.
    pub fn try_request(&self, message: impl Into<Message>) -> Result<ReqContext, SendError> {
        let mut context = self.context();
        context.try_send(message)?;
        Ok(context)
    }

    /// A new conversation.
    pub fn context(&self) -> ReqContext {
        let id = self.owner.core.with(|state| state.pattern.open());
        ReqContext {
            owner: Arc::clone(&self.owner),
            id,
        }
    }
}

/// One conversation: at most one request is outstanding, and a new one cancels the one before.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{Rep, Req};
/// let (rep, req) = (Rep::new(), Req::new());
/// rep.listen("inproc://context-example").await?;
/// req.dial("inproc://context-example").await?;
/// let mut context = req.context();
/// context.send("first").await?;
/// context.send("second").await?; // nobody will hear of a reply to the first
/// rep.recv().await?.reply("done").await?;
/// # Ok(()) }
/// ```
pub struct ReqContext {
    owner: Arc<Owner<pattern::Req>>,
    id: ContextId,
}

impl fmt::Debug for ReqContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqContext")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Drop for ReqContext {
    fn drop(&mut self) {
        self.owner.core.with(|state| {
            state.contexts.remove(&self.id);
            state.pattern.close(&mut state.pipes, self.id);
        });
    }
}

struct Ask(ContextId);

impl Sends<pattern::Req> for Ask {
    fn attempt(&mut self, state: &mut State<pattern::Req>, message: Message) -> Attempt {
        state
            .pattern
            .send(&mut state.pipes, self.0, message, now())
            .into()
    }
}

impl ReqContext {
    /// Sends a request, waiting until a pipe has room. The request before it is cancelled.
    ///
    /// # Errors
    /// The time limit passed or the socket was closed; the message comes back and no request is outstanding.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the request was not sent; the one before it may be cancelled all the same.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        self.owner
            .core
            .with(|state| state.pattern.cancel(&mut state.pipes, self.id));
        self.owner.core.send(Ask(self.id), message.into()).await
    }

    /// The reply to the request that is outstanding.
    ///
    /// # Errors
    /// [`State`](RecvError::State) when no request is outstanding; or the time limit passed (the request
    /// stays outstanding) or the socket was closed.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped before it is ready, the request stays outstanding and its reply is kept for the
    /// next call.
    pub async fn recv(&mut self) -> Result<Message, RecvError> {
        let take = |state: &mut State<pattern::Req>| match state.pattern.recv(self.id) {
            Progress::Idle => Some(Err(RecvError::State)),
            Progress::Waiting => None,
            Progress::Reply(message) => Some(Ok(message)),
        };
        self.owner.core.recv_in(self.id, take).await?
    }

    /// Sends a request if a pipe has room now. The request before it is cancelled even if none has.
    ///
    /// # Errors
    /// [`WouldBlock`](crate::SendErrorKind::WouldBlock) or closed; the message comes back and no request is
    /// outstanding.
    pub fn try_send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        let cancel = |state: &mut State<pattern::Req>| state.pattern.cancel(&mut state.pipes, self.id);
        self.owner.core.with(cancel);
        self.owner.core.try_send(Ask(self.id), message.into())
    }

    /// The reply if it is there now.
    ///
    /// # Errors
    /// [`State`](RecvError::State) when no request is outstanding, or the socket was closed.
    pub fn try_recv(&mut self) -> Result<Option<Message>, RecvError> {
        let answer = self
            .owner
            .core
            .try_recv(|state| match state.pattern.recv(self.id) {
                Progress::Idle => Some(Err(RecvError::State)),
                Progress::Waiting => None,
                Progress::Reply(message) => Some(Ok(message)),
            })?;
        answer.transpose()
    }
}
