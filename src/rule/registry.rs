//! Which streams and rules there are: in memory for everybody who reads, in the store for the next start.
//!
//! Knows nothing of REST. Changes are made one at a time by the handle, which holds [`Shared::changes`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mangrove_protocol::name::RuleId;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::compile::{Compiled, Names, Streams, compile};
use super::definition::Definition;
use super::graph::{self, SharedSources};
use super::run::{self, Status};
use super::stream::Stream;
use super::{Error, internal, invalid};
use crate::config::Config;
use crate::plugin;
use crate::store::{States, Store, StoreError, Table};
use crate::{io, sql};

/// What all rules share.
pub(super) struct Shared {
    pub(super) plugins: plugin::Handle,
    pub(super) store: Store,
    pub(super) states: States,
    pub(super) hub: Arc<io::memory::Hub>,
    pub(super) sources: SharedSources,
    pub(super) home: PathBuf,
    pub(super) buffer_length: usize,
    registry: Mutex<Registry>,
    /// Held while a stream is changed or a rule added, so that store and registry agree. Not held while a rule
    /// stops: that may take a while, and must not hold up the others. Locked after a rule's `run`.
    pub(super) changes: tokio::sync::Mutex<()>,
    pub(super) runs: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

#[derive(Default)]
pub(super) struct Registry {
    pub(super) streams: Streams,
    pub(super) rules: BTreeMap<String, Arc<Rule>>,
}

/// A rule that exists.
pub(super) struct Rule {
    pub(super) id: RuleId,
    definition: Mutex<Arc<Definition>>,
    pub(super) status: Status,
    /// Its run. Locked by whoever changes, starts, stops or deletes the rule, from the beginning to the end.
    pub(super) run: tokio::sync::Mutex<Option<Run>>,
}

pub(super) struct Run {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// A rule in the store.
#[derive(Serialize, Deserialize)]
struct StoredRule {
    definition: String,
    /// Whether it is wanted running.
    run: bool,
}

impl Shared {
    /// Reads back what the store holds and starts the rules that ran.
    pub(super) async fn restore(
        config: &Config,
        plugins: plugin::Handle,
        store: Store,
        states: States,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let shared = Arc::new(Self {
            plugins,
            store,
            states,
            hub: Arc::default(),
            sources: SharedSources::default(),
            home: config.home.clone(),
            buffer_length: config.rule.buffer_length,
            registry: Mutex::default(),
            changes: tokio::sync::Mutex::default(),
            runs: TaskTracker::new(),
            shutdown,
        });
        shared.read_back().await?;
        Ok(shared)
    }

    async fn read_back(self: &Arc<Self>) -> Result<(), StoreError> {
        for (name, sql) in self.store.list(Table::Streams).await? {
            let parsed = String::from_utf8(sql).map_err(|e| e.to_string());
            match parsed.and_then(|sql| Stream::parse(&sql).map_err(|e| e.to_string())) {
                Ok(stream) => {
                    self.registry().streams.insert(name, stream);
                }
                Err(error) => tracing::error!(stream = name, "a stored stream cannot be read: {error}"),
            }
        }
        let rules = self.store.list(Table::Rules).await?;
        // A host that was killed may have deleted a rule and not what plugins remember for it.
        let known = rules.iter().filter_map(|(id, _)| id.parse().ok());
        let known = known.chain(graph::SHARED_RULE.parse().ok()).collect();
        if let Err(error) = self.states.keep_rules(known).await {
            tracing::warn!("what plugins remember for rules that do not exist stays: {error}");
        }
        for (id, stored) in rules {
            let stored: Result<StoredRule, String> =
                serde_json::from_slice(&stored).map_err(|e| e.to_string());
            let parsed = stored.and_then(|stored| {
                let id: RuleId = id.parse().map_err(|e| format!("{e}"))?;
                let definition =
                    Definition::parse(&stored.definition, Some(&id)).map_err(|e| e.to_string())?;
                Ok((definition, stored.run))
            });
            match parsed {
                Ok((definition, run)) => {
                    let rule = Arc::new(Rule::new(definition));
                    self.registry().rules.insert(id, rule.clone());
                    if run {
                        self.start(&rule, &mut *rule.run.lock().await);
                    }
                }
                Err(error) => tracing::error!(rule = id, "a stored rule cannot be read: {error}"),
            }
        }
        Ok(())
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn streams(&self) -> Streams {
        self.registry().streams.clone()
    }

    pub(super) fn rule(&self, id: &str) -> Result<Arc<Rule>, Error> {
        let rule = self.registry().rules.get(id).cloned();
        rule.ok_or_else(|| Error::NotFound(format!("rule {id:?} is not found")))
    }

    /// Does nothing if it runs already. `run` is the rule's, locked.
    pub(super) fn start(self: &Arc<Self>, rule: &Arc<Rule>, run: &mut Option<Run>) {
        if run.as_ref().is_some_and(|run| !run.task.is_finished()) || self.shutdown.is_cancelled() {
            return;
        }
        let stop = self.shutdown.child_token();
        let task = self
            .runs
            .spawn(run::run(self.clone(), rule.clone(), stop.clone()));
        *run = Some(Run { stop, task });
    }

    /// Waits until it has stopped. `run` is the rule's, locked.
    pub(super) async fn stop(&self, rule: &Rule, run: &mut Option<Run>) {
        if let Some(run) = run.take() {
            run.stop.cancel();
            if let Err(error) = run.task.await {
                tracing::error!(rule = %rule.id, "the rule's run broke: {error}");
            }
        }
    }

    /// Whether `rule` is still there: it may have been deleted while its `run` was waited for.
    pub(super) fn still_has(&self, rule: &Arc<Rule>) -> Result<(), Error> {
        match self.rule(rule.id.as_str()) {
            Ok(found) if Arc::ptr_eq(&found, rule) => Ok(()),
            _ => Err(Error::NotFound(format!("rule \"{}\" is not found", rule.id))),
        }
    }

    pub(super) fn compile(&self, definition: &Definition) -> Result<Compiled, Error> {
        let streams = self.streams();
        let names = Names {
            streams: &streams,
            plugins: &self.plugins,
        };
        compile(definition, &names, self.buffer_length).map_err(invalid)
    }

    /// Everything that can be known before a rule runs; its portable functions are asked.
    pub(super) async fn check(&self, definition: &Definition) -> Result<Compiled, Error> {
        let compiled = self.compile(definition)?;
        graph::check_ends(&compiled, &self.home, &self.plugins).map_err(invalid)?;
        graph::open_calls(&compiled.rule, &compiled.plan, &self.plugins)
            .await
            .map_err(invalid)?;
        Ok(compiled)
    }

    /// With the rule's `run` locked.
    pub(super) async fn save(&self, definition: &Definition, run: bool) -> Result<(), Error> {
        let stored = StoredRule {
            definition: definition.source.to_string(),
            run,
        };
        let value = serde_json::to_vec(&stored).map_err(internal)?;
        self.store
            .put(Table::Rules, definition.id.as_str(), value)
            .await
            .map_err(internal)
    }

    pub(super) fn users_of(&self, stream: &str) -> Vec<String> {
        let registry = self.registry();
        let reads = |rule: &&Arc<Rule>| {
            let definition = rule.definition();
            let parsed = sql::parse(&definition.sql);
            matches!(parsed, Ok(sql::Statement::Select(select)) if select.source.stream == stream)
        };
        registry
            .rules
            .values()
            .filter(reads)
            .map(|rule| rule.id.to_string())
            .collect()
    }
}

impl Rule {
    pub(super) fn new(definition: Definition) -> Self {
        Self {
            id: definition.id.clone(),
            definition: Mutex::new(Arc::new(definition)),
            status: Status::new(),
            run: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn definition(&self) -> Arc<Definition> {
        self.definition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn redefine(&self, definition: Definition) {
        *self.definition.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(definition);
    }
}
