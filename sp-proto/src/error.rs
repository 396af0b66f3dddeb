//! Owns the errors of the public API: one small enum per operation.

use crate::transport::AddressError;
use crate::wire::GreetingError;
#[cfg(feature = "ws")]
use crate::wire::websocket::UpgradeError;
use crate::{Message, Protocol};
use std::io;
use std::time::Duration;

/// Why [`listen`](crate::Push::listen) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address makes no sense.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A live process listens there.
    #[error("{address} is in use")]
    InUse {
        /// The whole address.
        address: String,
    },
    /// The system refused.
    #[error("cannot listen on {address}")]
    Io {
        /// The whole address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
}

/// Why [`dial`](crate::Push::dial) or [`attach`](crate::Push::attach) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The address makes no sense.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody listens there, or the network is in the way.
    #[error("cannot connect to {address}")]
    Refused {
        /// The whole address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed: no TLS is spoken there, or a certificate was not good enough for one side.
    #[cfg(feature = "tls")]
    #[error("{address} and this end do not agree on TLS")]
    Tls {
        /// The whole address.
        address: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// Somebody answered who does not agree to a websocket for SP: the path or the protocol is another one.
    #[cfg(feature = "ws")]
    #[error("{address} did not agree to a websocket")]
    Upgrade {
        /// The whole address.
        address: String,
        /// What was wrong.
        #[source]
        source: UpgradeError,
    },
    /// Somebody answered who does not speak SP.
    #[error("{address} greeted wrongly")]
    Greeting {
        /// The whole address.
        address: String,
        /// What was wrong.
        #[source]
        source: GreetingError,
    },
    /// The peer speaks SP, but not with us.
    #[error("{address} speaks {found}, expected {expected}")]
    WrongProtocol {
        /// The whole address.
        address: String,
        /// What the peer announced.
        found: Protocol,
        /// The only protocol that this socket talks to.
        expected: Protocol,
    },
    /// The peer did not finish its greeting in time.
    #[error("{address} did not greet within {limit:?}")]
    TimedOut {
        /// The whole address.
        address: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The socket's [`Admission`](crate::Admission) does not take this peer.
    #[error("{address} is not admitted: {reason}")]
    NotAdmitted {
        /// The whole address.
        address: String,
        /// Why.
        reason: String,
    },
    /// The peer is welcome in general but not now: a pair socket has one peer at a time.
    #[error("{address} is refused: {reason}")]
    NotNow {
        /// The whole address.
        address: String,
        /// Why.
        reason: String,
    },
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
}

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
    /// Nothing came within the receive time limit.
    #[error("nothing was received within the time limit")]
    TimedOut,
    /// A context that has no request or survey outstanding has nothing to receive.
    #[error("no request or survey is outstanding")]
    State,
    /// The survey's time is up: there will be no more responses. Told once.
    #[error("the survey has ended")]
    SurveyEnded,
    /// The protocol of this raw socket only sends.
    #[error("this protocol only sends")]
    SendOnly,
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// The socket is closed.
    #[error("the socket is closed")]
    Closed,
    /// No pipe took the message within the send time limit.
    #[error("no peer took the message within the time limit")]
    TimedOut,
    /// No pipe can take the message now, and the call does not wait.
    #[error("no peer can take a message now")]
    WouldBlock,
    /// The pipe that the request came from is gone.
    #[error("the peer that asked is gone")]
    PeerGone,
    /// The header of a raw message is none of the socket's protocol.
    #[error("the header is none of this protocol")]
    Header,
    /// The protocol of this raw socket only receives.
    #[error("this protocol only receives")]
    ReceiveOnly,
}

/// A message that was not sent, with the reason. `M` is [`RawMessage`](crate::RawMessage) for raw sockets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct SendError<M = Message> {
    /// The message, as it was.
    pub message: M,
    /// Why it was not sent.
    pub kind: SendErrorKind,
}

/// Why a request got no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request was not sent.
    #[error("the request was not sent")]
    Send(#[from] SendError),
    /// The request was sent and no reply came.
    #[error("no reply was received")]
    Recv(#[from] RecvError),
}
