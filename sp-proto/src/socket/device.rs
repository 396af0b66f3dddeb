//! Devices: two raw sockets that forward to each other.

use crate::pattern::{receives, sends};
use crate::{Protocol, Raw, RecvError, SendErrorKind};

/// Why two sockets make no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// What one receives the other cannot send.
    #[error("a device of {left} and {right}: with {left} the other side must be {expected}")]
    Mismatch {
        /// The protocol of the first socket.
        left: Protocol,
        /// The protocol of the second socket.
        right: Protocol,
        /// The only protocol that goes with the first.
        expected: Protocol,
    },
}

/// Forwards what one socket receives through the other, in both directions as far as their protocols have
/// two, until one of them is closed.
///
/// | from | to | |
/// |---|---|---|
/// | `Rep` faces the requesters | `Req` faces the repliers | requests and replies |
/// | `Pull` faces the pushers | `Push` faces the pullers | one way |
/// | `Sub` faces the publishers | `Pub` faces the subscribers | one way, unfiltered |
/// | `Respondent` faces the surveyors | `Surveyor` faces the respondents | surveys and responses |
/// | `Pair1`, `Pair0`, `Bus` | the same | both ways |
///
/// With two handles of the same socket it is a reflector: a bus socket passes what one neighbour sends to all
/// the others, which makes a star of a bus; a pair gets its own messages back.
///
/// Hops are counted where the protocol has a count, and messages beyond the receiving socket's
/// [`ttl`](crate::SocketOptions::ttl) are dropped: devices of pair1, req/rep and surveyor/respondent may be
/// connected in a circle. The others have no count, in nng and mangos neither: a circle of them never comes
/// to rest.
///
/// It holds one message in each direction; all else waits in the sockets' bounded queues, and a receiver that
/// is slow holds its senders back where the protocol has that. With a `send_timeout` a message that finds no
/// room in time is dropped, counted as [`not_forwarded`](crate::Drops::not_forwarded) of the socket that was to send it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{Protocol, Raw, Rep, Req, device};
/// let (front, back) = (Raw::new(Protocol::Rep), Raw::new(Protocol::Req));
/// front.listen("inproc://device-front").await?;
/// back.listen("inproc://device-back").await?;
/// let (req, rep) = (Req::new(), Rep::new());
/// req.dial("inproc://device-front").await?;
/// rep.dial("inproc://device-back").await?;
/// let work = async {
///     let mut conversation = req.context();
///     conversation.send("6 * 7").await?;
///     rep.recv().await?.reply("42").await?;
///     Ok::<_, Box<dyn std::error::Error>>(conversation.recv().await?)
/// };
/// tokio::select! {
///     end = device(&front, &back) => end?,
///     reply = work => assert_eq!(reply?.as_bytes(), b"42"),
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// The protocols are no pair.
///
/// # Cancel safety
/// Dropped, it no longer forwards; at most one message of each direction is lost. The sockets live on.
pub async fn device(left: &Raw, right: &Raw) -> Result<(), DeviceError> {
    let expected = left.protocol().peer();
    if right.protocol() != expected {
        return Err(DeviceError::Mismatch {
            left: left.protocol(),
            right: right.protocol(),
            expected,
        });
    }
    if left.is(right) {
        forward(left, right).await;
        return Ok(());
    }
    tokio::select! {
        () = forward(left, right), if can_forward(left, right) => {}
        () = forward(right, left), if can_forward(right, left) => {}
    }
    Ok(())
}

fn can_forward(from: &Raw, to: &Raw) -> bool {
    receives(from.protocol()) && sends(to.protocol())
}

/// Forwards until one of the sockets is closed.
async fn forward(from: &Raw, to: &Raw) {
    loop {
        let message = match from.recv().await {
            Ok(message) => message,
            Err(RecvError::TimedOut) => continue,
            Err(_) => return,
        };
        match to.send(message).await {
            Ok(()) => {}
            Err(error) => {
                to.count_not_forwarded();
                if error.kind == SendErrorKind::Closed {
                    return;
                }
            }
        }
    }
}
