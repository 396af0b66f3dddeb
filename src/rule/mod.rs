//! Streams and rules: their definitions, their life, their running graphs.
//!
//! [`Manager`] owns every task; [`Handle`] is what the rest of the host calls. Definitions and the wanted run
//! state lie in the store and are read back at start. Of plugins this module knows only their handle.
//!
//! | module | what it decides or does |
//! |---|---|
//! | `definition` | a rule's JSON (pure) |
//! | `stream` | a stream's statement and description (pure) |
//! | `compile` | names resolved, SQL planned (pure) |
//! | `run` | one rule's run: open, watch, retry |
//! | `graph` | the nodes of a running rule |
//! | `metrics` | what a node counts |

mod compile;
mod definition;
mod graph;
mod metrics;
mod run;
mod stream;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mangrove_protocol::name::RuleId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::compile::{Compiled, Names, Streams, compile, resolve_source};
use self::definition::Definition;
use self::run::Status;
use self::stream::Stream;
use crate::config::Config;
use crate::plugin;
use crate::store::{Store, StoreError, Table};
use crate::{io, sql};

/// What the rest of the host may do with streams and rules. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// Owns streams, rules and the tasks of their runs.
pub struct Manager {
    shared: Arc<Shared>,
}

/// Why a request about streams or rules fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such stream or rule.
    #[error("{0}")]
    NotFound(String),
    /// The request is at fault: a duplicate, something missing, bad SQL, bad JSON.
    #[error("{0}")]
    Invalid(String),
    /// The host is at fault.
    #[error("{0}")]
    Internal(String),
}

/// One row of the list of rules.
#[derive(Clone, Debug, Serialize)]
pub struct RuleSummary {
    /// The rule's id.
    pub id: String,
    /// Its name, for people; the id when it has none.
    pub name: String,
    /// One word: `running`, `starting`, `stopping`, `stopped`, `stopped by error`.
    pub status: String,
}

/// What all rules share.
struct Shared {
    plugins: plugin::Handle,
    store: Store,
    hub: Arc<io::memory::Hub>,
    sources: graph::SharedSources,
    home: PathBuf,
    buffer_length: usize,
    registry: Mutex<Registry>,
    /// One change of definitions at a time, so that store and registry agree.
    changes: tokio::sync::Mutex<()>,
    runs: TaskTracker,
    shutdown: CancellationToken,
}

#[derive(Default)]
struct Registry {
    streams: Streams,
    rules: BTreeMap<String, Arc<Rule>>,
}

/// A rule that exists.
struct Rule {
    id: RuleId,
    definition: Mutex<Arc<Definition>>,
    status: Status,
    /// Its run; one start or stop at a time.
    run: tokio::sync::Mutex<Option<Run>>,
}

struct Run {
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

impl Manager {
    /// Reads back what the store holds and starts the rules that ran. A rule that cannot be read or started
    /// is logged and shows it in its status; it stops nothing else.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(
        config: &Config,
        plugins: plugin::Handle,
        store: Store,
        shutdown: CancellationToken,
    ) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            plugins,
            store,
            hub: Arc::default(),
            sources: graph::SharedSources::default(),
            home: config.home.clone(),
            buffer_length: config.rule.buffer_length,
            registry: Mutex::default(),
            changes: tokio::sync::Mutex::default(),
            runs: TaskTracker::new(),
            shutdown,
        });
        shared.restore().await?;
        Ok(Self { shared })
    }

    /// The way in for everybody else.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
        }
    }

    /// Stops every rule, letting each work off what it has queued, within its drain limit. What is wanted
    /// running stays so in the store.
    pub async fn shutdown(self) {
        self.shared.shutdown.cancel();
        self.shared.runs.close();
        self.shared.runs.wait().await;
        self.shared.sources.closed().await;
    }
}

impl Shared {
    async fn restore(self: &Arc<Self>) -> Result<(), StoreError> {
        for (name, sql) in self.store.list(Table::Streams).await? {
            let parsed = String::from_utf8(sql).map_err(|e| e.to_string());
            match parsed.and_then(|sql| Stream::parse(&sql).map_err(|e| e.to_string())) {
                Ok(stream) => {
                    self.registry().streams.insert(name, stream);
                }
                Err(error) => tracing::error!(stream = name, "a stored stream cannot be read: {error}"),
            }
        }
        for (id, stored) in self.store.list(Table::Rules).await? {
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
                        self.start(&rule).await;
                    }
                }
                Err(error) => tracing::error!(rule = id, "a stored rule cannot be read: {error}"),
            }
        }
        Ok(())
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> Streams {
        self.registry().streams.clone()
    }

    fn rule(&self, id: &str) -> Result<Arc<Rule>, Error> {
        let rule = self.registry().rules.get(id).cloned();
        rule.ok_or_else(|| Error::NotFound(format!("rule {id:?} is not found")))
    }

    /// Does nothing if it runs already.
    async fn start(self: &Arc<Self>, rule: &Arc<Rule>) {
        let mut run = rule.run.lock().await;
        if run.as_ref().is_some_and(|run| !run.task.is_finished()) || self.shutdown.is_cancelled() {
            return;
        }
        let stop = self.shutdown.child_token();
        let task = self
            .runs
            .spawn(run::run(self.clone(), rule.clone(), stop.clone()));
        *run = Some(Run { stop, task });
    }

    /// Waits until it has stopped.
    async fn stop(&self, rule: &Rule) {
        let mut run = rule.run.lock().await;
        if let Some(run) = run.take() {
            run.stop.cancel();
            if let Err(error) = run.task.await {
                tracing::error!(rule = %rule.id, "the rule's run broke: {error}");
            }
        }
    }

    fn compile(&self, definition: &Definition) -> Result<Compiled, Error> {
        let streams = self.streams();
        let names = Names {
            streams: &streams,
            plugins: &self.plugins,
        };
        compile(definition, &names, self.buffer_length).map_err(invalid)
    }

    /// Everything that can be known before a rule runs; its portable functions are asked.
    async fn check(&self, definition: &Definition) -> Result<Compiled, Error> {
        let compiled = self.compile(definition)?;
        graph::source_config(&self.home, &compiled.source).map_err(invalid)?;
        graph::open_calls(&compiled.rule, &compiled.plan, &self.plugins)
            .await
            .map_err(invalid)?;
        Ok(compiled)
    }

    async fn save(&self, definition: &Definition, run: bool) -> Result<(), Error> {
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

    fn users_of(&self, stream: &str) -> Vec<String> {
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
    fn new(definition: Definition) -> Self {
        Self {
            id: definition.id.clone(),
            definition: Mutex::new(Arc::new(definition)),
            status: Status::new(),
            run: tokio::sync::Mutex::default(),
        }
    }

    fn definition(&self) -> Arc<Definition> {
        self.definition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn redefine(&self, definition: Definition) {
        *self.definition.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(definition);
    }
}

/// Streams.
impl Handle {
    /// Creates a stream by a `CREATE STREAM` statement and returns its name.
    ///
    /// # Errors
    /// [`Error::Invalid`]: no such statement, the name is taken, its source is not found, or its conf key is not.
    pub async fn create_stream(&self, sql: &str) -> Result<String, Error> {
        let stream = self.check_stream(sql)?;
        let name = stream.definition.name.clone();
        let _change = self.shared.changes.lock().await;
        if self.shared.registry().streams.contains_key(&name) {
            return Err(Error::Invalid(format!("stream {name:?} already exists")));
        }
        self.put_stream(stream).await?;
        Ok(name)
    }

    /// Replaces the stream `name`. Rules that run go on with the old one until they are started again.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a stream; [`Error::Invalid`] as for creating one, or for another name.
    pub async fn update_stream(&self, name: &str, sql: &str) -> Result<(), Error> {
        let stream = self.check_stream(sql)?;
        if stream.definition.name != name {
            let found = &stream.definition.name;
            return Err(Error::Invalid(format!(
                "the statement creates stream {found:?}, but the path says {name:?}"
            )));
        }
        let _change = self.shared.changes.lock().await;
        self.stream(name)?;
        self.put_stream(stream).await
    }

    /// The names of all streams.
    pub fn streams(&self) -> Vec<String> {
        self.shared.registry().streams.keys().cloned().collect()
    }

    /// A stream's fields and options, in eKuiper's shape.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a stream.
    pub fn describe_stream(&self, name: &str) -> Result<Value, Error> {
        Ok(self.stream(name)?.definition.describe())
    }

    /// Deletes a stream; one that rules read only with `force`.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a stream; [`Error::Invalid`] naming the rules that read it.
    pub async fn drop_stream(&self, name: &str, force: bool) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        self.stream(name)?;
        let users = self.shared.users_of(name);
        if !force && !users.is_empty() {
            return Err(Error::Invalid(format!(
                "stream {name:?} is read by the rules {}",
                users.join(", ")
            )));
        }
        self.shared
            .store
            .delete(Table::Streams, name)
            .await
            .map_err(internal)?;
        self.shared.registry().streams.remove(name);
        Ok(())
    }

    fn stream(&self, name: &str) -> Result<Stream, Error> {
        let stream = self.shared.registry().streams.get(name).cloned();
        stream.ok_or_else(|| Error::NotFound(format!("stream {name:?} is not found")))
    }

    fn check_stream(&self, sql: &str) -> Result<Stream, Error> {
        let stream = Stream::parse(sql).map_err(invalid)?;
        let source = resolve_source(&stream, &self.shared.plugins).map_err(invalid)?;
        graph::source_config(&self.shared.home, &source).map_err(invalid)?;
        Ok(stream)
    }

    /// With `changes` held.
    async fn put_stream(&self, stream: Stream) -> Result<(), Error> {
        let name = stream.definition.name.clone();
        let stored = if stream.definition.options.temporary {
            self.shared.store.delete(Table::Streams, &name).await.map(drop)
        } else {
            self.shared
                .store
                .put(Table::Streams, &name, stream.sql.clone().into_bytes())
                .await
        };
        stored.map_err(internal)?;
        self.shared.registry().streams.insert(name, stream);
        Ok(())
    }
}

/// Rules.
impl Handle {
    /// Creates a rule from its JSON, starts it unless it says `"triggered": false`, and returns its id. It
    /// starts in the background: the status tells how that went.
    ///
    /// # Errors
    /// [`Error::Invalid`]: bad JSON or SQL, the id is taken, or something that it names is not found.
    pub async fn create_rule(&self, definition: &str) -> Result<String, Error> {
        let definition = Definition::parse(definition, None).map_err(invalid)?;
        // Before a plugin is asked about functions: the common mistake gets the short answer.
        self.refuse_duplicate(&definition.id)?;
        self.shared.check(&definition).await?;
        let _change = self.shared.changes.lock().await;
        self.refuse_duplicate(&definition.id)?;
        self.insert(definition).await
    }

    /// Replaces the rule `id`, or creates it. A definition that is refused leaves the old one running.
    ///
    /// # Errors
    /// [`Error::Invalid`] as for creating one, or for another id.
    pub async fn update_rule(&self, id: &str, definition: &str) -> Result<(), Error> {
        let id: RuleId = id.parse().map_err(invalid)?;
        let definition = Definition::parse(definition, Some(&id)).map_err(invalid)?;
        self.shared.check(&definition).await?;
        let _change = self.shared.changes.lock().await;
        let Ok(rule) = self.shared.rule(id.as_str()) else {
            self.insert(definition).await?;
            return Ok(());
        };
        let run = definition.triggered;
        self.shared.save(&definition, run).await?;
        rule.redefine(definition);
        self.shared.stop(&rule).await;
        if run {
            self.shared.start(&rule).await;
        }
        Ok(())
    }

    /// Every rule, by id.
    pub fn rules(&self) -> Vec<RuleSummary> {
        let summary = |rule: &Arc<Rule>| RuleSummary {
            id: rule.id.to_string(),
            name: rule.definition().name.clone(),
            status: rule.status.state().word().to_owned(),
        };
        self.shared.registry().rules.values().map(summary).collect()
    }

    /// A rule's definition as it was given.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a rule.
    pub fn rule(&self, id: &str) -> Result<Value, Error> {
        Ok(self.shared.rule(id)?.definition().source.clone())
    }

    /// Stops and deletes a rule.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a rule.
    pub async fn delete_rule(&self, id: &str) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        let rule = self.shared.rule(id)?;
        self.shared
            .store
            .delete(Table::Rules, id)
            .await
            .map_err(internal)?;
        self.shared.registry().rules.remove(id);
        self.shared.stop(&rule).await;
        Ok(())
    }

    /// Starts a rule; one that runs goes on.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a rule.
    pub async fn start_rule(&self, id: &str) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        let rule = self.shared.rule(id)?;
        self.shared.save(&rule.definition(), true).await?;
        self.shared.start(&rule).await;
        Ok(())
    }

    /// Stops a rule and returns when it has stopped; one that does not run stays so.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a rule.
    pub async fn stop_rule(&self, id: &str) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        let rule = self.shared.rule(id)?;
        self.shared.save(&rule.definition(), false).await?;
        self.shared.stop(&rule).await;
        Ok(())
    }

    /// Stops and starts a rule.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a rule.
    pub async fn restart_rule(&self, id: &str) -> Result<(), Error> {
        self.stop_rule(id).await?;
        self.start_rule(id).await
    }

    /// A rule's state, its reason and the figures of its nodes, under eKuiper's names.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a rule.
    pub fn rule_status(&self, id: &str) -> Result<Value, Error> {
        Ok(Value::Object(self.shared.rule(id)?.status.report()))
    }

    /// A rule's plan, a line per operator.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a rule; [`Error::Invalid`] when it cannot be planned any more.
    pub fn explain_rule(&self, id: &str) -> Result<String, Error> {
        let definition = self.shared.rule(id)?.definition();
        Ok(self.shared.compile(&definition)?.plan.explain())
    }

    /// Checks a definition as creating it would, without creating it, and returns the streams that it reads.
    ///
    /// # Errors
    /// [`Error::Invalid`] as for creating one, but for an id that is taken.
    pub async fn validate_rule(&self, definition: &str) -> Result<Vec<String>, Error> {
        let definition = Definition::parse(definition, None).map_err(invalid)?;
        let compiled = self.shared.check(&definition).await?;
        Ok(compiled.plan.streams().to_vec())
    }

    fn refuse_duplicate(&self, id: &RuleId) -> Result<(), Error> {
        match self.shared.rule(id.as_str()) {
            Ok(_) => Err(Error::Invalid(format!("rule \"{id}\" already exists"))),
            Err(_) => Ok(()),
        }
    }

    /// With `changes` held.
    async fn insert(&self, definition: Definition) -> Result<String, Error> {
        let run = definition.triggered;
        self.shared.save(&definition, run).await?;
        let rule = Arc::new(Rule::new(definition));
        let id = rule.id.to_string();
        self.shared.registry().rules.insert(id.clone(), rule.clone());
        if run {
            self.shared.start(&rule).await;
        }
        Ok(id)
    }
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::Invalid(error.to_string())
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(error.to_string())
}
