//! Owns the data channel of one use of a sink: the [`Sink`](super::sink::Sink) sends on it. While the sink moves
//! from one process to another the worker holds it, so that nothing is sent to nobody, and dials the new process.

use std::sync::Arc;
use std::time::Duration;

use sp_proto::{EndpointId, PipeId, PipeStats, Push};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::causes::with_sources;
use super::doorstep::Doorstep;
use super::guard;
use super::native::outlet::Outlet;

/// The longest delay between two attempts to reach a sink whose process is being started again. They cost
/// next to nothing: the address is a file on this machine.
const RECONNECT: Duration = Duration::from_millis(500);

/// Between two looks whether a sink has read everything.
const LOOK: Duration = Duration::from_millis(1);
/// And the longest time between two looks at one that is slow.
const LAST_LOOK: Duration = Duration::from_millis(50);

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
    /// still under way after `limit`. What was sent before is left as long for the process to read.
    pub(super) async fn hold(&self, limit: Duration) -> Option<OwnedMutexGuard<()>> {
        let until = Instant::now() + limit;
        let held = timeout_at(until, Arc::clone(&self.turnstile).lock_owned()).await;
        let held = held.ok()?;
        self.flush(until).await;
        Some(held)
    }

    /// Waits until the process has read everything that was sent, or has gone: it may throw away what it has not read
    /// when it is told to stop. At most until then.
    pub(super) async fn flush(&self, until: Instant) {
        let is_read = |pipe: &PipeStats| pipe.unsent == 0 && pipe.unread.unwrap_or_default() == 0;
        let read = async {
            // Nothing tells of it but looking.
            let mut pause = LOOK;
            while !self.data.stats().pipes.iter().all(is_read) {
                sleep(pause).await;
                pause = (pause * 2).min(LAST_LOOK);
            }
        };
        if timeout_at(until, read).await.is_err() {
            let pipes = self.data.stats().pipes;
            let unsent: usize = pipes.iter().map(|pipe| pipe.unsent).sum();
            let unread: u64 = pipes.iter().filter_map(|pipe| pipe.unread).sum();
            let address = &self.address;
            tracing::warn!(%address, unsent, unread, "a sink that is to stop does not read what it was sent: it may get lost");
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::doorstep::Listener;
    use sp_proto::{Pull, SocketOptions};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    const BODY: usize = 10_000;
    /// With the type and the length in front.
    const FRAME: usize = 9 + BODY;

    /// The plugin's end of a connection, as one that listens at the address greets it.
    async fn accept(listener: &UnixListener) -> UnixStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(&[0, b'S', b'P', 0, 0, 0x51, 0, 0])
            .await
            .unwrap();
        stream.read_exact(&mut [0; 8]).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn what_was_sent_is_read_by_the_old_process_before_another_one_has_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.ipc");
        let options = SocketOptions::default();
        let settings = crate::plugin::test_settings();
        let doorstep = Doorstep::new(Listener::Pull(Pull::new()), String::new());
        let outlet = Outlet::new(false, &settings);
        let (address, long) = (format!("ipc://{}", path.display()), Duration::from_secs(60));
        let sender = Sender::new(address, options, doorstep, outlet, long);
        let body = || vec![7; BODY];

        let listener = UnixListener::bind(&path).unwrap();
        let (connected, mut old) = tokio::join!(sender.connect(None), accept(&listener));
        connected.unwrap();
        // Until there is no more room for it on its way.
        let mut sent = 0;
        while sender.data.try_send(body()).is_ok() {
            sent += 1;
        }
        let mut read = 0;
        let mut buffer = vec![0; FRAME];
        let held = {
            let mut held = std::pin::pin!(sender.hold(long));
            loop {
                tokio::select! {
                    biased;
                    held = &mut held => break held,
                    more = old.read(&mut buffer) => read += more.unwrap(),
                }
            }
        };
        assert!(held.is_some() && sent > 100);
        assert_eq!(read, sent * FRAME, "by the old process");
        // It ends, and the new one has its place.
        drop((old, listener));
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let (connected, mut new) = tokio::join!(sender.connect(None), accept(&listener));
        connected.unwrap();
        drop(held);
        for _ in 0..3 {
            sender.data.send(body()).await.unwrap();
        }
        new.read_exact(&mut vec![0; 3 * FRAME]).await.unwrap();
    }
}
