//! Owns what a `SELECT` means: every name resolved, every count checked. Nothing is looked up by name in a catalog,
//! and no SQL text is made, once a plan stands.
//!
//! Joins, windows and groups will be operators between the filter and the projection; today a plan is
//! source → filter → projection.

mod aliases;
mod call;
mod columns;
mod lower;

use serde_json::Value;

use super::ast::{CreateStream, Operator, Select};
use super::error::SqlError;
use super::like::Pattern;
use crate::function::Builtin;
use columns::Columns;

/// What a plan may refer to.
pub trait Catalog {
    /// The definition of a stream.
    fn stream(&self, name: &str) -> Option<&CreateStream>;
    /// Is there a portable function of this name? Built-in ones win.
    fn is_portable_function(&self, name: &str) -> bool;
}

/// A `SELECT` whose names are resolved and whose argument counts are checked; immutable and shared.
#[derive(Debug)]
pub struct Plan {
    streams: Vec<String>,
    pub(super) filter: Option<Node>,
    pub(super) outputs: Vec<Output>,
    /// Those that are used elsewhere in the statement.
    pub(super) aliases: Vec<Node>,
    pub(super) calls: Vec<CallSite>,
    columns: Columns,
    explanation: String,
}

/// A portable call in the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct CallSite {
    /// Counted from 0: its place in [`Plan::calls`], and the contract's `funcId`.
    pub site: usize,
    /// The function's name.
    pub function: String,
    /// Literals as values, anything else as its SQL text.
    pub args: Vec<Value>,
}

/// Makes a plan of a statement.
///
/// # Errors
/// The stream does not exist, or lacks a column although it has a schema; a function does not exist or takes other
/// arguments; aliases are defined twice or by each other; expressions nest too deep.
pub fn plan(select: &Select, catalog: &dyn Catalog) -> Result<Plan, SqlError> {
    lower::lower(select, catalog)
}

impl Plan {
    /// The streams in FROM, in order.
    pub fn streams(&self) -> &[String] {
        &self.streams
    }

    /// The portable calls, by site.
    pub fn calls(&self) -> &[CallSite] {
        &self.calls
    }

    /// Whether it looks at a field of the message: the others may be missing from the [`Row`](super::Row) that it is given.
    /// Of a plan that [passes messages on](Self::passes_on) only what its condition looks at counts.
    pub fn looks_at(&self, field: &str) -> bool {
        self.columns.contain(field)
    }

    /// Whether its results are the messages themselves, as by `SELECT *`.
    pub fn passes_on(&self) -> bool {
        columns::is_message(&self.outputs)
    }

    /// Whether it gives back every message as it is.
    pub fn is_identity(&self) -> bool {
        self.passes_on() && self.filter.is_none() && self.columns.is_empty()
    }

    /// One line per operator, in the order in which a tuple meets them.
    pub fn explain(&self) -> String {
        self.explanation.clone()
    }
}

/// A field of the result, or many.
#[derive(Debug)]
pub(super) enum Output {
    /// A column under its own name; missing where the message lacks it.
    Column(String),
    /// All columns.
    All { except: Vec<String> },
    /// Missing where it is null.
    Computed { name: String, node: Node },
}

/// An expression whose names are resolved.
#[derive(Debug)]
pub(super) enum Node {
    Literal(Value),
    Column(String),
    Meta(String),
    AllMeta,
    /// Its place in [`Plan::aliases`].
    Alias(usize),
    Path {
        base: Box<Node>,
        steps: Vec<Access>,
    },
    /// `salt` differs between the calls of a plan.
    Builtin {
        function: &'static Builtin,
        salt: u64,
        args: Vec<Node>,
    },
    Portable {
        site: usize,
        args: Vec<Node>,
    },
    Any(Vec<Node>),
    Every(Vec<Node>),
    Operations {
        first: Box<Node>,
        rest: Vec<Operation>,
    },
    Not(Box<Node>),
    Negate(Box<Node>),
    Case {
        operand: Option<Box<Node>>,
        arms: Vec<(Node, Node)>,
        otherwise: Option<Box<Node>>,
    },
}

/// One step of a path.
#[derive(Debug)]
pub(super) enum Access {
    Field(String),
    Index(Node),
    Slice(Option<Node>, Option<Node>),
}

/// An operator and what follows it.
#[derive(Debug)]
pub(super) enum Operation {
    /// `integers`: both sides are integers by declaration.
    Binary {
        operator: Operator,
        integers: bool,
        right: Node,
    },
    InList {
        negated: bool,
        list: Vec<Node>,
    },
    InArray {
        negated: bool,
        array: Node,
    },
    Between {
        negated: bool,
        low: Node,
        high: Node,
    },
    Like {
        negated: bool,
        pattern: Like,
    },
}

/// What stands after LIKE.
#[derive(Debug)]
pub(super) enum Like {
    /// A literal, made ready once.
    Fixed(Pattern),
    /// Anything else.
    Computed(Node),
}
