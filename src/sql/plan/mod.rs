//! Owns what a `SELECT` means: every name resolved, every count checked. Nothing is looked up by name in a catalog,
//! and no SQL text is made, once a plan stands.
//!
//! Joins, windows and groups will be operators between the filter and the projection; today a plan is
//! source → filter → projection.

mod aliases;
mod call;
mod columns;
mod lower;

use std::collections::HashSet;

use mangrove_protocol::Fields;
use serde_json::Value;

use super::ast::{CreateStream, Operator, Select};
use super::error::SqlError;
use super::evaluate::Message;
use super::like::Pattern;
use crate::function::Builtin;
use columns::{Columns, ColumnsFound};

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
    pub(super) shape: Shape,
    /// How each output begins when it is written: its name as JSON, and a colon.
    pub(super) keys: Vec<String>,
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

    /// Whether it gives back every message as it is.
    pub fn is_identity(&self) -> bool {
        self.shape == Shape::Message && self.filter.is_none() && self.columns.len() == 0
    }

    /// Reads what it looks at of a message's fields.
    ///
    /// # Errors
    /// A number that it looks at is out of the range of what can be computed with.
    pub fn read(&self, fields: Fields) -> Result<Message, serde_json::Error> {
        if self.shape == Shape::Merged {
            return fields.object().map(Message::Whole);
        }
        let columns = fields.pick(self.columns.len(), |name| self.columns.place(name))?;
        let fields = (self.shape == Shape::Message).then_some(fields);
        Ok(Message::Read { columns, fields })
    }

    pub(super) fn column(&self, place: usize) -> &str {
        self.columns.name(place)
    }

    /// One line per operator, in the order in which a tuple meets them.
    pub fn explain(&self) -> String {
        self.explanation.clone()
    }
}

/// How results come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// As by `SELECT *`: they are the messages themselves.
    Message,
    /// Of single fields, each with a name of its own.
    Fields,
    /// Any other way: fields may replace each other, or those of the message.
    Merged,
}

impl Shape {
    fn of(outputs: &[Output], columns: &ColumnsFound) -> Self {
        if matches!(outputs, [Output::All { except }] if except.is_empty()) {
            return Self::Message;
        }
        let mut names = HashSet::new();
        let are_single = outputs.iter().all(|output| match output {
            Output::Column(place) => names.insert(columns.name(*place)),
            Output::Computed { name, .. } => names.insert(name),
            Output::All { .. } => false,
        });
        if are_single { Self::Fields } else { Self::Merged }
    }
}

/// A field of the result, or many.
#[derive(Debug)]
pub(super) enum Output {
    /// A column under its own name; missing where the message lacks it.
    Column(usize),
    /// All columns.
    All { except: Vec<String> },
    /// Missing where it is null.
    Computed { name: String, node: Node },
}

/// An expression whose names are resolved.
#[derive(Debug)]
pub(super) enum Node {
    Literal(Value),
    /// Its place in the plan's columns.
    Column(usize),
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
