//! Owns the evaluation of a plan on one tuple. Pure: the same row and results give the same step, so a caller may
//! make the call that a step asks for, put the result in and evaluate again.

use std::borrow::Cow;
use std::cell::OnceCell;

use mangrove_protocol::Object;
use serde_json::Value;

use super::ast::Operator;
use super::like::Pattern;
use super::operators::{Problem, apply, compare, negate, truth};
use super::plan::{Access, Like, Node, Operation, Output, Plan};
use crate::function::value::{as_integer, describe};
use crate::function::{Ambient, Builtin};

/// One tuple of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Its fields.
    pub message: Object,
    /// What the source says about it, read by `meta()`.
    pub meta: Object,
    /// Milliseconds since 1970: what `now()` and `tstamp()` go by.
    pub timestamp: i64,
    /// What `rand()` and `newuuid()` draw from: another for every tuple.
    pub seed: u64,
}

/// What the portable calls of one row gave so far, by site.
#[derive(Clone, Debug, Default)]
pub struct CallResults(Vec<Option<Value>>);

impl CallResults {
    /// Puts in what the call at `site` gave: null where it gave nothing.
    pub fn set(&mut self, site: usize, result: Value) {
        if self.0.len() <= site {
            self.0.resize(site + 1, None);
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
    Emit(Object),
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
    /// An expression has no value for this row, such as the comparison of a number with a text.
    pub fn evaluate(&self, row: &Row, results: &CallResults) -> Result<Step, EvalError> {
        match self.compute(row, results)? {
            Computed::Emit(values) => Ok(Step::Emit(self.compose(Message::Kept(&row.message), values))),
            Computed::Other(step) => Ok(step),
        }
    }

    /// Like [`evaluate`](Self::evaluate), but takes the fields out of the row instead of copying them when the step
    /// is [`Step::Emit`]: `row.message` is then empty. Otherwise the row is left as it was.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub fn evaluate_taking(&self, row: &mut Row, results: &CallResults) -> Result<Step, EvalError> {
        match self.compute(row, results)? {
            Computed::Emit(values) => {
                let message = std::mem::take(&mut row.message);
                Ok(Step::Emit(self.compose(Message::Taken(message), values)))
            }
            Computed::Other(step) => Ok(step),
        }
    }

    /// WHERE, and then everything that must be computed.
    fn compute(&self, row: &Row, results: &CallResults) -> Result<Computed, EvalError> {
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
                Ok(false) => return Ok(Computed::Other(Step::Drop)),
                Err(stop) => return self.stop(stop, || String::from("WHERE")),
            }
        }
        let mut values = Vec::new();
        for output in &self.outputs {
            if let Output::Computed { name, node } = output {
                match scope.value(node) {
                    Ok(value) => values.push(value.into_owned()),
                    Err(stop) => return self.stop(stop, || format!("field {name}")),
                }
            }
        }
        Ok(Computed::Emit(values))
    }

    fn stop(&self, stop: Stop, place: impl FnOnce() -> String) -> Result<Computed, EvalError> {
        match stop {
            Stop::Failed(problem) => Err(EvalError {
                place: place(),
                problem: *problem,
            }),
            Stop::Call(site, args) => Ok(Computed::Other(Step::Call { site, args })),
        }
    }

    /// The result: of columns what the message has, of what was computed all that is not null.
    fn compose(&self, mut message: Message<'_>, computed: Vec<Value>) -> Object {
        let mut computed = computed.into_iter();
        let mut result = Object::new();
        for (index, output) in self.outputs.iter().enumerate() {
            match output {
                // What an alias made before wins over the column of its name.
                Output::Column(name) => {
                    if !result.contains_key(name)
                        && let Some(value) = message.field(name)
                    {
                        result.insert(name.clone(), value);
                    }
                }
                Output::All { except } if index == 0 && except.is_empty() => result = message.all(),
                Output::All { except } => {
                    for (name, value) in message.all() {
                        if !except.contains(&name) && !result.contains_key(&name) {
                            result.insert(name, value);
                        }
                    }
                }
                Output::Computed { name, .. } => {
                    if let Some(value) = computed.next().filter(|value| !value.is_null()) {
                        result.insert(name.clone(), value);
                    }
                }
            }
        }
        result
    }
}

enum Computed {
    /// The values of [`Output::Computed`], in order.
    Emit(Vec<Value>),
    Other(Step),
}

/// The message of a row that is emitted.
enum Message<'a> {
    Kept(&'a Object),
    Taken(Object),
}

impl Message<'_> {
    fn field(&mut self, name: &str) -> Option<Value> {
        match self {
            Self::Kept(message) => message.get(name).cloned(),
            // Whoever asks for it again has it in the result already. Its place is kept for the order of `*`.
            Self::Taken(message) => message.get_mut(name).map(Value::take),
        }
    }

    fn all(&mut self) -> Object {
        match self {
            Self::Kept(message) => message.clone(),
            Self::Taken(message) => std::mem::take(message),
        }
    }
}

/// Why evaluation does not go on.
enum Stop {
    /// The portable call that is needed first.
    Call(usize, Vec<Value>),
    Failed(Box<Problem>),
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
    fn value(&'a self, node: &'a Node) -> Evaluated<'a> {
        match node {
            Node::Literal(value) => Ok(Cow::Borrowed(value)),
            Node::Column(name) => Ok(found(self.row.message.get(name))),
            Node::Meta(key) => Ok(found(self.row.meta.get(key))),
            Node::AllMeta => Ok(Cow::Owned(Value::Object(self.row.meta.clone()))),
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
                let args = self.values(args)?.into_iter().map(Cow::into_owned).collect();
                Err(Stop::Call(site, args))
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
