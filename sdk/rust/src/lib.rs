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
//! - **Back-pressure**: [`Output::send`] waits while the host is slow.
//! - **Errors**: any error type, through `?`. A source that returns one ends with it, [`Output::report`] tells of one
//!   that it survives, a sink's is the answer to its message, a function's the answer to its call.
//! - **Panics** of a symbol become errors of it; the other symbols go on. That needs `panic = "unwind"`, the default.
//! - **Logs** go to standard error, by [`tracing`]; the host keeps them.
//! - **Stopping**: [`Context::cancelled`]; then the symbol has [`Options::stop_grace`] to finish.
//! - **Tests** of symbols need no host: [`testing`].
//!
//! A symbol's code shares the threads of the runtime: what computes or blocks for long belongs in
//! `tokio::task::spawn_blocking`.
//!
//! | module | what it owns |
//! |---|---|
//! | `plugin`, `options` | the process: names, arguments, signals, the control channel |
//! | `source`, `sink`, `function`, `context`, `error` | what authors implement and what they are given |
//! | `erased` | the object-safe forms of the author's traits |
//! | `runtime` | the symbols that run and their channels; all that knows the contract with the host |
//! | [`testing`] | what takes the host's place in tests |

mod context;
mod erased;
mod error;
mod function;
mod options;
mod plugin;
mod runtime;
mod sink;
mod source;
pub mod testing;

pub use context::Context;
pub use error::{Error, Result};
pub use function::Function;
pub use mangrove_protocol::Object;
pub use options::Options;
pub use plugin::{Plugin, RunError};
pub use serde_json::Value;
pub use sink::{Message, Sink};
pub use source::{Output, OutputClosed, Source, Tuple};

/// The guide's Rust is compiled with the crate's own examples.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/plugins.md")]
struct Guide;
