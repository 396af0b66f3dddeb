//! Owns what symbols of plugins remember: JSON texts by key, one set per rule and symbol, in `data/states.redb`.
//!
//! One task does what is asked, many questions in one transaction. A transaction is seen by the next question at
//! once, so a plugin's process may die behind it; it is forced to the disk every `checkpoint`, so a host that is killed
//! loses what came after the last one, and nothing else. The file is apart from the definitions' one: plugins that
//! fill it, or write without end, do not hold up what the host has to say about its rules.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::{RuleId, SymbolName};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition};
use serde_json::Number;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::error::StoreError;
use super::file::File;

/// The longest key, in bytes.
pub(crate) const MAX_KEY: usize = 256;

/// The longest value, in bytes of JSON text.
pub(crate) const MAX_VALUE: usize = 1024 * 1024;

/// The most keys of one scope.
pub(crate) const MAX_KEYS: u64 = 10_000;

/// The most that the values of one scope may take, in bytes.
pub(crate) const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Questions that may wait; whoever asks waits then.
const QUEUE: usize = 1024;

/// The most questions in one transaction.
const TOGETHER: usize = 256;

/// The values, by scope and key.
const VALUES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("values");

/// How many keys and bytes of values a scope has.
const SIZES: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("sizes");

/// Whose state it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope(String);

impl Scope {
    /// The state of `symbol` in `rule`.
    pub fn new(rule: &RuleId, kind: SymbolKind, symbol: &SymbolName) -> Self {
        // Names have no slash.
        Self(format!("{rule}/{kind}/{symbol}"))
    }
}

/// Why a state is not read or changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The key is empty or too long.
    #[error("a key of {0} bytes; expected 1 to {MAX_KEY}")]
    Key(usize),
    /// The value is too long.
    #[error("a value of {0} bytes; expected at most {MAX_VALUE}")]
    Value(usize),
    /// There are too many keys.
    #[error("the symbol has {MAX_KEYS} keys in this rule; no more are kept")]
    Keys,
    /// The values take too much room.
    #[error("the symbol's values in this rule would take more than {MAX_BYTES} bytes")]
    Bytes,
    /// Something that is no number cannot be added to.
    #[error("the value of {key:?} cannot be added to; expected a number")]
    NotANumber {
        /// The key.
        key: String,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The host is stopping.
    #[error("the host is stopping")]
    Closed,
}

/// Where states are asked for and changed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct States {
    questions: mpsc::Sender<Question>,
    progress: Arc<Progress>,
}

/// How far the file is. A version is a number of transactions that have changed it since it was opened.
#[derive(Debug, Default)]
struct Progress {
    version: AtomicU64,
    durable: watch::Sender<u64>,
}

/// The task behind [`States`]; whoever started it ends it.
pub struct Keeper {
    states: States,
    task: JoinSet<()>,
}

#[derive(Debug)]
enum Deed {
    Get(Scope, String),
    Put(Scope, String, Vec<u8>),
    Delete(Scope, String),
    Add(Scope, String, Number),
    ForgetRule(RuleId),
    KeepRules(BTreeSet<RuleId>),
    /// Nothing but to have all before on the disk.
    Checkpoint,
}

/// The value that a deed gives, if it gives one.
type Answer = Result<Option<Vec<u8>>, StateError>;

#[derive(Debug)]
struct Question {
    deed: Deed,
    reply: oneshot::Sender<Answer>,
}

impl States {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// As for the store of the definitions.
    pub async fn start(path: &Path, checkpoint: Duration) -> Result<(Self, Keeper), StoreError> {
        let file = File::open(path, |transaction| {
            transaction.open_table(VALUES)?;
            transaction.open_table(SIZES)?;
            Ok(())
        })
        .await?;
        let (questions, asked) = mpsc::channel(QUEUE);
        let mut task = JoinSet::new();
        let progress = Arc::<Progress>::default();
        task.spawn(keep(file, asked, checkpoint, Arc::clone(&progress)));
        let states = Self { questions, progress };
        let keeper = Keeper {
            states: states.clone(),
            task,
        };
        Ok((states, keeper))
    }

    /// The JSON text under `key`, if there is one.
    ///
    /// # Errors
    /// The key is none, or the file cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn get(&self, scope: &Scope, key: &str) -> Answer {
        self.ask(Deed::Get(scope.clone(), checked(key)?)).await
    }

    /// Keeps a JSON text under `key`.
    ///
    /// # Errors
    /// A limit is passed, or the file cannot be written; what was there is still there.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it may or may not have been done.
    pub async fn put(&self, scope: &Scope, key: &str, value: Vec<u8>) -> Result<(), StateError> {
        if value.len() > MAX_VALUE {
            return Err(StateError::Value(value.len()));
        }
        let deed = Deed::Put(scope.clone(), checked(key)?, value);
        self.ask(deed).await.map(|_| ())
    }

    /// Forgets what is under `key`; that there is nothing is no error.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn delete(&self, scope: &Scope, key: &str) -> Result<(), StateError> {
        self.ask(Deed::Delete(scope.clone(), checked(key)?))
            .await
            .map(|_| ())
    }

    /// Adds `by` to the number under `key`, and gives the new one. A missing one counts as 0.
    ///
    /// # Errors
    /// It is no number, or the sum is none; else as [`put`](Self::put).
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn add(&self, scope: &Scope, key: &str, by: Number) -> Result<Vec<u8>, StateError> {
        let deed = Deed::Add(scope.clone(), checked(key)?, by);
        Ok(self.ask(deed).await?.unwrap_or_default())
    }

    /// Forgets whatever symbols remember for a rule: it is gone.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn forget_rule(&self, rule: &RuleId) -> Result<(), StateError> {
        self.ask(Deed::ForgetRule(rule.clone())).await.map(|_| ())
    }

    /// Forgets whatever symbols remember for rules other than these.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn keep_rules(&self, rules: BTreeSet<RuleId>) -> Result<(), StateError> {
        self.ask(Deed::KeepRules(rules)).await.map(|_| ())
    }

    /// A version that has every change that was answered so far.
    pub fn version(&self) -> u64 {
        self.progress.version.load(Ordering::Acquire)
    }

    /// The version that is on the disk.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.progress.durable.subscribe()
    }

    /// Waits until everything so far is on the disk.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn checkpoint(&self) -> Result<(), StateError> {
        self.ask(Deed::Checkpoint).await.map(|_| ())
    }

    async fn ask(&self, deed: Deed) -> Answer {
        let (reply, answer) = oneshot::channel();
        let question = Question { deed, reply };
        self.questions
            .send(question)
            .await
            .map_err(|_| StateError::Closed)?;
        answer.await.map_err(|_| StateError::Closed)?
    }
}

impl Keeper {
    /// Waits until everything so far is on the disk. What is asked later is refused.
    pub async fn shutdown(mut self) {
        if let Err(error) = self.states.checkpoint().await {
            tracing::error!("what plugins remembered last is lost: {error}");
        }
        self.task.shutdown().await;
    }
}

fn checked(key: &str) -> Result<String, StateError> {
    match key.len() {
        1..=MAX_KEY => Ok(key.to_owned()),
        len => Err(StateError::Key(len)),
    }
}

async fn keep(
    file: File,
    mut asked: mpsc::Receiver<Question>,
    checkpoint: Duration,
    progress: Arc<Progress>,
) {
    let mut questions = Vec::with_capacity(TOGETHER);
    // Since when there is something that is not on the disk.
    let mut due: Option<Instant> = None;
    loop {
        let received = tokio::select! {
            received = asked.recv_many(&mut questions, TOGETHER) => received,
            () = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            } => {
                let (reply, _nobody) = oneshot::channel();
                questions.push(Question { deed: Deed::Checkpoint, reply });
                1
            }
        };
        if received == 0 {
            return;
        }
        let (deeds, replies): (Vec<_>, Vec<_>) = questions
            .drain(..)
            .map(|question| (question.deed, question.reply))
            .unzip();
        let writes = deeds.iter().any(|deed| !matches!(deed, Deed::Get(..)));
        let forces = deeds.iter().any(|deed| matches!(deed, Deed::Checkpoint));
        let done = file.with(if writes { "write" } else { "read" }, move |database| {
            if writes {
                change(database, deeds, forces)
            } else {
                read(database, deeds)
            }
        });
        match done.await {
            Ok(answers) => {
                // Before anybody is answered, who may ask for it.
                if writes {
                    let version = progress.version.fetch_add(1, Ordering::AcqRel) + 1;
                    if forces {
                        progress.durable.send_replace(version);
                    }
                }
                for (reply, answer) in replies.into_iter().zip(answers) {
                    // Whoever has given up does not need it.
                    let _gone = reply.send(answer);
                }
                due = match due {
                    _ if forces => None,
                    None if writes => Some(Instant::now() + checkpoint),
                    due => due,
                };
            }
            Err(error) => {
                tracing::error!("what plugins remember is not kept: {error}");
                let error = Arc::new(error);
                for reply in replies {
                    let _gone = reply.send(Err(StateError::Store(Arc::clone(&error))));
                }
                // What went before is not on the disk yet.
                due = match due {
                    Some(_) if forces => Some(Instant::now() + checkpoint),
                    due => due,
                };
            }
        }
    }
}

fn read(database: &Database, deeds: Vec<Deed>) -> Result<Vec<Answer>, redb::Error> {
    let values = database.begin_read()?.open_table(VALUES)?;
    let answer = |deed| match deed {
        Deed::Get(scope, key) => Ok(Ok(values
            .get((scope.0.as_str(), key.as_str()))?
            .map(|value| value.value().to_owned()))),
        _ => Ok(Ok(None)),
    };
    deeds.into_iter().map(answer).collect()
}

fn change(database: &Database, deeds: Vec<Deed>, force: bool) -> Result<Vec<Answer>, redb::Error> {
    let mut transaction = database.begin_write()?;
    if !force {
        transaction.set_durability(Durability::None)?;
    }
    let mut tables = Tables {
        values: transaction.open_table(VALUES)?,
        sizes: transaction.open_table(SIZES)?,
    };
    let answers = deeds
        .into_iter()
        .map(|deed| match deed {
            Deed::Get(scope, key) => Ok(Ok(tables.get(&scope, &key)?)),
            Deed::Put(scope, key, value) => Ok(tables.put(&scope, &key, &value)?.map(|()| None)),
            Deed::Delete(scope, key) => tables.delete(&scope, &key).map(|()| Ok(None)),
            Deed::Add(scope, key, by) => tables.add(&scope, &key, &by),
            Deed::ForgetRule(rule) => tables.forget(rule.as_str()).map(|()| Ok(None)),
            Deed::KeepRules(rules) => tables.keep(&rules).map(|()| Ok(None)),
            Deed::Checkpoint => Ok(Ok(None)),
        })
        .collect::<Result<Vec<Answer>, redb::Error>>()?;
    drop(tables);
    transaction.commit()?;
    Ok(answers)
}

struct Tables<'a> {
    values: Table<'a, (&'static str, &'static str), &'static [u8]>,
    sizes: Table<'a, &'static str, (u64, u64)>,
}

impl Tables<'_> {
    fn get(&self, scope: &Scope, key: &str) -> Result<Option<Vec<u8>>, redb::Error> {
        let value = self.values.get((scope.0.as_str(), key))?;
        Ok(value.map(|value| value.value().to_owned()))
    }

    fn size(&self, scope: &Scope) -> Result<(u64, u64), redb::Error> {
        let size = self.sizes.get(scope.0.as_str())?;
        Ok(size.map_or((0, 0), |size| size.value()))
    }

    fn put(&mut self, scope: &Scope, key: &str, value: &[u8]) -> Result<Result<(), StateError>, redb::Error> {
        let (mut keys, mut bytes) = self.size(scope)?;
        match self.values.get((scope.0.as_str(), key))? {
            Some(before) => bytes = bytes.saturating_sub(before.value().len() as u64),
            None => keys += 1,
        }
        bytes += value.len() as u64;
        if keys > MAX_KEYS {
            return Ok(Err(StateError::Keys));
        }
        if bytes > MAX_BYTES {
            return Ok(Err(StateError::Bytes));
        }
        self.values.insert((scope.0.as_str(), key), value)?;
        self.sizes.insert(scope.0.as_str(), (keys, bytes))?;
        Ok(Ok(()))
    }

    fn delete(&mut self, scope: &Scope, key: &str) -> Result<(), redb::Error> {
        let removed = self.values.remove((scope.0.as_str(), key))?;
        let Some(removed) = removed.map(|value| value.value().len() as u64) else {
            return Ok(());
        };
        let (keys, bytes) = self.size(scope)?;
        if keys <= 1 {
            self.sizes.remove(scope.0.as_str())?;
        } else {
            self.sizes
                .insert(scope.0.as_str(), (keys - 1, bytes.saturating_sub(removed)))?;
        }
        Ok(())
    }

    fn add(&mut self, scope: &Scope, key: &str, by: &Number) -> Result<Answer, redb::Error> {
        let before = self.get(scope, key)?;
        let before = before.map_or(Some(Number::from(0)), |text| serde_json::from_slice(&text).ok());
        let Some(sum) = before.and_then(|before| sum(&before, by)) else {
            return Ok(Err(StateError::NotANumber { key: key.to_owned() }));
        };
        let text = sum.to_string().into_bytes();
        let put = self.put(scope, key, &text)?;
        Ok(put.map(|()| Some(text)))
    }

    fn keep(&mut self, rules: &BTreeSet<RuleId>) -> Result<(), redb::Error> {
        let mut strays = BTreeSet::new();
        for entry in self.sizes.iter()? {
            let (scope, _) = entry?;
            let rule = scope.value().split('/').next().unwrap_or_default();
            if !rules.iter().any(|known| known.as_str() == rule) {
                strays.insert(rule.to_owned());
            }
        }
        for rule in &strays {
            tracing::info!(
                rule,
                "what plugins remember for a rule that does not exist is forgotten"
            );
            self.forget(rule)?;
        }
        Ok(())
    }

    fn forget(&mut self, rule: &str) -> Result<(), redb::Error> {
        // What begins with the rule's name and a slash: '0' is the character behind it.
        let (from, to) = (format!("{rule}/"), format!("{rule}0"));
        self.values
            .retain_in((from.as_str(), "")..(to.as_str(), ""), |_, _| false)?;
        self.sizes.retain_in(from.as_str()..to.as_str(), |_, _| false)?;
        Ok(())
    }
}

/// `None`: it is no number that JSON has.
fn sum(a: &Number, b: &Number) -> Option<Number> {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        return a.checked_add(b).map(Number::from);
    }
    Number::from_f64(a.as_f64()? + b.as_f64()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tempfile::TempDir;

    use super::*;

    const NEVER: Duration = Duration::from_secs(1_000_000);

    fn scope(rule: &str) -> Scope {
        let (rule, symbol) = (rule.parse().unwrap(), "counter".parse().unwrap());
        Scope::new(&rule, SymbolKind::Source, &symbol)
    }

    async fn text(states: &States, rule: &str, key: &str) -> Option<String> {
        let value = states.get(&scope(rule), key).await.unwrap();
        value.map(|value| String::from_utf8(value).unwrap())
    }

    #[tokio::test]
    async fn what_is_remembered_is_there_after_a_reopen() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("data/states.redb");
        let (states, keeper) = States::start(&path, NEVER).await.unwrap();
        let here = scope("r");
        states.put(&here, "last", b"{\"a\":1}".to_vec()).await.unwrap();
        states.put(&here, "gone", b"1".to_vec()).await.unwrap();
        states.delete(&here, "gone").await.unwrap();
        states.delete(&here, "never was").await.unwrap();
        assert_eq!(states.add(&here, "count", 2.into()).await.unwrap(), b"2");
        assert_eq!(states.add(&here, "count", (-5).into()).await.unwrap(), b"-3");
        let half = Number::from_f64(0.5).unwrap();
        assert_eq!(states.add(&here, "count", half).await.unwrap(), b"-2.5");
        keeper.shutdown().await;

        assert!(matches!(states.get(&here, "last").await, Err(StateError::Closed)));
        drop(states);
        let (states, _keeper) = States::start(&path, NEVER).await.unwrap();
        assert_eq!(text(&states, "r", "last").await.unwrap(), "{\"a\":1}");
        assert_eq!(text(&states, "r", "count").await.unwrap(), "-2.5");
        assert_eq!(text(&states, "r", "gone").await, None);
        assert_eq!(text(&states, "other", "last").await, None);
    }

    /// The file as it lies there while it is open is what a killed host leaves.
    async fn left_by_a_kill(path: &Path) -> (States, Keeper) {
        let home = TempDir::new().unwrap();
        let copy = home.path().join("copy.redb");
        std::fs::copy(path, &copy).unwrap();
        States::start(&copy, NEVER).await.unwrap()
    }

    #[tokio::test]
    async fn a_checkpoint_survives_a_host_that_is_killed() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("states.redb");
        let (states, _keeper) = States::start(&path, NEVER).await.unwrap();
        states.put(&scope("r"), "k", b"1".to_vec()).await.unwrap();
        states.checkpoint().await.unwrap();
        states.put(&scope("r"), "k", b"2".to_vec()).await.unwrap();
        let (left, _keeper) = left_by_a_kill(&path).await;
        assert_eq!(text(&left, "r", "k").await.unwrap(), "1");
        assert_eq!(text(&states, "r", "k").await.unwrap(), "2");
    }

    #[tokio::test]
    async fn a_checkpoint_comes_by_itself() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("states.redb");
        let (states, _keeper) = States::start(&path, Duration::from_millis(1)).await.unwrap();
        states.put(&scope("r"), "k", b"1".to_vec()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let (left, _keeper) = left_by_a_kill(&path).await;
                if text(&left, "r", "k").await.is_some() {
                    break;
                }
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_rule_that_goes_takes_its_states_along_and_no_other() {
        let home = TempDir::new().unwrap();
        let (states, _keeper) = States::start(&home.path().join("s"), NEVER).await.unwrap();
        for rule in ["r", "r1", "r.x", "q", "r-a"] {
            states.put(&scope(rule), "k", b"1".to_vec()).await.unwrap();
        }
        states.forget_rule(&"r".parse().unwrap()).await.unwrap();
        assert_eq!(text(&states, "r", "k").await, None);
        for rule in ["r1", "r.x", "q", "r-a"] {
            assert!(text(&states, rule, "k").await.is_some(), "{rule}");
        }
    }

    #[tokio::test]
    async fn what_belongs_to_no_rule_is_forgotten() {
        let home = TempDir::new().unwrap();
        let (states, _keeper) = States::start(&home.path().join("s"), NEVER).await.unwrap();
        for rule in ["r", "r1", "q"] {
            states.put(&scope(rule), "k", b"1".to_vec()).await.unwrap();
        }
        let rules = ["r1", "other"].map(|rule| rule.parse().unwrap());
        states.keep_rules(rules.into()).await.unwrap();
        for (rule, is_kept) in [("r", false), ("r1", true), ("q", false)] {
            assert_eq!(text(&states, rule, "k").await.is_some(), is_kept, "{rule}");
        }
    }

    #[tokio::test]
    async fn a_version_is_durable_at_the_next_checkpoint() {
        let home = TempDir::new().unwrap();
        let (states, _keeper) = States::start(&home.path().join("s"), NEVER).await.unwrap();
        let durable = states.durable();
        states.put(&scope("r"), "k", b"1".to_vec()).await.unwrap();
        let version = states.version();
        assert!(version > *durable.borrow());
        states.checkpoint().await.unwrap();
        assert!(version <= *durable.borrow());
        assert_eq!(*durable.borrow(), states.version());
    }

    #[tokio::test]
    async fn limits_are_named_and_nothing_is_changed() {
        let home = TempDir::new().unwrap();
        let (states, _keeper) = States::start(&home.path().join("s"), NEVER).await.unwrap();
        let here = scope("r");
        let long = "k".repeat(MAX_KEY + 1);
        for key in ["", &long] {
            let error = states.get(&here, key).await.unwrap_err();
            assert!(error.to_string().contains("expected 1 to 256"), "{error}");
        }
        let error = states.put(&here, "k", vec![b'1'; MAX_VALUE + 1]).await;
        assert!(matches!(error, Err(StateError::Value(_))));
        states.put(&here, "text", b"\"a\"".to_vec()).await.unwrap();
        let error = states.add(&here, "text", 1.into()).await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the value of \"text\" cannot be added to"),
            "{error}"
        );
        let most = i64::MAX.to_string().into_bytes();
        states.put(&here, "most", most.clone()).await.unwrap();
        states.add(&here, "most", 1.into()).await.unwrap_err();
        assert_eq!(states.get(&here, "most").await.unwrap(), Some(most));

        // 64 values of 1 MiB are too much beside these two.
        let mut refused = None;
        for n in 0..64 {
            let put = states.put(&here, &n.to_string(), vec![b'1'; MAX_VALUE]).await;
            refused = refused.or(put.err().map(|error| (n, error)));
        }
        assert!(matches!(refused, Some((63, StateError::Bytes))), "{refused:?}");
        // What is replaced or deleted makes room.
        states.put(&here, "0", b"1".to_vec()).await.unwrap();
        states.put(&here, "63", vec![b'1'; MAX_VALUE]).await.unwrap();
    }

    #[tokio::test]
    async fn of_many_questions_at_once_none_is_lost() {
        let home = TempDir::new().unwrap();
        let (states, keeper) = States::start(&home.path().join("s"), NEVER).await.unwrap();
        let here = scope("r");
        let adding = (0..2000).map(|_| states.add(&here, "n", 1.into()));
        let sums = futures_util::future::join_all(adding).await;
        let sums: BTreeSet<u64> = sums
            .into_iter()
            .map(|sum| serde_json::from_slice(&sum.unwrap()).unwrap())
            .collect();
        assert!(sums.into_iter().eq(1..=2000));
        keeper.shutdown().await;
    }
}
