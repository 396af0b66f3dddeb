//! Events: what a socket tells about its pipes.

use crate::transport::Credentials;
use crate::{EndpointId, PipeId, Protocol};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// How many events a slow reader may be behind before it loses the oldest.
const CAPACITY: usize = 128;

/// One connection of a socket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PipeInfo {
    /// Its name in events.
    pub id: PipeId,
    /// The endpoint that made it; none when it was attached.
    pub endpoint: Option<EndpointId>,
    /// What the peer announced.
    pub peer: Protocol,
    /// Where the peer is, for people to read.
    pub peer_address: String,
    /// Who the peer is; ipc only.
    pub credentials: Option<Credentials>,
}

/// Something that happened to a socket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A peer is connected and greeted.
    PipeAdded(PipeInfo),
    /// A pipe is gone.
    PipeRemoved {
        /// Which one, and whose.
        pipe: PipeInfo,
        /// Why.
        reason: String,
        /// Whether the peer closed the connection between two messages: neither did it break, nor did this side
        /// close it.
        is_orderly: bool,
    },
    /// A connection that never became a pipe: wrong greeting, wrong protocol, not admitted, second peer of a
    /// pair, time limit.
    PeerRefused {
        /// Where it came from.
        peer_address: String,
        /// Why.
        reason: String,
    },
    /// A dialer could not connect and will try again.
    DialFailed {
        /// The dialer.
        endpoint: EndpointId,
        /// Why.
        reason: String,
        /// When it tries again.
        retry_in: Duration,
    },
    /// A dialer has failed as often as it may, and will not try again. Its endpoint can be closed.
    DialerGaveUp {
        /// The dialer.
        endpoint: EndpointId,
        /// Why its last attempt failed.
        reason: String,
    },
    /// The reader was more than 128 events behind: so many are lost to it, which would have come here. What is
    /// connected now, `pipes()` tells.
    Missed(u64),
    /// A listener could not accept, for lack of descriptors for example, and will try again.
    AcceptFailed {
        /// Why.
        reason: String,
    },
}

/// The events of one socket or listener from the moment of the call that gave this.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; `None` once the socket is closed. A reader that is slow never holds up the socket: it loses
    /// the oldest events, and [`Event::Missed`] tells how many.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Event> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(events)) => Some(Event::Missed(events)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Where events are told.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// `None` once closed. Behind a lock of its own: publishing is rare and must not hold up messages.
    sender: Mutex<Option<broadcast::Sender<Event>>>,
}

impl Publisher {
    pub(crate) fn new() -> Self {
        Self {
            sender: Mutex::new(Some(broadcast::channel(CAPACITY).0)),
        }
    }

    pub(crate) fn publish(&self, event: Event) {
        // Not under the lock: a task may be polled where it is woken.
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sender) = sender {
            // Nobody listens: fine.
            let _ = sender.send(event);
        }
    }

    pub(crate) fn subscribe(&self) -> Events {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = match &*sender {
            Some(sender) => sender.subscribe(),
            None => broadcast::channel(1).1,
        };
        Events { receiver }
    }

    pub(crate) fn close(&self) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(sender);
    }
}
