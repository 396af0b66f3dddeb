//! Carries out what the life cycle has decided. Decides nothing.

use mangrove_protocol::address;
use mangrove_protocol::control::{Meta, Symbol, UseAs};
use mangrove_protocol::name::SymbolName;
use mangrove_protocol::native::INSTANCE_VARIABLE;
use sp_proto::PipeId;
use tokio::sync::oneshot;

use super::{Moved, Worker, answer};
use crate::plugin::calls::{Channel, Line, Task};
use crate::plugin::causes::with_sources;
use crate::plugin::error::OpenError;
use crate::plugin::lifecycle::{Deed, Event, Generation, Happening, Ticket};
use crate::plugin::native::session::Order;
use crate::plugin::status::State;

impl Worker {
    /// Returns what follows at once.
    pub(super) async fn carry_out(&mut self, deed: Deed<PipeId>) -> Option<Happening<PipeId>> {
        match deed {
            Deed::Spawn(generation, ticket) => {
                let failure = self.spawn(generation, ticket).await.err()?;
                return Some(Happening::Of(generation, Event::SpawnFailed(failure)));
            }
            Deed::Terminate(generation) => {
                let grace = self.settings.stop_grace;
                if !self.processes.shut_down(generation, grace) {
                    self.processes.terminate(generation);
                }
            }
            Deed::Kill(generation) => {
                let pid = self.processes.pid(generation);
                tracing::warn!(plugin = %self.plugin, pid, "it does not end by itself: killing it");
                self.processes.kill(generation);
            }
            Deed::Detach(generation) => {
                self.processes.detach();
                if self.generations.standing().attached {
                    // The same one may come back, or another one in its place.
                    if let Some(session) = self.processes.session_mut(generation) {
                        session.open = false;
                        session.order(Order::Reset);
                    }
                } else {
                    self.attachment.send_replace(Vec::new());
                    self.processes.close_session(generation);
                }
                for pipe in self.processes.disown(generation) {
                    self.control.disconnect(pipe);
                }
                self.symbols.note_ended(generation);
            }
            Deed::Send(generation, _, command) if self.command(generation, &command) => {}
            Deed::Send(generation, pipe, command) => {
                if let Err(error) = self.open_doorstep(generation, &command).await {
                    return Some(self.refuse(generation, pipe, with_sources(&error)));
                }
                let message = self.processes.take_held(pipe)?;
                tracing::trace!(plugin = %self.plugin, ?pipe, ?command, "control command");
                // One reply at a time has room, unless the process asks again and again and takes no answer: it is not
                // waited for.
                if let Err(error) = message.try_reply(command.encode()) {
                    tracing::warn!(plugin = %self.plugin, "a command could not be sent: {error}");
                    self.control.disconnect(pipe);
                    return Some(Happening::Of(generation, Event::Gone(pipe)));
                }
            }
            Deed::Started(id, generation) => {
                self.serve(id, generation);
                if let Some(sender) = self.symbols.note_started(id, generation) {
                    let process = self.processes.root(generation);
                    self.moves
                        .spawn(async move { Moved::Connected(id, sender.connect(process).await) });
                }
            }
            Deed::Refused(id, refusal) | Deed::Ended(id, refusal) => {
                self.symbols.end(&self.plugin, id, &refusal);
            }
            Deed::Closed(id) => self.symbols.note_closed(id),
            Deed::Hold(id) => {
                let limit = self.settings.command_timeout;
                match self.symbols.begin_hold(id) {
                    Some(sender) => {
                        self.moves
                            .spawn(async move { Moved::Held(id, sender.hold(limit).await) });
                    }
                    None => return Some(Happening::Held(id)),
                }
            }
            Deed::Dial(id, generation) => match self.symbols.sender(id, generation) {
                // Held, and with nobody at the other end: whatever there was belonged to the other process.
                Some(sender) => {
                    self.moves
                        .spawn(async move { Moved::Dialed(id, sender.connect(None).await) });
                }
                None => return Some(Happening::Dialed(id, Ok(()))),
            },
            Deed::Release(id) => self.symbols.release(id),
            Deed::Turn(id, generation) => {
                if self.serve(id, generation) {
                    return Some(Happening::Turned(id, generation));
                }
                let process = self.processes.root(generation);
                self.symbols.turn(id, process);
                return self.turned();
            }
            Deed::Settled(ticket, outcome) => {
                let reply = self.starting.remove(&ticket);
                self.settled.extend(reply.map(|reply| (reply, outcome)));
            }
            Deed::Over(generation) => {
                self.processes.disown(generation);
                self.symbols.note_over();
            }
        }
        None
    }

    /// The host listens first: some SDKs dial only once.
    pub(super) async fn listen(&mut self) -> Result<(), String> {
        // The address is that of the whole plugin.
        if self.endpoint.is_none() && self.instance == 0 {
            let address = address::control(&self.plugin).map_err(|error| error.to_string())?;
            let elsewhere = self.native.note_elsewhere(&address).await;
            let endpoint = self.control.listen(&address).await;
            let endpoint = endpoint.map_err(|error| with_sources(&error))?;
            self.endpoint = Some((endpoint.id, elsewhere));
        }
        Ok(())
    }

    async fn spawn(&mut self, generation: Generation, ticket: Ticket) -> Result<(), String> {
        self.listen().await?;
        let environment = self.open_session(generation).await?;
        let mut launch = self
            .launches
            .get(&ticket)
            .ok_or("there is nothing to run")?
            .clone();
        launch.environment.extend(environment);
        if self.settings.offers_own_contract() {
            let variable = INSTANCE_VARIABLE.to_owned();
            launch.environment.insert(variable, self.instance.to_string());
        }
        let process = self.spawner.spawn(&launch, &self.output, &self.peers).await;
        let process =
            process.map_err(|error| format!("cannot start {}: {error}", launch.program.to_string_lossy()))?;
        tracing::info!(plugin = %self.plugin, pid = process.id(), "process started");
        self.processes.insert(generation, process);
        Ok(())
    }

    pub(super) async fn handle_moved(&mut self, moved: Moved) {
        match moved {
            Moved::Held(id, hold) => {
                self.symbols.note_held(id, hold);
                self.handle(Happening::Held(id)).await;
            }
            Moved::Dialed(id, outcome) => self.handle(Happening::Dialed(id, outcome)).await,
            Moved::Connected(id, outcome) => {
                if let Err(reason) = outcome {
                    tracing::warn!(plugin = %self.plugin, "a sink cannot be reached yet: {reason}");
                }
                self.symbols.release(id);
            }
        }
    }

    /// The channel of a function has another process at its other end, or answers again.
    pub(super) async fn handle_functions(&mut self) {
        if let Some(turned) = self.turned() {
            self.handle(turned).await;
        }
        if let Some(late) = self.symbols.late() {
            self.handle(Happening::Late(late)).await;
        }
    }

    fn turned(&self) -> Option<Happening<PipeId>> {
        let (id, process) = self.symbols.turning()?;
        let generation = self.processes.generation_of(process)?;
        Some(Happening::Turned(id, generation))
    }

    pub(super) async fn handle_silent(&mut self, symbol: &SymbolName) {
        // Without a process it is no wonder, and a new one gets everything again.
        let is_running = self.generations.standing().state == State::Running;
        if let Some(id) = self.symbols.function(symbol).filter(|_| is_running) {
            let plugin = &self.plugin;
            tracing::warn!(%plugin, function = %symbol, "it has no connection: starting it again");
            self.handle(Happening::Silent(id)).await;
        }
    }

    /// Opens the functions that every instance is to run.
    pub(super) async fn open_wanted(&mut self) {
        let wanted = self.functions.borrow_and_update().clone();
        for symbol in wanted {
            if self.symbols.function(&symbol).is_none() {
                let (reply, _nobody) = oneshot::channel();
                self.open_function(symbol, reply).await;
            }
        }
    }

    pub(super) async fn open_function(
        &mut self,
        symbol: SymbolName,
        reply: oneshot::Sender<Result<Line, OpenError>>,
    ) {
        let Some(reply) = self.symbols.join_function(&symbol, reply) else {
            return;
        };
        let pool = self.instances.pool(&symbol);
        if self.instance > 0 {
            let channel = Channel::beside(self.instance, pool);
            self.start_function(symbol, channel, reply).await;
            return;
        }
        let (silent, changed) = (self.silent.0.clone(), self.symbols.changed.clone());
        let options = crate::plugin::socket_options(&self.settings, &self.peers);
        let (task, channel) = match Task::new(&self.plugin, &symbol, options, pool, silent, changed) {
            Ok(channel) => channel,
            Err(error) => {
                answer(reply, Err(error.into()));
                return;
            }
        };
        self.tasks.spawn(task.run());
        self.start_function(symbol, channel, reply).await;
    }

    async fn start_function(
        &mut self,
        symbol: SymbolName,
        channel: Channel,
        reply: oneshot::Sender<Result<Line, OpenError>>,
    ) {
        let id = self.users.next_id();
        self.symbols.insert_function(symbol.clone(), id, channel, reply);
        let symbol = Symbol {
            name: symbol,
            meta: Meta::default(),
            use_as: UseAs::Function,
            config: Default::default(),
        };
        self.handle(Happening::Open(id, symbol)).await;
    }
}
