//! What the rest of the host may do with streams and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mangrove_protocol::Object;
use mangrove_protocol::name::RuleId;
use serde_json::Value;

use super::compile::resolve_source;
use super::definition::Definition;
use super::needs::Needs;
use super::registry::{Rule, Shared};
use super::run::State;
use super::stream::Stream;
use super::{Error, RuleSummary, StreamSummary, graph, internal, invalid};
use crate::store::Table;

/// What the rest of the host may do with streams and rules. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
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

    /// A stream's fields by name, in a shape like JSON schema.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a stream.
    pub fn stream_schema(&self, name: &str) -> Result<Object, Error> {
        Ok(self.stream(name)?.definition.schema())
    }

    /// Every stream, by name.
    pub fn stream_summaries(&self) -> Vec<StreamSummary> {
        let lower = |text: &Option<String>| text.as_ref().map(|text| text.to_lowercase());
        let summary = |(name, stream): (&String, &Stream)| StreamSummary {
            name: name.clone(),
            r#type: lower(&stream.definition.options.source_type).unwrap_or_default(),
            format: lower(&stream.definition.options.format).unwrap_or_else(|| "json".to_owned()),
        };
        self.shared.registry().streams.iter().map(summary).collect()
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
        graph::check_source(&self.shared.home, &source, &self.shared.plugins).map_err(invalid)?;
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
        let id = definition.id.clone();
        if self.insert(&definition).await? {
            Ok(id.to_string())
        } else {
            Err(taken(&id))
        }
    }

    /// Replaces the rule `id`, or creates it. A definition that is refused leaves the old one running.
    ///
    /// # Errors
    /// [`Error::Invalid`] as for creating one, or for another id.
    pub async fn update_rule(&self, id: &str, definition: &str) -> Result<(), Error> {
        let id: RuleId = id.parse().map_err(invalid)?;
        let definition = Definition::parse(definition, Some(&id)).map_err(invalid)?;
        self.shared.check(&definition).await?;
        loop {
            let Ok(rule) = self.shared.rule(id.as_str()) else {
                if self.insert(&definition).await? {
                    return Ok(());
                }
                continue;
            };
            let mut run = rule.run.lock().await;
            if self.shared.still_has(&rule).is_err() {
                continue;
            }
            self.shared.save(&definition, definition.triggered).await?;
            rule.redefine(definition.clone());
            self.shared.stop(&rule, &mut run).await;
            if definition.triggered {
                self.shared.start(&rule, &mut run);
            }
            return Ok(());
        }
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

    /// For each plugin the rules that run with it, or would if it ran, by id: without it, they wait for it.
    pub fn rules_by_plugin(&self) -> BTreeMap<String, BTreeSet<String>> {
        let streams = self.shared.streams();
        let rules: Vec<_> = self.shared.registry().rules.values().cloned().collect();
        let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for rule in rules {
            if matches!(rule.status.state(), State::Stopped { .. }) {
                continue;
            }
            let needs = Needs::of(&rule.definition(), &streams).unwrap_or_default();
            for plugin in needs.plugins(&self.shared.plugins) {
                let users = users.entry(plugin.to_string()).or_default();
                users.insert(rule.id.to_string());
            }
        }
        users
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
        let rule = self.shared.rule(id)?;
        let mut run = rule.run.lock().await;
        self.shared.still_has(&rule)?;
        let deleted = self.shared.store.delete(Table::Rules, id).await;
        deleted.map_err(internal)?;
        // Its id is taken until it has stopped: its sockets' addresses are made of it.
        self.shared.stop(&rule, &mut run).await;
        self.forget(&rule.id).await;
        self.shared.registry().rules.remove(id);
        Ok(())
    }

    /// Starts a rule; one that runs goes on.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a rule.
    pub async fn start_rule(&self, id: &str) -> Result<(), Error> {
        let rule = self.shared.rule(id)?;
        let mut run = rule.run.lock().await;
        self.shared.still_has(&rule)?;
        self.shared.save(&rule.definition(), true).await?;
        self.shared.start(&rule, &mut run);
        Ok(())
    }

    /// Stops a rule and returns when it has stopped; one that does not run stays so.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a rule.
    pub async fn stop_rule(&self, id: &str) -> Result<(), Error> {
        let rule = self.shared.rule(id)?;
        let mut run = rule.run.lock().await;
        self.shared.still_has(&rule)?;
        self.shared.save(&rule.definition(), false).await?;
        self.shared.stop(&rule, &mut run).await;
        Ok(())
    }

    /// Stops and starts a rule.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a rule.
    pub async fn restart_rule(&self, id: &str) -> Result<(), Error> {
        let rule = self.shared.rule(id)?;
        let mut run = rule.run.lock().await;
        self.shared.still_has(&rule)?;
        self.shared.save(&rule.definition(), true).await?;
        self.shared.stop(&rule, &mut run).await;
        self.shared.start(&rule, &mut run);
        Ok(())
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
            Ok(_) => Err(taken(id)),
            Err(_) => Ok(()),
        }
    }

    /// What plugins remember for this rule goes; not under a lock, since those who write without end come first.
    async fn forget(&self, rule: &RuleId) {
        // A rule may have the name under which the sources of shared streams run.
        if rule.as_str() == graph::SHARED_RULE {
            return;
        }
        if let Err(error) = self.shared.states.forget_rule(rule).await {
            tracing::warn!(%rule, "what plugins remember for the rule stays: {error}");
        }
    }

    /// Adds a rule and starts it if it is to; `false`: its id is taken.
    async fn insert(&self, definition: &Definition) -> Result<bool, Error> {
        let rule = Arc::new(Rule::new(definition.clone()));
        // Before anybody else knows the rule: nobody stops it before it is started.
        let mut run = rule.run.lock().await;
        if self.shared.rule(rule.id.as_str()).is_err() {
            // Whatever was left of another rule with this id is none of its business.
            self.forget(&rule.id).await;
        }
        {
            let _change = self.shared.changes.lock().await;
            if self.shared.rule(rule.id.as_str()).is_ok() {
                return Ok(false);
            }
            self.shared.save(definition, definition.triggered).await?;
            let id = rule.id.to_string();
            self.shared.registry().rules.insert(id, rule.clone());
        }
        if definition.triggered {
            self.shared.start(&rule, &mut run);
        }
        Ok(true)
    }
}

fn taken(id: &RuleId) -> Error {
    Error::Invalid(format!("rule \"{id}\" already exists"))
}
