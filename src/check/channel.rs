//! Owns the host's side of data channels: one use of a source, a sink or a function each. What breaks the contract
//! becomes a flaw at once.

use std::collections::HashMap;
use std::time::Duration;

use mangrove_protocol::Object;
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::SymbolName;
use mangrove_protocol::native::UseNumber;
use mangrove_protocol::native::control::Role;
use mangrove_protocol::native::function::{CallWriter, FunctionContext, Results, encode_cancel};
use mangrove_protocol::native::sink::SinkWriter;
use mangrove_protocol::native::source::{SourceBatch, SourceContent};
use serde_json::Value;
use sp_proto::{Message, Pair, Pull, Push, SocketOptions};

use super::behaviour::{Flaw, Verdict, demand};
use super::session::{Session, milliseconds, name, options, place};

/// How often a socket is asked whether it is connected.
const POLL: Duration = Duration::from_millis(5);

/// How many acknowledgements a sink may owe, in results.
const WINDOW: usize = 4096;

/// A source that runs.
pub(super) struct SourceUse {
    pub(super) symbol: SymbolName,
    pub(super) number: UseNumber,
    pull: Pull,
    /// The last batch.
    pub(super) seq: u64,
    /// How long all its messages were together.
    pub(super) bytes: usize,
    /// It has said that it has ended.
    pub(super) ended: bool,
}

/// A sink that runs.
pub(super) struct SinkUse {
    pub(super) symbol: SymbolName,
    pub(super) number: UseNumber,
    push: Push,
    /// The last batch.
    pub(super) seq: u64,
    /// How many results were sent.
    sent: usize,
}

/// A function that runs.
pub(super) struct FunctionUse {
    pub(super) symbol: SymbolName,
    pub(super) number: UseNumber,
    pair: Pair,
    next: u64,
}

/// What has come of a call.
pub(super) type Outcome = Result<Value, String>;

fn refused(symbol: &SymbolName, error: &str) -> Flaw {
    Flaw::failed(format!(
        "{symbol} does not start: {error} (check.json can tell with which configuration it does)"
    ))
}

fn listening<E: std::fmt::Display>(error: E) -> Flaw {
    Flaw::broken(format!("the kit cannot listen: {error}"))
}

impl SourceUse {
    pub(super) async fn start(
        session: &Session,
        symbol: &SymbolName,
        config: Object,
        data_source: &str,
        offset: Option<Value>,
    ) -> Verdict<Self> {
        let number = session.number();
        // Short, so that a host that does not read is felt soon.
        let pull = Pull::with_options(SocketOptions {
            recv_queue: 1,
            recv_queue_bytes: 64 << 10,
            ..options()
        });
        let address = session.address(number);
        pull.listen(&address).await.map_err(listening)?;
        let role = Role::Source {
            place: place(),
            data_source: data_source.to_owned(),
            config,
            offset,
        };
        let answer = session.start(number, symbol, role, &address).await?;
        answer.map_err(|error| refused(symbol, &error))?;
        connected(session, symbol, || !pull.pipes().is_empty()).await?;
        Ok(Self {
            symbol: symbol.clone(),
            number,
            pull,
            seq: 0,
            bytes: 0,
            ended: false,
        })
    }

    /// The next message, checked.
    pub(super) async fn next(&mut self, session: &Session) -> Verdict<SourceContent<Object>> {
        let what = format!("batch {} of the source {}", self.seq + 1, self.symbol);
        let message = session.within(what, self.pull.recv()).await?;
        self.read(session, &message.map_err(Flaw::broken)?)
    }

    fn read(&mut self, session: &Session, message: &Message) -> Verdict<SourceContent<Object>> {
        let (symbol, before) = (&self.symbol, self.seq);
        let batch = SourceBatch::decode(message.as_bytes(), session.limits().batch);
        let batch = batch.map_err(|error| Flaw::failed(format!("the source {symbol}: {error}")))?;
        demand(batch.seq == before + 1, || {
            format!(
                "the source {symbol} sent batch {} after batch {before}",
                batch.seq
            )
        })?;
        demand(!self.ended, || {
            format!("the source {symbol} sent batch {} behind its end", batch.seq)
        })?;
        self.seq = batch.seq;
        self.bytes += message.len();
        self.ended = matches!(batch.content, SourceContent::End(_));
        Ok(batch.content)
    }

    /// Reads what has come by now.
    pub(super) fn read_queued(&mut self, session: &Session) -> Verdict<bool> {
        let message = self.pull.try_recv().map_err(Flaw::broken)?;
        message
            .map(|message| self.read(session, &message))
            .transpose()
            .map(|read| read.is_some())
    }

    /// Waits until it has closed its channel because the control connection broke, reading what it still sends.
    pub(super) async fn dropped(&mut self, session: &Session) -> Verdict {
        let closed = async {
            while !self.pull.pipes().is_empty() || self.pull.try_recv().is_ok_and(|message| message.is_some())
            {
                while self.pull.try_recv().is_ok_and(|message| message.is_some()) {}
                tokio::time::sleep(POLL).await;
            }
        };
        let what = format!(
            "the end of what {} did before the control connection broke",
            self.symbol
        );
        session.within(what, closed).await
    }

    /// Reads and checks for ever.
    pub(super) async fn read_on(&mut self, session: &Session) -> Verdict<std::convert::Infallible> {
        loop {
            let message = self.pull.recv().await.map_err(Flaw::broken)?;
            self.read(session, &message)?;
        }
    }

    /// Reads until at least `count` tuples have come, or its end.
    pub(super) async fn take(&mut self, session: &Session, count: usize) -> Verdict<Vec<Object>> {
        let mut found = Vec::new();
        while found.len() < count && !self.ended {
            if let SourceContent::Tuples { tuples, .. } = self.next(session).await? {
                found.extend(tuples);
            }
        }
        Ok(found)
    }

    /// Stops it, and reads what it still sends. Returns the seq of its answer.
    pub(super) async fn stop(&mut self, session: &Session) -> Verdict<u64> {
        let id = session.stop(self.number, None).await?;
        let answered = session.answer(id, format!("stop of {}", self.symbol));
        let mut answered = std::pin::pin!(answered);
        let answer = loop {
            tokio::select! {
                answer = &mut answered => break answer?,
                message = self.pull.recv() => {
                    let message = message.map_err(Flaw::broken)?;
                    self.read(session, &message)?;
                }
            }
        };
        let symbol = self.symbol.clone();
        let value = answer.map_err(|error| Flaw::failed(format!("{symbol} does not stop: {error}")))?;
        let last = value["seq"].as_u64().ok_or_else(|| {
            Flaw::failed(format!(
                "the source {symbol} answers stop with {value}; expected {{\"seq\":…}}"
            ))
        })?;
        while self.seq < last {
            self.next(session).await?;
        }
        self.closed(session).await?;
        // Nothing can come any more; what had come before the end of the connection is queued.
        while self.read_queued(session)? {}
        demand(self.seq == last, || {
            let found = self.seq;
            format!(
                "the source {symbol} answered stop with batch {last} as its last one, and sent batch {found}"
            )
        })?;
        Ok(last)
    }

    /// Waits until it has closed its channel. What comes until then is read: unread, it would hide the end.
    async fn closed(&mut self, session: &Session) -> Verdict {
        let what = format!("the end of the data connection of {}, after stop,", self.symbol);
        let closed = async {
            while !self.pull.pipes().is_empty() {
                while self.read_queued(session)? {}
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        session.within(what, closed).await?
    }
}

/// Asks for the start of a symbol that should be refused, at an address where somebody listens.
pub(super) async fn try_start(
    session: &Session,
    kind: SymbolKind,
    symbol: &SymbolName,
    config: Object,
) -> Verdict<Result<Value, String>> {
    let number = session.number();
    let address = session.address(number);
    let (pull, push, pair) = (
        Pull::with_options(options()),
        Push::with_options(options()),
        Pair::with_options(options()),
    );
    match kind {
        SymbolKind::Source => pull.listen(&address).await,
        SymbolKind::Sink => push.listen(&address).await,
        SymbolKind::Function => pair.listen(&address).await,
    }
    .map_err(listening)?;
    session.start(number, symbol, role(kind, config), &address).await
}

/// The role of a symbol of which only the configuration is of interest.
fn role(kind: SymbolKind, config: Object) -> Role {
    let place = place();
    match kind {
        SymbolKind::Source => Role::Source {
            place,
            data_source: String::new(),
            config,
            offset: None,
        },
        SymbolKind::Sink => Role::Sink {
            place,
            config,
            ack: true,
        },
        SymbolKind::Function => Role::Function,
    }
}

impl SinkUse {
    pub(super) async fn start(
        session: &Session,
        symbol: &SymbolName,
        config: Object,
        ack: bool,
    ) -> Verdict<Self> {
        let number = session.number();
        let push = Push::with_options(options());
        let address = session.address(number);
        push.listen(&address).await.map_err(listening)?;
        let role = Role::Sink {
            place: place(),
            config,
            ack,
        };
        let answer = session.start(number, symbol, role, &address).await?;
        answer.map_err(|error| refused(symbol, &error))?;
        connected(session, symbol, || !push.pipes().is_empty()).await?;
        Ok(Self {
            symbol: symbol.clone(),
            number,
            push,
            seq: 0,
            sent: 0,
        })
    }

    /// Sends one batch.
    pub(super) async fn send(&mut self, session: &Session, results: &[Value]) -> Verdict {
        let mut writer = SinkWriter::default();
        for result in results {
            writer.push(result.to_string().as_bytes());
        }
        self.seq += 1;
        self.sent += results.len();
        if let Some(record) = session.board().uses.get_mut(&self.number) {
            record.sent.push(results.len());
        }
        self.send_raw(session, writer.finish(self.seq)).await
    }

    /// Sends anything.
    pub(super) async fn send_raw(&self, session: &Session, message: Vec<u8>) -> Verdict {
        let what = format!("room for another batch to the sink {}", self.symbol);
        let sent = session.within(what, self.push.send(message)).await?;
        sent.map_err(Flaw::broken)
    }

    /// Waits until it owes no more than a window of acknowledgements.
    pub(super) async fn within_window(&self, session: &Session) -> Verdict {
        let number = self.number;
        let owes = |board: &mut super::desk::Board| {
            let record = board.uses.get(&number)?;
            let acked = usize::try_from(record.acked).ok()?;
            let owed: usize = record.sent.get(acked..)?.iter().sum();
            (owed <= WINDOW).then_some(())
        };
        let what = format!("an acknowledgement of the sink {}", self.symbol);
        session.until(what, owes).await
    }

    /// Waits until it has acknowledged everything that was sent.
    pub(super) async fn acknowledged(&self, session: &Session) -> Verdict {
        let (number, seq) = (self.number, self.seq);
        let what = format!("the acknowledgement of batch {seq} by the sink {}", self.symbol);
        let all = |board: &mut super::desk::Board| (board.uses.get(&number)?.acked >= seq).then_some(());
        session.until(what, all).await
    }

    /// Stops it behind the last batch.
    pub(super) async fn stop(&self, session: &Session) -> Verdict {
        let id = session.stop(self.number, Some(self.seq)).await?;
        let answer = session.answer(id, format!("stop of {}", self.symbol)).await?;
        let symbol = &self.symbol;
        answer.map_err(|error| Flaw::failed(format!("{symbol} does not stop: {error}")))?;
        disconnected(session, symbol, || self.push.pipes().is_empty()).await
    }
}

impl FunctionUse {
    pub(super) async fn start(session: &Session, symbol: &SymbolName) -> Verdict<Self> {
        let number = session.number();
        let pair = Pair::with_options(options());
        let address = session.address(number);
        pair.listen(&address).await.map_err(listening)?;
        let answer = session.start(number, symbol, Role::Function, &address).await?;
        answer.map_err(|error| refused(symbol, &error))?;
        connected(session, symbol, || !pair.pipes().is_empty()).await?;
        Ok(Self {
            symbol: symbol.clone(),
            number,
            pair,
            next: 1,
        })
    }

    /// Makes calls in one message. Returns their ids, which count up.
    pub(super) async fn send(&mut self, session: &Session, calls: &[&[Value]]) -> Verdict<Vec<u64>> {
        self.send_for(session, calls, session.patience()).await
    }

    /// The same, waiting no longer than `timeout` for what comes of them.
    pub(super) async fn send_for(
        &mut self,
        session: &Session,
        calls: &[&[Value]],
        timeout: Duration,
    ) -> Verdict<Vec<u64>> {
        let mut writer = CallWriter::default();
        let mut ids = Vec::with_capacity(calls.len());
        for args in calls {
            writer.push(self.next, args);
            ids.push(self.next);
            self.next += 1;
        }
        let context = FunctionContext {
            rule_id: name("check"),
            op_id: name("project"),
            instance_id: 0,
            func_id: 0,
        };
        let message = writer.finish(&context, milliseconds(timeout));
        self.send_raw(session, message).await?;
        Ok(ids)
    }

    /// Sends anything.
    pub(super) async fn send_raw(&self, session: &Session, message: Vec<u8>) -> Verdict {
        let what = format!("room for another call of {}", self.symbol);
        let sent = session.within(what, self.pair.send(message)).await?;
        sent.map_err(Flaw::broken)
    }

    pub(super) async fn cancel(&self, session: &Session, ids: &[u64]) -> Verdict {
        self.send_raw(session, encode_cancel(ids)).await
    }

    /// The next results, in the order in which they stand in their message.
    pub(super) async fn next(&self, session: &Session) -> Verdict<Vec<(u64, Outcome)>> {
        let symbol = &self.symbol;
        let message = session
            .within(format!("a result of {symbol}"), self.pair.recv())
            .await?;
        let message = message.map_err(Flaw::broken)?;
        let read = Results::<Value>::decode(message.as_bytes(), session.limits().batch);
        let read = read.map_err(|error| Flaw::failed(format!("{symbol}: {error}")))?;
        let results = read.results.into_iter().map(|(id, value)| (id, Ok(value)));
        let errors = read.errors.into_iter().map(|(id, error)| (id, Err(error)));
        Ok(results.chain(errors).collect())
    }

    /// Whether a message is there that nobody has read.
    pub(super) fn has_answered(&self) -> Verdict<bool> {
        self.pair
            .try_recv()
            .map(|message| message.is_some())
            .map_err(Flaw::broken)
    }

    /// The results of `ids`, each once and nothing else; those of `late` may come, too.
    pub(super) async fn collect(
        &self,
        session: &Session,
        ids: &[u64],
        late: &[u64],
    ) -> Verdict<HashMap<u64, Outcome>> {
        let mut found = HashMap::with_capacity(ids.len());
        while found.len() < ids.len() {
            for (id, outcome) in self.next(session).await? {
                if late.contains(&id) {
                    continue;
                }
                let symbol = &self.symbol;
                // They count up.
                demand(ids.binary_search(&id).is_ok(), || {
                    format!("{symbol} sent a result of call {id}, which was not made or is answered")
                })?;
                demand(found.insert(id, outcome).is_none(), || {
                    format!("{symbol} sent two results of call {id}")
                })?;
            }
        }
        Ok(found)
    }

    /// Makes one call and awaits its result.
    pub(super) async fn call(&mut self, session: &Session, args: &[Value]) -> Verdict<Outcome> {
        let ids = self.send(session, &[args]).await?;
        let mut found = self.collect(session, &ids, &[]).await?;
        let outcome = ids.first().and_then(|id| found.remove(id));
        outcome.ok_or_else(|| Flaw::failed(format!("{} gave no result", self.symbol)))
    }

    pub(super) async fn stop(&self, session: &Session) -> Verdict {
        let id = session.stop(self.number, None).await?;
        let answer = session.answer(id, format!("stop of {}", self.symbol)).await?;
        let symbol = &self.symbol;
        answer.map_err(|error| Flaw::failed(format!("{symbol} does not stop: {error}")))?;
        disconnected(session, symbol, || self.pair.pipes().is_empty()).await
    }
}

async fn connected(session: &Session, symbol: &SymbolName, holds: impl Fn() -> bool) -> Verdict {
    session
        .within(format!("the data connection of {symbol}"), until(holds))
        .await
}

async fn disconnected(session: &Session, symbol: &SymbolName, holds: impl Fn() -> bool) -> Verdict {
    let what = format!("the end of the data connection of {symbol}, after stop,");
    session.within(what, until(holds)).await
}

/// The sockets tell of their connections as events, but these may have come before.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(POLL).await;
    }
}
