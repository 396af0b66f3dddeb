//! Owns the data channel of one use of a source in one process: what it brings, and when it has brought all of it.
//! There is no task: whoever receives, reads the socket. While a source moves from one process to another there
//! are two of them; [`Inlet`] is where the sessions put the new ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mangrove_protocol::native::source::{SourceBatch, SourceContent};
use mangrove_protocol::{Fields, Object};
use serde_json::Value;
use sp_proto::Pull;
use tokio::sync::{Notify, mpsc};

use super::LAST_WORDS;
use super::session::Order;
use crate::plugin::error::ChannelError;

/// Feeds that may be waiting for whoever receives: the processes of one plugin that come and go meanwhile.
const FEEDS: usize = 16;

/// Not known yet which batch is the last one.
const ENDLESS: u64 = u64::MAX;

/// Where the sessions put the channels of one use.
#[derive(Debug)]
pub(in crate::plugin) struct Inlet {
    feeds: mpsc::Sender<Feed>,
}

impl Inlet {
    pub(in crate::plugin) fn new() -> (Arc<Self>, mpsc::Receiver<Feed>) {
        let (feeds, receiver) = mpsc::channel(FEEDS);
        (Arc::new(Self { feeds }), receiver)
    }

    /// False when nobody receives any more, or nobody has for too long.
    pub(super) fn put(&self, feed: Feed) -> bool {
        self.feeds.try_send(feed).is_ok()
    }
}

/// What the session says about a channel that is being read.
#[derive(Debug)]
pub(super) struct Ending {
    last: AtomicU64,
    gone: AtomicBool,
    changed: Notify,
}

impl Ending {
    /// The source has stopped, with this batch as its last one.
    pub(super) fn stopped_at(&self, seq: u64) {
        self.last.store(seq, Ordering::Release);
        self.changed.notify_one();
    }

    /// The process is gone, or has forgotten the use.
    pub(super) fn gone(&self) {
        self.gone.store(true, Ordering::Release);
        self.changed.notify_one();
    }
}

/// One channel.
#[derive(Debug)]
pub(in crate::plugin) struct Feed {
    socket: Pull,
    number: u64,
    orders: mpsc::Sender<Order>,
    ending: Arc<Ending>,
    /// The batch that was read last.
    seq: u64,
    limit: usize,
    /// The source has stopped, as far as anybody knows: what does not come soon will not come.
    closing: bool,
}

/// What a channel has brought.
#[derive(Debug)]
pub(in crate::plugin) enum Brought {
    Tuples {
        seq: u64,
        tuples: Vec<Fields>,
        meta: Vec<Option<Object>>,
        offset: Option<Value>,
    },
    Error(ChannelError),
    /// The source has ended by itself.
    End(Option<String>),
    /// Nothing more will come.
    Nothing,
}

impl Feed {
    pub(super) fn new(
        socket: Pull,
        number: u64,
        orders: mpsc::Sender<Order>,
        limit: usize,
    ) -> (Self, Arc<Ending>) {
        let ending = Arc::new(Ending {
            last: AtomicU64::new(ENDLESS),
            gone: AtomicBool::new(false),
            changed: Notify::new(),
        });
        let feed = Self {
            socket,
            number,
            orders,
            ending: Arc::clone(&ending),
            seq: 0,
            limit,
            closing: false,
        };
        (feed, ending)
    }

    /// What comes next.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(in crate::plugin) async fn recv(&mut self) -> Brought {
        loop {
            let last = self.ending.last.load(Ordering::Acquire);
            if self.seq >= last {
                return Brought::Nothing;
            }
            self.closing |= last != ENDLESS;
            if self.ending.gone.load(Ordering::Acquire) {
                return self.recv_last().await;
            }
            tokio::select! {
                biased;
                message = self.socket.recv() => match message {
                    Ok(message) => return self.read(message),
                    Err(_) => return Brought::Nothing,
                },
                () = self.ending.changed.notified() => {}
                () = tokio::time::sleep(LAST_WORDS), if self.closing => return Brought::Nothing,
            }
        }
    }

    /// The source has stopped, or nobody waits any longer for it to do so.
    pub(in crate::plugin) fn expect_end(&mut self) {
        self.closing = true;
    }

    /// What is there already; `None` when nothing is.
    pub(in crate::plugin) fn try_recv(&mut self) -> Option<Brought> {
        if self.seq >= self.ending.last.load(Ordering::Acquire) {
            return None;
        }
        let message = self.socket.try_recv().ok()??;
        Some(self.read(message))
    }

    /// What a process that is gone has left on the way.
    async fn recv_last(&mut self) -> Brought {
        if let Ok(Some(message)) = self.socket.try_recv() {
            return self.read(message);
        }
        if !self.socket.pipes().is_empty()
            && let Ok(Ok(message)) = tokio::time::timeout(LAST_WORDS, self.last_message()).await
        {
            return self.read(message);
        }
        // It may have come between the two.
        match self.socket.try_recv() {
            Ok(Some(message)) => self.read(message),
            _ => Brought::Nothing,
        }
    }

    /// The next message, or an error when the connection is gone.
    async fn last_message(&self) -> Result<sp_proto::Message, ()> {
        let mut events = self.socket.events();
        loop {
            if self.socket.pipes().is_empty() {
                return self.socket.try_recv().map_err(drop)?.ok_or(());
            }
            tokio::select! {
                biased;
                message = self.socket.recv() => return message.map_err(drop),
                _ = events.recv() => {}
            }
        }
    }

    fn read(&mut self, message: sp_proto::Message) -> Brought {
        let batch = match SourceBatch::decode_fields(&message.into_bytes(), self.limit) {
            Ok(batch) => batch,
            Err(error) => return Brought::Error(error.into()),
        };
        let expected = self.seq + 1;
        self.seq = batch.seq;
        if batch.seq != expected {
            let error = format!("batch {} came where batch {expected} was expected", batch.seq);
            return Brought::Error(ChannelError::Contract(error));
        }
        match batch.content {
            SourceContent::Tuples { tuples, meta, offset } => Brought::Tuples {
                seq: batch.seq,
                tuples,
                meta,
                offset,
            },
            SourceContent::Error(text) => Brought::Error(ChannelError::Plugin(text)),
            SourceContent::End(reason) => Brought::End(reason),
        }
    }

    /// Has the source told that it need not keep this batch, nor those before it, as soon as this version of the store
    /// is on the disk. When the session is so busy that this finds no room, the next one says it as well.
    pub(in crate::plugin) fn commit(&self, seq: u64, version: u64) {
        let _ = self.orders.try_send(Order::Commit {
            number: self.number,
            seq,
            version,
        });
    }

    /// The use's number in its process; with the process it is unique.
    pub(in crate::plugin) fn number(&self) -> u64 {
        self.number
    }

    pub(in crate::plugin) async fn close(self) {
        self.socket.close().await;
    }
}
