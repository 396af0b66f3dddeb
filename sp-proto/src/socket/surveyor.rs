//! The surveyor socket and its contexts.

use crate::engine::{Attempt, Owner, Sends, State, now};
use crate::pattern::{self, ContextId, Responses};
use crate::{Message, RecvError, SendError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Asks everybody, and collects the responses that come in time. A cloneable handle; the socket closes when
/// the last handle and the last context are dropped.
///
/// Sending never waits: a respondent whose send queue is full misses the survey, which is counted as
/// [`slow_peer`](crate::Drops::slow_peer). How many will answer nobody knows, so receiving goes on until
/// [`survey_time`](crate::SocketOptions::survey_time) is over.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{RecvError, Respondent, SocketOptions, Surveyor};
/// use std::time::Duration;
/// let survey_time = Duration::from_millis(200);
/// let surveyor = Surveyor::with_options(SocketOptions { survey_time, ..Default::default() });
/// let respondent = Respondent::new();
/// respondent.listen("inproc://surveyor-example").await?;
/// surveyor.dial("inproc://surveyor-example").await?;
/// let mut survey = surveyor.survey("who is there?").await?;
/// respondent.recv().await?.reply("me").await?;
/// assert_eq!(survey.recv().await?.as_bytes(), b"me");
/// assert_eq!(survey.recv().await, Err(RecvError::SurveyEnded)); // 200 ms later
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Surveyor {
    owner: Arc<Owner<pattern::Surveyor>>,
}

super::socket!(Surveyor, |options| pattern::Surveyor::new(
    super::recv_limits(options),
    fastrand::u32(..)
));

impl Surveyor {
    /// Asks everybody, in a context of its own: many surveys may be outstanding.
    ///
    /// # Errors
    /// The socket was closed; the message comes back.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nobody was asked.
    pub async fn survey(&self, message: impl Into<Message>) -> Result<SurveyContext, SendError> {
        let mut context = self.context();
        context.send(message).await?;
        Ok(context)
    }

    /// The same at once.
    ///
    /// # Errors
    /// The socket was closed; the message comes back.
    pub fn try_survey(&self, message: impl Into<Message>) -> Result<SurveyContext, SendError> {
        let mut context = self.context();
        context.try_send(message)?;
        Ok(context)
    }

    /// A new conversation, whose surveys take the socket's
    /// [`survey_time`](crate::SocketOptions::survey_time).
    pub fn context(&self) -> SurveyContext {
        SurveyContext {
            id: self.owner.core.with(|state| state.pattern.open()),
            survey_time: self.owner.core.options.survey_time,
            owner: Arc::clone(&self.owner),
        }
    }
}

/// One conversation: at most one survey is outstanding, and a new one ends the one before. [`Surveyor`] has
/// an example.
pub struct SurveyContext {
    owner: Arc<Owner<pattern::Surveyor>>,
    id: ContextId,
    survey_time: Duration,
}

struct Ask(ContextId, Duration);

impl Sends<pattern::Surveyor> for Ask {
    fn attempt(&mut self, state: &mut State<pattern::Surveyor>, message: Message) -> Attempt {
        let Self(context, time) = *self;
        Attempt::Sent(
            state
                .pattern
                .send(&mut state.pipes, context, message, time, now()),
        )
    }
}

impl SurveyContext {
    /// From the next survey on, responses are taken for this long.
    pub fn set_survey_time(&mut self, time: Duration) {
        self.survey_time = time;
    }

    /// Asks everybody who is connected and has room; the survey before it ends. It waits for nobody.
    ///
    /// # Errors
    /// The socket was closed; the message comes back.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nobody was asked and the survey before it goes on.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        self.owner
            .core
            .send(Ask(self.id, self.survey_time), message.into())
            .await
    }

    /// The same at once.
    ///
    /// # Errors
    /// The socket was closed; the message comes back.
    pub fn try_send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        let ask = Ask(self.id, self.survey_time);
        self.owner.core.try_send(ask, message.into())
    }

    /// The next response.
    ///
    /// # Errors
    /// [`SurveyEnded`](RecvError::SurveyEnded) once the survey's time is over, and
    /// [`State`](RecvError::State) from then on and when there was no survey (nng calls the first a timeout,
    /// mangos both a wrong state); responses that were not received by then are dropped and
    /// counted as [`unread`](crate::Drops::unread). Or the receive time limit passed (the survey goes on) or the socket was closed.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped before it is ready, no response was taken and the survey goes on.
    pub async fn recv(&mut self) -> Result<Message, RecvError> {
        let (core, id) = (&self.owner.core, self.id);
        let deadline = core.with(|state| state.pattern.deadline(id));
        loop {
            let next = core.recv_in(id, |state| {
                match state.pattern.recv(&mut state.pipes, id, now()) {
                    Responses::Idle => Some(Err(RecvError::State)),
                    Responses::Waiting => None,
                    Responses::Response(message) => Some(Ok(message)),
                    Responses::Ended => Some(Err(RecvError::SurveyEnded)),
                }
            });
            match deadline {
                None => return next.await?,
                Some(at) => {
                    if let Ok(result) = tokio::time::timeout_at(at.into(), next).await {
                        return result?;
                    }
                    // The time is up: looking again is what ends the survey.
                }
            }
        }
    }

    /// The next response if one is there now.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), but for its time limit.
    pub fn try_recv(&mut self) -> Result<Option<Message>, RecvError> {
        let id = self.id;
        let looked =
            self.owner
                .core
                .try_recv(|state| match state.pattern.recv(&mut state.pipes, id, now()) {
                    Responses::Idle => Some(Err(RecvError::State)),
                    Responses::Waiting => None,
                    Responses::Response(message) => Some(Ok(message)),
                    Responses::Ended => Some(Err(RecvError::SurveyEnded)),
                });
        looked?.transpose()
    }
}

impl fmt::Debug for SurveyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SurveyContext")
            .field("id", &self.id)
            .field("survey_time", &self.survey_time)
            .finish_non_exhaustive()
    }
}

impl Drop for SurveyContext {
    fn drop(&mut self) {
        self.owner.core.with(|state| {
            state.contexts.remove(&self.id);
            state.pattern.close(&mut state.pipes, self.id);
        });
    }
}
