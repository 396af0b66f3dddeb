//! Accepting: connections come in, greeted ones go out. Drives the handshakes of one address, a bounded
//! number at a time.

use crate::engine::events::{Event, Publisher};
use crate::engine::greeting::{Failure, Greeted, Manners, greet};
#[cfg(feature = "tls")]
use crate::transport::TlsOptions;
use crate::transport::{Listener, Opening, Settings};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};

/// Handshakes under way at a time; one more ends the oldest, so that silent strangers cannot keep peers out.
const HANDSHAKES: usize = 256;

/// The pause after a failed accept, which is mostly a lack of descriptors: there is nothing to wait for.
const PAUSE: Duration = Duration::from_millis(100);

/// Settings of a [`Listener`](crate::Listener). End a literal with `..Default::default()`: cargo features add
/// fields.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// How long a peer has for its greeting. Default 5 s.
    pub handshake_timeout: Duration,
    /// Largest message that the connections accept, in bytes; 0 = no limit. Default 16 MiB.
    pub recv_max_size: usize,
    /// Greeted connections that wait for [`accept`](crate::Listener::accept). Default 128, at least 1.
    pub backlog: usize,
    /// The permissions of the file of an `ipc://` address, as in
    /// [`SocketOptions`](crate::SocketOptions::ipc_mode). Default 0o600: the owner only.
    #[cfg(feature = "ipc")]
    pub ipc_mode: u32,
    /// Certificates, for `tls+tcp://` and `wss://`. Default none.
    #[cfg(feature = "tls")]
    pub tls: TlsOptions,
}

impl ListenerOptions {
    pub(crate) fn transport(&self) -> Settings {
        Settings {
            #[cfg(feature = "ipc")]
            ipc_mode: self.ipc_mode,
            #[cfg(feature = "tls")]
            tls: self.tls.clone().into(),
        }
    }
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            recv_max_size: 16 * 1024 * 1024,
            backlog: 128,
            #[cfg(feature = "ipc")]
            ipc_mode: crate::transport::IPC_MODE,
            #[cfg(feature = "tls")]
            tls: TlsOptions::default(),
        }
    }
}

/// A bound address and the handshakes that are under way there; they end when it is dropped.
pub(crate) struct Acceptor {
    listener: Listener,
    manners: Manners,
    handshake_timeout: Duration,
    handshakes: JoinSet<Accepted>,
    /// The handshakes, the oldest first, with some that have ended.
    oldest: VecDeque<AbortHandle>,
}

/// What became of a connection.
pub(crate) type Accepted = Result<Box<Greeted>, Refused>;

/// A connection that is refused.
#[derive(Debug)]
pub(crate) struct Refused {
    peer_address: String,
    failure: Failure,
}

impl Refused {
    pub(crate) fn into_event(self) -> Event {
        Event::PeerRefused {
            peer_address: self.peer_address,
            reason: self.failure.to_string(),
        }
    }
}

impl Acceptor {
    pub(crate) fn new(listener: Listener, manners: Manners, handshake_timeout: Duration) -> Self {
        Self {
            listener,
            manners,
            handshake_timeout,
            handshakes: JoinSet::new(),
            oldest: VecDeque::new(),
        }
    }

    /// The next connection that is greeted or refused. Cancel safe.
    pub(crate) async fn next(&mut self, events: &Publisher) -> Accepted {
        loop {
            tokio::select! {
                Some(finished) = self.handshakes.join_next() => match finished {
                    Ok(accepted) => return accepted,
                    // Ended to make room, or a bug that ends with its connection.
                    Err(_) => continue,
                },
                accepted = self.listener.accept() => match accepted {
                    Ok(opening) => self.begin(opening, events),
                    Err(error) => {
                        events.publish(Event::AcceptFailed { reason: error.to_string() });
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    fn begin(&mut self, opening: Opening, events: &Publisher) {
        while self.oldest.front().is_some_and(AbortHandle::is_finished) {
            self.oldest.pop_front();
        }
        if self.handshakes.len() >= HANDSHAKES
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
            events.publish(Event::PeerRefused {
                peer_address: "the oldest silent peer".to_owned(),
                reason: format!("more than {HANDSHAKES} handshakes were under way"),
            });
        }
        let (manners, limit) = (self.manners.clone(), self.handshake_timeout);
        let peer_address = opening.peer_address().to_owned();
        let handshake = self.handshakes.spawn(async move {
            let greeted = greet(opening, &manners, limit).await;
            greeted.map(Box::new).map_err(|failure| Refused {
                peer_address,
                failure,
            })
        });
        if self.oldest.len() >= 2 * HANDSHAKES {
            self.oldest.retain(|handshake| !handshake.is_finished());
        }
        self.oldest.push_back(handshake);
    }
}
