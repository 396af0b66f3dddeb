//! Owns the shape of statements. It knows neither the text they came from nor the streams they name.

use mangrove_protocol::Object;
use serde_json::Value;

use super::error::Position;

/// One statement.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Statement {
    /// `CREATE STREAM …`
    CreateStream(Box<CreateStream>),
    /// `SELECT …`
    Select(Select),
    /// `SHOW STREAMS`
    ShowStreams,
    /// `DESCRIBE STREAM name`
    DescribeStream(String),
    /// `DROP STREAM name`
    DropStream(String),
}

/// `CREATE STREAM name (fields) WITH (options)`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateStream {
    /// The stream's name.
    pub name: String,
    /// Empty: the stream has no schema and takes any field.
    pub fields: Vec<Field>,
    /// What stands in `WITH (…)`.
    pub options: StreamOptions,
}

/// A field of a schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name; upper and lower case differ.
    pub name: String,
    /// What its values are.
    pub ty: FieldType,
    /// What it has when a tuple lacks it; looked at with `STRICT_VALIDATION` only.
    pub default: Option<Value>,
}

/// What the values of a field are.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldType {
    /// A 64-bit integer.
    Bigint,
    /// A 64-bit floating-point number.
    Float,
    /// A text.
    String,
    /// A number of milliseconds since 1970 or a text.
    Datetime,
    /// True or false.
    Boolean,
    /// Bytes, as a base64 text.
    Bytea,
    /// An array of one type.
    Array(Box<FieldType>),
    /// An object.
    Struct(Vec<Field>),
}

/// What stands in `WITH (…)`; nothing of it is checked against what the host has.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct StreamOptions {
    /// `TYPE`: the kind of source.
    pub source_type: Option<String>,
    /// `DATASOURCE`; empty where it is not given.
    pub data_source: String,
    /// `FORMAT` of the messages.
    pub format: Option<String>,
    /// `CONF_KEY`: the set of properties in the source's configuration file.
    pub conf_key: Option<String>,
    /// `SHARED`: one running source serves all rules.
    pub shared: bool,
    /// `TIMESTAMP`: the field that holds the time of the event.
    pub timestamp: Option<String>,
    /// `TIMESTAMP_FORMAT`: how texts in that field are read.
    pub timestamp_format: Option<String>,
    /// `KEY`
    pub key: Option<String>,
    /// `STRICT_VALIDATION`: see [`CreateStream::conform`].
    pub strict_validation: bool,
    /// `RETAIN_SIZE`: tuples that a table keeps.
    pub retain_size: Option<u64>,
    /// `SCHEMAID`: the schema of a binary format.
    pub schema_id: Option<String>,
    /// `DELIMITER` of the format `delimited`.
    pub delimiter: Option<String>,
    /// `KIND` of a table.
    pub kind: Option<String>,
    /// `VERSION` of the definition, compared as text.
    pub version: Option<String>,
    /// `EXTRA`: properties that win over those of the conf key.
    pub extra: Option<Object>,
    /// `TEMP`: not stored.
    pub temporary: bool,
}

/// `SELECT … FROM … WHERE …`. Joins, groups and orders will stand beside `filter`.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// What stands between SELECT and FROM; never empty.
    pub items: Vec<SelectItem>,
    /// What stands after FROM.
    pub source: Source,
    /// What stands after WHERE.
    pub filter: Option<Expr>,
}

/// A stream in FROM.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The stream's name.
    pub stream: String,
    /// The name that the rest of the statement may use for it.
    pub alias: Option<String>,
    /// Where the name stands.
    pub position: Position,
}

/// One thing that is selected.
#[derive(Clone, Debug, PartialEq)]
pub enum SelectItem {
    /// `* [EXCEPT (…)] [REPLACE (…)]`
    All {
        /// Fields that are left out.
        except: Vec<String>,
        /// Fields that are computed instead: name and expression.
        replace: Vec<(String, Expr)>,
    },
    /// `stream.*`
    AllOf {
        /// The stream's name or alias.
        stream: String,
        /// Where it stands.
        position: Position,
    },
    /// `expression [AS alias]`
    Field {
        /// What is computed.
        expr: Expr,
        /// How the result is called, and where that is said.
        alias: Option<(String, Position)>,
    },
}

/// An expression and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// Where its first word stands.
    pub position: Position,
    /// What it is.
    pub kind: ExprKind,
}

/// What an expression is.
///
/// A run of operators of one precedence is one [`Chain`](Self::Chain), and a run of `->`, `.` and `[…]` one
/// [`Path`](Self::Path): the height of the tree is bounded by how deep the text nests, not by how long it is.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A number, text or boolean.
    Literal(Value),
    /// A column or alias, or in a path a stream.
    Name(String),
    /// `*`
    All,
    /// `stream.*`
    AllOf(String),
    /// `base->field.field[index][from:to]`
    Path {
        /// What the path begins with.
        base: Box<Expr>,
        /// Where it leads; never empty.
        steps: Vec<PathStep>,
    },
    /// `function(argument, …)`
    Call {
        /// As it was written.
        function: String,
        /// In order.
        args: Vec<Expr>,
    },
    /// Operators of one precedence, applied from left to right.
    Chain {
        /// What stands before the first operator.
        first: Box<Expr>,
        /// The operators with what follows them; never empty.
        rest: Vec<Link>,
    },
    /// `NOT expression`
    Not(Box<Expr>),
    /// `-expression`
    Negate(Box<Expr>),
    /// `CASE [operand] WHEN … THEN … ELSE … END`
    Case {
        /// What each WHEN is compared with; without it each WHEN is a condition.
        operand: Option<Box<Expr>>,
        /// WHEN and THEN; never empty.
        arms: Vec<(Expr, Expr)>,
        /// ELSE
        otherwise: Option<Box<Expr>>,
    },
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathStep {
    /// `->field`
    Arrow(String),
    /// `.field`
    Dot(String),
    /// `[index]`
    Index(Expr),
    /// `[from:to]`
    Slice(Option<Expr>, Option<Expr>),
}

/// An operator and what follows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Link {
    /// `operator right`
    Binary(Operator, Expr),
    /// `[NOT] IN (…)`
    InList {
        /// With NOT.
        negated: bool,
        /// What may be equal.
        list: Vec<Expr>,
    },
    /// `[NOT] IN array`
    InArray {
        /// With NOT.
        negated: bool,
        /// An expression that gives an array.
        array: Expr,
    },
    /// `[NOT] BETWEEN low AND high`
    Between {
        /// With NOT.
        negated: bool,
        /// Still within.
        low: Expr,
        /// Still within.
        high: Expr,
    },
    /// `[NOT] LIKE pattern`
    Like {
        /// With NOT.
        negated: bool,
        /// A text with `%` and `_`.
        pattern: Expr,
    },
}

/// How tightly operators bind; a higher level binds tighter.
pub(super) mod level {
    pub(in crate::sql) const OR: u8 = 1;
    pub(in crate::sql) const AND: u8 = 2;
    pub(in crate::sql) const NOT: u8 = 3;
    pub(in crate::sql) const COMPARE: u8 = 4;
    pub(in crate::sql) const ADD: u8 = 5;
    pub(in crate::sql) const MULTIPLY: u8 = 6;
    pub(in crate::sql) const NEGATE: u8 = 7;
    pub(in crate::sql) const PATH: u8 = 8;
}

/// An operator between two expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    BitOr,
    BitXor,
    Multiply,
    Divide,
    Remainder,
    BitAnd,
}

impl Operator {
    /// How it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Or => "OR",
            Self::And => "AND",
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::BitOr => "|",
            Self::BitXor => "^",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
            Self::BitAnd => "&",
        }
    }

    pub(super) fn level(self) -> u8 {
        match self {
            Self::Or => level::OR,
            Self::And => level::AND,
            Self::Equal
            | Self::NotEqual
            | Self::Less
            | Self::LessOrEqual
            | Self::Greater
            | Self::GreaterOrEqual => level::COMPARE,
            Self::Add | Self::Subtract | Self::BitOr | Self::BitXor => level::ADD,
            Self::Multiply | Self::Divide | Self::Remainder | Self::BitAnd => level::MULTIPLY,
        }
    }
}

impl Link {
    pub(super) fn level(&self) -> u8 {
        match self {
            Self::Binary(operator, _) => operator.level(),
            Self::InList { .. } | Self::InArray { .. } | Self::Between { .. } | Self::Like { .. } => {
                level::COMPARE
            }
        }
    }
}

impl Select {
    /// The streams in FROM, in order.
    pub fn streams(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.source.stream.as_str())
    }
}

impl SelectItem {
    /// The expressions that it computes.
    pub(super) fn exprs(&self) -> Vec<&Expr> {
        match self {
            Self::All { replace, .. } => replace.iter().map(|(_, expr)| expr).collect(),
            Self::AllOf { .. } => Vec::new(),
            Self::Field { expr, .. } => vec![expr],
        }
    }
}

impl Expr {
    /// The expressions directly below this one.
    pub(super) fn children(&self) -> Vec<&Expr> {
        match &self.kind {
            ExprKind::Literal(_) | ExprKind::Name(_) | ExprKind::All | ExprKind::AllOf(_) => Vec::new(),
            ExprKind::Path { base, steps } => {
                let mut children = vec![&**base];
                for step in steps {
                    match step {
                        PathStep::Arrow(_) | PathStep::Dot(_) => {}
                        PathStep::Index(index) => children.push(index),
                        PathStep::Slice(from, to) => children.extend(from.iter().chain(to)),
                    }
                }
                children
            }
            ExprKind::Call { args, .. } => args.iter().collect(),
            ExprKind::Chain { first, rest } => {
                let mut children = vec![&**first];
                for link in rest {
                    match link {
                        Link::Binary(_, right) => children.push(right),
                        Link::InList { list, .. } => children.extend(list),
                        Link::InArray { array, .. } => children.push(array),
                        Link::Between { low, high, .. } => children.extend([low, high]),
                        Link::Like { pattern, .. } => children.push(pattern),
                    }
                }
                children
            }
            ExprKind::Not(inner) | ExprKind::Negate(inner) => vec![inner],
            ExprKind::Case {
                operand,
                arms,
                otherwise,
            } => {
                let mut children: Vec<&Expr> = operand.iter().chain(otherwise).map(|e| &**e).collect();
                children.extend(arms.iter().flat_map(|(when, then)| [when, then]));
                children
            }
        }
    }
}
