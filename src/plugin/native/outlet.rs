//! Owns the data channel of one use of a sink, over all the processes that run it one after the other. There is no
//! task: whoever puts results, sends. What was sent and is not settled is in the [`Window`]; the sessions bring
//! the acknowledgements.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sp_proto::Push;
use tokio::sync::{Mutex as Turnstile, Notify, watch};

use super::window::Window;
pub(in crate::plugin) use super::window::{Failure, Outcomes};
use crate::config::Portable;

/// One process that runs the sink.
#[derive(Clone, Debug)]
struct Channel {
    socket: Push,
    number: u64,
}

/// The host's end of the data channels of one use.
#[derive(Debug)]
pub(in crate::plugin) struct Outlet {
    window: Mutex<(Window, u64)>,
    changed: Notify,
    /// The process that was last told to start the sink speaks our own contract.
    native: AtomicBool,
    /// Nothing is given up because its acknowledgement is late.
    insists: AtomicBool,
    channel: watch::Sender<Option<Channel>>,
    ack: bool,
    most: usize,
    batch: usize,
    message: usize,
    ack_limit: Duration,
    send_limit: Duration,
}

/// How a wait for outcomes has ended.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::plugin) enum Woken {
    Changed,
    /// The oldest result has been waiting for its acknowledgement for too long.
    Overdue,
}

impl Outlet {
    pub(in crate::plugin) fn new(ack: bool, settings: &Portable) -> Self {
        let limits = super::limits(settings);
        Self {
            window: Mutex::new((Window::new(ack, limits.batch, limits.message), 0)),
            changed: Notify::new(),
            native: AtomicBool::new(false),
            insists: AtomicBool::new(false),
            channel: watch::Sender::new(None),
            ack,
            most: settings.ack_window,
            batch: limits.batch,
            message: limits.message,
            ack_limit: settings.ack_timeout,
            send_limit: settings.send_timeout,
        }
    }

    /// Whether the sink acknowledges.
    pub(super) fn acknowledges(&self) -> bool {
        self.ack
    }

    /// The process that runs the sink from now on listens to this. `number` is the use's in this process.
    pub(super) fn connect(&self, socket: Push, number: u64) {
        self.channel.send_replace(Some(Channel { socket, number }));
        self.changed.notify_one();
    }

    /// This process runs it no more. Its socket, when it has not been replaced.
    pub(super) fn disconnect(&self, number: u64) -> Option<Push> {
        let mut socket = None;
        self.channel.send_if_modified(|channel| {
            let is_it = channel.as_ref().is_some_and(|channel| channel.number == number);
            if is_it {
                socket = channel.take().map(|channel| channel.socket);
            }
            is_it
        });
        self.changed.notify_one();
        socket
    }

    /// Says which contract the process speaks that is about to start the sink.
    pub(in crate::plugin) fn set_native(&self, native: bool) {
        self.native.store(native, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Whether the process speaks our own contract that runs the sink, is about to, or has done so last.
    pub(in crate::plugin) fn is_native(&self) -> bool {
        self.native.load(Ordering::Relaxed)
    }

    /// The oldest of what is not settled, for a process of the other contract.
    pub(in crate::plugin) fn first_open(&self) -> Option<Bytes> {
        super::lock(&self.window).0.first_open()
    }

    /// It has been settled there.
    pub(in crate::plugin) fn drop_first(&self) {
        super::lock(&self.window).0.drop_first();
    }

    /// Whether a process of this contract runs the sink.
    pub(in crate::plugin) fn is_connected(&self) -> bool {
        self.channel.borrow().is_some()
    }

    /// The last batch that was sent to the process.
    pub(super) fn last(&self, number: u64) -> u64 {
        let window = super::lock(&self.window);
        if window.1 == number { window.0.last() } else { 0 }
    }

    /// An acknowledgement of a process.
    ///
    /// # Errors
    /// It breaks the contract.
    pub(super) fn acknowledge(
        &self,
        number: u64,
        seq: u64,
        errors: Vec<(u32, String)>,
    ) -> Result<(), String> {
        {
            let mut window = super::lock(&self.window);
            // Of a process before: what it has taken was sent again meanwhile.
            if window.1 != number {
                return Ok(());
            }
            window.0.acknowledge(seq, errors, Instant::now())?;
        }
        self.changed.notify_one();
        Ok(())
    }

    pub(in crate::plugin) fn put(&self, results: Vec<Bytes>) {
        super::lock(&self.window).0.put(results);
    }

    /// Whether more may be put before something is settled; or something is overdue, which has to be told first.
    pub(in crate::plugin) fn has_room(&self) -> bool {
        let window = super::lock(&self.window);
        !self.ack || window.0.open() < self.most || window.0.is_overdue()
    }

    /// From now on what is not acknowledged in time is told to be overdue, and not given up.
    pub(in crate::plugin) fn insist(&self) {
        self.insists.store(true, Ordering::Relaxed);
    }

    /// The results of which nobody has been told yet.
    pub(in crate::plugin) fn outstanding(&self) -> u64 {
        let window = super::lock(&self.window);
        window.0.open() as u64 + window.0.untold()
    }

    /// Whether anything is to be sent, to the process that runs the sink now.
    pub(in crate::plugin) fn is_waiting(&self) -> bool {
        let number = self.channel.borrow().as_ref().map(|channel| channel.number);
        let window = super::lock(&self.window);
        window.0.is_waiting() || (number.is_some_and(|number| number != window.1) && window.0.open() > 0)
    }

    /// Whether [`Outlet::take_outcomes`] has any.
    pub(in crate::plugin) fn has_outcomes(&self) -> bool {
        let window = super::lock(&self.window);
        window.0.untold() > 0 || window.0.is_overdue()
    }

    /// Whether what waits, waits for what was sent before it.
    pub(in crate::plugin) fn is_stuck(&self) -> bool {
        super::lock(&self.window).0.is_stuck()
    }

    pub(in crate::plugin) fn take_outcomes(&self) -> Option<Outcomes> {
        super::lock(&self.window).0.take_outcomes()
    }

    /// Sends what waits, as long as a process takes it. Returns false when there is none, or it has had no room
    /// for so long that whoever waits should look whether it still runs.
    ///
    /// # Cancel safety
    /// What was not handed over when the future is dropped, waits on.
    pub(in crate::plugin) async fn send(&self, turnstile: &Arc<Turnstile<()>>) -> bool {
        let _passed = turnstile.lock().await;
        loop {
            let Some(channel) = self.channel.borrow().clone() else {
                return !super::lock(&self.window).0.is_waiting();
            };
            let Some(message) = self.begin(&channel) else {
                return true;
            };
            let unsent = Unsent(self);
            match tokio::time::timeout(self.send_limit, channel.socket.send(message)).await {
                Ok(Ok(())) => {
                    std::mem::forget(unsent);
                    super::lock(&self.window).0.note_sent();
                }
                _ => return false,
            }
        }
    }

    /// The next message for this process.
    fn begin(&self, channel: &Channel) -> Option<Vec<u8>> {
        let mut window = super::lock(&self.window);
        if window.1 != channel.number {
            window.1 = channel.number;
            window.0.begin();
        }
        window.0.next_message(Instant::now())
    }

    /// Forgets everything.
    pub(in crate::plugin) fn clear(&self) {
        let mut window = super::lock(&self.window);
        let (number, settings) = (window.1, (self.ack, self.batch, self.message));
        *window = (Window::new(settings.0, settings.1, settings.2), number);
    }

    /// Nobody waits any longer for somebody who takes what waits.
    pub(in crate::plugin) fn give_up_waiting(&self) {
        super::lock(&self.window).0.give_up_waiting();
    }

    /// Gives up what has been waiting for its acknowledgement for too long, or says that it is overdue; or, when it
    /// `is_coming_back`, goes on waiting as long once more.
    pub(in crate::plugin) fn expire(&self, is_coming_back: bool) {
        let mut window = super::lock(&self.window);
        let now = Instant::now();
        if is_coming_back {
            window.0.extend(now);
        } else if self.insists.load(Ordering::Relaxed) {
            window.0.complain(now, self.ack_limit);
        } else {
            window.0.expire(now, self.ack_limit);
        }
    }

    /// Waits for an acknowledgement, another process, or the end of patience.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(in crate::plugin) async fn changed(&self) -> Woken {
        let deadline = super::lock(&self.window).0.deadline(self.ack_limit);
        tokio::select! {
            () = self.changed.notified() => Woken::Changed,
            () = sleep_until(deadline) => Woken::Overdue,
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// A message that counts as sent and is not, should this be dropped.
struct Unsent<'a>(&'a Outlet);

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        super::lock(&self.0.window).0.unsend();
    }
}
