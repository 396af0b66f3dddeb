//! Owns what a symbol may know about the use that it runs for.
//!
//! A [`Context`] says for whom a symbol runs, when it has to stop and where its log lines belong. It holds no
//! connection; the runtime makes one per use of a source or sink and one per function call.

use std::sync::Arc;

use mangrove_protocol::control::Meta;
use mangrove_protocol::data::FunctionContext;
use mangrove_protocol::manifest::SymbolKind;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::Span;

/// For whom a symbol runs, and until when. Cheap to clone.
///
/// **Logging**: everything that a symbol logs with the macros of [`tracing`] carries the rule, the operator and
/// the instance by itself; a task that the symbol starts of its own belongs in [`Context::span`].
#[derive(Clone, Debug)]
pub struct Context {
    call_site: Arc<CallSite>,
    cancellation: CancellationToken,
    span: Span,
}

#[derive(Debug)]
struct CallSite {
    rule_id: String,
    op_id: String,
    instance: u32,
    function: Option<u32>,
}

impl Context {
    /// The context of one use of a source or sink.
    pub(crate) fn of_use(
        kind: SymbolKind,
        symbol: &str,
        meta: &Meta,
        cancellation: CancellationToken,
    ) -> Self {
        let call_site = CallSite {
            rule_id: meta.rule_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            op_id: meta.op_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            instance: meta.instance_id,
            function: None,
        };
        Self::new(kind, symbol, call_site, cancellation)
    }

    /// The context of one call of a function.
    pub(crate) fn of_call(symbol: &str, call: &FunctionContext, cancellation: CancellationToken) -> Self {
        let call_site = CallSite {
            rule_id: call.rule_id.to_string(),
            op_id: call.op_id.to_string(),
            instance: call.instance_id,
            function: Some(call.func_id),
        };
        Self::new(SymbolKind::Function, symbol, call_site, cancellation)
    }

    fn new(kind: SymbolKind, symbol: &str, call_site: CallSite, cancellation: CancellationToken) -> Self {
        let span = tracing::info_span!(
            "symbol",
            %kind,
            name = symbol,
            rule = call_site.rule_id,
            op = call_site.op_id,
            instance = call_site.instance,
        );
        Self {
            call_site: Arc::new(call_site),
            cancellation,
            span,
        }
    }

    /// The rule that the symbol runs for.
    pub fn rule_id(&self) -> &str {
        &self.call_site.rule_id
    }

    /// The operator in the rule.
    pub fn op_id(&self) -> &str {
        &self.call_site.op_id
    }

    /// The operator's instance, from 0.
    pub fn instance(&self) -> u32 {
        self.call_site.instance
    }

    /// Functions only: which call in the rule this is, from 0. `SELECT rank(a), rank(b)` has two; a function that
    /// remembers something keeps it per rule, operator, instance and call site.
    pub fn call_site(&self) -> Option<u32> {
        self.call_site.function
    }

    /// Completes when the symbol has to stop.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.cancellation.cancelled()
    }

    /// Runs `future` until it completes or the symbol has to stop; then it is dropped where it waits and the result
    /// is `None`.
    ///
    /// # Cancel safety
    /// That of `future`.
    pub async fn until_cancelled<F: Future>(&self, future: F) -> Option<F::Output> {
        self.cancellation.run_until_cancelled(future).await
    }

    /// Whether the symbol has to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// The token behind [`Context::cancelled`], for what takes one.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// The span of this use. The symbol's own code runs in it already.
    pub fn span(&self) -> &Span {
        &self.span
    }
}
