//! The respondent socket.

use crate::engine::{Owner, Place};
use crate::pattern;
use crate::{Protocol, RecvError, Request};
use std::sync::Arc;

/// Answers surveys, or keeps silent. A cloneable handle; the socket closes when the last one is dropped.
///
/// As with [`Rep`](crate::Rep) there are no contexts: each [`Request`] knows where its response goes, and any
/// number of them may be answered side by side, in any order. Pipes are read all the time; of each pipe
/// the newest [`rep_backlog`](crate::SocketOptions::rep_backlog) surveys that nobody has received yet are kept,
/// where nng and mangos stop reading a connection whose
/// surveys nobody takes.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{Respondent, Surveyor};
/// let (surveyor, respondent) = (Surveyor::new(), Respondent::new());
/// surveyor.listen("inproc://respondent-example").await?;
/// respondent.dial("inproc://respondent-example").await?;
/// let mut survey = surveyor.survey("load?").await?;
/// let request = respondent.recv().await?;
/// assert_eq!(request.body().as_bytes(), b"load?");
/// request.reply("0.7").await?;
/// assert_eq!(survey.recv().await?.as_bytes(), b"0.7");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Respondent {
    owner: Arc<Owner<pattern::Rep>>,
}

super::socket!(Respondent, |options: &crate::SocketOptions| pattern::Rep::new(
    Protocol::Respondent,
    super::backlog(options),
    options.ttl
));

impl Respondent {
    /// The next survey; pipes take turns.
    ///
    /// # Errors
    /// The time limit passed or the socket was closed.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped before it is ready, no survey was taken.
    pub async fn recv(&self) -> Result<Request, RecvError> {
        Request::recv(&self.owner, Place::Kept).await
    }

    /// The next survey, waiting so.
    pub(super) fn recv_at(
        &self,
        place: Place,
    ) -> impl Future<Output = Result<Request, RecvError>> + Send + '_ {
        Request::recv(&self.owner, place)
    }

    /// The next survey if one is there now.
    ///
    /// # Errors
    /// The socket was closed.
    pub fn try_recv(&self) -> Result<Option<Request>, RecvError> {
        Request::try_recv(&self.owner)
    }
}
