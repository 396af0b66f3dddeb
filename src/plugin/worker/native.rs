//! What processes of our own contract say and are told. Their control channels are the sessions' own; here they
//! become happenings of the life cycle, and its commands orders.

use std::sync::Arc;

use mangrove_protocol::control::{Command, Request};
use sp_proto::{ListenError, PipeId};

use super::Worker;
use crate::plugin::channel::Ends;
use crate::plugin::lifecycle::{Event, Generation, Happening, UseId};
use crate::plugin::native::session::{News, Order, Session, Setup};

impl Worker {
    /// Listens for a process of our own contract. What it has to find in its environment comes back.
    pub(super) async fn open_session(
        &mut self,
        generation: Generation,
    ) -> Result<Vec<(String, String)>, String> {
        if !self.settings.offers_own_contract() {
            return Ok(Vec::new());
        }
        let is_attached = self.generations.standing().attached;
        let attached = self.attached.clone().filter(|_| is_attached);
        let manifest = attached.or_else(|| self.generations.manifest(generation));
        let setup = Setup {
            generation,
            instance: self.instance,
            manifest: manifest.ok_or("there is nothing to run")?,
            settings: Arc::clone(&self.settings),
            peers: Arc::clone(&self.peers),
            output: Arc::clone(&self.output),
            records: Arc::clone(&self.records),
            native: Arc::clone(&self.native),
            rules: Arc::clone(&self.instances.rules),
            news: self.news.0.clone(),
            remote: is_attached && !self.settings.remote.is_empty(),
        };
        let session = Session::start(setup, &mut self.tasks).await?;
        let environment = session.environment().to_vec();
        self.processes.insert_session(generation, session);
        Ok(environment)
    }

    /// Listens for the process that somebody else starts, if one is wanted and nobody does so yet.
    pub(super) async fn await_attached(&mut self) -> Result<(), String> {
        let (current, standing) = (self.generations.current(), self.generations.standing());
        if !standing.attached || self.processes.attached().is_some() || self.processes.has_session(current) {
            return Ok(());
        }
        self.listen().await?;
        let environment = self.open_session(current).await?;
        if !environment.is_empty() {
            self.attachment.send_replace(environment);
        }
        Ok(())
    }

    pub(super) async fn handle_news(&mut self, generation: Generation, news: News) {
        if !self.processes.has_session(generation) {
            return;
        }
        self.heard = self.heard.wrapping_add(1);
        let id = self.heard;
        let event = match news {
            News::Hello(pipe, pid) => {
                self.handle_hello(generation, pipe, pid).await;
                Event::Message(pipe, id, Request::Handshake)
            }
            News::Answered(pipe, Ok(())) => Event::Message(pipe, id, Request::Done),
            News::Answered(pipe, Err(text)) => Event::Message(pipe, id, Request::Failed(text)),
            News::Heard(pipe) => Event::Heard(pipe, id),
            News::Deaf(limit) => Event::Deaf(limit),
            News::Gone(pipe) => {
                self.processes.forget(pipe);
                Event::Gone(pipe)
            }
            News::Lost(id, was_connected) => {
                tracing::warn!(plugin = %self.plugin, "a function has no connection: starting it again");
                Event::Lost(id, was_connected)
            }
        };
        self.handle(Happening::Of(generation, event)).await;
    }

    async fn handle_hello(&mut self, generation: Generation, pipe: PipeId, pid: Option<u32>) {
        let standing = self.generations.standing();
        if standing.attached && generation == self.generations.current() {
            self.processes.attach(pid);
        }
        let is_first = self.processes.note_hello(generation);
        self.processes.admit(pipe, generation);
        if !is_first {
            // It has come back and runs nothing any more.
            self.handle(Happening::Of(generation, Event::Reset)).await;
        }
        if self.instances.wanted() > 1 {
            self.open_wanted().await;
        }
        // Nobody is left who might speak the other contract.
        if self.processes.are_native()
            && let Some((endpoint, _elsewhere)) = self.endpoint.take()
        {
            self.control.close_endpoint(endpoint).await;
        }
    }

    /// Hands a command to the session of a process. False when it speaks the other contract.
    pub(super) fn command(&self, generation: Generation, command: &Command) -> bool {
        let id = self.generations.commanded(generation);
        let Some(session) = self.processes.session(generation) else {
            let ends = id.and_then(|id| self.symbols.ends(id));
            if let (Some(Ends::Sink(sender)), Command::Start(_)) = (ends, command) {
                sender.outlet.set_native(false);
            }
            return false;
        };
        if let Some(id) = id {
            let ends = self.symbols.ends(id);
            session.order(Order::Command(id, Box::new(command.clone()), ends));
        }
        true
    }

    /// A process of the other contract finds the host where it dials when it is told to start the symbol: some SDKs
    /// dial only once.
    pub(super) async fn open_doorstep(
        &self,
        generation: Generation,
        command: &Command,
    ) -> Result<(), ListenError> {
        let Some(id) = self.generations.commanded(generation) else {
            return Ok(());
        };
        if matches!(command, Command::Stop(_)) {
            return Ok(());
        }
        let ends = self.symbols.ends(id);
        let doorstep = match &ends {
            Some(Ends::Source(_, doorstep) | Ends::Function(Some(doorstep))) => doorstep,
            Some(Ends::Sink(sender)) => &sender.doorstep,
            Some(Ends::Function(None)) | None => return Ok(()),
        };
        doorstep.open(&self.native).await
    }

    /// The answer to a command that could not even be given, as the process would give it.
    pub(super) fn refuse(&mut self, generation: Generation, pipe: PipeId, why: String) -> Happening<PipeId> {
        self.heard = self.heard.wrapping_add(1);
        let answer = Event::Message(pipe, self.heard, Request::Failed(why));
        Happening::Of(generation, answer)
    }

    /// A function's calls go to this process from now on. True when it speaks our own contract.
    pub(super) fn serve(&self, id: UseId, generation: Generation) -> bool {
        let session = self.processes.session(generation);
        let link = session.and_then(|session| session.link(id));
        let is_native = link.is_some();
        self.symbols.serve(id, link);
        is_native
    }
}
