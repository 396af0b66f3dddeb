//! The counters that a socket shows.

use crate::PipeId;
use std::ops::AddAssign;

/// Messages and their bytes, protocol headers included, transport framing not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many messages.
    pub messages: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        self.messages += more.messages;
        self.bytes += more.bytes;
    }
}

/// Messages that a socket has dropped, by reason. What a connection loses when it breaks is not among them:
/// nobody can know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drops {
    /// Not queued because that peer's send queue was full: of pub, bus, surveyor and raw replies. Counted
    /// once per peer.
    pub slow_peer: u64,
    /// Pushed out of, or not let into, a full receive queue: of sub and of surveys. Counted once per context.
    pub slow_reader: u64,
    /// Requests and surveys that a newer one of the same pipe pushed out before they were received.
    pub superseded: u64,
    /// Messages that had passed through more sockets than the TTL allows.
    pub too_many_hops: u64,
    /// Replies, responses and messages of a topic that had come in and that nobody had received when their request,
    /// survey, subscription or context ended.
    pub unread: u64,
    /// Replies and responses that came when nobody waited for them any more, malformed ones, and what was sent to a socket
    /// that receives nothing.
    pub unexpected: u64,
    /// Messages that no context of a sub socket has subscribed to.
    pub not_subscribed: u64,
    /// Raw replies whose requester is gone.
    pub peer_gone: u64,
    /// Messages that a device was to send through this socket and could not: mostly there was no room within
    /// `send_timeout`. The one that a device holds when this socket is closed is among them.
    pub not_forwarded: u64,
}

/// What has gone through a socket since it was made. A snapshot: the numbers belong to one moment, but for
/// `unread`, which the system is asked right after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Queued for sending, over all pipes that there ever were. A message to three subscribers counts three
    /// times.
    pub sent: Traffic,
    /// Received from the connections, over all pipes that there ever were, whether or not anybody took it.
    pub received: Traffic,
    /// Dropped by the socket's pattern.
    pub dropped: Drops,
    /// The same for each pipe that is connected now, the oldest first.
    pub pipes: Vec<PipeStats>,
}

/// What has gone through one pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PipeStats {
    /// Which one.
    pub pipe: PipeId,
    /// Queued for sending.
    pub sent: Traffic,
    /// Received from the connection.
    pub received: Traffic,
    /// Messages that are queued, or of which not all is written. They are lost should the pipe break.
    pub unsent: usize,
    /// What was written and waits in the system for the peer to read it, in bytes with the system's overhead: 0 when
    /// the peer has read everything. `None` where the system does not tell: all but `ipc` on Linux, on x86-64 or 64-bit ARM.
    pub unread: Option<u64>,
}
