//! Owns one control connection to the host: what goes out over it, and the plugin's requests that wait for an answer.
//!
//! Lives as long as the connection: after a reconnect there is another one. Knows no use; the session reads what comes in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mangrove_protocol::Object;
use mangrove_protocol::name::RuleId;
use mangrove_protocol::native::UseNumber;
use mangrove_protocol::native::control::{Answer, Level, Log, StateOperation, StateRequest, ToHost};
use serde_json::Value;
use sp_proto::{Pair, SendErrorKind};
use tokio::sync::oneshot;

use crate::erased::BoxFuture;
use crate::log;
use crate::state::{StateError, Store};

/// How long the host may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Link {
    pub(super) pair: Pair,
    pending: Mutex<Pending>,
    /// Log lines for which there was no room.
    left_out: AtomicU64,
}

/// The requests that are open; `None` once the connection is gone.
struct Pending {
    newest: u64,
    waiting: Option<HashMap<u64, oneshot::Sender<Result<Value, String>>>>,
}

impl Link {
    pub(super) fn new(pair: Pair) -> Self {
        Self {
            pair,
            pending: Mutex::new(Pending {
                newest: 0,
                waiting: Some(HashMap::new()),
            }),
            left_out: AtomicU64::new(0),
        }
    }

    /// Sends a message, waiting while the host takes none. One that the connection does not outlive is lost, as
    /// everything that belongs to it is.
    pub(super) async fn send(&self, message: &ToHost) {
        if let Err(error) = self.pair.send(message.encode()).await {
            tracing::debug!(%error, "the host did not take a message");
        }
    }

    pub(super) async fn answer(&self, id: u64, outcome: Result<Value, String>) {
        self.send(&ToHost::Answer(Answer { id, outcome })).await;
    }

    /// False: nobody waits for it.
    pub(super) fn answered(&self, answer: Answer) -> bool {
        let waiting = self
            .pending()
            .waiting
            .as_mut()
            .and_then(|all| all.remove(&answer.id));
        waiting.is_some_and(|waiting| waiting.send(answer.outcome).is_ok())
    }

    /// Nothing goes out or comes in any more, and whoever waits is told so.
    pub(super) async fn close(&self) {
        self.pending().waiting = None;
        self.pair.close().await;
    }

    async fn request(&self, request: StateRequest) -> Result<Value, StateError> {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut pending = self.pending();
            pending.newest += 1;
            let id = pending.newest;
            pending
                .waiting
                .as_mut()
                .ok_or(StateError::Gone)?
                .insert(id, sender);
            id
        };
        // Whatever becomes of it, nobody waits any more.
        let _forget = Forget { link: self, id };
        let asked = async {
            self.send(&ToHost::State(id, request)).await;
            answer.await
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(outcome)) => outcome.map_err(StateError::Refused),
            Ok(Err(_)) => Err(StateError::Gone),
            Err(_) => Err(StateError::TimedOut(ANSWER_TIMEOUT)),
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_log(&self, line: Log) -> Result<(), SendErrorKind> {
        self.pair
            .try_send(ToHost::Log(line).encode())
            .map_err(|error| error.kind)
    }
}

struct Forget<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = &mut self.link.pending().waiting {
            waiting.remove(&self.id);
        }
    }
}

impl log::Sink for Link {
    fn log(&self, line: Log) -> bool {
        let left_out = self.left_out.swap(0, Ordering::SeqCst);
        if left_out > 0 {
            let gap = Log {
                level: Level::Warn,
                message: format!("{left_out} lines were left out: the host did not take them"),
                number: None,
                fields: Object::new(),
            };
            if self.try_log(gap).is_err() {
                self.left_out.fetch_add(left_out, Ordering::SeqCst);
            }
        }
        match self.try_log(line) {
            Ok(()) => true,
            Err(SendErrorKind::Closed) => false,
            Err(_) => {
                self.left_out.fetch_add(1, Ordering::SeqCst);
                true
            }
        }
    }
}

/// The state of one use, kept by the host.
pub(super) struct HostStore {
    pub(super) link: std::sync::Arc<Link>,
    pub(super) number: UseNumber,
    /// Functions only.
    pub(super) rule: Option<RuleId>,
}

impl Store for HostStore {
    fn request<'a>(
        &'a self,
        key: &'a str,
        operation: StateOperation,
    ) -> BoxFuture<'a, Result<Value, StateError>> {
        Box::pin(self.link.request(StateRequest {
            number: self.number,
            rule: self.rule.clone(),
            key: key.to_owned(),
            operation,
        }))
    }
}
