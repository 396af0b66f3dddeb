//! Owns what a symbol may know about the use that it runs for.
//!
//! A [`Context`] says for whom a symbol runs, when it has to stop, where its log lines belong, and leads to what it
//! remembers and counts. It holds no connection itself; the runtime makes one per use of a source or sink and one per
//! message of function calls.

use std::fmt;
use std::sync::Arc;

use mangrove_protocol::data::FunctionContext;
use mangrove_protocol::manifest::SymbolKind;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::Span;

use crate::metrics::Metrics;
use crate::state::State;
use crate::{Result, log};

/// For whom a symbol runs, and until when. Cheap to clone.
///
/// **Logging**: everything that a symbol logs with the macros of [`tracing`] carries the rule, the operator and
/// the instance by itself; a task that the symbol starts of its own belongs in [`Context::span`].
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    place: Place,
    cancellation: CancellationToken,
    span: Span,
    state: State,
    metrics: Metrics,
    offset: Option<Value>,
}

/// For whom a symbol runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) rule: String,
    pub(crate) op: String,
    pub(crate) instance: u32,
    /// Functions only.
    pub(crate) call_site: Option<u32>,
}

/// What a context leads to.
pub(crate) struct Services {
    pub(crate) state: State,
    pub(crate) metrics: Metrics,
    /// Where log lines go, if they go to the host.
    pub(crate) log: Option<log::Origin>,
    /// Sources only.
    pub(crate) offset: Option<Value>,
}

impl Context {
    pub(crate) fn new(
        kind: SymbolKind,
        symbol: &str,
        place: Place,
        services: Services,
        cancellation: CancellationToken,
    ) -> Self {
        let span = log::span(kind, symbol, &place, services.log);
        Self {
            inner: Arc::new(Inner {
                place,
                cancellation,
                span,
                state: services.state,
                metrics: services.metrics,
                offset: services.offset,
            }),
        }
    }

    /// The rule that the symbol runs for.
    pub fn rule_id(&self) -> &str {
        &self.inner.place.rule
    }

    /// The operator in the rule.
    pub fn op_id(&self) -> &str {
        &self.inner.place.op
    }

    /// The operator's instance, from 0.
    pub fn instance(&self) -> u32 {
        self.inner.place.instance
    }

    /// Functions only: which call in the rule this is, from 0. `SELECT rank(a), rank(b)` has two; a function that
    /// remembers something keeps it per rule, operator, instance and call site.
    pub fn call_site(&self) -> Option<u32> {
        self.inner.place.call_site
    }

    /// What the symbol remembers for this rule.
    pub fn state(&self) -> &State {
        &self.inner.state
    }

    /// The figures of the symbol; for a function, of all rules together.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Sources only: where to go on, as [`Tuple::with_offset`](crate::Tuple::with_offset) said it with a tuple whose
    /// results all are safe; `None`: at the beginning.
    ///
    /// # Errors
    /// It is not of this type.
    pub fn offset<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        match &self.inner.offset {
            None => Ok(None),
            Some(offset) => T::deserialize(offset)
                .map(Some)
                .map_err(|error| format!("the offset cannot be read: {error}").into()),
        }
    }

    /// Completes when the symbol has to stop. A sink or function is first given half of its
    /// time for what it has been handed.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.inner.cancellation.cancelled()
    }

    /// Runs `future` until it completes or the symbol has to stop; then it is dropped where it waits and the result
    /// is `None`.
    ///
    /// # Cancel safety
    /// That of `future`.
    pub async fn until_cancelled<F: Future>(&self, future: F) -> Option<F::Output> {
        self.inner.cancellation.run_until_cancelled(future).await
    }

    /// Whether the symbol has to stop.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancellation.is_cancelled()
    }

    /// The token behind [`Context::cancelled`], for what takes one.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.inner.cancellation
    }

    /// The span of this use. The symbol's own code runs in it already.
    pub fn span(&self) -> &Span {
        &self.inner.span
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("place", &self.inner.place)
            .field("is_cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl From<&FunctionContext> for Place {
    fn from(call: &FunctionContext) -> Self {
        Self {
            rule: call.rule_id.to_string(),
            op: call.op_id.to_string(),
            instance: call.instance_id,
            call_site: Some(call.func_id),
        }
    }
}
