//! The owner of a socket: its tasks, its endpoints, its end.

use crate::engine::acceptor::Acceptor;
use crate::engine::core::Core;
use crate::engine::events::Event;
use crate::engine::greeting::{Greeted, Manners};
use crate::engine::{dialer, pipe, timer};
use crate::pattern::Pattern;
use crate::socket::Terms;
use crate::transport::{Address, AddressError, Listener, Settings, SocketFile};
use crate::{DialError, EndpointId, EndpointOptions, ListenError, PipeId};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// An address on which a socket listens or which it dials. It is a name and keeps nothing open: the socket lives for as long
/// as one of its handles, and a handle that is made and used in one line is gone at the end of that line.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{Pull, Push};
/// let endpoint = Pull::new().listen("inproc://kept-example").await?;
/// assert!(Push::new().dial(&endpoint.address).await.is_err()); // nobody listens there any more
///
/// let pull = Pull::new();
/// let endpoint = pull.listen("inproc://kept-example").await?;
/// assert!(Push::new().dial(&endpoint.address).await.is_ok());
/// # Ok(()) }
/// ```
// Not `must_use`, which would complain of every dialer that nobody wants to close by itself, and of nothing above.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its name in events and for `close_endpoint`.
    pub id: EndpointId,
    /// The concrete address: a tcp port 0 is resolved.
    pub address: String,
}

/// What all handles of a socket share. The tasks know the [`Core`] only, so the last handle's drop ends them.
pub(crate) struct Owner<P: Pattern> {
    pub(crate) core: Arc<Core<P>>,
    tasks: Mutex<Tasks>,
    finished: CancellationToken,
}

/// Dropping it aborts every task and removes the ipc files.
#[derive(Default)]
struct Tasks {
    endpoints: HashMap<EndpointId, EndpointTask>,
    /// The pipes that belong to no endpoint, and the timer.
    attached: JoinSet<()>,
    timer: Option<AbortHandle>,
    closed: bool,
}

impl Tasks {
    /// Starts what keeps the time of a pattern that needs it: with the first endpoint or pipe, since a socket
    /// is made anywhere and these are within a runtime; and again with the next one if that runtime is gone.
    fn keep_time<P: Pattern>(&mut self, core: &Arc<Core<P>>) {
        let runs = self.timer.as_ref().is_some_and(|timer| !timer.is_finished());
        if !runs && core.with(|state| state.pattern.needs_timer()) {
            self.timer = Some(self.attached.spawn(timer::run(Arc::clone(core))));
        }
    }
}

struct EndpointTask {
    /// Dropped before the task, so the file is gone before the address is free.
    file: Option<SocketFile>,
    /// Holds the one task of a listener or dialer.
    task: JoinSet<()>,
}

impl EndpointTask {
    /// First of all it cannot be found any more.
    async fn end(mut self) {
        self.file = None;
        self.task.shutdown().await;
    }
}

impl<P: Pattern> Owner<P> {
    pub(crate) fn new(core: Core<P>) -> Self {
        Self {
            core: Arc::new(core),
            tasks: Mutex::default(),
            finished: CancellationToken::new(),
        }
    }

    fn tasks<R>(&self, change: impl FnOnce(&mut Tasks) -> R) -> R {
        change(&mut self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn terms(&self, options: EndpointOptions) -> Terms {
        options.over(&self.core.options, &self.core.settings)
    }

    pub(crate) async fn listen(
        &self,
        address: &str,
        options: EndpointOptions,
    ) -> Result<Endpoint, ListenError> {
        let terms = self.terms(options);
        let (listener, bound, file) = bind(address, &terms.settings).await?;
        let endpoint = Endpoint {
            id: EndpointId::next(),
            address: bound,
        };
        let task = listen(Arc::clone(&self.core), listener, endpoint.id, terms);
        if self.spawn(endpoint.id, file, task) {
            Ok(endpoint)
        } else {
            Err(ListenError::Closed)
        }
    }

    pub(crate) async fn dial(&self, address: &str, options: EndpointOptions) -> Result<Endpoint, DialError> {
        let terms = self.terms(options);
        let address = Address::parse_usable(address)?;
        let endpoint = Endpoint {
            id: EndpointId::next(),
            address: address.to_string(),
        };
        let first = dialer::connect(&self.core, &address, endpoint.id, &terms).await?;
        let task = dialer::run(Arc::clone(&self.core), address, endpoint.id, terms, Some(first));
        if self.spawn(endpoint.id, None, task) {
            Ok(endpoint)
        } else {
            Err(DialError::Closed)
        }
    }

    pub(crate) fn dial_in_background(
        &self,
        address: &str,
        options: EndpointOptions,
    ) -> Result<Endpoint, AddressError> {
        let terms = self.terms(options);
        let address = Address::parse_usable(address)?;
        let endpoint = Endpoint {
            id: EndpointId::next(),
            address: address.to_string(),
        };
        // On a closed socket there is nothing to do, now or later.
        self.spawn(
            endpoint.id,
            None,
            dialer::run(Arc::clone(&self.core), address, endpoint.id, terms, None),
        );
        Ok(endpoint)
    }

    fn spawn(
        &self,
        id: EndpointId,
        file: Option<SocketFile>,
        run: impl Future<Output = ()> + Send + 'static,
    ) -> bool {
        self.tasks(|tasks| {
            if tasks.closed {
                return false;
            }
            tasks.keep_time(&self.core);
            let mut task = JoinSet::new();
            task.spawn(run);
            tasks.endpoints.insert(id, EndpointTask { file, task });
            true
        })
    }

    pub(crate) async fn close_endpoint(&self, id: EndpointId) {
        if let Some(endpoint) = self.tasks(|tasks| tasks.endpoints.remove(&id)) {
            endpoint.end().await;
        }
    }

    pub(crate) fn attach(&self, greeted: Greeted) -> Result<PipeId, DialError> {
        let address = greeted.peer_address.clone();
        let (found, expected) = (greeted.peer, self.core.protocol.peer());
        if found != expected {
            return Err(DialError::WrongProtocol {
                address,
                found,
                expected,
            });
        }
        // Not under the lock: this asks the user's rule for peers.
        let attached = self
            .core
            .attach(greeted, None)
            .map_err(|error| error.into_dial_error(address))?;
        let id = attached.key.id;
        let mut attached = Some(attached);
        self.tasks(|tasks| {
            // What is not taken here is dropped afterwards, and leaves the socket.
            let Some(attached) = attached.take_if(|_| !tasks.closed) else {
                return Err(DialError::Closed);
            };
            // Pipes that have ended are forgotten here, so that they do not pile up.
            while tasks.attached.try_join_next().is_some() {}
            tasks.keep_time(&self.core);
            tasks.attached.spawn(pipe::run(attached));
            Ok(id)
        })
    }

    pub(crate) async fn close(&self) {
        let Some(mut tasks) = self.tasks(|tasks| {
            let first = !tasks.closed;
            let taken = std::mem::take(tasks);
            tasks.closed = true;
            first.then_some(taken)
        }) else {
            return self.finished.cancelled().await;
        };
        // Also when this future is dropped half-way, which aborts what is left.
        let _finished = self.finished.clone().drop_guard();
        self.core.close();
        let flushed = async {
            for EndpointTask { task, .. } in tasks.endpoints.values_mut() {
                while task.join_next().await.is_some() {}
            }
            while tasks.attached.join_next().await.is_some() {}
        };
        let _ = tokio::time::timeout(self.core.options.linger, flushed).await;
        for (_, endpoint) in tasks.endpoints.drain() {
            endpoint.end().await;
        }
        tasks.attached.shutdown().await;
        self.core.events.close();
    }
}

impl<P: Pattern> Drop for Owner<P> {
    fn drop(&mut self) {
        // A reply that is still to be given must not believe that somebody will write it.
        self.core.close();
        self.core.events.close();
    }
}

/// Binds, with the error that callers see.
pub(crate) async fn bind(
    address: &str,
    settings: &Settings,
) -> Result<(Listener, String, Option<SocketFile>), ListenError> {
    let address = Address::parse_usable(address)?;
    match Listener::bind(&address, settings).await {
        Ok((listener, bound, file)) => Ok((listener, bound.to_string(), file)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(ListenError::InUse {
            address: address.to_string(),
        }),
        Err(source) => Err(ListenError::Io {
            address: address.to_string(),
            source,
        }),
    }
}

/// The task of a listening endpoint: owns the pipes that it accepted.
async fn listen<P: Pattern>(core: Arc<Core<P>>, listener: Listener, endpoint: EndpointId, terms: Terms) {
    let mut acceptor = Acceptor::new(listener, Manners::Known(core.protocol), terms.handshake_timeout);
    let mut pipes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = core.closing.cancelled() => break,
            Some(_) = pipes.join_next() => continue,
            accepted = acceptor.next(&core.events) => accepted,
        };
        match accepted {
            Ok(mut greeted) => {
                greeted.recv_max_size = Some(terms.recv_max_size);
                let peer_address = greeted.peer_address.clone();
                match core.attach(*greeted, Some(endpoint)) {
                    Ok(attached) => drop(pipes.spawn(pipe::run(attached))),
                    Err(error) => {
                        core.events.publish(Event::PeerRefused {
                            peer_address,
                            reason: error.to_string(),
                        });
                    }
                }
            }
            Err(refused) => core.events.publish(refused.into_event()),
        }
    }
    drop(acceptor);
    while pipes.join_next().await.is_some() {}
}
