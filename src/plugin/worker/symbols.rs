//! Owns whoever waits for a symbol of the plugin to start or to end, and the channels that go with it from one
//! process to the next: the senders of sinks, and the functions' channels.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mangrove_protocol::name::{PluginName, SymbolName};
use tokio::sync::{Notify, OwnedMutexGuard, oneshot};

use super::answer;
use crate::plugin::calls::{Channel, Line};
use crate::plugin::channel::Ends;
use crate::plugin::error::OpenError;
use crate::plugin::lifecycle::{Generation, Refusal, UseId};
use crate::plugin::native::link::Link;
use crate::plugin::remote::EndOfUse;
use crate::plugin::sender::Sender;

/// Keeps a sink's sender from sending.
pub(super) type Hold = OwnedMutexGuard<()>;

/// The channel of a function, open or about to be.
struct FunctionUse {
    id: UseId,
    channel: Channel,
    open: bool,
    waiting: Vec<oneshot::Sender<Result<Line, OpenError>>>,
}

/// The sender of a sink, and which process it belongs to.
struct SinkUse {
    sender: Arc<Sender>,
    at: Option<Generation>,
}

#[derive(Default)]
pub(super) struct Symbols {
    opening: HashMap<UseId, oneshot::Sender<Result<EndOfUse, Refusal>>>,
    open: HashMap<UseId, oneshot::Sender<Refusal>>,
    closing: HashMap<UseId, oneshot::Sender<()>>,
    ends: HashMap<UseId, Ends>,
    sinks: HashMap<UseId, SinkUse>,
    /// The sinks that are held, or about to be.
    holds: HashMap<UseId, Option<Hold>>,
    functions: BTreeMap<SymbolName, FunctionUse>,
    /// The function whose calls another process is to take over.
    turning: Option<UseId>,
    /// What was said last about calls that are late.
    late: Option<String>,
    /// The functions' channels tell of changes here.
    pub(super) changed: Arc<Notify>,
}

impl Symbols {
    pub(super) fn note_opening(
        &mut self,
        id: UseId,
        ends: Ends,
        reply: oneshot::Sender<Result<EndOfUse, Refusal>>,
    ) {
        self.opening.insert(id, reply);
        if let Ends::Sink(sender) = &ends {
            let sender = Arc::clone(sender);
            self.sinks.insert(id, SinkUse { sender, at: None });
        }
        self.ends.insert(id, ends);
    }

    pub(super) fn note_closing(&mut self, id: UseId, reply: oneshot::Sender<()>) {
        self.closing.insert(id, reply);
    }

    /// The symbol runs in this process. Returns the sender that has to be connected, if whoever has opened the
    /// symbol does not do so.
    pub(super) fn note_started(&mut self, id: UseId, at: Generation) -> Option<Arc<Sender>> {
        if let Some(reply) = self.opening.remove(&id) {
            let (end, end_of_use) = oneshot::channel();
            self.open.insert(id, end);
            answer(reply, Ok(end_of_use));
            if let Some(sink) = self.sinks.get_mut(&id) {
                sink.at = Some(at);
            }
            return None;
        }
        if let Some(function) = self.functions.values_mut().find(|function| function.id == id) {
            function.open = true;
            function.channel.favour(None);
            let line = function.channel.line();
            function
                .waiting
                .drain(..)
                .for_each(|reply| answer(reply, Ok(line.clone())));
            return None;
        }
        self.sender(id, at)
    }

    /// Where a process puts what belongs to the use.
    pub(super) fn ends(&self, id: UseId) -> Option<Ends> {
        let ends = self.ends.get(&id).cloned();
        ends.or_else(|| {
            let function = self.functions.values().find(|function| function.id == id)?;
            Some(Ends::Function(function.channel.doorstep()))
        })
    }

    /// The calls of a function go over this link from now on; or, when there is none, over the channel of the other
    /// contract.
    pub(super) fn serve(&self, id: UseId, link: Option<Arc<Link>>) {
        if let Some(function) = self.functions.values().find(|function| function.id == id) {
            function.channel.serve(link);
        }
    }

    /// The sender of a sink that this process runs.
    pub(super) fn sender(&mut self, id: UseId, at: Generation) -> Option<Arc<Sender>> {
        let sink = self.sinks.get_mut(&id)?;
        sink.at = Some(at);
        Some(Arc::clone(&sink.sender))
    }

    /// This process has ended: its sinks are not there for a while, and whoever sends is told so.
    pub(super) fn note_ended(&mut self, generation: Generation) {
        for (id, sink) in self.sinks.iter().filter(|(_, sink)| sink.at == Some(generation)) {
            sink.sender.note_down();
            self.holds.remove(id);
        }
    }

    pub(super) fn note_closed(&mut self, id: UseId) {
        self.forget(id);
        if let Some(reply) = self.closing.remove(&id) {
            answer(reply, ());
        }
    }

    /// The symbol does not run, and nobody tries any more.
    pub(super) fn end(&mut self, plugin: &PluginName, id: UseId, refusal: &Refusal) {
        if let Some(reply) = self.opening.remove(&id) {
            answer(reply, Err(refusal.clone()));
        }
        if let Some(end) = self.open.remove(&id) {
            tracing::warn!(%plugin, "a symbol was not started again: {refusal}");
            answer(end, refusal.clone());
        }
        self.note_closed(id);
        let mut functions = self.functions.iter();
        let name = functions.find(|(_, function)| function.id == id);
        let name = name.map(|(name, _)| name.clone());
        if let Some((name, function)) = name.and_then(|name| self.functions.remove_entry(&name)) {
            tracing::warn!(%plugin, "the function \"{name}\" does not run: {refusal}");
            function.channel.stop();
            for reply in function.waiting {
                answer(reply, Err(refusal.clone().into_open_error(plugin, name.as_str())));
            }
        }
    }

    fn forget(&mut self, id: UseId) {
        self.open.remove(&id);
        self.ends.remove(&id);
        self.sinks.remove(&id);
        self.holds.remove(&id);
    }

    /// The sender of a sink that is to be held from now on.
    pub(super) fn begin_hold(&mut self, id: UseId) -> Option<Arc<Sender>> {
        let sink = self.sinks.get(&id)?;
        self.holds.insert(id, None);
        Some(Arc::clone(&sink.sender))
    }

    /// The sender is held; or it could not be made to wait, and goes on as soon as it can.
    pub(super) fn note_held(&mut self, id: UseId, hold: Option<Hold>) {
        // Released meanwhile: then the hold ends here.
        if let Some(place) = self.holds.get_mut(&id) {
            *place = hold;
        }
    }

    pub(super) fn release(&mut self, id: UseId) {
        self.holds.remove(&id);
    }

    /// Lets a process take over the calls of a function.
    pub(super) fn turn(&mut self, id: UseId, process: Option<u32>) {
        self.turning = Some(id);
        if let Some(function) = self.functions.values().find(|function| function.id == id) {
            function.channel.favour(process);
        }
    }

    /// The function whose calls are to be taken over, and the process that answers them now.
    pub(super) fn turning(&self) -> Option<(UseId, u32)> {
        let id = self.turning?;
        let function = self.functions.values().find(|function| function.id == id)?;
        Some((id, function.channel.process()?))
    }

    /// No process is left that another one is to be preferred to.
    pub(super) fn note_over(&mut self) {
        self.turning = None;
        for function in self.functions.values() {
            function.channel.favour(None);
        }
    }

    /// The first function with a late call, when that has changed.
    pub(super) fn late(&mut self) -> Option<Option<String>> {
        let mut functions = self.functions.iter();
        let late = functions.find(|(_, function)| function.channel.is_overdue());
        let late = late.map(|(name, _)| name.to_string());
        let changed = late != self.late;
        self.late.clone_from(&late);
        changed.then_some(late)
    }

    /// Whether a source or a sink runs, or is about to.
    pub(super) fn have_ends(&self) -> bool {
        !self.ends.is_empty()
    }

    pub(super) fn function(&self, symbol: &SymbolName) -> Option<UseId> {
        self.functions.get(symbol).map(|function| function.id)
    }

    /// Whoever wants a function that is open, or about to be, gets it with the others; else the wish comes back.
    pub(super) fn join_function(
        &mut self,
        symbol: &SymbolName,
        reply: oneshot::Sender<Result<Line, OpenError>>,
    ) -> Option<oneshot::Sender<Result<Line, OpenError>>> {
        match self.functions.get_mut(symbol) {
            Some(function) if function.open => answer(reply, Ok(function.channel.line())),
            Some(function) => function.waiting.push(reply),
            None => return Some(reply),
        }
        None
    }

    pub(super) fn insert_function(
        &mut self,
        symbol: SymbolName,
        id: UseId,
        channel: Channel,
        reply: oneshot::Sender<Result<Line, OpenError>>,
    ) {
        let function = FunctionUse {
            id,
            channel,
            open: false,
            waiting: vec![reply],
        };
        self.functions.insert(symbol, function);
    }

    /// Whether there are no uses (of which there are `uses`) but functions that nobody can call.
    pub(super) fn are_unused(&self, uses: usize) -> bool {
        let mut functions = self.functions.values();
        functions.all(|function| !function.channel.is_used()) && uses == self.functions.len()
    }

    pub(super) fn stop(&self) {
        for function in self.functions.values() {
            function.channel.stop();
        }
    }
}
