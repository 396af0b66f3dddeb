//! The nanomsg scalability protocols (SP) in pure Rust: sockets that speak with nanomsg, nng and mangos.
//!
//! ```
//! use sp_proto::{Pull, Push};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pull = Pull::new();
//! let endpoint = pull.listen("tcp://127.0.0.1:0").await?;
//! let push = Push::new();
//! push.dial(&endpoint.address).await?;
//! push.send("hello").await?;
//! assert_eq!(pull.recv().await?.as_bytes(), b"hello");
//! push.close().await;
//! # Ok(()) }
//! ```
//!
//! | socket | talks to | for |
//! |---|---|---|
//! | [`Pair`] | [`Pair`] | one peer, both directions |
//! | [`Pair1`] | [`Pair1`] | the same, with a hop count |
//! | [`Push`] | [`Pull`] | dealing work out |
//! | [`Pull`] | [`Push`] | collecting |
//! | [`Req`] | [`Rep`] | asking |
//! | [`Rep`] | [`Req`] | answering |
//! | [`Pub`] | [`Sub`] | telling everybody who wants to hear |
//! | [`Sub`] | [`Pub`] | hearing of what was subscribed to |
//! | [`Surveyor`] | [`Respondent`] | asking everybody, for a while |
//! | [`Respondent`] | [`Surveyor`] | answering surveys |
//! | [`Bus`] | [`Bus`] | telling every neighbour |
//! | [`Raw`] | any of them | forwarding with a [`device`], and building other patterns |
//!
//! Every socket listens and dials on any number of endpoints; [`Address`] tells of the transports. Sockets
//! are made anywhere and used within a tokio runtime. A [`Listener`] serves several protocols on one address.
//!
#![cfg_attr(
    all(any(doc, doctest), feature = "ipc", feature = "tls", feature = "ws"),
    doc = "The [`guide`] has a page per pattern, and pages on connecting, back-pressure, closing, devices and TLS."
)]
//!
//! # Module map
//!
//! - [`wire`]: greeting, frames, backtraces. Pure.
//! - `pattern`: who gets a message and what one means. Pure: time is an argument.
//! - `transport`: addresses, streams, listeners.
//! - `engine`: the task of a connection, dialer, listener; the state that they share; the owner of a socket.
//! - `socket`: the public handles.
//!
//! Each may use those above it only. Without the feature `tokio` only the pure ones are built.
//!
//! # How a message travels
//!
//! `send` takes the socket's lock, the pattern picks a pipe, and the frame is added to that pipe's batch. An
//! idle pipe is written to at once from the caller's task; a busy one's task is woken once and writes the
//! whole batch, unless a sender finds 64 KiB or a full queue before that and writes it itself. On the other
//! side the pipe's task reads up to 68 KiB, decodes every frame in it and hands them over under one lock with
//! one wake. In a flood it hands the reading over as well: a receiver that finds nothing queued then reads from
//! the connection by itself, until that has nothing more; if none comes, the task reads on after 20 to 40 ms. Where
//! contexts have queues of their own the task keeps the reading. No message has a task hop or a channel of its own.
//!
//! # What messages keep in memory
//!
//! Small messages that come in together share allocations of at most 4 KiB, which the last of them frees. In a
//! flood, messages from 16 KiB up share the 68 KiB buffer that brought them with their neighbours, at most four
//! in a row; keeping one of them for long keeps its buffer. Copy what is to be kept. The buffers of messages
//! from 32 KiB up and those read buffers are used again once they are dropped; each thread keeps at most 8 MiB
//! of them. A pipe that has been under load keeps the two buffers of its writes, at most 1 MiB each, until it has
//! written a few single messages. The kernel holds up to 416 KiB of an ipc pipe whose peer does not read.
#![cfg_attr(not(feature = "tokio"), allow(dead_code, unused_imports))]
// With inproc alone there is one kind of connection, and nothing to choose.
#![cfg_attr(
    not(any(feature = "ipc", feature = "tcp")),
    allow(unreachable_patterns, unused_variables, unused_assignments)
)]

mod id;
mod message;
mod pattern;
mod protocol;
mod stats;
pub mod wire;

#[cfg(feature = "tokio")]
mod engine;
#[cfg(feature = "tokio")]
mod error;
// Its pages speak of every feature.
#[cfg(all(any(doc, doctest), feature = "ipc", feature = "tls", feature = "ws"))]
pub mod guide;
#[cfg(feature = "tokio")]
mod socket;
#[cfg(feature = "tokio")]
mod sync;
#[cfg(feature = "tokio")]
mod transport;

/// What messages are made of; here again, so that users need no matching version of their own.
pub use bytes::Bytes;
pub use id::{EndpointId, PipeId};
pub use message::{Message, RawMessage};
pub use pattern::Overflow;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub use pattern::operations;
pub use protocol::Protocol;
pub use stats::{Drops, PipeStats, Stats, Traffic};

#[cfg(feature = "tokio")]
pub use engine::{Admission, Endpoint, Event, Events, ListenerOptions, PipeInfo};
#[cfg(feature = "tokio")]
pub use error::{DialError, ListenError, RecvError, RequestError, SendError, SendErrorKind};
#[cfg(feature = "tokio")]
pub use socket::{
    Bus, Connection, DeviceError, EndpointOptions, Incoming, Listener, Outgoing, Pair, Pair1, Pub, Pull,
    Push, Raw, Rep, ReplyError, Req, ReqContext, Request, Respondent, SocketOptions, Sub, SubContext,
    SurveyContext, Surveyor, device,
};
#[cfg(feature = "tokio")]
pub use transport::{Address, AddressError, Credentials, TcpTarget, WsTarget};
#[cfg(feature = "tls")]
pub use transport::{ClientAuth, TlsAuthorities, TlsError, TlsIdentity, TlsOptions};

/// Keeps the example of the README compiled and true.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
