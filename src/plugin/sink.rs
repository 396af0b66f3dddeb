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
use tokio::time::timeout;

use super::channel::{self, Use};
use super::error::{ChannelError, OpenError};
use super::remote::Remote;
use super::sender::{Link, Sender};
use super::status::State;

/// One use of a sink. Closed when it is dropped.
#[derive(Debug)]
pub struct Sink {
    sender: Arc<Sender>,
    link: watch::Receiver<Link>,
    acknowledgements: Pull,
    require_ack: bool,
    owed: Owed,
    held: Use,
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
        // Even when nobody wants acknowledgements: the SDKs dial this address before they answer the start
        // command.
        acknowledgements.listen(&ack_address).await?;
        let sender = Arc::new(Sender::new(address, remote.settings.send_timeout, options));
        let plugin_name = name.to_string();
        let held = Use::open(
            remote,
            Symbol {
                name,
                meta,
                use_as: UseAs::Sink,
                config,
            },
            Some(Arc::clone(&sender)),
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
            held,
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
        let outcome = self.deliver(payload).await;
        self.held.record().note(&outcome);
        outcome
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
        let mut deadline = tokio::time::Instant::now() + limit;
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
    /// by the time limits of the plugin. What was sent is written out before.
    pub async fn close(self) {
        self.sender.data.close().await;
        self.held.close().await;
        self.acknowledgements.close().await;
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
