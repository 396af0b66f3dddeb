//! Owns the uses of symbols that a test has started: what it feeds them with, and what comes out.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mangrove_protocol::Object;
use mangrove_protocol::native::control::{Place, Role, Start, Stop, Stopped, ToPlugin, Validate};
use mangrove_protocol::native::function::{CallWriter, FunctionContext, Results, encode_cancel};
use mangrove_protocol::native::opening::Limits;
use mangrove_protocol::native::sink::SinkWriter;
use mangrove_protocol::native::source::{SourceBatch, SourceContent};
use mangrove_protocol::native::{MAX_ITEMS, UseNumber};
use serde::Serialize;
use serde_json::Value;
use sp_proto::{Pair, Pull, Push, SocketOptions};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::host::{LIMIT, Link, within};
use crate::{Result, Tuple};

const RULE: &str = "rule";
const OP: &str = "op";

/// How long a plugin has to stop a symbol, in milliseconds.
const STOP_TIMEOUT: u64 = 5_000;

fn socket() -> SocketOptions {
    SocketOptions {
        recv_max_size: 0,
        ..SocketOptions::default()
    }
}

/// What a use is started with.
#[derive(Debug)]
struct Settings {
    link: Arc<Link>,
    symbol: String,
    rule: String,
    config: Value,
}

impl Settings {
    fn new(link: Arc<Link>, symbol: &str) -> Self {
        Self {
            link,
            symbol: symbol.to_owned(),
            rule: RULE.to_owned(),
            config: Value::Object(Object::new()),
        }
    }

    fn config(&self) -> Result<Object> {
        match &self.config {
            Value::Object(config) => Ok(config.clone()),
            other => Err(format!("a configuration is an object, not {other}").into()),
        }
    }

    fn place(&self) -> Result<Place> {
        Ok(Place {
            rule_id: self.rule.parse()?,
            op_id: OP.parse()?,
            instance_id: 0,
        })
    }

    /// Starts it once `listen` listens for its data channel.
    async fn start(&self, role: Role, listen: impl AsyncFnOnce(&str) -> Result) -> Result<Used> {
        let (number, address) = self.link.new_use(&self.symbol, &self.rule);
        listen(&address).await?;
        let start = Start {
            number,
            symbol: self.symbol.parse()?,
            role,
            address,
        };
        self.link
            .request(|id| ToPlugin::Start(id, Box::new(start)))
            .await?;
        Ok(Used {
            link: Arc::clone(&self.link),
            symbol: self.symbol.clone(),
            number,
        })
    }
}

/// A use that runs.
#[derive(Debug)]
struct Used {
    link: Arc<Link>,
    symbol: String,
    number: UseNumber,
}

impl Used {
    async fn stop(&self, seq: Option<u64>) -> Result<Value> {
        let stop = Stop {
            number: self.number,
            timeout: STOP_TIMEOUT,
            seq,
        };
        self.link.request(|id| ToPlugin::Stop(id, stop)).await
    }
}

/// A source that is to be started.
#[derive(Debug)]
#[must_use = "nothing is started until `start`"]
pub struct SourceStart {
    settings: Settings,
    data_source: String,
    offset: Option<Value>,
}

impl SourceStart {
    pub(super) fn new(link: Arc<Link>, symbol: &str) -> Self {
        Self {
            settings: Settings::new(link, symbol),
            data_source: String::new(),
            offset: None,
        }
    }

    /// Its configuration, an object. Empty unless set.
    pub fn config(mut self, config: Value) -> Self {
        self.settings.config = config;
        self
    }

    /// The rule that it runs for; `rule` unless set.
    pub fn rule(mut self, rule: &str) -> Self {
        self.settings.rule = rule.to_owned();
        self
    }

    /// The stream's `DATASOURCE`; empty unless set.
    pub fn data_source(mut self, data_source: &str) -> Self {
        self.data_source = data_source.to_owned();
        self
    }

    /// Where it goes on.
    pub fn offset(mut self, offset: impl Into<Value>) -> Self {
        self.offset = Some(offset.into());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// Why the source does not start.
    pub async fn start(self) -> Result<RunningSource> {
        let role = Role::Source {
            place: self.settings.place()?,
            data_source: self.data_source,
            config: self.settings.config()?,
            offset: self.offset,
        };
        let pull = Pull::with_options(socket());
        let listen = async |address: &str| Ok(pull.listen(address).await.map(drop)?);
        let used = self.settings.start(role, listen).await?;
        Ok(RunningSource {
            used,
            pull,
            seq: 0,
            received: VecDeque::new(),
            has_ended: false,
        })
    }
}

/// A source that runs.
#[derive(Debug)]
pub struct RunningSource {
    used: Used,
    pull: Pull,
    /// The last batch.
    seq: u64,
    received: VecDeque<Result<Tuple, String>>,
    has_ended: bool,
}

impl RunningSource {
    /// The next tuple, or the next error that the source has reported, or the one that it ends with; `None` once it has
    /// ended by itself. Tuples of one batch share an offset: the last one has it.
    ///
    /// # Errors
    /// Nothing comes in time, or something that is against the contract.
    pub async fn next(&mut self) -> Result<Option<Result<Tuple, String>>> {
        while self.received.is_empty() && !self.has_ended {
            self.receive().await?;
        }
        Ok(self.received.pop_front())
    }

    /// The next tuple.
    ///
    /// # Errors
    /// The source has reported an error, has ended, or sends nothing in time.
    pub async fn tuple(&mut self) -> Result<Tuple> {
        match self.next().await? {
            Some(tuple) => Ok(tuple?),
            None => Err("the source has ended".into()),
        }
    }

    /// Stops it; the result is what it has sent and nobody has taken.
    ///
    /// # Errors
    /// It does not stop in time.
    pub async fn stop(mut self) -> Result<Vec<Result<Tuple, String>>> {
        let stopped = {
            let stopping = self.used.stop(None);
            let mut stopping = std::pin::pin!(stopping);
            // A source may wait for what it sends to be taken.
            loop {
                let message = tokio::select! {
                    stopped = &mut stopping => break stopped?,
                    message = self.pull.recv() => message?,
                };
                self.seq = read(&message, self.seq, &mut self.received, &mut self.has_ended)?;
            }
        };
        let Stopped { seq } = serde_json::from_value(stopped)?;
        while self.seq < seq {
            self.receive().await?;
        }
        if self.seq > seq {
            return Err(format!("batch {} came after the last one, {seq}", self.seq).into());
        }
        self.pull.close().await;
        Ok(self.received.into())
    }

    async fn receive(&mut self) -> Result {
        let symbol = &self.used.symbol;
        let what = format!("a tuple of {symbol:?}");
        let message = within(&what, async { Ok(self.pull.recv().await?) }).await?;
        self.seq = read(&message, self.seq, &mut self.received, &mut self.has_ended)?;
        Ok(())
    }
}

fn read(
    message: &[u8],
    last: u64,
    received: &mut VecDeque<Result<Tuple, String>>,
    has_ended: &mut bool,
) -> Result<u64> {
    let SourceBatch { seq, content } = SourceBatch::<Object>::decode(message, Limits::default().batch)?;
    if seq != last + 1 {
        return Err(format!("batch {seq} came after batch {last}").into());
    }
    match content {
        SourceContent::Tuples { tuples, meta, offset } => {
            let mut meta = meta.into_iter();
            let last = tuples.len().saturating_sub(1);
            for (index, tuple) in tuples.into_iter().enumerate() {
                let offset = offset.clone().filter(|_| index == last);
                let meta = meta.next().flatten();
                received.push_back(Ok(Tuple::from_parts(tuple, meta, offset)));
            }
        }
        SourceContent::Error(error) => received.push_back(Err(error)),
        SourceContent::End(error) => {
            received.extend(error.map(Err));
            *has_ended = true;
        }
    }
    Ok(seq)
}

/// A sink that is to be started.
#[derive(Debug)]
#[must_use = "nothing is started until `start`"]
pub struct SinkStart {
    settings: Settings,
}

impl SinkStart {
    pub(super) fn new(link: Arc<Link>, symbol: &str) -> Self {
        Self {
            settings: Settings::new(link, symbol),
        }
    }

    /// Its configuration, an object. Empty unless set.
    pub fn config(mut self, config: Value) -> Self {
        self.settings.config = config;
        self
    }

    /// The rule that it runs for; `rule` unless set.
    pub fn rule(mut self, rule: &str) -> Self {
        self.settings.rule = rule.to_owned();
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// Why the sink does not start.
    pub async fn start(self) -> Result<RunningSink> {
        let role = Role::Sink {
            place: self.settings.place()?,
            config: self.settings.config()?,
            ack: true,
        };
        let push = Push::with_options(socket());
        let listen = async |address: &str| Ok(push.listen(address).await.map(drop)?);
        let used = self.settings.start(role, listen).await?;
        Ok(RunningSink { used, push, seq: 0 })
    }
}

/// A sink that runs.
#[derive(Debug)]
pub struct RunningSink {
    used: Used,
    push: Push,
    /// The last batch.
    seq: u64,
}

impl RunningSink {
    /// Gives it one result and waits until it has taken it; the inner error is what the sink says.
    ///
    /// # Errors
    /// It acknowledges nothing in time.
    pub async fn send(&mut self, result: &impl Serialize) -> Result<Result<(), String>> {
        let mut outcomes = self.send_all(&[result]).await?;
        Ok(outcomes.pop().unwrap_or(Ok(())))
    }

    /// Gives it a batch of results and waits until it has taken them all; the inner errors are what it says of each.
    ///
    /// # Errors
    /// It acknowledges nothing in time.
    pub async fn send_all(&mut self, results: &[impl Serialize]) -> Result<Vec<Result<(), String>>> {
        if results.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = SinkWriter::default();
        for result in results {
            batch.push(&serde_json::to_vec(result)?);
        }
        self.seq += 1;
        let seq = self.seq;
        within("room for a batch", async {
            Ok(self.push.send(batch.finish(seq)).await?)
        })
        .await?;
        let number = self.used.number;
        let errors = self
            .used
            .link
            .wait("the sink's acknowledgement", |seen| {
                let acks = seen.acks.get_mut(&number)?;
                let at = acks.iter().position(|ack| ack.seq >= seq)?;
                let ack = acks.remove(at);
                Some(if ack.seq == seq { ack.errors } else { Vec::new() })
            })
            .await?;
        let mut outcomes = vec![Ok(()); results.len()];
        for (index, error) in errors {
            if let Some(outcome) = outcomes.get_mut(index as usize) {
                *outcome = Err(error);
            }
        }
        Ok(outcomes)
    }

    /// Stops it, once it has taken everything.
    ///
    /// # Errors
    /// It does not stop in time.
    pub async fn stop(self) -> Result {
        self.used.stop(Some(self.seq)).await?;
        self.push.close().await;
        Ok(())
    }
}

/// A function that is to be started.
#[derive(Debug)]
#[must_use = "nothing is started until `start`"]
pub struct FunctionStart {
    settings: Settings,
}

impl FunctionStart {
    pub(super) fn new(link: Arc<Link>, symbol: &str) -> Self {
        Self {
            settings: Settings::new(link, symbol),
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// Why the function does not start.
    pub async fn start(self) -> Result<RunningFunction> {
        let pair = Pair::with_options(socket());
        let listen = async |address: &str| Ok(pair.listen(address).await.map(drop)?);
        let used = self.settings.start(Role::Function, listen).await?;
        let waiting = Arc::<Waiting>::default();
        let mut reader = JoinSet::new();
        reader.spawn(give_results(pair.clone(), Arc::clone(&waiting)));
        Ok(RunningFunction {
            used,
            pair,
            newest: AtomicU64::new(0),
            waiting,
            _reader: reader,
        })
    }
}

/// A function that runs.
pub struct RunningFunction {
    used: Used,
    pair: Pair,
    newest: AtomicU64,
    waiting: Arc<Waiting>,
    _reader: JoinSet<()>,
}

type Waiting = Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>;

impl RunningFunction {
    /// Calls it in the rule `rule`. Any number of calls may run at the same time; one whose future is dropped is
    /// cancelled.
    ///
    /// # Errors
    /// The error of the call, or that there is no result in time.
    pub async fn call(&self, args: Vec<Value>) -> Result<Value> {
        self.call_in(RULE, args).await
    }

    /// The same in another rule.
    ///
    /// # Errors
    /// As [`RunningFunction::call`].
    pub async fn call_in(&self, rule: &str, args: Vec<Value>) -> Result<Value> {
        let context = FunctionContext {
            rule_id: rule.parse()?,
            op_id: OP.parse()?,
            instance_id: 0,
            func_id: 0,
        };
        let id = self.newest.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, result) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let cancel = Cancel { function: self, id };
        let mut call = CallWriter::default();
        call.push(id, &args);
        let message = call.finish(&context, LIMIT.as_millis() as u64);
        let result = within("the function's result", async {
            self.pair.send(message).await?;
            Ok(result.await?)
        })
        .await?;
        drop(cancel);
        Ok(result?)
    }

    /// Asks whether it takes these arguments: literals as values, everything else as its SQL text.
    ///
    /// # Errors
    /// Why it doesn't.
    pub async fn validate(&self, args: Vec<Value>) -> Result {
        let symbol = self.used.symbol.parse()?;
        let validate = Validate { symbol, args };
        let link = &self.used.link;
        link.request(|id| ToPlugin::Validate(id, validate)).await?;
        Ok(())
    }

    /// Stops it, once it has finished its calls.
    ///
    /// # Errors
    /// It does not stop in time.
    pub async fn stop(self) -> Result {
        self.used.stop(None).await?;
        self.pair.close().await;
        Ok(())
    }
}

impl fmt::Debug for RunningFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningFunction")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

/// Dropped while the call is open, it cancels it.
struct Cancel<'a> {
    function: &'a RunningFunction,
    id: u64,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        if lock(&self.function.waiting).remove(&self.id).is_some() {
            // A plugin that is busy runs the call to its end.
            let _ = self.function.pair.try_send(encode_cancel(&[self.id]));
        }
    }
}

fn lock(
    waiting: &Waiting,
) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<Value, String>>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn give_results(pair: Pair, waiting: Arc<Waiting>) {
    while let Ok(message) = pair.recv().await {
        let Ok(Results { results, errors }) = Results::<Value>::decode(&message, MAX_ITEMS) else {
            continue;
        };
        let results = results.into_iter().map(|(id, value)| (id, Ok(value)));
        let errors = errors.into_iter().map(|(id, error)| (id, Err(error)));
        for (id, outcome) in results.chain(errors) {
            if let Some(waiting) = lock(&waiting).remove(&id) {
                // Whoever called may have given up.
                let _ = waiting.send(outcome);
            }
        }
    }
}
