//! Owns what a plugin says on its control channel: answers, acknowledgements and notes as they came, and everything
//! in it that breaks the contract. A task takes it in and answers what the plugin asks, so that a behaviour only waits
//! for what it is about.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mangrove_protocol::native::control::{Ack, Answer, StateOperation, StateRequest, ToHost, ToPlugin};
use mangrove_protocol::native::opening::Hello;
use mangrove_protocol::native::{MAX_KEY_LEN, MAX_VALUE_LEN, UseNumber};
use serde_json::{Value, json};
use sp_proto::{Event, Pair};
use tokio::sync::Notify;

/// How many breaches of the contract are kept; the first tells most.
const FAULTS: usize = 8;

/// What the plugin has broken, and what it has asked to be kept. Outlives its processes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    faults: Mutex<Vec<String>>,
    /// By symbol, rule and key.
    state: Mutex<BTreeMap<(String, String, String), Value>>,
    /// Symbols that have asked for what was kept before, since this was last looked at.
    recalled: Mutex<HashSet<String>>,
}

impl Ledger {
    pub(super) fn fault(&self, text: impl Into<String>) {
        let mut faults = lock(&self.faults);
        if faults.len() < FAULTS {
            faults.push(text.into());
        }
    }

    /// What was broken first.
    pub(super) fn first_fault(&self) -> Option<String> {
        lock(&self.faults).first().cloned()
    }

    /// Whether a symbol has kept anything, and whether it has asked for what it had kept since this was last asked.
    pub(super) fn memory(&self, symbol: &str) -> (bool, bool) {
        let has_kept = lock(&self.state).keys().any(|(keeper, _, _)| keeper == symbol);
        (has_kept, lock(&self.recalled).remove(symbol))
    }

    fn keep(&self, place: (String, String, String), operation: StateOperation) -> Result<Value, String> {
        let mut state = lock(&self.state);
        if state.contains_key(&place) && !matches!(operation, StateOperation::Put(_)) {
            lock(&self.recalled).insert(place.0.clone());
        }
        Ok(match operation {
            StateOperation::Get => state.get(&place).cloned().unwrap_or_default(),
            StateOperation::Put(value) => {
                state.insert(place, value);
                Value::Null
            }
            StateOperation::Delete => {
                state.remove(&place);
                Value::Null
            }
            StateOperation::Add(by) => {
                let before = state.get(&place).cloned().unwrap_or_else(|| json!(0));
                let sum = match (before.as_i64(), by.as_i64()) {
                    (Some(before), Some(by)) => before.checked_add(by).map(|sum| json!(sum)),
                    _ => before.as_f64().zip(by.as_f64()).map(|(a, b)| json!(a + b)),
                };
                let sum = sum.ok_or("what is kept under this key is not a number")?;
                state.insert(place, sum.clone());
                sum
            }
        })
    }
}

/// What is known of a use.
#[derive(Debug)]
pub(super) struct UseRecord {
    pub(super) symbol: String,
    /// `None`: it is a function's, for all rules.
    pub(super) rule: Option<String>,
    /// Whether it has to acknowledge.
    pub(super) ack: bool,
    /// How many results each batch had that was sent to it.
    pub(super) sent: Vec<usize>,
    /// Up to which batch it has acknowledged.
    pub(super) acked: u64,
}

/// What one connection has brought so far.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) hello: Option<Hello>,
    /// Requests that were made and not answered.
    pub(super) open: HashSet<u64>,
    pub(super) answers: HashMap<u64, Result<Value, String>>,
    pub(super) uses: HashMap<UseNumber, UseRecord>,
    pub(super) acks: Vec<Ack>,
    /// Errors of uses.
    pub(super) errors: Vec<(UseNumber, String)>,
    /// How often state was asked for.
    pub(super) state_requests: usize,
    /// The connection is gone.
    pub(super) closed: bool,
}

/// One control connection.
#[derive(Debug)]
pub(super) struct Desk {
    board: Mutex<Board>,
    changed: Notify,
    ledger: Arc<Ledger>,
}

impl Desk {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            board: Mutex::default(),
            changed: Notify::new(),
            ledger,
        }
    }

    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.board)
    }

    /// Waits until `look` finds something.
    ///
    /// # Cancel safety
    /// What has come stays when the future is dropped.
    pub(super) async fn until<T>(&self, mut look: impl FnMut(&mut Board) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.board()) {
                return found;
            }
            changed.await;
        }
    }

    /// Takes in what the plugin says until the socket is closed.
    pub(super) async fn serve(&self, control: Pair) {
        let mut events = control.events();
        if control.pipes().is_empty() {
            self.board().closed = true;
        }
        loop {
            let message = tokio::select! {
                message = control.recv() => message,
                event = events.recv() => {
                    let closed = matches!(event, Some(Event::PipeRemoved { .. } | Event::Missed(_)));
                    self.board().closed |= closed;
                    self.changed.notify_waiters();
                    if event.is_none() {
                        return;
                    }
                    continue;
                }
            };
            let Ok(message) = message else { return };
            match ToHost::decode(message.as_bytes()) {
                Err(error) => self.ledger.fault(format!("on the control channel: {error}")),
                Ok(message) => {
                    if let Some(answer) = self.take(message) {
                        // A plugin that does not read its answers is seen by whoever waits for what it does next.
                        let _unread = control.try_send(ToPlugin::Answer(answer).encode());
                    }
                }
            }
            self.changed.notify_waiters();
        }
    }

    fn take(&self, message: ToHost) -> Option<Answer> {
        let mut board = self.board();
        if board.hello.is_none() && !matches!(message, ToHost::Hello(_)) {
            self.ledger.fault("something else came before hello");
        }
        match message {
            ToHost::Hello(hello) => {
                if board.hello.replace(hello).is_some() {
                    self.ledger.fault("hello came twice on one connection");
                }
                None
            }
            ToHost::Ping(id) => {
                let outcome = Ok(Value::Null);
                Some(Answer { id, outcome })
            }
            ToHost::State(id, request) => {
                board.state_requests += 1;
                let outcome = self.state(&board, request);
                Some(Answer { id, outcome })
            }
            ToHost::Answer(Answer { id, outcome }) => {
                if !board.open.remove(&id) {
                    let why = match board.answers.contains_key(&id) {
                        true => "a second time",
                        false => "which nobody has asked",
                    };
                    self.ledger.fault(format!("it answers request {id}, {why}"));
                }
                board.answers.insert(id, outcome);
                None
            }
            ToHost::Ack(ack) => {
                if let Err(fault) = check_ack(&mut board, &ack) {
                    self.ledger.fault(fault);
                }
                board.acks.push(ack);
                None
            }
            ToHost::Error(note) => {
                board.errors.push((note.number, note.error));
                None
            }
            ToHost::Log(_) | ToHost::Metric(_) => None,
            ToHost::Unknown(unknown) => {
                let outcome = Err(format!("unknown type {:?}", unknown.kind));
                unknown.id.map(|id| Answer { id, outcome })
            }
        }
    }

    fn state(&self, board: &Board, request: StateRequest) -> Result<Value, String> {
        let number = request.number;
        let fault = |text: String| {
            self.ledger.fault(&text);
            text
        };
        let Some(record) = board.uses.get(&number) else {
            return Err(fault(format!(
                "it asks for the state of use {number}, which there is not"
            )));
        };
        let rule = match (&record.rule, request.rule) {
            (Some(rule), _) => rule.clone(),
            (None, Some(rule)) => rule.to_string(),
            (None, None) => return Err(fault("a function asks for a state without a rule".to_owned())),
        };
        let length = request.key.len();
        if length == 0 || length > MAX_KEY_LEN {
            return Err(fault(format!(
                "a key of a state has {length} bytes; expected 1 to {MAX_KEY_LEN}"
            )));
        }
        if let StateOperation::Put(value) = &request.operation
            && value.to_string().len() > MAX_VALUE_LEN
        {
            return Err(fault(format!(
                "a value of a state has more than {MAX_VALUE_LEN} bytes"
            )));
        }
        let place = (record.symbol.clone(), rule, request.key);
        self.ledger.keep(place, request.operation)
    }
}

fn check_ack(board: &mut Board, ack: &Ack) -> Result<(), String> {
    let (number, seq) = (ack.number, ack.seq);
    let Some(record) = board.uses.get_mut(&number) else {
        return Err(format!(
            "it acknowledges results of use {number}, which there is not"
        ));
    };
    if !record.ack {
        return Err(format!(
            "the sink {} acknowledges though it was not asked to",
            record.symbol
        ));
    }
    let sent = record.sent.len() as u64;
    if seq > sent || seq == 0 {
        return Err(format!("it acknowledges batch {seq}; {sent} were sent"));
    }
    if seq < record.acked {
        let acked = record.acked;
        return Err(format!("it acknowledges batch {seq} after batch {acked}"));
    }
    record.acked = seq;
    let size = usize::try_from(seq - 1)
        .ok()
        .and_then(|at| record.sent.get(at))
        .copied();
    let size = size.unwrap_or_default();
    match ack.errors.iter().find(|(index, _)| *index as usize >= size) {
        Some((index, _)) => Err(format!(
            "it says that result {index} of batch {seq} failed, which has {size} results"
        )),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
