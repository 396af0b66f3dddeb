//! Owns what runs under eKuiper's contract: carries out the host's commands, one at a time, and remembers every use with
//! its task until it is stopped.
//!
//! Knows nothing of signals and process arguments; [`crate::Plugin`] drives it through the control channel.

mod function;
mod requester;
mod sink;
mod source;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mangrove_protocol::address::AddressTooLong;
use mangrove_protocol::control::{Command, CommandError, Meta, OK, Symbol, UseAs};
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::{OpId, RuleId, SymbolName};
use sp_proto::{DialError, ListenError};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::context::{Place, Services};
use crate::error::describe;
use crate::guard::Panicked;
use crate::metrics::{Figures, Metrics};
use crate::state::{Memory, MemoryStore, Scope, State};
use crate::symbols::{Symbols, Unknown};
use crate::{Context, Error, Options};
pub(crate) use requester::{Answer, End, Timers, serve};

/// What runs.
pub(crate) struct Runtime {
    symbols: Symbols,
    options: Options,
    uses: HashMap<Key, Use>,
    /// This contract has no place for what symbols remember.
    memory: Memory,
    stop: CancellationToken,
}

/// What a start and the stop that belongs to it have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: SymbolKind,
    symbol: SymbolName,
    meta: Meta,
}

/// One use of a symbol, with the task that it runs in. Dropped, the task is aborted.
pub(crate) struct Use {
    stop: CancellationToken,
    task: JoinSet<()>,
}

/// Why a command was not carried out.
///
/// No text of these may begin with `h`: the host would take it for a handshake. So each begins with words of ours
/// and never with those of a symbol.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("refused: {0}")]
    Command(#[from] CommandError),
    #[error(transparent)]
    Unknown(#[from] Unknown),
    #[error("{kind} \"{symbol}\" cannot be started")]
    Start {
        kind: SymbolKind,
        symbol: SymbolName,
        #[source]
        source: Box<StartError>,
    },
}

/// Why a symbol does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the command names no rule or no operator")]
    NoRule,
    #[error(transparent)]
    Address(#[from] AddressTooLong),
    #[error("it {0}")]
    Panicked(#[from] Panicked),
    #[error(transparent)]
    Open(#[from] Error),
    #[error("cannot reach the host at {address}")]
    Dial {
        address: String,
        #[source]
        source: DialError,
    },
    #[error("cannot listen at {address}")]
    Listen {
        address: String,
        #[source]
        source: ListenError,
    },
}

impl Runtime {
    /// `stop` ends every use.
    pub(crate) fn new(symbols: Symbols, options: Options, stop: CancellationToken) -> Self {
        Self {
            symbols,
            options,
            uses: HashMap::new(),
            memory: Memory::default(),
            stop,
        }
    }

    /// Stops every use, all at once, within the grace.
    pub(crate) async fn shut_down(self) {
        self.stop.cancel();
        let mut stops = JoinSet::new();
        for (key, running) in self.uses {
            stops.spawn(running.stop(key, self.options.stop_grace));
        }
        stops.join_all().await;
    }

    async fn carry_out(&mut self, message: &[u8]) -> Result<(), Refusal> {
        match Command::decode(message)? {
            Command::Start(symbol) => self.start(symbol).await,
            Command::Stop(symbol) => {
                let key = Key::of(&symbol);
                match self.uses.remove(&key) {
                    Some(running) => running.stop(key, self.options.stop_grace).await,
                    // What the host wants is so already, as after a restart of this process.
                    None => tracing::debug!(%key, "stop of a symbol that does not run"),
                }
                Ok(())
            }
        }
    }

    async fn start(&mut self, symbol: Symbol) -> Result<(), Refusal> {
        let key = Key::of(&symbol);
        let stop = self.stop.child_token();
        let Symbol {
            name,
            meta,
            use_as,
            config,
        } = symbol;
        let started = match use_as {
            UseAs::Source { data_source } => {
                let open = self.symbols.source(&name)?;
                self.replace(&key).await;
                let context = of_use(&self.memory, SymbolKind::Source, &name, &meta, stop.clone());
                source::start(open, &meta, data_source, config, &self.options, stop, context).await
            }
            UseAs::Sink => {
                let open = self.symbols.sink(&name)?;
                self.replace(&key).await;
                let context = of_use(&self.memory, SymbolKind::Sink, &name, &meta, stop.clone());
                sink::start(open, &meta, config, &self.options, stop, context).await
            }
            UseAs::Function => {
                let function = self.symbols.function(&name)?;
                if self.uses.get_mut(&key).is_some_and(Use::is_running) {
                    return Ok(());
                }
                function::start(function, &name, &self.memory, &self.options, stop).await
            }
        };
        let started = started.map_err(|source| Refusal::Start {
            kind: key.kind,
            symbol: name,
            source: Box::new(source),
        })?;
        self.uses.insert(key, started);
        Ok(())
    }

    /// A host that has lost track (it was restarted, say) starts again what runs: the old use makes way.
    async fn replace(&mut self, key: &Key) {
        if let Some(old) = self.uses.remove(key) {
            old.stop(key.clone(), self.options.stop_grace).await;
        }
    }
}

impl Answer for Runtime {
    async fn answer(&mut self, message: &[u8]) -> Vec<u8> {
        match self.carry_out(message).await {
            Ok(()) => OK.to_vec(),
            Err(refusal) => {
                let text = describe(&refusal);
                tracing::warn!("{text}");
                text.into_bytes()
            }
        }
    }
}

impl Key {
    fn of(symbol: &Symbol) -> Self {
        let (kind, meta) = match symbol.use_as {
            UseAs::Source { .. } => (SymbolKind::Source, symbol.meta.clone()),
            UseAs::Sink => (SymbolKind::Sink, symbol.meta.clone()),
            // One for all rules, whatever the command says.
            UseAs::Function => (SymbolKind::Function, Meta::default()),
        };
        Self {
            kind,
            symbol: symbol.name.clone(),
            meta,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.kind, self.symbol)?;
        if let (Some(rule), Some(op)) = (&self.meta.rule_id, &self.meta.op_id) {
            write!(f, " of {rule}/{op}/{}", self.meta.instance_id)?;
        }
        Ok(())
    }
}

impl Use {
    fn spawn(stop: CancellationToken, task: impl Future<Output = ()> + Send + 'static) -> Self {
        let mut set = JoinSet::new();
        set.spawn(task);
        Self { stop, task: set }
    }

    fn is_running(&mut self) -> bool {
        self.task.try_join_next();
        !self.task.is_empty()
    }

    /// Asks the use to end and waits for `grace`, then drops it where it stands.
    async fn stop(mut self, key: Key, grace: Duration) {
        self.stop.cancel();
        match timeout(grace, self.task.join_next()).await {
            // The author's futures are guarded; what is left is a destructor of theirs or a fault of ours.
            Ok(Some(Err(error))) => tracing::error!(%error, %key, "ended badly"),
            Ok(_) => {}
            Err(_) => {
                tracing::warn!(%key, ?grace, "did not stop in time and was dropped");
                self.task.shutdown().await;
            }
        }
    }
}

/// The context of a use of a source or sink.
fn of_use(
    memory: &Memory,
    kind: SymbolKind,
    symbol: &SymbolName,
    meta: &Meta,
    stop: CancellationToken,
) -> Context {
    let place = Place {
        rule: meta.rule_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        op: meta.op_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        instance: meta.instance_id,
        call_site: None,
    };
    let services = services(memory, symbol, &place, Figures::new(0, Arc::default()));
    Context::new(kind, symbol.as_str(), place, services, stop)
}

fn services(memory: &Memory, symbol: &SymbolName, place: &Place, figures: Arc<Figures>) -> Services {
    let store = MemoryStore {
        memory: memory.clone(),
        scope: Scope {
            symbol: symbol.to_string(),
            rule: place.rule.clone(),
        },
    };
    Services {
        state: State::new(store),
        metrics: Metrics::new(figures),
        log: None,
        offset: None,
    }
}

/// The rule and the operator of a use, which its addresses are made of.
fn whose(meta: &Meta) -> Result<(&RuleId, &OpId), StartError> {
    match (&meta.rule_id, &meta.op_id) {
        (Some(rule), Some(op)) => Ok((rule, op)),
        _ => Err(StartError::NoRule),
    }
}
