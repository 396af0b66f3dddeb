//! Owns the data channel of one use of a source: the host listens, the plugin sends. There is no task:
//! whoever receives, reads the socket, so a slow rule slows the plugin down.

use mangrove_protocol::Object;
use mangrove_protocol::address;
use mangrove_protocol::control::{Meta, Symbol, UseAs};
use mangrove_protocol::data::SourceMessage;
use mangrove_protocol::name::SymbolName;
use serde_json::Value;
use sp_proto::{Events, Pull};
use tokio::sync::watch;

use super::channel::{self, Use};
use super::error::{ChannelError, OpenError};
use super::remote::Remote;
use super::status::Snapshot;

/// What a source brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuple {
    /// The fields.
    pub message: Object,
    /// What the source says about it.
    pub meta: Object,
    /// What lets the source go on behind this tuple and everything before it: on the last tuple of a batch whose
    /// source can replay. For [`Source::commit`].
    pub offset: Option<Value>,
}

/// One use of a source. Closed when it is dropped.
#[derive(Debug)]
pub struct Source {
    socket: Pull,
    events: Events,
    status: watch::Receiver<Snapshot>,
    held: Use,
    /// What came behind tuples that were handed out as a batch.
    behind: Option<ChannelError>,
}

enum Wake {
    Message(Result<sp_proto::Message, sp_proto::RecvError>),
    Pipe(sp_proto::Event),
    Status,
    Ended(ChannelError),
}

impl Source {
    pub(super) async fn open(
        remote: Remote,
        name: SymbolName,
        meta: Meta,
        data_source: &str,
        config: Object,
    ) -> Result<Self, OpenError> {
        let ids = channel::ids(&meta)?;
        let address = address::data(ids.0, ids.1, meta.instance_id)?;
        let socket = Pull::with_options(super::socket_options(&remote.settings, &remote.peers));
        let events = socket.events();
        // The host listens first: some SDKs dial only once.
        socket.listen(&address).await?;
        let mut status = remote.status.clone();
        let use_as = UseAs::Source {
            data_source: data_source.to_owned(),
        };
        let held = Use::open(
            remote,
            Symbol {
                name,
                meta,
                use_as,
                config,
            },
            None,
        )
        .await?;
        status.mark_unchanged();
        Ok(Self {
            socket,
            events,
            status,
            held,
            behind: None,
        })
    }

    /// The next tuple. `Err` inside is the source's own error, garbage, or news of its process: it goes on.
    /// `None`: it is over for good, which an `Err` before explains.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Result<Tuple, ChannelError>> {
        let outcome = self.next().await?;
        self.held.record().note(&outcome);
        Some(outcome)
    }

    /// The next tuples: at least one, and whatever else has come meanwhile, at most `max` (and more only when they
    /// came as one message). `Err` and `None` as in [`Source::recv`]; an error ends a batch, and comes by itself
    /// with the next call.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv_batch(&mut self, max: usize) -> Option<Result<Vec<Tuple>, ChannelError>> {
        if let Some(error) = self.behind.take() {
            return Some(Err(error));
        }
        let first = match self.recv().await? {
            Ok(tuple) => tuple,
            Err(error) => return Some(Err(error)),
        };
        let mut batch = vec![first];
        while batch.len() < max
            && let Ok(Some(message)) = self.socket.try_recv()
        {
            match decode(&message) {
                Ok(tuple) => batch.push(tuple),
                Err(error) => {
                    self.held.record().note_error(&error.to_string());
                    self.behind = Some(error);
                    break;
                }
            }
        }
        Some(Ok(batch))
    }

    /// Says that everything up to the tuple with this offset is safe: where the source goes on when it is opened
    /// again. A source that cannot replay is not told anything.
    ///
    /// # Cancel safety
    /// Nothing is done half-way when the future is dropped.
    #[expect(clippy::unused_async, reason = "the store behind it is not there yet")]
    pub async fn commit(&mut self, offset: &Value) {
        tracing::trace!(plugin = %self.held.remote().plugin, %offset, "committed");
    }

    async fn next(&mut self) -> Option<Result<Tuple, ChannelError>> {
        loop {
            let wake = tokio::select! {
                biased;
                message = self.socket.recv() => Wake::Message(message),
                error = self.held.ended() => Wake::Ended(error?),
                Ok(()) = self.status.changed() => Wake::Status,
                Some(event) = self.events.recv() => Wake::Pipe(event),
            };
            match wake {
                Wake::Message(Ok(message)) => {
                    return Some(decode(&message));
                }
                Wake::Message(Err(_)) => return None,
                Wake::Ended(error) => return Some(Err(error)),
                Wake::Status => {
                    let error = channel::down(&self.held.remote().plugin, &self.status.borrow_and_update());
                    if let Some(error) = error {
                        return Some(Err(error));
                    }
                }
                // The process that another one has replaced, or a second connection of the same.
                Wake::Pipe(sp_proto::Event::PipeRemoved { .. }) if !self.socket.pipes().is_empty() => {}
                Wake::Pipe(event) => {
                    if let Some(error) = channel::broken(&self.held.remote().plugin, event) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    /// Stops the source and waits until the plugin says that it has stopped, or its process has ended.
    /// Bounded by the time limits of the plugin.
    pub async fn close(self) {
        self.held.close().await;
        self.socket.close().await;
    }
}

fn decode(message: &[u8]) -> Result<Tuple, ChannelError> {
    match SourceMessage::decode(message)? {
        SourceMessage::Tuple { message, meta } => Ok(Tuple {
            message,
            meta,
            offset: None,
        }),
        SourceMessage::Error(text) => Err(ChannelError::Plugin(text)),
    }
}
