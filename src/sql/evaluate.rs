//! Owns the evaluation of a plan on one tuple. Pure: the same row and results give the same step, so a caller may
//! make the call that a step asks for, put the result in and evaluate again.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use indexmap::IndexMap;
use mangrove_protocol::{Fields, Object};
use serde_json::Value;

use super::ast::Operator;
use super::like::Pattern;
use super::operators::{Problem, apply, compare, negate, truth};
use super::plan::{Access, Like, Node, Operation, Output, Plan, Shape};
use crate::function::value::{as_integer, describe};
use crate::function::{Ambient, Builtin};

/// One tuple of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Its fields.
    pub message: Message,
    /// What the source says about it, if it does; read by `meta()`.
    pub meta: Option<Box<Object>>,
    /// Milliseconds since 1970: what `now()` and `tstamp()` go by.
    pub timestamp: i64,
    /// What `rand()` and `newuuid()` draw from: another for every tuple.
    pub seed: u64,
}

/// The fields of one tuple.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// All of them.
    Whole(Arc<Object>),
    /// As [`Plan::read`] makes it, for that plan alone.
    Read {
        /// Of the columns of the plan those that there are.
        columns: Vec<Option<Value>>,
        /// All fields, where they are the result.
        fields: Option<Fields>,
    },
}

impl From<Object> for Message {
    fn from(object: Object) -> Self {
        Self::Whole(Arc::new(object))
    }
}

/// None.
impl Default for Message {
    fn default() -> Self {
        Object::new().into()
    }
}

/// What the portable calls of one row gave so far, by site.
#[derive(Clone, Debug, Default)]
pub struct CallResults(Vec<Option<Value>>);

impl CallResults {
    /// Puts in what the call at `site` gave: null where it gave nothing.
    pub fn set(&mut self, site: usize, result: Value) {
        if self.0.len() <= site {
            self.0.resize_with(site + 1, || None);
        }
        self.0[site] = Some(result);
    }

    /// Forgets all results, for the next row.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn at(&self, site: usize) -> Option<&Value> {
        self.0.get(site)?.as_ref()
    }
}

/// What a row comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// WHERE kept it; the selected fields.
    Emit(Fields),
    /// WHERE dropped it.
    Drop,
    /// A portable call is needed first: make it, [`set`](CallResults::set) its result, evaluate again.
    Call {
        /// The call's place in [`Plan::calls`].
        site: usize,
        /// What it is called with.
        args: Vec<Value>,
    },
}

/// Why a row has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct EvalError {
    /// `WHERE`, or the field of the result.
    pub place: String,
    /// What is wrong there.
    pub problem: Problem,
}

impl Plan {
    /// What `row` comes to. Pure: same row and results, same step.
    ///
    /// # Errors
    /// An expression has no value for this row, such as the comparison of a number with a text; or the result nests
    /// deeper than a reader of JSON follows.
    pub fn evaluate(&self, row: &Row, results: &CallResults) -> Result<Step, EvalError> {
        self.evaluate_into(row, results, &mut BytesMut::new())
    }

    /// Like [`evaluate`](Self::evaluate), but takes the memory for what is emitted from `buffer`, where the next one can
    /// have its own behind it: what was emitted keeps the memory of all.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub fn evaluate_into(
        &self,
        row: &Row,
        results: &CallResults,
        buffer: &mut BytesMut,
    ) -> Result<Step, EvalError> {
        let scope = Scope {
            plan: self,
            row,
            results,
            aliases: vec![OnceCell::new(); self.aliases.len()],
        };
        if let Some(filter) = &self.filter {
            let kept = scope
                .value(filter)
                .and_then(|kept| Ok(truth(&kept, "a condition")?));
            match kept {
                Ok(true) => {}
                Ok(false) => return Ok(Step::Drop),
                Err(stop) => return stop.at(|| String::from("WHERE")),
            }
        }
        match (self.shape, &row.message) {
            (Shape::Message, Message::Whole(object)) => Ok(Step::Emit(Arc::clone(object).into())),
            (Shape::Message, Message::Read { fields, .. }) => {
                // By themselves, so that the few that are kept do not keep all in memory that came with them.
                Ok(Step::Emit(fields.clone().unwrap_or_default().detached()))
            }
            (Shape::Fields, _) => {
                buffer.clear();
                match scope.write(buffer) {
                    Ok(()) => Self::emit(buffer),
                    Err((stop, name)) => stop.at(|| format!("field {name}")),
                }
            }
            (Shape::Merged, message) => {
                let merged = match scope.merge(message) {
                    Ok(merged) => merged,
                    Err((stop, name)) => return stop.at(|| format!("field {name}")),
                };
                buffer.clear();
                // A tree of JSON values does not fail to be written.
                let _ = serde_json::to_writer(buffer.writer(), &merged);
                Self::emit(buffer)
            }
        }
    }

    fn emit(text: &mut BytesMut) -> Result<Step, EvalError> {
        let fields = Fields::from_text(text.split().freeze()).map_err(|_| EvalError {
            place: String::from("the result"),
            problem: Problem::TooDeep,
        })?;
        Ok(Step::Emit(fields))
    }
}

/// Why evaluation does not go on.
enum Stop {
    /// The portable call that is needed first.
    Call(usize, Vec<Value>),
    Failed(Box<Problem>),
}

/// A [`Stop`], and the field of the result that it is about.
type FieldStop<'a> = (Stop, &'a str);

impl Stop {
    fn at(self, place: impl FnOnce() -> String) -> Result<Step, EvalError> {
        match self {
            Self::Failed(problem) => Err(EvalError {
                place: place(),
                problem: *problem,
            }),
            Self::Call(site, args) => Ok(Step::Call { site, args }),
        }
    }
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Failed(Box::new(problem))
    }
}

/// What the expressions of one evaluation see.
struct Scope<'a> {
    plan: &'a Plan,
    row: &'a Row,
    results: &'a CallResults,
    /// What aliases that are used elsewhere gave: each is computed once.
    aliases: Vec<OnceCell<Value>>,
}

type Evaluated<'a> = Result<Cow<'a, Value>, Stop>;

const NULL: Value = Value::Null;

fn found(value: Option<&Value>) -> Cow<'_, Value> {
    Cow::Borrowed(value.unwrap_or(&NULL))
}

impl<'a> Scope<'a> {
    /// Writes the result, whose fields all have names of their own: of columns what the message has, of what is computed
    /// all that is not null.
    fn write(&'a self, buffer: &mut BytesMut) -> Result<(), FieldStop<'a>> {
        buffer.put_u8(b'{');
        let empty = buffer.len();
        for (output, key) in self.plan.outputs.iter().zip(&self.plan.keys) {
            let value = match output {
                Output::Column(place) => match self.column(*place) {
                    Some(value) => Cow::Borrowed(value),
                    None => continue,
                },
                Output::Computed { name, node } => match self.value(node) {
                    Ok(value) if value.is_null() => continue,
                    Ok(value) => value,
                    Err(stop) => return Err((stop, name)),
                },
                Output::All { .. } => continue,
            };
            if buffer.len() > empty {
                buffer.put_u8(b',');
            }
            buffer.put_slice(key.as_bytes());
            // A tree of JSON values does not fail to be written.
            let _ = serde_json::to_writer(buffer.writer(), &*value);
        }
        buffer.put_u8(b'}');
        Ok(())
    }

    /// The result, whose fields may have the same names as each other, or as those of the message.
    fn merge(&'a self, message: &'a Message) -> Result<IndexMap<&'a str, Cow<'a, Value>>, FieldStop<'a>> {
        let mut result = IndexMap::new();
        for output in &self.plan.outputs {
            match output {
                // What an alias made before wins over the column of its name.
                Output::Column(place) => {
                    if let Some(value) = self.column(*place) {
                        let name = self.plan.column(*place);
                        result.entry(name).or_insert(Cow::Borrowed(value));
                    }
                }
                Output::All { except } => {
                    let Message::Whole(message) = message else {
                        continue;
                    };
                    for (name, value) in message.iter().filter(|(name, _)| !except.contains(name)) {
                        result.entry(name.as_str()).or_insert(Cow::Borrowed(value));
                    }
                }
                Output::Computed { name, node } => {
                    let value = self.value(node).map_err(|stop| (stop, name.as_str()))?;
                    if !value.is_null() {
                        result.insert(name.as_str(), value);
                    }
                }
            }
        }
        Ok(result)
    }

    fn column(&self, place: usize) -> Option<&'a Value> {
        match &self.row.message {
            Message::Whole(object) => object.get(self.plan.column(place)),
            Message::Read { columns, .. } => columns.get(place)?.as_ref(),
        }
    }

    fn value(&'a self, node: &'a Node) -> Evaluated<'a> {
        match node {
            Node::Literal(value) => Ok(Cow::Borrowed(value)),
            Node::Column(place) => Ok(found(self.column(*place))),
            Node::Meta(key) => Ok(found(self.row.meta.as_ref().and_then(|meta| meta.get(key)))),
            Node::AllMeta => {
                let meta = self.row.meta.as_deref().cloned();
                Ok(Cow::Owned(Value::Object(meta.unwrap_or_default())))
            }
            Node::Alias(index) => self.alias(*index),
            Node::Path { base, steps } => steps
                .iter()
                .try_fold(self.value(base)?, |value, step| self.step(value, step)),
            Node::Builtin { function, salt, args } => self.builtin(function, *salt, args),
            Node::Portable { site, args } => self.portable(*site, args),
            Node::Any(nodes) => self.some(nodes, true, "a condition beside OR"),
            Node::Every(nodes) => self.some(nodes, false, "a condition beside AND"),
            Node::Operations { first, rest } => {
                rest.iter().try_fold(self.value(first)?, |left, operation| {
                    self.operation(&left, operation)
                })
            }
            Node::Not(inner) => {
                let value = self.value(inner)?;
                Ok(Cow::Owned(Value::Bool(!truth(&value, "a condition after NOT")?)))
            }
            Node::Negate(inner) => Ok(Cow::Owned(negate(&*self.value(inner)?)?)),
            Node::Case {
                operand,
                arms,
                otherwise,
            } => self.case(operand.as_deref(), arms, otherwise.as_deref()),
        }
    }

    fn alias(&'a self, index: usize) -> Evaluated<'a> {
        let cell = &self.aliases[index];
        if cell.get().is_none() {
            let value = self.value(&self.plan.aliases[index])?.into_owned();
            // Aliases have no cycle, so nobody has filled it meanwhile.
            let _ = cell.set(value);
        }
        Ok(found(cell.get()))
    }

    /// OR with `decisive` true, AND with `decisive` false: what comes after the decisive value is not evaluated.
    fn some(&'a self, nodes: &'a [Node], decisive: bool, expected: &'static str) -> Evaluated<'a> {
        for node in nodes {
            if truth(&*self.value(node)?, expected)? == decisive {
                return Ok(Cow::Owned(Value::Bool(decisive)));
            }
        }
        Ok(Cow::Owned(Value::Bool(!decisive)))
    }

    fn values(&'a self, nodes: &'a [Node]) -> Result<Vec<Cow<'a, Value>>, Stop> {
        nodes.iter().map(|node| self.value(node)).collect()
    }

    fn builtin(&'a self, function: &'static Builtin, salt: u64, args: &'a [Node]) -> Evaluated<'a> {
        let args = self.values(args)?;
        // Another draw for every call of a row; the odd constant spreads neighbouring seeds.
        let seed = (self.row.seed ^ salt.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let ambient = Ambient {
            timestamp: self.row.timestamp,
            seed,
        };
        match function.call(ambient, &args) {
            Ok(value) => Ok(Cow::Owned(value)),
            Err(failure) => Err(Problem::Function {
                name: function.name,
                failure,
            }
            .into()),
        }
    }

    fn portable(&'a self, site: usize, args: &'a [Node]) -> Evaluated<'a> {
        match self.results.at(site) {
            Some(result) => Ok(Cow::Borrowed(result)),
            None => {
                let args = args.iter().map(|arg| Ok(self.value(arg)?.into_owned()));
                Err(Stop::Call(site, args.collect::<Result<_, Stop>>()?))
            }
        }
    }

    fn case(
        &'a self,
        operand: Option<&'a Node>,
        arms: &'a [(Node, Node)],
        otherwise: Option<&'a Node>,
    ) -> Evaluated<'a> {
        let operand = operand.map(|operand| self.value(operand)).transpose()?;
        for (when, then) in arms {
            let when = self.value(when)?;
            let chosen = match &operand {
                Some(operand) => compare(Operator::Equal, operand, &when)?,
                None => truth(&when, "a condition after WHEN")?,
            };
            if chosen {
                return self.value(then);
            }
        }
        otherwise.map_or(Ok(found(None)), |otherwise| self.value(otherwise))
    }

    fn operation(&'a self, left: &Value, operation: &'a Operation) -> Evaluated<'a> {
        let result = match operation {
            Operation::Binary {
                operator,
                integers,
                right,
            } => {
                return Ok(Cow::Owned(apply(
                    *operator,
                    *integers,
                    left,
                    &*self.value(right)?,
                )?));
            }
            Operation::InList { negated, list } => self.in_list(left, list)?.map(|found| found != *negated),
            Operation::InArray { negated, array } => match &*self.value(array)? {
                Value::Array(elements) => in_array(left, elements)?.map(|found| found != *negated),
                // As in eKuiper nothing is in what is no array.
                _ => Some(*negated),
            },
            Operation::Between { negated, low, high } => {
                let (low, high) = (self.value(low)?, self.value(high)?);
                if left.is_null() || low.is_null() || high.is_null() {
                    None
                } else {
                    let above = compare(Operator::GreaterOrEqual, left, &low)?;
                    let below = compare(Operator::LessOrEqual, left, &high)?;
                    Some((above && below) != *negated)
                }
            }
            Operation::Like { negated, pattern } => {
                self.like(left, pattern)?.map(|matches| matches != *negated)
            }
        };
        // Comparing with null gives false, also when it is negated.
        Ok(Cow::Owned(Value::Bool(result.unwrap_or(false))))
    }

    /// `None`: there is nothing to look for.
    fn in_list(&'a self, left: &Value, list: &'a [Node]) -> Result<Option<bool>, Stop> {
        if left.is_null() {
            return Ok(None);
        }
        for node in list {
            if compare(Operator::Equal, left, &*self.value(node)?)? {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }

    fn like(&'a self, left: &Value, pattern: &'a Like) -> Result<Option<bool>, Stop> {
        let text = match left {
            Value::Null => return Ok(None),
            Value::String(text) => text,
            other => return Err(Problem::unexpected(other, "a text before LIKE").into()),
        };
        match pattern {
            Like::Fixed(pattern) => Ok(Some(pattern.matches(text))),
            Like::Computed(node) => match &*self.value(node)? {
                Value::Null => Ok(None),
                Value::String(pattern) => Ok(Some(Pattern::new(pattern).matches(text))),
                other => Err(Problem::unexpected(other, "a text after LIKE").into()),
            },
        }
    }

    /// One step of a path. What is missing is null and leads to null.
    fn step(&'a self, value: Cow<'a, Value>, step: &'a Access) -> Evaluated<'a> {
        match step {
            Access::Field(name) => match &*value {
                Value::Object(_) => Ok(part(value, |value| value.get(name), |value| value.get_mut(name))),
                // A list of objects is no object; eKuiper refuses it too.
                Value::Array(_) => Err(Problem::unexpected(&value, "an object before -> or .").into()),
                _ => Ok(found(None)),
            },
            Access::Index(index) => {
                let Some(elements) = elements(&value)? else {
                    return Ok(value);
                };
                let index = self.index(index)?;
                let at = position(index, elements.len()).filter(|at| *at < elements.len());
                let at = at.ok_or(Problem::OutOfRange {
                    index,
                    length: elements.len(),
                })?;
                Ok(part(value, |value| value.get(at), |value| value.get_mut(at)))
            }
            Access::Slice(from, to) => {
                let Some(elements) = elements(&value)? else {
                    return Ok(value);
                };
                let length = elements.len();
                let end = |node: &'a Option<Node>, default| match node {
                    None => Ok(default),
                    Some(node) => {
                        let index = self.index(node)?;
                        position(index, length)
                            .ok_or_else(|| Stop::from(Problem::OutOfRange { index, length }))
                    }
                };
                let (from, to) = (end(from, 0)?, end(to, length)?);
                match elements.get(from..to) {
                    Some(slice) => Ok(Cow::Owned(Value::Array(slice.to_vec()))),
                    None => Err(Problem::Unexpected {
                        found: format!("a slice from {from} to {to}"),
                        expected: "one that ends after its beginning",
                    }
                    .into()),
                }
            }
        }
    }

    fn index(&'a self, node: &'a Node) -> Result<i64, Stop> {
        let value = self.value(node)?;
        as_integer(&value).ok_or_else(|| Problem::unexpected(&value, "an integer as index").into())
    }
}

/// `None`: there is nothing to look for.
fn in_array(left: &Value, elements: &[Value]) -> Result<Option<bool>, Problem> {
    if left.is_null() {
        return Ok(None);
    }
    for element in elements {
        if compare(Operator::Equal, left, element)? {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

/// The elements of an array; `None` of null.
fn elements(value: &Value) -> Result<Option<&[Value]>, Problem> {
    match value {
        Value::Null => Ok(None),
        Value::Array(elements) => Ok(Some(elements)),
        other => Err(Problem::Unexpected {
            found: describe(other),
            expected: "an array before [",
        }),
    }
}

/// Where `index` leads in an array of `length`, from 0 to `length`; below zero it counts from the end.
fn position(index: i64, length: usize) -> Option<usize> {
    let from_start = if index < 0 {
        index.checked_add_unsigned(length as u64)?
    } else {
        index
    };
    usize::try_from(from_start).ok().filter(|at| *at <= length)
}

/// A part of a value: borrowed where the value is, else taken out of it.
fn part<'a>(
    value: Cow<'a, Value>,
    of: impl FnOnce(&'a Value) -> Option<&'a Value>,
    of_owned: impl FnOnce(&mut Value) -> Option<&mut Value>,
) -> Cow<'a, Value> {
    match value {
        Cow::Borrowed(value) => found(of(value)),
        Cow::Owned(mut value) => Cow::Owned(of_owned(&mut value).map_or(Value::Null, Value::take)),
    }
}
