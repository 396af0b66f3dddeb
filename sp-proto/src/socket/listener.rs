//! The listener that serves several protocols on one address.

use crate::engine::{Acceptor, Events, Greeted, ListenerOptions, Manners, Publisher, bind};
use crate::transport::{Credentials, SocketFile};
use crate::{ListenError, Protocol, RecvError};
use std::fmt;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

/// Accepts several protocols on one address: reads the peer's greeting before it sends its own, as that
/// peer's peer. Dropped, it no longer listens; connections that were accepted live on.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{Listener, Protocol, Pull, Push};
/// let welcome = [Protocol::Push, Protocol::Req];
/// let listener = Listener::bind("tcp://127.0.0.1:0", &welcome, Default::default()).await?;
/// let push = Push::new();
/// push.dial(listener.local_address()).await?;
/// let connection = listener.accept().await?;
/// assert_eq!(connection.peer_protocol(), Protocol::Push);
/// let pull = Pull::new();
/// pull.attach(connection)?;
/// push.send("hello").await?;
/// assert_eq!(pull.recv().await?.as_bytes(), b"hello");
/// # Ok(()) }
/// ```
pub struct Listener {
    address: String,
    accepted: Mutex<mpsc::Receiver<Box<Greeted>>>,
    events: Arc<Publisher>,
    /// Dropped before the task, so the file is gone before the address is free.
    _file: Option<SocketFile>,
    /// Holds the one task.
    _task: JoinSet<()>,
}

impl Listener {
    /// Listens on `address`. `accepted` holds the *peers'* protocols that are welcome, e.g. [`Protocol::Req`]
    /// for a [`Rep`](crate::Rep) to be attached.
    ///
    /// # Errors
    /// The address makes no sense, is in use, or the system refuses.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing listens.
    pub async fn bind(
        address: &str,
        accepted: &[Protocol],
        options: ListenerOptions,
    ) -> Result<Self, ListenError> {
        let (listener, address, file) = bind(address, &options.transport()).await?;
        let events = Arc::new(Publisher::new());
        let (sender, receiver) = mpsc::channel(options.backlog.max(1));
        let acceptor = Acceptor::new(
            listener,
            Manners::Any(accepted.to_vec()),
            options.handshake_timeout,
        );
        let mut task = JoinSet::new();
        task.spawn(run(acceptor, sender, options.recv_max_size, Arc::clone(&events)));
        Ok(Self {
            address,
            accepted: Mutex::new(receiver),
            events,
            _file: file,
            _task: task,
        })
    }

    /// The concrete address: a tcp port 0 is resolved.
    pub fn local_address(&self) -> &str {
        &self.address
    }

    /// The next greeted connection. Strangers are dropped and told of by [`Listener::events`], not here.
    ///
    /// # Errors
    /// The listener is broken.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped before it is ready, no connection was taken.
    pub async fn accept(&self) -> Result<Connection, RecvError> {
        let greeted = self.accepted.lock().await.recv().await.ok_or(RecvError::Closed)?;
        Ok(Connection { greeted })
    }

    /// The peers that are refused from now on.
    pub fn events(&self) -> Events {
        self.events.subscribe()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

async fn run(
    mut acceptor: Acceptor,
    accepted: mpsc::Sender<Box<Greeted>>,
    recv_max_size: usize,
    events: Arc<Publisher>,
) {
    // A place is reserved before a connection is taken: those that nobody accepts wait in the system's
    // backlog.
    while let Ok(place) = accepted.reserve().await {
        loop {
            match acceptor.next(&events).await {
                Ok(mut greeted) => {
                    greeted.recv_max_size = Some(recv_max_size);
                    place.send(greeted);
                    break;
                }
                Err(refused) => events.publish(refused.into_event()),
            }
        }
    }
}

/// A greeted connection that no socket owns yet. Dropped, it is closed.
pub struct Connection {
    greeted: Box<Greeted>,
}

impl Connection {
    /// What the peer announced.
    pub fn peer_protocol(&self) -> Protocol {
        self.greeted.peer
    }

    /// Where the peer is, for people to read.
    pub fn peer_address(&self) -> &str {
        &self.greeted.peer_address
    }

    /// Who the peer is; ipc only.
    pub fn credentials(&self) -> Option<Credentials> {
        self.greeted.credentials
    }

    pub(crate) fn into_greeted(self) -> Greeted {
        *self.greeted
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer_protocol", &self.peer_protocol())
            .field("peer_address", &self.peer_address())
            .field("credentials", &self.credentials())
            .finish()
    }
}
