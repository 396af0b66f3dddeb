//! The task that owns the socket of one function symbol. Which connection serves, and what an answer belongs to,
//! is for `turn`.

use std::collections::HashMap;
use std::sync::Arc;

use mangrove_protocol::address::{self, AddressTooLong};
use mangrove_protocol::control;
use mangrove_protocol::name::{PluginName, SymbolName};
use sp_proto::{Events, PipeId, Rep, SocketOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Answer, Call, Channel, LINE, Line};
use crate::plugin::doorstep::{Doorstep, Listener};
use crate::plugin::guard;
use crate::plugin::instances::{Links, Pool};
use crate::plugin::missed;
use crate::plugin::native::link::RECONNECT;
use crate::plugin::turn::{Heard, Standing, Turn};

/// The task that owns the channel's socket.
pub(in crate::plugin) struct Task {
    socket: Rep,
    events: Events,
    calls: mpsc::Receiver<Call>,
    silent: mpsc::Sender<SymbolName>,
    favoured: watch::Receiver<Option<u32>>,
    /// The channels of our own contract, when the processes speak that.
    links: watch::Receiver<Option<Links>>,
    stop: CancellationToken,
    core: Core,
}

enum Wake {
    Stop,
    Message(sp_proto::Request),
    Pipe(sp_proto::Event),
    GivenUp,
    Call(Call),
    Silent,
    Favour,
    Link,
}

impl Task {
    /// The task's work, and the worker's end of the channel.
    pub(in crate::plugin) fn new(
        plugin: &PluginName,
        symbol: &SymbolName,
        options: SocketOptions,
        pool: Arc<Pool>,
        silent: mpsc::Sender<SymbolName>,
        changed: Arc<Notify>,
    ) -> Result<(Self, Channel), AddressTooLong> {
        let address = address::function(symbol)?;
        let socket = Rep::with_options(options);
        let events = socket.events();
        let (sender, calls) = mpsc::channel(LINE);
        let standing = Arc::new(super::Standing::new(changed));
        let (favour, favoured) = watch::channel(None);
        let links = pool.subscribe();
        let stop = CancellationToken::new();
        let core = Core {
            plugin: plugin.clone(),
            symbol: symbol.clone(),
            turn: Turn::default(),
            held: HashMap::new(),
            processes: HashMap::new(),
            favoured: None,
            current: None,
            silent_at: None,
            standing: Arc::clone(&standing),
        };
        let channel = Channel {
            line: Line {
                calls: sender,
                standing,
                links: links.clone(),
            },
            favoured: favour,
            doorstep: Some(Arc::new(Doorstep::new(Listener::Rep(socket.clone()), address))),
            instance: 0,
            pool,
            stop: stop.clone(),
        };
        Ok((
            Self {
                socket,
                events,
                calls,
                silent,
                favoured,
                links,
                stop,
                core,
            },
            channel,
        ))
    }

    /// Runs until [`Channel::stop`].
    pub(in crate::plugin) async fn run(mut self) {
        let core = &mut self.core;
        loop {
            let idle = core.current.is_none();
            let wake = tokio::select! {
                () = self.stop.cancelled() => Wake::Stop,
                Ok(message) = self.socket.recv() => Wake::Message(message),
                Some(event) = self.events.recv() => Wake::Pipe(event),
                () = given_up(&mut core.current) => Wake::GivenUp,
                Some(call) = self.calls.recv(), if idle => Wake::Call(call),
                () = sleep_until(core.silent_at) => Wake::Silent,
                Ok(()) = self.favoured.changed() => Wake::Favour,
                Ok(()) = self.links.changed() => Wake::Link,
            };
            match wake {
                Wake::Stop => break,
                Wake::Message(message) => {
                    core.note_process(&self.socket, message.pipe());
                    core.handle_message(message);
                }
                Wake::Pipe(sp_proto::Event::Missed(_)) => {
                    let known: Vec<PipeId> = core.processes.keys().copied().collect();
                    for pipe in missed::changes(known, self.socket.pipes()).removed {
                        core.handle_gone(pipe);
                    }
                }
                Wake::Pipe(event) => core.handle_pipe(event),
                Wake::GivenUp => core.handle_given_up(),
                Wake::Call(call) => {
                    core.current = Some(call);
                    if self.links.borrow().is_some() {
                        core.redirect();
                    }
                }
                Wake::Link => {
                    if self.links.borrow_and_update().is_some() {
                        core.redirect();
                    }
                }
                Wake::Favour => {
                    core.favoured = *self.favoured.borrow_and_update();
                    core.choose();
                }
                // The process that has closed it, speaks our own contract from now on.
                Wake::Silent if self.links.borrow().is_some() => core.silent_at = None,
                Wake::Silent => {
                    // When it has not come back by then, or the worker is too busy now, once more.
                    core.silent_at = Some(Instant::now() + RECONNECT);
                    let _ = self.silent.try_send(core.symbol.clone());
                }
            }
            core.send(&self.socket);
            core.standing.note(&core.turn, core.process());
        }
        self.socket.close().await;
    }
}

/// What the task decides with.
struct Core {
    plugin: PluginName,
    symbol: SymbolName,
    turn: Turn<PipeId>,
    /// The newest message of each pipe, which the next call on it replies to.
    held: HashMap<PipeId, sp_proto::Request>,
    /// Whose pipes they are, where the system tells.
    processes: HashMap<PipeId, u32>,
    /// The process that shall serve.
    favoured: Option<u32>,
    /// The call that waits for the host's turn, or for its answer.
    current: Option<Call>,
    /// When it has been without a connection for too long.
    silent_at: Option<Instant>,
    standing: Arc<super::Standing>,
}

impl Core {
    fn handle_message(&mut self, message: sp_proto::Request) {
        let keep_alive = control::Request::decode(message.body()) == control::Request::Handshake;
        let body = message.body().clone();
        let pipe = message.pipe();
        let is_new = !self.turn.knows(pipe);
        let heard = self.turn.handle_message(pipe, message.id(), keep_alive);
        if heard == Heard::Ignored {
            return;
        }
        self.silent_at = None;
        self.held.insert(pipe, message);
        if is_new {
            self.choose();
        }
        match heard {
            Heard::Answer => self.answer(Answer::Message(body)),
            Heard::Late => {
                tracing::debug!(plugin = %self.plugin, function = %self.symbol, "a late answer was dropped");
            }
            // The call that is still current is sent again.
            Heard::Again | Heard::Ready | Heard::Aside | Heard::Ignored => {}
        }
    }

    /// Whose pipe it is, is asked once.
    fn note_process(&mut self, socket: &Rep, pipe: PipeId) {
        self.processes.entry(pipe).or_insert_with(|| {
            let info = socket.pipes().into_iter().find(|info| info.id == pipe);
            info.and_then(|info| info.credentials?.pid).unwrap_or(0)
        });
    }

    /// The process whose turn it is; 0 when nobody knows.
    fn process(&self) -> u32 {
        let current = self.turn.current();
        current
            .and_then(|pipe| self.processes.get(&pipe).copied())
            .unwrap_or(0)
    }

    /// Sees to it that the favoured process serves, and forgets what the turn has forgotten.
    fn choose(&mut self) {
        let (favoured, processes) = (self.favoured, &self.processes);
        self.turn.handle_dismissed(|pipe| {
            let process = processes.get(&pipe).copied().unwrap_or(0);
            favoured.is_some_and(|favoured| !guard::descends(process, favoured))
        });
        self.held.retain(|pipe, _| self.turn.knows(*pipe));
        self.processes.retain(|pipe, _| self.turn.knows(*pipe));
    }

    fn handle_pipe(&mut self, event: sp_proto::Event) {
        match event {
            sp_proto::Event::PipeRemoved { pipe, .. } => self.handle_gone(pipe.id),
            sp_proto::Event::PeerRefused { peer_address, reason } => {
                let (plugin, function) = (&self.plugin, &self.symbol);
                tracing::warn!(%plugin, %function, "refused a connection of {peer_address}: {reason}");
            }
            _ => {}
        }
    }

    fn handle_gone(&mut self, pipe: PipeId) {
        let was_connected = self.turn.current().is_some();
        if self.turn.handle_gone(pipe) {
            self.answer(Answer::Broken);
        }
        self.choose();
        if was_connected && self.turn.current().is_none() {
            self.silent_at = Some(Instant::now() + RECONNECT);
        }
    }

    fn handle_given_up(&mut self) {
        self.current = None;
        self.turn.handle_abandoned();
    }

    /// The call that waits, if it was not sent, is made elsewhere.
    fn redirect(&mut self) {
        if !matches!(self.turn.standing(), Some(Standing::Busy(_))) {
            self.answer(Answer::Elsewhere);
        }
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(call) = self.current.take() {
            // The caller may have given up in this very moment; the answer is its call's anyhow.
            let _ = call.reply.send(answer);
        }
    }

    /// Sends the current call when it is the host's turn.
    fn send(&mut self, socket: &Rep) {
        let Some(pipe) = self.turn.ready() else { return };
        let Some(call) = self.current.as_ref().filter(|call| !call.reply.is_closed()) else {
            return;
        };
        let Some(message) = self.held.remove(&pipe) else {
            return;
        };
        match message.try_reply(call.message.clone()) {
            Ok(()) => self.turn.handle_sent(),
            // It never left, so it waits for the next connection: this one is gone, or takes no answers.
            Err(_) => {
                socket.disconnect(pipe);
                self.turn.handle_gone(pipe);
                self.silent_at = Some(Instant::now() + RECONNECT);
            }
        }
    }
}

async fn given_up(current: &mut Option<Call>) {
    match current {
        Some(call) => call.reply.closed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
