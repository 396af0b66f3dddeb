//! Raw: any protocol without its memory. Headers are handed out and taken in as they are, so that what is
//! received from one socket can be sent through another: what a device does.

use crate::pattern::broadcast::Broadcast;
use crate::pattern::fair_queue::{FairQueue, Queued};
use crate::pattern::pair::take_hops;
use crate::pattern::{Key, Pattern, Pipes, RecvLimits, Refusal, Violation};
use crate::wire::{Backtrace, BacktraceError, FINAL};
use crate::{Message, Protocol, RawMessage};
use bytes::{Buf, Bytes};
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// The state of a raw socket.
#[derive(Debug)]
pub(crate) struct Raw {
    protocol: Protocol,
    ttl: u8,
    /// Added to a pipe's number to make its word.
    salt: u32,
    queue: FairQueue<RawMessage>,
    /// All pipes.
    peers: Broadcast,
    /// The pipes with room, the one whose turn it is first.
    turns: VecDeque<Key>,
    /// All pipes, by the word that stands for them in headers.
    words: HashMap<u32, Key>,
    /// What came in, on its way to the queue.
    incoming: Vec<RawMessage>,
}

/// Who gets what a protocol sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// One pipe with room, in turn.
    Turn,
    /// All pipes with room, but for the one that the header names.
    All,
    /// The pipe that the header names.
    Home,
    /// It sends nothing.
    Nowhere,
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// No pipe has room.
    Full,
    /// The header is none of this protocol.
    Header,
    /// The protocol only receives.
    ReceiveOnly,
}

impl Queued for RawMessage {
    fn size(&self) -> usize {
        self.header.len() + self.body.len()
    }
}

fn route(protocol: Protocol) -> Route {
    match protocol {
        Protocol::Pair0 | Protocol::Pair1 | Protocol::Push | Protocol::Req => Route::Turn,
        Protocol::Pub | Protocol::Surveyor | Protocol::Bus => Route::All,
        Protocol::Rep | Protocol::Respondent => Route::Home,
        Protocol::Pull | Protocol::Sub => Route::Nowhere,
    }
}

/// Does it ever send?
pub(crate) fn sends(protocol: Protocol) -> bool {
    route(protocol) != Route::Nowhere
}

/// Does it ever receive?
pub(crate) fn receives(protocol: Protocol) -> bool {
    !matches!(protocol, Protocol::Push | Protocol::Pub)
}

impl Raw {
    /// `salt` is a random number, the same for all sockets of the process: the words of two sockets then
    /// never mean the same pipe, and those of a process that was restarted hardly ever.
    pub(crate) fn new(protocol: Protocol, ttl: u8, limits: RecvLimits, salt: u32) -> Self {
        Self {
            protocol,
            ttl,
            salt,
            queue: FairQueue::new(limits),
            peers: Broadcast::default(),
            turns: VecDeque::new(),
            words: HashMap::new(),
            incoming: Vec::new(),
        }
    }

    /// The word that stands for a pipe; its top bit is clear.
    fn word(&self, key: Key) -> u32 {
        (key.id.number() as u32).wrapping_add(self.salt) & !FINAL
    }

    /// The next message.
    pub(crate) fn recv(&mut self, pipes: &mut Pipes) -> Option<RawMessage> {
        self.queue.pop(pipes)
    }

    /// Sends a message and gives a pipe that has got it; none when it was dropped, which is counted.
    pub(crate) fn send(
        &mut self,
        pipes: &mut Pipes,
        header: &Bytes,
        body: Message,
    ) -> Result<Option<Key>, (NotSent, Message)> {
        match (route(self.protocol), self.outgoing(header)) {
            (Route::Nowhere, _) => Err((NotSent::ReceiveOnly, body)),
            (_, None) => Err((NotSent::Header, body)),
            (_, Some(Outgoing::TooManyHops)) => {
                pipes.drops.too_many_hops += 1;
                Ok(None)
            }
            (Route::Turn, Some(outgoing)) => {
                let Some(key) = self.turns.pop_front() else {
                    return Err((NotSent::Full, body));
                };
                if pipes.push(key, outgoing.header(header), body.into_bytes()) {
                    self.turns.push_back(key);
                }
                Ok(Some(key))
            }
            (Route::All, Some(outgoing)) => {
                let except = match outgoing {
                    Outgoing::Named(word) => self.words.get(&word).copied(),
                    _ => None,
                };
                let header = outgoing.header(header);
                Ok(self.peers.send(pipes, header, &body.into_bytes(), except))
            }
            (Route::Home, Some(outgoing)) => {
                let home = match outgoing {
                    Outgoing::Home(word) => self.words.get(&word).copied(),
                    _ => None,
                };
                let Some(key) = home else {
                    pipes.drops.peer_gone += 1;
                    return Ok(None);
                };
                if !pipes.has_room(key) {
                    // Waiting for it would hold up all the others.
                    pipes.drops.slow_peer += 1;
                    return Ok(None);
                }
                pipes.push(key, outgoing.header(header), body.into_bytes());
                Ok(Some(key))
            }
        }
    }

    /// What a header says; `None` if it is none of this protocol.
    fn outgoing(&self, header: &Bytes) -> Option<Outgoing> {
        let mut rest = header.clone();
        match self.protocol {
            Protocol::Pair0 | Protocol::Push | Protocol::Pub | Protocol::Pull | Protocol::Sub => {
                rest.is_empty().then_some(Outgoing::AsIs)
            }
            Protocol::Pair1 => match take_hops(&mut rest, u8::MAX) {
                Ok(Some(hops)) if rest.is_empty() => Some(match hops.checked_add(1) {
                    Some(hops) => Outgoing::Hops([0, 0, 0, hops]),
                    None => Outgoing::TooManyHops,
                }),
                _ => None,
            },
            Protocol::Req | Protocol::Surveyor => is_backtrace(rest).then_some(Outgoing::AsIs),
            Protocol::Rep | Protocol::Respondent => {
                let word = rest.try_get_u32().ok().filter(|word| word & FINAL == 0)?;
                is_backtrace(rest).then_some(Outgoing::Home(word))
            }
            Protocol::Bus if rest.is_empty() => Some(Outgoing::AsIs),
            Protocol::Bus => {
                let word = rest.try_get_u32().ok()?;
                rest.is_empty().then_some(Outgoing::Named(word))
            }
        }
    }

    /// Takes the header off a message; `None` when the message is dropped.
    fn incoming(
        &self,
        pipes: &mut Pipes,
        key: Key,
        mut frame: Bytes,
    ) -> Result<Option<RawMessage>, Violation> {
        let whole = frame.clone();
        let header = match self.protocol {
            Protocol::Push | Protocol::Pub => {
                pipes.drops.unexpected += 1;
                return Ok(None);
            }
            Protocol::Pair0 | Protocol::Pull | Protocol::Sub => Bytes::new(),
            Protocol::Pair1 => match take_hops(&mut frame, self.ttl)? {
                Some(_) => whole.slice(..whole.len() - frame.len()),
                None => {
                    pipes.drops.too_many_hops += 1;
                    return Ok(None);
                }
            },
            Protocol::Bus => Bytes::copy_from_slice(&self.word(key).to_be_bytes()),
            // A reply goes the way that its request came, so its hops need no limit; a malformed one is
            // dropped.
            Protocol::Req | Protocol::Surveyor => match Backtrace::split_off(&mut frame, u8::MAX) {
                Ok(_) => whole.slice(..whole.len() - frame.len()),
                Err(_) => {
                    pipes.drops.unexpected += 1;
                    return Ok(None);
                }
            },
            Protocol::Rep | Protocol::Respondent => match Backtrace::split_off(&mut frame, self.ttl) {
                Ok(backtrace) => [&self.word(key).to_be_bytes(), backtrace.as_bytes()]
                    .concat()
                    .into(),
                Err(BacktraceError::TooManyHops) => {
                    pipes.drops.too_many_hops += 1;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            },
        };
        Ok(Some(RawMessage {
            header,
            body: frame.into(),
        }))
    }
}

/// What the header of an outgoing message says.
#[derive(Clone, Copy, Debug)]
enum Outgoing {
    /// It goes over the wire as it is.
    AsIs,
    /// It is this new hop count.
    Hops([u8; 4]),
    /// There is no next hop count.
    TooManyHops,
    /// It names a pipe, and nothing of it goes over the wire.
    Named(u32),
    /// Its first word names a pipe, the rest goes over the wire.
    Home(u32),
}

impl Outgoing {
    fn header<'a>(&'a self, whole: &'a Bytes) -> &'a [u8] {
        match self {
            Self::AsIs => whole,
            Self::Hops(word) => word,
            Self::TooManyHops | Self::Named(_) => &[],
            Self::Home(_) => whole.get(4..).unwrap_or_default(),
        }
    }
}

/// Is it a stack of words that ends with the last one, and nothing more?
fn is_backtrace(mut header: Bytes) -> bool {
    Backtrace::split_off(&mut header, u8::MAX).is_ok() && header.is_empty()
}

impl Pattern for Raw {
    fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn attach(&mut self, _: &mut Pipes, key: Key, _: Instant) -> Result<(), Refusal> {
        let pair = matches!(self.protocol, Protocol::Pair0 | Protocol::Pair1);
        if pair && !self.words.is_empty() {
            return Err(Refusal::SecondPeer);
        }
        self.words.insert(self.word(key), key);
        self.queue.attach(key);
        self.peers.attach(key);
        self.turns.push_back(key);
        Ok(())
    }

    fn detach(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        self.words.remove(&self.word(key));
        self.queue.detach(key);
        self.peers.detach(key);
        self.turns.retain(|turn| *turn != key);
    }

    fn handle_frames(
        &mut self,
        pipes: &mut Pipes,
        key: Key,
        frames: &mut Vec<Bytes>,
    ) -> Result<(), Violation> {
        let mut result = Ok(());
        let mut incoming = std::mem::take(&mut self.incoming);
        for frame in frames.drain(..) {
            match self.incoming(pipes, key, frame) {
                Ok(message) => incoming.extend(message),
                Err(fault) => {
                    result = Err(fault);
                    break;
                }
            }
        }
        self.queue.push(key, &mut incoming);
        incoming.shrink_to(64);
        self.incoming = incoming;
        result
    }

    fn may_read(&mut self, key: Key) -> bool {
        self.queue.may_read(key)
    }

    fn handle_room(&mut self, _: &mut Pipes, key: Key, _: Instant) {
        if route(self.protocol) == Route::Turn {
            self.turns.push_back(key);
        }
    }

    fn can_recv(&self) -> bool {
        !self.queue.is_empty()
    }

    fn can_send(&self) -> bool {
        match route(self.protocol) {
            Route::Turn => !self.turns.is_empty(),
            Route::All | Route::Home | Route::Nowhere => true,
        }
    }

    fn has_ready(&self) -> bool {
        false
    }
}
