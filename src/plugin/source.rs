//! Owns the data channels of one use of a source: the host listens, the plugin sends. There is no task: whoever
//! receives, reads the sockets, so a slow rule slows the plugin down.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use mangrove_protocol::address;
use mangrove_protocol::control::{Meta, Symbol, UseAs};
use mangrove_protocol::data::SourceMessage;
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::SymbolName;
use mangrove_protocol::native::control::Place;
use mangrove_protocol::{Fields, Object};
use serde_json::Value;
use sp_proto::{Events, Pull};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::channel::{self, Ends, Use};
use super::doorstep::{Doorstep, Listener};
use super::error::{ChannelError, OpenError};
use super::native::feed::{Brought, Feed, Inlet};
use super::native::offset_key;
use super::remote::Remote;
use super::status::Snapshot;
use crate::store::Scope;

/// How long a source of the other contract may be without a connection until that is an error: while one version
/// takes over from another there may be none for a moment.
const ALONE: Duration = Duration::from_secs(1);

/// Batches of which the end was handed out and whose offset is remembered. A rule whose sinks are further behind
/// than this begins a little further back when it starts anew.
const OFFSETS: usize = 4096;

/// What a source brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuple {
    /// The fields.
    pub message: Fields,
    /// What the source says about it, if it does.
    pub meta: Option<Box<Object>>,
    /// What lets the source go on behind this tuple and everything before it: on the last tuple of a batch whose
    /// source can replay. For [`Source::commit`].
    pub offset: Option<Box<Value>>,
}

/// One use of a source. Closed when it is dropped.
#[derive(Debug)]
pub struct Source {
    /// Of the other contract.
    socket: Pull,
    events: Events,
    /// Of our own: one per process that runs the source, mostly one.
    feeds: Vec<Feed>,
    new_feeds: mpsc::Receiver<Feed>,
    status: watch::Receiver<Snapshot>,
    held: Use,
    scope: Scope,
    place: String,
    /// Tuples of a message that were not handed out yet.
    rest: VecDeque<Tuple>,
    /// What came behind tuples that were handed out.
    behind: Option<ChannelError>,
    /// Offsets that were handed out, with the channel and the batch that they belong to.
    offsets: VecDeque<(Value, u64, u64)>,
    ending: Ending,
    /// Until when somebody has to connect, and why nobody is.
    alone: Option<(Instant, sp_proto::Event)>,
}

/// How far the end of a source is.
enum Ending {
    No,
    /// It was told to stop; resolves when it has.
    Stopping(Pin<Box<dyn Future<Output = ()> + Send + Sync>>),
    /// It has stopped: what is on its way is still read.
    Stopped,
    /// It has ended by itself.
    ByItself,
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::No => "No",
            Self::Stopping(_) => "Stopping",
            Self::Stopped => "Stopped",
            Self::ByItself => "ByItself",
        })
    }
}

enum Wake {
    Message(Result<sp_proto::Message, sp_proto::RecvError>),
    Brought(usize, Brought),
    Feed(Feed),
    Pipe(sp_proto::Event),
    Alone,
    Status,
    Ended(Option<ChannelError>),
    Stopped,
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
        let place = Place {
            rule_id: ids.0.clone(),
            op_id: ids.1.clone(),
            instance_id: meta.instance_id,
        };
        let scope = Scope::new(&place.rule_id, SymbolKind::Source, &name);
        let address = address::data(ids.0, ids.1, meta.instance_id)?;
        let socket = Pull::with_options(super::socket_options(&remote.settings, &remote.peers));
        let events = socket.events();
        let mut status = remote.status.clone();
        let use_as = UseAs::Source {
            data_source: data_source.to_owned(),
        };
        let (inlet, new_feeds) = Inlet::new();
        let doorstep = Doorstep::new(Listener::Pull(socket.clone()), address);
        let held = Use::open(
            remote,
            Symbol {
                name,
                meta,
                use_as,
                config,
            },
            Ends::Source(inlet, Arc::new(doorstep)),
        )
        .await?;
        status.mark_unchanged();
        Ok(Self {
            socket,
            events,
            feeds: Vec::new(),
            new_feeds,
            status,
            held,
            scope,
            place: offset_key(&place),
            rest: VecDeque::new(),
            behind: None,
            alone: None,
            offsets: VecDeque::new(),
            ending: Ending::No,
        })
    }

    /// The next tuple. `Err` inside is the source's own error, garbage, or news of its process: it goes on.
    /// `None`: it is over for good, which an `Err` before explains, unless it was stopped or has ended by itself.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Result<Tuple, ChannelError>> {
        loop {
            if let Some(tuple) = self.rest.pop_front() {
                return Some(Ok(tuple));
            }
            match self.recv_batch(1).await? {
                Ok(tuples) => self.rest.extend(tuples),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next tuples: at least one, and whatever else has come meanwhile, at most `max` (and more only when they
    /// came as one message). `Err` and `None` as in [`Source::recv`]; an error ends a batch, and comes by itself
    /// with the next call.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv_batch(&mut self, max: usize) -> Option<Result<Vec<Tuple>, ChannelError>> {
        if !self.rest.is_empty() {
            return Some(Ok(self.rest.drain(..).collect()));
        }
        if let Some(error) = self.behind.take() {
            return Some(Err(error));
        }
        let first = loop {
            let outcome = self.next().await?;
            self.held.record().note(&outcome);
            match outcome {
                Ok(tuples) if tuples.is_empty() => {}
                outcome => break outcome,
            }
        };
        let mut batch = match first {
            Ok(tuples) => tuples,
            Err(error) => return Some(Err(error)),
        };
        while batch.len() < max
            && let Some(outcome) = self.try_next()
        {
            match outcome {
                Ok(tuples) => batch.extend(tuples),
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
    /// again. A source that can replay is told when that is on the disk, so that it can let go of it.
    ///
    /// # Errors
    /// The store does not keep it.
    ///
    /// # Cancel safety
    /// It may or may not be kept when the future is dropped.
    pub async fn commit(&mut self, offset: &Value) -> Result<(), ChannelError> {
        let states = self.held.remote().native.states.clone();
        let text = offset.to_string().into_bytes();
        let kept = states.put(&self.scope, &self.place, text).await;
        kept.map_err(|error| ChannelError::Plugin(format!("where it is cannot be kept: {error}")))?;
        let mut found = self.offsets.iter();
        if let Some(at) = found.position(|(known, ..)| known == offset) {
            let committed = self.offsets.drain(..=at).next_back();
            if let Some((_, number, seq)) = committed
                && let Some(feed) = self.feeds.iter().find(|feed| feed.number() == number)
            {
                feed.commit(seq, states.version());
            }
        }
        Ok(())
    }

    /// Tells the source to bring nothing new. What is on its way still comes; then `None`. Bounded by the time
    /// limits of the plugin.
    pub fn stop(&mut self) {
        if matches!(self.ending, Ending::No) {
            self.ending = Ending::Stopping(Box::pin(self.held.stop()));
        }
    }

    /// Whether the source has said that nothing more will come.
    pub fn has_ended_by_itself(&self) -> bool {
        matches!(self.ending, Ending::ByItself)
    }

    /// What is there already.
    fn try_next(&mut self) -> Option<Result<Vec<Tuple>, ChannelError>> {
        if let [feed] = self.feeds.as_mut_slice() {
            let brought = feed.try_recv()?;
            return self.take(0, brought);
        }
        if !self.feeds.is_empty() {
            return None;
        }
        let message = self.socket.try_recv().ok()??;
        Some(decode(&message).map(|tuple| vec![tuple]))
    }

    async fn next(&mut self) -> Option<Result<Vec<Tuple>, ChannelError>> {
        loop {
            match self.ending {
                Ending::ByItself => return None,
                // Of the other contract nothing tells what is still on its way.
                Ending::Stopped if self.feeds.is_empty() && self.new_feeds.is_empty() => {
                    let message = self.socket.try_recv().ok()??;
                    return Some(decode(&message).map(|tuple| vec![tuple]));
                }
                _ => {}
            }
            let is_open = matches!(self.ending, Ending::No);
            let wake = tokio::select! {
                biased;
                Some(feed) = self.new_feeds.recv() => Wake::Feed(feed),
                // Before what is brought: a source that is ahead of its rule always brings something.
                () = stopped(&mut self.ending) => Wake::Stopped,
                (index, brought) = brought(&mut self.feeds) => Wake::Brought(index, brought),
                message = self.socket.recv() => Wake::Message(message),
                error = self.held.ended(), if is_open => Wake::Ended(error),
                Ok(()) = self.status.changed(), if is_open => Wake::Status,
                Some(event) = self.events.recv(), if is_open => Wake::Pipe(event),
                () = alone(self.alone.as_ref()), if is_open => Wake::Alone,
            };
            match wake {
                Wake::Feed(feed) => self.feeds.push(feed),
                Wake::Brought(index, brought) => {
                    if let Some(outcome) = self.take(index, brought) {
                        return Some(outcome);
                    }
                }
                Wake::Message(Ok(message)) => {
                    return Some(decode(&message).map(|tuple| vec![tuple]));
                }
                Wake::Message(Err(_)) => return None,
                Wake::Ended(error) => return error.map(Err),
                Wake::Stopped => {
                    self.ending = Ending::Stopped;
                    self.feeds.iter_mut().for_each(Feed::expect_end);
                }
                Wake::Status => {
                    let error = channel::down(&self.held.remote().plugin, &self.status.borrow_and_update());
                    if let Some(error) = error {
                        self.alone = None;
                        return Some(Err(error));
                    }
                }
                // The process that another one has replaced, or a second connection of the same.
                Wake::Pipe(sp_proto::Event::PipeRemoved { .. } | sp_proto::Event::Missed(_))
                    if !self.socket.pipes().is_empty() => {}
                // Another one may be about to take its place.
                // Or nobody knows how it ended.
                Wake::Pipe(
                    event @ (sp_proto::Event::PipeRemoved { is_orderly: true, .. }
                    | sp_proto::Event::Missed(_)),
                ) => {
                    self.alone = Some((Instant::now() + ALONE, event));
                }
                Wake::Pipe(sp_proto::Event::PipeAdded(_)) => self.alone = None,
                Wake::Alone => {
                    let event = self.alone.take().map(|(_, event)| event);
                    let error = event.and_then(|event| channel::broken(&self.held.remote().plugin, event));
                    if let Some(error) = error.filter(|_| self.socket.pipes().is_empty()) {
                        return Some(Err(error));
                    }
                }
                Wake::Pipe(event) => {
                    if let Some(error) = channel::broken(&self.held.remote().plugin, event) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    /// What a channel has brought means; `None` when it is nothing to the rule.
    fn take(&mut self, index: usize, brought: Brought) -> Option<Result<Vec<Tuple>, ChannelError>> {
        match brought {
            Brought::Tuples {
                seq,
                tuples,
                meta,
                offset,
            } => {
                let number = self.feeds.get(index).map(Feed::number)?;
                if let Some(offset) = &offset {
                    if self.offsets.len() >= OFFSETS {
                        self.offsets.pop_front();
                    }
                    self.offsets.push_back((offset.clone(), number, seq));
                }
                Some(Ok(with_meta(tuples, meta, offset)))
            }
            Brought::Error(error) => Some(Err(error)),
            Brought::End(reason) => {
                self.ending = Ending::ByItself;
                reason.map(|reason| Err(ChannelError::Plugin(reason)))
            }
            Brought::Nothing => {
                self.feeds.swap_remove(index);
                None
            }
        }
    }

    /// Stops the source and waits until the plugin says that it has stopped, or its process has ended. What is on
    /// its way is lost; see [`Source::stop`]. Bounded by the time limits of the plugin.
    pub async fn close(mut self) {
        self.stop();
        // A plugin that cannot get rid of what it has, does not come to stop.
        while matches!(self.ending, Ending::Stopping(_)) && self.next().await.is_some() {
            tokio::task::coop::consume_budget().await;
        }
        for feed in self.feeds.drain(..) {
            feed.close().await;
        }
        self.held.close().await;
        self.socket.close().await;
    }
}

fn with_meta(tuples: Vec<Fields>, meta: Vec<Option<Object>>, offset: Option<Value>) -> Vec<Tuple> {
    let mut meta = meta.into_iter();
    let mut tuples: Vec<Tuple> = tuples
        .into_iter()
        .map(|message| Tuple {
            message,
            meta: meta.next().flatten().map(Box::new),
            offset: None,
        })
        .collect();
    if let Some(last) = tuples.last_mut() {
        last.offset = offset.map(Box::new);
    }
    tuples
}

/// What any of the channels brings next. Cancel safe, as each of them is.
async fn brought(feeds: &mut [Feed]) -> (usize, Brought) {
    match feeds {
        [] => future::pending().await,
        [feed] => (0, feed.recv().await),
        feeds => {
            let all = feeds.iter_mut().map(|feed| Box::pin(feed.recv()));
            let (brought, index, _) = future::select_all(all).await;
            (index, brought)
        }
    }
}

async fn alone(since: Option<&(Instant, sp_proto::Event)>) {
    match since {
        Some((until, _)) => tokio::time::sleep_until(*until).await,
        None => future::pending().await,
    }
}

async fn stopped(ending: &mut Ending) {
    match ending {
        Ending::Stopping(stopped) => stopped.await,
        _ => future::pending().await,
    }
}

fn decode(message: &[u8]) -> Result<Tuple, ChannelError> {
    match SourceMessage::decode(message)? {
        SourceMessage::Tuple { message, meta } => Ok(Tuple {
            message: message.into(),
            meta: (!meta.is_empty()).then(|| Box::new(meta)),
            offset: None,
        }),
        SourceMessage::Error(text) => Err(ChannelError::Plugin(text)),
    }
}
