//! Owns the SQL of streams and rules: text → [`Statement`] ([`parse`]), `SELECT` → [`Plan`] ([`plan`]), and the
//! evaluation of a plan on one tuple ([`Plan::evaluate`]).
//!
//! Pure: no I/O, no clock, no randomness, no task. What depends on the world comes in with the arguments: the streams
//! and functions that exist as a [`Catalog`], time and seed as part of the [`Row`], results of portable functions as
//! [`CallResults`]. The rule subsystem drives it.
//!
//! | module | what it decides |
//! |---|---|
//! | `token`, `parser` | which texts are statements, and what is said about others |
//! | `ast`, `display` | the shape of statements, and their text again |
//! | `plan` | what the names mean; everything that can be wrong before the first tuple comes |
//! | `evaluate`, `operators`, `like` | what an expression gives for one tuple |
//! | `schema` | how tuples are made to fit the fields of a stream, how a stream is described |
//!
//! ```
//! use mangrove_protocol::Fields;
//! use mangrove::sql::{Catalog, CallResults, CreateStream, Row, Statement, Step, parse, plan};
//!
//! struct Streams(CreateStream);
//! impl Catalog for Streams {
//!     fn stream(&self, name: &str) -> Option<&CreateStream> {
//!         (self.0.name == name).then_some(&self.0)
//!     }
//!     fn is_portable_function(&self, _: &str) -> bool {
//!         false
//!     }
//! }
//!
//! let Statement::CreateStream(demo) = parse(r#"CREATE STREAM demo () WITH (DATASOURCE = "demo")"#)? else { panic!() };
//! let Statement::Select(select) = parse("SELECT temperature * 2 AS double FROM demo WHERE temperature > 20")? else { panic!() };
//! let plan = plan(&select, &Streams(*demo))?;
//!
//! let fields = Fields::from_text(r#"{"temperature": 21}"#.into())?;
//! let row = Row { message: plan.read(fields)?, ..Row::default() };
//! let step = plan.evaluate(&row, &CallResults::default())?;
//! assert_eq!(step, Step::Emit(Fields::from_text(r#"{"double":42}"#.into())?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ast;
mod display;
mod error;
mod evaluate;
mod like;
mod operators;
mod parser;
mod plan;
mod schema;
mod token;

pub use ast::{
    CreateStream, Expr, ExprKind, Field, FieldType, Link, Operator, PathStep, Select, SelectItem, Source,
    Statement, StreamOptions,
};
pub(crate) use error::Shown;
pub use error::{Position, SqlError};
pub use evaluate::{CallResults, EvalError, Message, Row, Step};
pub use operators::Problem;
pub use parser::parse;
pub use plan::{CallSite, Catalog, Plan, plan};
pub use schema::ConformError;

/// The longest text that [`parse`] reads, in bytes.
pub const MAX_TEXT: usize = 256 * 1024;

/// How deep expressions and types may nest in a text.
pub const MAX_NESTING: usize = 64;

/// How deep the operators of an expression may nest, once every alias in it is replaced by what it stands for.
///
/// In a debug build a level takes up to 9 KiB of stack, and a worker thread has 2 MiB.
pub const MAX_HEIGHT: usize = 128;

#[cfg(test)]
mod tests;
