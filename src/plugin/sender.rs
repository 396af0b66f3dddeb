//! Owns the data channel of one use of a sink: the [`Sink`](super::sink::Sink) sends on it. While the sink moves
//! from one process to another the worker holds it, so that nothing is sent to nobody, and dials the new process.

use std::sync::Arc;
use std::time::Duration;

use sp_proto::{EndpointId, PipeId, Push};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::timeout;

use super::causes::with_sources;
use super::doorstep::Doorstep;
use super::guard;
use super::native::outlet::Outlet;

/// The longest delay between two attempts to reach a sink whose process is being started again. They cost
/// next to nothing: the address is a file on this machine.
const RECONNECT: Duration = Duration::from_millis(500);

/// The data channel: used by the [`Sink`](super::sink::Sink), connected and held by the worker.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) data: Push,
    address: String,
    /// How long a connection may take.
    limit: Duration,
    endpoint: Mutex<Option<EndpointId>>,
    pub(super) turnstile: Arc<Mutex<()>>,
    pub(super) link: watch::Sender<Link>,
    /// For acknowledgements. Even when nobody wants them: the SDKs dial it before they answer the start command.
    pub(super) doorstep: Doorstep,
    /// The data channels of our own contract.
    pub(super) outlet: Outlet,
}

/// Whom a sender is connected with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// Counts the processes.
    pub(super) epoch: u64,
    /// The process runs the sink, as far as is known.
    pub(super) up: bool,
}

impl Sender {
    pub(super) fn new(
        address: String,
        options: sp_proto::SocketOptions,
        doorstep: Doorstep,
        outlet: Outlet,
        limit: Duration,
    ) -> Self {
        Self {
            data: Push::with_options(sp_proto::SocketOptions {
                reconnect_max: RECONNECT,
                ..options
            }),
            address,
            limit,
            endpoint: Mutex::default(),
            turnstile: Arc::default(),
            link: watch::Sender::new(Link::default()),
            doorstep,
            outlet,
        }
    }

    /// Connects with the process that listens now; at once, whatever delay the socket would take. Nothing is
    /// done when it is connected with `process` already. When this fails, the socket goes on dialing.
    pub(super) async fn connect(&self, process: Option<u32>) -> Result<(), String> {
        if self.outlet.is_native() {
            self.note_up();
            return Ok(());
        }
        let mut endpoint = self.endpoint.lock().await;
        let is_there = |pid| process.is_some_and(|process| guard::descends(pid, process));
        let mut peers = self
            .data
            .pipes()
            .into_iter()
            .filter_map(|pipe| pipe.credentials?.pid);
        if peers.any(is_there) {
            self.note_up();
            return Ok(());
        }
        let before = endpoint.take();
        if let Some(before) = before {
            self.data.close_endpoint(before).await;
        }
        // A sink listens before it answers, so the first try succeeds or something is wrong.
        let reason = match timeout(self.limit, self.data.dial(&self.address)).await {
            Ok(Ok(dialed)) => {
                *endpoint = Some(dialed.id);
                self.note_up();
                return Ok(());
            }
            Ok(Err(error)) => with_sources(&error),
            Err(_) => format!("no connection within {:?}", self.limit),
        };
        if before.is_some() {
            *endpoint = self
                .data
                .dial_in_background(&self.address)
                .ok()
                .map(|dialed| dialed.id);
            self.note_up();
        }
        Err(reason)
    }

    fn note_up(&self) {
        self.link.send_modify(|link| {
            link.epoch += 1;
            link.up = true;
        });
    }

    /// The process that ran the sink has ended.
    pub(super) fn note_down(&self) {
        self.link.send_modify(|link| link.up = false);
    }

    /// Waits until nothing is under way, and keeps it so until the guard is dropped. `None` when something is
    /// still under way after `limit`.
    pub(super) async fn hold(&self, limit: Duration) -> Option<OwnedMutexGuard<()>> {
        timeout(limit, Arc::clone(&self.turnstile).lock_owned())
            .await
            .ok()
    }

    /// The connection that there is, if there is one only.
    pub(super) fn pipe(&self) -> Option<PipeId> {
        match self.data.pipes().as_slice() {
            [pipe] => Some(pipe.id),
            _ => None,
        }
    }

    /// Where the sink listens.
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}
