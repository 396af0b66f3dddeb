//! Owns the channels of one use of a sink: data, which the host dials through the [`Sender`], and
//! acknowledgements, on which it listens. There is no task: whoever sends, waits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mangrove_protocol::Object;
use mangrove_protocol::address;
use mangrove_protocol::control::{Meta, Symbol, UseAs};
use mangrove_protocol::data;
use mangrove_protocol::name::SymbolName;
use sp_proto::{PipeId, Pull};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::channel::{self, Ends, Use};
use super::doorstep::{Doorstep, Listener};
use super::error::{ChannelError, OpenError};
use super::native::outlet::{Failure, Outcomes, Outlet, Woken};
use super::remote::Remote;
use super::sender::{Link, Sender};
use super::status::State;

/// The most results that are put at once.
const WINDOW: usize = 256;

/// How long a sink may take to read what was sent before it is stopped: less than a rule has to end.
const READ: Duration = Duration::from_secs(3);

/// One use of a sink. Closed when it is dropped.
#[derive(Debug)]
pub struct Sink {
    sender: Arc<Sender>,
    link: watch::Receiver<Link>,
    acknowledgements: Pull,
    require_ack: bool,
    owed: Owed,
    held: Box<Use>,
}

/// What has come of results, in the order in which they were put: every call tells of those that no call before
/// has told of.
#[derive(Debug, Default)]
pub struct Settled {
    /// So many are safe: acknowledged; or, without acknowledgements, handed over.
    pub delivered: u64,
    /// One for each that is not.
    pub failed: Vec<ChannelError>,
    /// After [`Sink::insist`]: something has not been acknowledged in time. It is neither delivered nor failed.
    pub overdue: Option<ChannelError>,
}

/// What has come of waiting for an acknowledgement.
enum Awaited {
    /// The sink's word.
    Acknowledged(Result<(), String>),
    /// Another process runs the sink now.
    Moved,
}

/// Acknowledgements have no ids, but they come in the order of the messages. So one that is overdue has to
/// come before the one of a later message, and is not taken for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owed {
    messages: u64,
    epoch: u64,
}

impl Owed {
    /// A message is about to be sent to the process of this epoch: what another one owed will never come.
    fn begin(&mut self, epoch: u64) {
        if self.epoch != epoch {
            *self = Self { messages: 0, epoch };
        }
    }

    /// The last message went to the process of this epoch, before it was known to run the sink.
    fn go_over(&mut self, epoch: u64) {
        *self = Self { messages: 1, epoch };
    }

    /// A message was sent.
    fn note_sent(&mut self) {
        self.messages += 1;
    }

    /// An acknowledgement came. True when it is the one of the message that was sent last.
    fn settle(&mut self) -> bool {
        self.messages = self.messages.saturating_sub(1);
        self.messages == 0
    }
}

impl Sink {
    pub(super) async fn open(
        remote: Remote,
        name: SymbolName,
        meta: Meta,
        config: Object,
        require_ack: bool,
    ) -> Result<Self, OpenError> {
        let ids = channel::ids(&meta)?;
        let address = address::data(ids.0, ids.1, meta.instance_id)?;
        let ack_address = address::acknowledgements(ids.0, ids.1, meta.instance_id)?;
        let options = super::socket_options(&remote.settings, &remote.peers);
        let acknowledgements = Pull::with_options(options.clone());
        let doorstep = Doorstep::new(Listener::Pull(acknowledgements.clone()), ack_address);
        let doorstep = doorstep.opposite(address.clone());
        let outlet = Outlet::new(require_ack, &remote.settings);
        let limit = remote.settings.send_timeout;
        let sender = Arc::new(Sender::new(address, options, doorstep, outlet, limit));
        let plugin_name = name.to_string();
        let held = Use::open(
            remote,
            Symbol {
                name,
                meta,
                use_as: UseAs::Sink,
                config,
            },
            Ends::Sink(Arc::clone(&sender)),
        )
        .await?;
        if let Err(reason) = sender.connect(None).await {
            held.close().await;
            return Err(OpenError::Unreachable {
                name: plugin_name,
                address: sender.address().to_owned(),
                reason,
            });
        }
        Ok(Self {
            link: sender.link.subscribe(),
            sender,
            acknowledgements,
            require_ack,
            owed: Owed::default(),
            held: Box::new(held),
        })
    }

    /// Sends one encoded result, waiting as long as a connected sink has no room for it, and while the sink moves
    /// to another process. Without acknowledgements `Ok` means that it was handed over to the connection; with
    /// them, that the sink has acknowledged it: when its process ends before that, the message is sent again to
    /// the next one, so a sink may see it twice.
    ///
    /// # Errors
    /// The sink's own error, no connection or no acknowledgement within the time limit, or it is over for
    /// good.
    ///
    /// # Cancel safety
    /// The message may or may not have been sent when the future is dropped.
    pub async fn send(&mut self, payload: Bytes) -> Result<(), ChannelError> {
        if self.is_native() {
            return self.send_native(payload).await;
        }

        let outcome = self.deliver(payload).await;
        self.held.record().note(&outcome);
        outcome
    }

    /// Sends encoded results. Waits only for room: many may be on their way without an acknowledgement, of which
    /// this call, a later one, or [`Sink::settle`] tells.
    ///
    /// # Cancel safety
    /// Any of the results may or may not have been sent when the future is dropped.
    pub async fn put(&mut self, results: Vec<Bytes>) -> Settled {
        if self.is_native() {
            self.sender.outlet.put(results);
            return self.pump().await;
        }
        self.deliver_all(results).await
    }

    /// Over the other contract, one after the other.
    async fn deliver_all(&mut self, results: Vec<Bytes>) -> Settled {
        let mut settled = Settled::default();
        for result in results {
            let outcome = self.deliver(result).await;
            self.held.record().note(&outcome);
            match outcome {
                Ok(()) => settled.delivered += 1,
                Err(error) => settled.failed.push(error),
            }
        }
        settled
    }

    /// From now on nothing that is on its way is given up because its acknowledgement is late: that is told as
    /// [`Settled::overdue`], and whoever is told decides. What goes over the other contract still fails.
    pub fn insist(&self) {
        self.sender.outlet.insist();
    }

    /// Waits until something has come of at least one result that was put; at once, with nothing, when none is on
    /// its way.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn settle(&mut self) -> Settled {
        let outlet = &Arc::clone(&self.sender).outlet;
        loop {
            if let Some(outcomes) = outlet.take_outcomes() {
                return self.settled(outcomes);
            }
            if outlet.outstanding() == 0 {
                return Settled::default();
            }
            if !outlet.is_native() {
                // One by one: dropped before something has come of it, it is sent again.
                let settled = self.deliver_all(outlet.first_open().into_iter().collect()).await;
                outlet.drop_first();
                return settled;
            }
            if let Some(error) = self.held.has_ended() {
                return self.lost(error);
            }
            self.transmit().await;
            if outlet.outstanding() > 0 && !outlet.has_outcomes() {
                self.wait().await;
            }
        }
    }

    /// Sends what waits, until there is room for more, and returns what has come of anything meanwhile.
    async fn pump(&mut self) -> Settled {
        let outlet = &Arc::clone(&self.sender).outlet;
        loop {
            if let Some(error) = self.held.has_ended() {
                return self.lost(error);
            }
            if !outlet.is_native() {
                return self.settle().await;
            }
            self.transmit().await;
            if outlet.has_room() && (self.require_ack || !outlet.is_waiting()) {
                let outcomes = outlet.take_outcomes();
                return outcomes.map_or_else(Settled::default, |outcomes| self.settled(outcomes));
            }
            self.wait().await;
        }
    }

    /// Sends what waits, as far as somebody takes it.
    async fn transmit(&mut self) {
        let sender = Arc::clone(&self.sender);
        if !sender.outlet.is_waiting() || sender.outlet.send(&sender.turnstile).await {
            return;
        }
        let limit = self.held.remote().settings.send_timeout;
        if sender.outlet.is_connected() {
            // It is slow, and the rule waits for it: that is back-pressure.
            let (plugin, status) = self.held.describe();
            tracing::warn!(%plugin, "a sink has had no room for {limit:?}; the plugin is {status}");
        } else if !self.require_ack && timeout(limit, sender.outlet.changed()).await.is_err() {
            // Whoever wants acknowledgements would rather wait than lose it.
            sender.outlet.give_up_waiting();
        }
    }

    /// Waits until something has changed, unless there is something to be sent.
    async fn wait(&mut self) {
        let sender = Arc::clone(&self.sender);
        if sender.outlet.is_waiting() && sender.outlet.is_connected() && !sender.outlet.is_stuck() {
            return;
        }
        let overdue = tokio::select! {
            woken = sender.outlet.changed() => woken == Woken::Overdue,
            _ = self.link.changed() => false,
            () = self.held.over() => false,
        };
        if overdue {
            sender.outlet.expire(self.is_coming_back());
        }
    }

    /// Whether the sink runs in a process of our own contract, or has done so and something is on its way.
    fn is_native(&self) -> bool {
        self.sender.outlet.is_native() || self.outstanding() > 0
    }

    /// One result, and waits for what comes of it.
    async fn send_native(&mut self, payload: Bytes) -> Result<(), ChannelError> {
        let mut settled = self.put(vec![payload]).await;
        while settled.delivered == 0 && settled.failed.is_empty() && self.outstanding() > 0 {
            settled = self.settle().await;
        }
        settled.failed.pop().map_or(Ok(()), Err)
    }

    /// Nothing that is on its way will ever be settled.
    fn lost(&mut self, error: ChannelError) -> Settled {
        let outcomes = self.sender.outlet.take_outcomes();
        let mut settled = outcomes.map_or_else(Settled::default, |outcomes| self.settled(outcomes));
        let (plugin, reason) = (self.held.remote().plugin.clone(), error.to_string());
        let open = self.outstanding();
        if open > 0 {
            settled.failed.push(error);
        }
        let ended = || ChannelError::Ended {
            plugin: plugin.clone(),
            reason: reason.clone(),
        };
        settled.failed.extend((1..open).map(|_| ended()));
        self.sender.outlet.clear();
        settled
    }

    fn settled(&self, outcomes: Outcomes) -> Settled {
        let record = self.held.record();
        if outcomes.delivered > 0 {
            record.note_ok();
        }
        let settings = &self.held.remote().settings;
        let error = |failure| {
            let (plugin, status) = self.held.describe();
            match failure {
                Failure::Plugin(text) => ChannelError::Plugin(text),
                Failure::NotAcknowledged => ChannelError::Overdue {
                    plugin,
                    limit: settings.ack_timeout,
                    status,
                },
                Failure::NotTaken => ChannelError::NotTaken {
                    plugin,
                    limit: settings.send_timeout,
                    status,
                },
                Failure::TooLong(length) => ChannelError::TooLong {
                    length,
                    limit: settings.max_message,
                },
            }
        };
        let failed: Vec<ChannelError> = outcomes.failed.into_iter().map(&error).collect();
        failed
            .iter()
            .for_each(|error| record.note_error(&error.to_string()));
        Settled {
            delivered: outcomes.delivered,
            failed,
            overdue: outcomes.overdue.then(|| error(Failure::NotAcknowledged)),
        }
    }

    /// How many results belong into one [`put`](Self::put): more would only be told of later. Another version of the
    /// plugin may take more, or fewer.
    pub fn window(&self) -> usize {
        match self.is_native() {
            true => self.held.remote().settings.ack_window.min(WINDOW),
            false => 1,
        }
    }

    /// How many results were put of which no call has told yet.
    pub fn outstanding(&self) -> u64 {
        self.sender.outlet.outstanding()
    }

    async fn deliver(&mut self, payload: Bytes) -> Result<(), ChannelError> {
        let turnstile = Arc::clone(&self.sender.turnstile);
        let _passed = turnstile.lock().await;
        loop {
            self.owed.begin(self.link.borrow_and_update().epoch);
            // Overdue, or unasked for: a plugin may acknowledge though nobody wants it, and must not get stuck.
            while let Ok(Some(_)) = self.acknowledgements.try_recv() {
                self.owed.settle();
            }
            let before = self.require_ack.then(|| self.sender.pipe()).flatten();
            self.hand_over(payload.clone()).await?;
            if !self.require_ack {
                return Ok(());
            }
            // Whoever was there before may have taken it and be gone.
            let now = self.sender.pipe();
            let taken_by = now.filter(|_| before.is_none() || before == now);
            match self.acknowledged(taken_by).await? {
                Awaited::Acknowledged(word) => return word.map_err(ChannelError::Plugin),
                Awaited::Moved => {
                    let plugin = &self.held.remote().plugin;
                    tracing::debug!(%plugin, "a message is sent again to the sink in another process");
                }
            }
        }
    }

    async fn hand_over(&mut self, payload: Bytes) -> Result<(), ChannelError> {
        let limit = self.held.remote().settings.send_timeout;
        let mut waited = Duration::ZERO;
        loop {
            if let Some(error) = self.held.has_ended() {
                return Err(error);
            }
            match timeout(limit, self.sender.data.send(payload.clone())).await {
                Ok(Ok(())) => return Ok(()),
                // It is slow, and the rule waits for it: that is back-pressure.
                Err(_) if !self.sender.data.pipes().is_empty() => {
                    waited += limit;
                    let (plugin, status) = self.held.describe();
                    tracing::warn!(%plugin, "a sink has had no room for {waited:?}; the plugin is {status}");
                }
                // Whoever wants acknowledgements would rather wait than lose it.
                Err(_) if self.require_ack && self.is_coming_back() => {}
                Ok(Err(_)) | Err(_) => {
                    let (plugin, status) = self.held.describe();
                    return Err(ChannelError::NotTaken {
                        plugin,
                        limit,
                        status,
                    });
                }
            }
        }
    }

    /// `taken_by`: the connection that has taken the message, as far as that is known.
    async fn acknowledged(&mut self, taken_by: Option<PipeId>) -> Result<Awaited, ChannelError> {
        // Counted first: the future may be dropped at any moment from here.
        self.owed.note_sent();
        let limit = self.held.remote().settings.ack_timeout;
        let mut deadline = Instant::now() + limit;
        let mut went_over = false;
        loop {
            let message = tokio::select! {
                biased;
                message = tokio::time::timeout_at(deadline, self.acknowledgements.recv()) => message,
                error = self.held.ended() => return Err(error.unwrap_or(ChannelError::Stopping)),
                Ok(()) = self.link.changed() => {
                    let epoch = self.link.borrow_and_update().epoch;
                    if epoch == self.owed.epoch {
                        continue;
                    }
                    // The socket may have found the new process before the worker has.
                    went_over = taken_by.is_some() && self.sender.pipe() == taken_by;
                    if went_over {
                        self.owed.go_over(epoch);
                        continue;
                    }
                    return Ok(Awaited::Moved);
                }
            };
            let Ok(message) = message else {
                if self.is_coming_back() {
                    deadline += limit;
                    continue;
                }
                if went_over {
                    return Ok(Awaited::Moved);
                }
                let (plugin, status) = self.held.describe();
                return Err(ChannelError::NotAcknowledged {
                    plugin,
                    limit,
                    status,
                });
            };
            let Ok(message) = message else {
                return Err(ChannelError::Stopping);
            };
            if self.owed.settle() {
                return Ok(Awaited::Acknowledged(data::decode_ack(&message)?));
            }
        }
    }

    /// Whether it is no wonder that the sink does not answer, and it will: its plugin is being started, or is
    /// stopped in its tracks.
    fn is_coming_back(&self) -> bool {
        match self.held.remote().status.borrow().state {
            State::Starting | State::Restarting | State::Unhealthy => true,
            State::Running => !self.link.borrow().up,
            _ => false,
        }
    }

    /// Stops the sink and waits until the plugin says that it has stopped, or its process has ended. Bounded
    /// by the time limits of the plugin. Before that the sink has 3 s to read what was sent; what has come of it
    /// meanwhile is returned.
    pub async fn close(self) -> Settled {
        self.sender.flush(Instant::now() + READ).await;
        self.held.stop().await;
        self.sender.data.close().await;
        self.acknowledgements.close().await;
        let outcomes = self.sender.outlet.take_outcomes();
        outcomes.map_or_else(Settled::default, |outcomes| self.settled(outcomes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overdue_acknowledgement_is_not_taken_for_the_next_one() {
        let mut owed = Owed::default();
        owed.begin(1);
        owed.note_sent();
        owed.begin(1);
        owed.note_sent();
        assert!(!owed.settle(), "the first one that comes is the overdue one");
        assert!(owed.settle());
        owed.settle();
        owed.note_sent();
        assert!(owed.settle(), "one too many before does not count");
    }

    #[test]
    fn a_new_process_owes_nothing() {
        let mut owed = Owed::default();
        owed.begin(1);
        owed.note_sent();
        owed.begin(2);
        assert_eq!(owed.messages, 0);
    }
}
