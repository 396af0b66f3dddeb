//! Owns what a session knows of its process: which uses it runs, what it has been asked and has not answered, how
//! often it has broken the contract. No socket; the session drives it.

use std::collections::HashMap;
use std::sync::Arc;

use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::{RuleId, SymbolName};
use mangrove_protocol::native::control::{Ack, Place, StateOperation, StateRequest, Stopped};
use serde_json::Value;
use sp_proto::Push;
use tokio::sync::oneshot;

use super::commits::Commits;
use super::feed::Ending;
use super::link::Link;
use crate::plugin::lifecycle::UseId;
use crate::plugin::record::Record;
use crate::plugin::sender::Sender;
use crate::plugin::users::Rules;
use crate::store::{Scope, StateError, States};

/// So many faults in a row, and the connection is closed.
const FAULTS: u32 = 10;

/// Questions that a process may leave without an answer; then it is asked no more.
const ASKED: usize = 1024;

/// The channel of a use.
#[derive(Debug)]
pub(super) enum Active {
    Source(Arc<Ending>),
    /// The socket, until the sink has started.
    Sink(Arc<Sender>, Option<Push>),
    Function(Arc<Link>),
}

/// A use in this process.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: UseId,
    pub(super) symbol: SymbolName,
    pub(super) place: Option<Place>,
    pub(super) record: Arc<Record>,
    pub(super) active: Active,
}

impl Entry {
    fn kind(&self) -> SymbolKind {
        match self.active {
            Active::Source(_) => SymbolKind::Source,
            Active::Sink(..) => SymbolKind::Sink,
            Active::Function(_) => SymbolKind::Function,
        }
    }
}

/// What the process was asked.
#[derive(Debug)]
pub(super) enum Asked {
    Start(u64),
    Stop(u64),
    Validate(oneshot::Sender<Result<Value, String>>),
    Ping,
}

/// What an answer was to.
#[derive(Debug)]
pub(super) enum Answered {
    /// The newest command, carried out or not; a function comes with its link.
    Command(Result<(), String>, Option<(UseId, Arc<Link>)>),
    /// A command that nobody waits for any more, or a ping.
    Heard,
    /// Somebody was told.
    Other,
}

#[derive(Debug)]
pub(super) struct Desk {
    states: States,
    /// Which of them use the plugin.
    rules: Arc<Rules>,
    pub(super) commits: Commits,
    uses: HashMap<u64, Entry>,
    asked: HashMap<u64, Asked>,
    ids: u64,
    /// The request that the life cycle waits for.
    command: Option<u64>,
    faults: u32,
}

impl Desk {
    pub(super) fn new(states: States, rules: Arc<Rules>) -> Self {
        Self {
            states,
            rules,
            commits: Commits::default(),
            uses: HashMap::new(),
            asked: HashMap::new(),
            ids: 0,
            command: None,
            faults: 0,
        }
    }

    pub(super) fn insert(&mut self, number: u64, entry: Entry) {
        self.uses.insert(number, entry);
    }

    pub(super) fn number_of(&self, id: UseId) -> Option<u64> {
        // The newest: an older one with this id was given up.
        let of = self.uses.iter().filter(|(_, entry)| entry.id == id);
        of.map(|(number, _)| *number).max()
    }

    pub(super) fn entry(&self, number: u64) -> Option<&Entry> {
        self.uses.get(&number)
    }

    /// Where a source goes on in this place. One that the store cannot tell begins anew.
    pub(super) async fn offset(&self, symbol: &SymbolName, place: &Place) -> Option<Value> {
        let scope = Scope::new(&place.rule_id, SymbolKind::Source, symbol);
        match self.states.get(&scope, &offset_key(place)).await {
            Ok(offset) => serde_json::from_slice(&offset?).ok(),
            Err(error) => {
                tracing::error!(%symbol, "where the source was is not known: {error}");
                None
            }
        }
    }

    /// The id of a request that is about to be made.
    pub(super) fn ask(&mut self, asked: Asked) -> u64 {
        self.ids += 1;
        if matches!(asked, Asked::Start(_) | Asked::Stop(_)) {
            self.command = Some(self.ids);
        }
        self.asked.insert(self.ids, asked);
        self.ids
    }

    /// Whether it may be asked something more.
    pub(super) fn has_room(&self) -> bool {
        self.asked.len() < ASKED
    }

    /// Whether a ping has not been answered.
    pub(super) fn is_pinged(&self) -> bool {
        self.asked.values().any(|asked| matches!(asked, Asked::Ping))
    }

    /// Whether a command has not been answered.
    pub(super) fn is_commanded(&self) -> bool {
        let mut asked = self.asked.values();
        asked.any(|asked| matches!(asked, Asked::Start(_) | Asked::Stop(_)))
    }

    /// Something was understood.
    pub(super) fn note_good(&mut self) {
        self.faults = 0;
    }

    /// Something broke the contract. True when that was once too often.
    pub(super) fn note_fault(&mut self) -> bool {
        self.faults += 1;
        self.faults >= FAULTS
    }

    /// An answer.
    ///
    /// # Errors
    /// Nothing was asked that it could belong to.
    pub(super) fn handle_answer(
        &mut self,
        id: u64,
        outcome: Result<Value, String>,
    ) -> Result<Answered, String> {
        let asked = self.asked.remove(&id).ok_or_else(|| {
            format!("it answers the request {id}, which nobody has made or which is answered")
        })?;
        let is_newest = self.command == Some(id);
        let (done, link) = match asked {
            Asked::Ping => return Ok(Answered::Heard),
            Asked::Validate(reply) => {
                let _ = reply.send(outcome);
                return Ok(Answered::Other);
            }
            Asked::Start(number) => match outcome {
                Ok(_) => (Ok(()), self.started(number)),
                Err(text) => {
                    self.remove(number);
                    (Err(text), None)
                }
            },
            Asked::Stop(number) => {
                self.stopped(number, &outcome);
                (outcome.map(drop), None)
            }
        };
        if !is_newest {
            return Ok(Answered::Heard);
        }
        self.command = None;
        Ok(Answered::Command(done, link))
    }

    fn started(&mut self, number: u64) -> Option<(UseId, Arc<Link>)> {
        let entry = self.uses.get_mut(&number)?;
        match &mut entry.active {
            Active::Source(_) => None,
            Active::Sink(sender, socket) => {
                if let Some(socket) = socket.take() {
                    sender.outlet.connect(socket, number);
                }
                None
            }
            Active::Function(link) => Some((entry.id, Arc::clone(link))),
        }
    }

    fn stopped(&mut self, number: u64, outcome: &Result<Value, String>) {
        if let Some(Active::Source(ending)) = self.uses.get(&number).map(|entry| &entry.active)
            && let Ok(value) = outcome
            && let Ok(Stopped { seq }) = serde_json::from_value(value.clone())
        {
            ending.stopped_at(seq);
        }
        self.remove(number);
    }

    fn remove(&mut self, number: u64) {
        self.commits.forget(number);
        if let Some(entry) = self.uses.remove(&number) {
            end(number, &entry.active);
        }
    }

    /// The process has forgotten everything, or is gone.
    pub(super) fn reset(&mut self) {
        for (number, entry) in self.uses.drain() {
            end(number, &entry.active);
        }
        self.commits.clear();
        self.asked.clear();
        self.command = None;
    }

    /// An acknowledgement.
    ///
    /// # Errors
    /// It breaks the contract.
    pub(super) fn handle_ack(&self, ack: Ack) -> Result<(), String> {
        match self.uses.get(&ack.number).map(|entry| &entry.active) {
            Some(Active::Sink(sender, _)) => sender.outlet.acknowledge(ack.number, ack.seq, ack.errors),
            Some(_) => Err(format!(
                "it acknowledges for the use {}, which is no sink",
                ack.number
            )),
            // It was stopped meanwhile.
            None => Ok(()),
        }
    }

    /// A request about state.
    pub(super) async fn handle_state(&self, request: StateRequest) -> Result<Value, String> {
        let number = request.number;
        let entry = self.uses.get(&number);
        let entry = entry.ok_or_else(|| format!("there is no use {number}"))?;
        let rule = self.rule(entry, request.rule)?;
        let scope = Scope::new(&rule, entry.kind(), &entry.symbol);
        let key = request.key.as_str();
        if key.starts_with(OURS) {
            return Err("the key begins with a NUL; expected another character".to_owned());
        }
        let done = match request.operation {
            StateOperation::Get => self.states.get(&scope, key).await,
            StateOperation::Put(value) => {
                let value = value.to_string().into_bytes();
                self.states.put(&scope, key, value).await.map(|()| None)
            }
            StateOperation::Delete => self.states.delete(&scope, key).await.map(|()| None),
            StateOperation::Add(by) => self.states.add(&scope, key, by).await.map(Some),
        };
        let text = done.map_err(|error: StateError| error.to_string())?;
        let value = text.map(|text| serde_json::from_slice(&text)).transpose();
        Ok(value.map_err(|error| error.to_string())?.unwrap_or_default())
    }

    /// For which rule: the use's own; a function says so.
    fn rule(&self, entry: &Entry, said: Option<RuleId>) -> Result<RuleId, String> {
        match (&entry.place, said) {
            (Some(place), None) => Ok(place.rule_id.clone()),
            (Some(place), Some(said)) if place.rule_id == said => Ok(said),
            (Some(place), Some(said)) => {
                let own = &place.rule_id;
                Err(format!("the use runs for the rule \"{own}\", not for \"{said}\""))
            }
            // Of a rule that is gone a call may still be under way, and would leave something behind.
            (None, Some(said)) if self.rules.call(&entry.symbol, said.as_str()) => Ok(said),
            (None, Some(said)) => Err(format!("no rule \"{said}\" uses the function")),
            (None, None) => Err("a function has to say for which \"rule\"".to_owned()),
        }
    }
}

/// With what keys begin that are the host's own.
const OURS: char = '\0';

/// Under which key it is kept where a source goes on: a rule may use it in several places.
pub(in crate::plugin) fn offset_key(place: &Place) -> String {
    format!("{OURS}offset/{}/{}", place.op_id, place.instance_id)
}

fn end(number: u64, active: &Active) {
    match active {
        Active::Source(ending) => ending.gone(),
        // Dropped, it is closed.
        Active::Sink(sender, _) => drop(sender.outlet.disconnect(number)),
        Active::Function(link) => link.close(),
    }
}
