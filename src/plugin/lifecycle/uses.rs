//! Owns which symbols of one plugin are wanted, which run, and what the next command is. Pure.

use std::collections::BTreeMap;
use std::fmt;

use mangrove_protocol::control::{Symbol, UseAs};
use mangrove_protocol::manifest::{Manifest, SymbolKind};
use mangrove_protocol::name::SymbolName;

use super::{Action, Refusal};

/// One use of a symbol; never used twice within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::plugin) struct UseId(pub(in crate::plugin) u64);

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Stop,
}

/// A command to be sent or sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) id: UseId,
    pub(super) verb: Verb,
    kind: SymbolKind,
    name: SymbolName,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.verb {
            Verb::Start => "start",
            Verb::Stop => "stop",
        };
        write!(f, "{verb} {} \"{}\"", self.kind, self.name)
    }
}

/// A use and how far it is. Handed from one process's life to another's.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) symbol: Symbol,
    /// It ran once, so it is started again in every new process.
    pub(super) opened: bool,
    /// The process runs it, or may run it.
    running: bool,
    /// Whether it runs is unknown: it is stopped and started again.
    again: bool,
    /// Its connection is gone although the process is alive, and it has not been started again yet.
    lost: bool,
    /// Nobody wants it any more.
    closing: bool,
}

/// Every use of one plugin's symbols, in the order in which they were opened.
#[derive(Debug, Default)]
pub(super) struct Uses {
    uses: BTreeMap<UseId, Use>,
}

impl Uses {
    pub(super) fn len(&self) -> usize {
        self.uses.len()
    }

    pub(super) fn open(&mut self, id: UseId, symbol: Symbol) {
        self.uses.insert(
            id,
            Use {
                symbol,
                opened: false,
                running: false,
                again: false,
                lost: false,
                closing: false,
            },
        );
    }

    /// True when nothing has to be sent for it: it is forgotten. `under_way`: a command for it is
    /// outstanding.
    pub(super) fn close(&mut self, id: UseId, under_way: bool) -> bool {
        match self.uses.get_mut(&id) {
            Some(found) if found.running || under_way => {
                found.closing = true;
                false
            }
            found => {
                if found.is_some() {
                    self.uses.remove(&id);
                }
                true
            }
        }
    }

    /// The channel of a running function has no connection: it has to be started again.
    pub(super) fn note_silent(&mut self, id: UseId) {
        if let Some(found) = self.uses.get_mut(&id) {
            found.running = false;
        }
    }

    /// A running function has lost its connection: it has to be stopped and started again.
    pub(super) fn note_lost(&mut self, id: UseId) {
        if let Some(found) = self.uses.get_mut(&id).filter(|found| found.running) {
            found.again = true;
            found.lost = true;
        }
    }

    /// Whether the command is the start of a function again that has lost its connection.
    pub(super) fn is_mending(&self, order: &Order) -> bool {
        let found = self.uses.get(&order.id);
        order.verb == Verb::Start && found.is_some_and(|found| found.lost && !found.closing)
    }

    pub(super) fn name(&self, id: UseId) -> Option<&SymbolName> {
        self.uses.get(&id).map(|found| &found.symbol.name)
    }

    /// The next difference between wanted and running. What is no longer wanted goes first: its address may
    /// be wanted again.
    pub(super) fn next_order(&self) -> Option<(Order, Symbol)> {
        let is_to_stop = |found: &Use| found.running && (found.closing || found.again);
        let stop = self.uses.iter().find(|(_, found)| is_to_stop(found));
        let start = || {
            self.uses
                .iter()
                .find(|(_, found)| !found.closing && !found.running)
        };
        let (verb, (id, found)) = match stop {
            Some(stop) => (Verb::Stop, stop),
            None => (Verb::Start, start()?),
        };
        let order = Order {
            id: *id,
            verb,
            kind: kind(&found.symbol),
            name: found.symbol.name.clone(),
        };
        Some((order, found.symbol.clone()))
    }

    /// The command `order` was answered, or never will be.
    pub(super) fn settle<P>(&mut self, order: &Order, verdict: Result<(), Refusal>) -> Option<Action<P>> {
        let id = order.id;
        let found = self.uses.get_mut(&id)?;
        match (order.verb, verdict) {
            (Verb::Stop, _) if found.again && !found.closing => {
                found.running = false;
                found.again = false;
                None
            }
            (Verb::Start, Err(Refusal::TimedOut(_))) if found.opened && !found.closing => {
                // It is wanted all the same: by this process when it answers again, or by the next one.
                found.again = !matches!(found.symbol.use_as, UseAs::Function);
                found.running = found.again;
                None
            }
            (Verb::Stop, _) => {
                self.uses.remove(&id);
                Some(Action::Closed(id))
            }
            (Verb::Start, Ok(())) => {
                found.lost = false;
                found.running = true;
                found.opened = true;
                Some(Action::Started(id))
            }
            (Verb::Start, Err(refusal)) => {
                let may_run = !matches!(refusal, Refusal::Plugin(_));
                let action = if found.opened {
                    Action::Ended(id, refusal)
                } else {
                    Action::Refused(id, refusal)
                };
                if may_run && !matches!(found.symbol.use_as, UseAs::Function) {
                    // Nobody knows whether it was carried out: stop it, to be sure.
                    found.running = true;
                    found.closing = true;
                } else {
                    self.uses.remove(&id);
                }
                Some(action)
            }
        }
    }

    /// Whether the command `order` was carried out will never be known.
    pub(super) fn interrupt<P>(&mut self, order: &Order) -> Option<Action<P>> {
        match order.verb {
            Verb::Stop
                if self
                    .uses
                    .get(&order.id)
                    .is_some_and(|found| found.again && !found.closing) =>
            {
                None
            }
            Verb::Stop => {
                self.uses.remove(&order.id);
                Some(Action::Closed(order.id))
            }
            Verb::Start => {
                // What nobody wants any more has to be stopped, in case it runs.
                let found = self.uses.get_mut(&order.id)?;
                found.running = found.closing;
                None
            }
        }
    }

    /// Nothing runs any more. Returns what was closing: with the process it is closed.
    pub(super) fn handle_exited(&mut self) -> Vec<UseId> {
        for found in self.uses.values_mut() {
            found.running = false;
            found.again = false;
            found.lost = false;
        }
        self.take(|found| found.closing)
    }

    /// Nothing has to be sent.
    pub(super) fn is_settled(&self) -> bool {
        self.next_order().is_none()
    }

    pub(super) fn contains(&self, id: UseId) -> bool {
        self.uses.contains_key(&id)
    }

    /// All uses, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (UseId, &Use)> {
        self.uses.iter().map(|(id, found)| (*id, found))
    }

    /// Takes over a use from another process's life, where it no longer runs. One that this process has
    /// already stays as it is.
    pub(super) fn adopt(&mut self, id: UseId, found: Use) {
        let adopted = Use {
            running: false,
            again: false,
            lost: false,
            ..found
        };
        self.uses.entry(id).or_insert(adopted);
    }

    /// Takes out the uses that never ran.
    pub(super) fn take_unopened(&mut self) -> Vec<UseId> {
        self.take(|found| !found.opened)
    }

    /// Takes out the uses of symbols that `manifest` does not define.
    pub(super) fn retain_defined(&mut self, manifest: &Manifest) -> Vec<(UseId, SymbolName)> {
        let gone = self
            .uses
            .extract_if(.., |_, found| !is_defined(&found.symbol, manifest));
        gone.map(|(id, found)| (id, found.symbol.name)).collect()
    }

    fn take(&mut self, which: impl Fn(&Use) -> bool) -> Vec<UseId> {
        self.uses
            .extract_if(.., |_, found| which(found))
            .map(|(id, _)| id)
            .collect()
    }
}

/// Whether a plugin with this manifest has the symbol.
pub(super) fn is_defined(symbol: &Symbol, manifest: &Manifest) -> bool {
    manifest.symbols(kind(symbol)).contains(&symbol.name)
}

/// What kind of symbol it is.
pub(in crate::plugin) fn kind(symbol: &Symbol) -> SymbolKind {
    match symbol.use_as {
        UseAs::Source { .. } => SymbolKind::Source,
        UseAs::Sink => SymbolKind::Sink,
        UseAs::Function => SymbolKind::Function,
    }
}
