//! Write sources, sinks and functions for Mangrove in Rust.
//!
//! A plugin is a program with one type per symbol: a type that implements [`Source`], [`Sink`] or [`Function`].
//! [`Plugin`] gives them the names of the manifest and serves the host.
//!
//! ```no_run
//! use mangrove_sdk::{Context, Function, Plugin, Result, RunError, Value};
//!
//! struct Shout;
//!
//! impl Function for Shout {
//!     async fn exec(&self, args: Vec<Value>, context: &Context) -> Result<Value> {
//!         let text = args.first().and_then(Value::as_str).ok_or("shout takes a text")?;
//!         tracing::debug!(rule = context.rule_id(), "shouting");
//!         Ok(text.to_uppercase().into())
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), RunError> {
//!     Plugin::new("megaphone").function("shout", Shout).run().await
//! }
//! ```
//!
//! - **Configuration** is a serde type of the symbol's own.
//! - **Hosts**: one program serves Mangrove, over its own contract, and hosts that speak eKuiper's. The environment tells
//!   which; nothing else is different.
//! - **Batches**: what a source sends, a sink takes and a function answers goes in batches by itself. A single tuple or call
//!   goes at once.
//! - **Back-pressure**: [`Output::send`] waits while the host is slow.
//! - **State**: [`Context::state`] keeps values and counters per symbol and rule, over restarts. A source that can go on
//!   where it was says so with [`Tuple::with_offset`].
//! - **Figures**: [`Context::metrics`], counters and gauges that the host shows.
//! - **Errors**: any error type, through `?`. A source that returns one ends with it, [`Output::report`] tells of one
//!   that it survives, a sink's is the answer to its message, a function's the answer to its call.
//! - **Panics** of a symbol become errors of it; the other symbols go on. That needs `panic = "unwind"`, the default.
//! - **Logs** are those of [`tracing`]; the host keeps them, with the rule that they belong to.
//! - **Stopping**: [`Context::cancelled`]; then the symbol has [`Options::stop_grace`] to finish.
//! - **Tests** need no host and no process: with the feature `testing` there is one in the test, see the module `testing`.
//!
//! | feature | |
//! |---|---|
//! | `testing` | the module `testing`; for `[dev-dependencies]` |
//! | `tls` | hosts at `tls+tcp://`; `MANGROVE_CA` is a PEM file of those whom the plugin trusts |
//!
//! A symbol's code shares the threads of the runtime: what computes or blocks for long belongs in
//! `tokio::task::spawn_blocking`.
//!
//! | module | what it owns |
//! |---|---|
//! | `plugin`, `options` | the process: names, environment, arguments, signals |
//! | `source`, `sink`, `function`, `context`, `tuple`, `error` | what authors implement and what they are given |
//! | `output`, `state`, `metrics`, `log` | what leads from a symbol to its host, whoever that is |
//! | `erased`, `symbols`, `guard` | the object-safe forms of the author's traits, and the line between their code and ours |
//! | `native` | Mangrove's contract: the session with the host, and the symbols that run |
//! | `ekuiper` | the same for eKuiper's contract |
//! | `testing` | what takes the host's place in tests |

mod context;
mod ekuiper;
mod erased;
mod error;
mod function;
mod guard;
mod log;
mod metrics;
mod native;
mod options;
mod output;
mod plugin;
mod sink;
mod source;
mod state;
mod symbols;
#[cfg(feature = "testing")]
pub mod testing;
mod tuple;

pub use context::Context;
pub use error::{Error, Result};
pub use function::Function;
pub use mangrove_protocol::Object;
pub use metrics::{Counter, Gauge, Metrics};
pub use options::Options;
pub use output::{Output, SendError};
pub use plugin::{Plugin, RunError};
pub use serde_json::Value;
pub use sink::{Message, Sink};
pub use source::Source;
pub use state::{Number, State, StateError};
pub use tuple::Tuple;

/// The guide's Rust is compiled with the crate's own examples.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/plugins.md")]
struct Guide;
