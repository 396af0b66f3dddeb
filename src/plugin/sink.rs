//! Owns the channels of one use of a sink: data, which the host dials, and acknowledgements, on which it
//! listens. There is no task: whoever sends, waits.

use std::time::Duration;

use bytes::Bytes;
use mangrove_protocol::Object;
use mangrove_protocol::address;
use mangrove_protocol::control::{Meta, Symbol, UseAs};
use mangrove_protocol::data;
use mangrove_protocol::name::SymbolName;
use sp_proto::{Pull, Push};
use tokio::time::timeout;

use super::channel::{self, Use};
use super::error::{ChannelError, OpenError, with_sources};
use super::worker::Remote;

/// The longest delay between two attempts to reach a sink whose process is being started again. They cost
/// next to nothing: the address is a file on this machine.
const RECONNECT: Duration = Duration::from_millis(500);

/// One use of a sink. Closed when it is dropped.
#[derive(Debug)]
pub struct Sink {
    data: Push,
    acknowledgements: Pull,
    require_ack: bool,
    owed: Owed,
    held: Use,
}

/// Acknowledgements have no ids, but they come in the order of the messages. So one that is overdue has to
/// come before the one of a later message, and is not taken for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owed {
    messages: u64,
    process: Option<u32>,
}

impl Owed {
    /// A message is about to be sent to the sink in `process`: what another process owed will never come.
    fn begin(&mut self, process: Option<u32>) {
        if self.process != process {
            *self = Self { messages: 0, process };
        }
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
        let (plugin_name, limit) = (name.to_string(), remote.settings.send_timeout);
        let held = Use::open(
            remote,
            Symbol {
                name,
                meta,
                use_as: UseAs::Sink,
                config,
            },
        )
        .await?;
        let data = Push::with_options(sp_proto::SocketOptions {
            reconnect_max: RECONNECT,
            ..options
        });
        // The sink listens before it answers, so the first try succeeds or something is wrong.
        let reached = match timeout(limit, data.dial(&address)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(with_sources(&error)),
            Err(_) => Some(format!("no connection within {limit:?}")),
        };
        if let Some(reason) = reached {
            held.close().await;
            return Err(OpenError::Unreachable {
                name: plugin_name,
                address,
                reason,
            });
        }
        Ok(Self {
            data,
            acknowledgements,
            require_ack,
            owed: Owed::default(),
            held,
        })
    }

    /// Sends one encoded result, waiting as long as a connected sink has no room for it. Without
    /// acknowledgements `Ok` means that it was handed over to the connection; with them, that the sink has
    /// acknowledged it.
    ///
    /// # Errors
    /// The sink's own error, no connection or no acknowledgement within the time limit, or it is over for
    /// good.
    ///
    /// # Cancel safety
    /// The message may or may not have been sent when the future is dropped.
    pub async fn send(&mut self, payload: Bytes) -> Result<(), ChannelError> {
        let process = self.held.remote().status.borrow().pid;
        self.owed.begin(process);
        // Overdue, or unasked for: a plugin may acknowledge though nobody wants it, and must not get stuck.
        while let Ok(Some(_)) = self.acknowledgements.try_recv() {
            self.owed.settle();
        }
        self.hand_over(payload).await?;
        if self.require_ack {
            self.acknowledged().await
        } else {
            Ok(())
        }
    }

    async fn hand_over(&mut self, payload: Bytes) -> Result<(), ChannelError> {
        let limit = self.held.remote().settings.send_timeout;
        let mut waited = Duration::ZERO;
        loop {
            if let Some(error) = self.held.has_ended() {
                return Err(error);
            }
            match timeout(limit, self.data.send(payload.clone())).await {
                Ok(Ok(())) => return Ok(()),
                // It is slow, and the rule waits for it: that is back-pressure.
                Err(_) if !self.data.pipes().is_empty() => {
                    waited += limit;
                    let (plugin, status) = self.held.describe();
                    tracing::warn!(%plugin, "a sink has had no room for {waited:?}; the plugin is {status}");
                }
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

    async fn acknowledged(&mut self) -> Result<(), ChannelError> {
        // Counted first: the future may be dropped at any moment from here.
        self.owed.note_sent();
        let limit = self.held.remote().settings.ack_timeout;
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout_at(deadline, self.acknowledgements.recv()) => message,
                error = self.held.ended() => return Err(error.unwrap_or(ChannelError::Stopping)),
            };
            let Ok(message) = message else {
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
                return data::decode_ack(&message)?.map_err(ChannelError::Plugin);
            }
        }
    }

    /// Stops the sink and waits until the plugin says that it has stopped, or its process has ended. Bounded
    /// by the time limits of the plugin. What was sent is written out before.
    pub async fn close(self) {
        self.data.close().await;
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
        owed.begin(Some(1));
        owed.note_sent();
        owed.begin(Some(1));
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
        owed.begin(Some(1));
        owed.note_sent();
        owed.begin(Some(2));
        assert_eq!(owed.messages, 0);
    }
}
