//! Owns what operators give for two values, as eKuiper has it: numbers, texts and booleans are compared with their
//! like only, comparing with null is false, calculating with null is null.

use std::cmp::Ordering;

use serde_json::Value;

use super::ast::Operator;
use crate::function::Failure;
use crate::function::value::{describe, from_f64};

/// Why an expression has no value for a tuple.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// An operator that does not work on these values.
    #[error("cannot apply {operator} to {left} and {right}")]
    Operands {
        /// As it is written.
        operator: &'static str,
        /// The kind of the value before it, and how it begins.
        left: String,
        /// The kind of the value after it, and how it begins.
        right: String,
    },
    /// A value that something else was expected for.
    #[error("found {found}, expected {expected}")]
    Unexpected {
        /// Its kind, and how it begins.
        found: String,
        /// What was expected, and where.
        expected: &'static str,
    },
    /// Division by zero.
    #[error("division of {0} by zero")]
    DivisionByZero(String),
    /// An index or the end of a slice that the array does not have.
    #[error("index {index} is outside of an array of {length}")]
    OutOfRange {
        /// As it was given: below zero it counts from the end.
        index: i64,
        /// How many elements there are.
        length: usize,
    },
    /// The result of a calculation is infinite or no number.
    #[error("the result is not a finite number")]
    NotFinite,
    /// What came out of expressions, lists in lists or objects in objects, is too deep for readers of JSON.
    #[error("it nests deeper than readers of JSON follow")]
    TooDeep,
    /// A built-in function that failed.
    #[error("function {name}: {failure}")]
    Function {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        failure: Failure,
    },
}

impl Problem {
    pub(super) fn unexpected(found: &Value, expected: &'static str) -> Self {
        Self::Unexpected {
            found: describe(found),
            expected,
        }
    }
}

/// `left operator right` for all operators but AND and OR.
///
/// `integers`: both sides are integers by declaration, not just by chance, so that dividing them gives an integer.
pub(super) fn apply(
    operator: Operator,
    integers: bool,
    left: &Value,
    right: &Value,
) -> Result<Value, Problem> {
    match operator {
        Operator::Equal
        | Operator::NotEqual
        | Operator::Less
        | Operator::LessOrEqual
        | Operator::Greater
        | Operator::GreaterOrEqual => compare(operator, left, right).map(Value::Bool),
        Operator::BitAnd | Operator::BitOr | Operator::BitXor => bits(operator, left, right),
        _ => calculate(operator, integers, left, right),
    }
}

fn refuse(operator: Operator, left: &Value, right: &Value) -> Problem {
    Problem::Operands {
        operator: operator.symbol(),
        left: describe(left),
        right: describe(right),
    }
}

/// Comparing with null gives false, whatever is asked.
pub(super) fn compare(operator: Operator, left: &Value, right: &Value) -> Result<bool, Problem> {
    if left.is_null() || right.is_null() {
        return Ok(false);
    }
    let order = match (left, right) {
        (Value::Bool(left), Value::Bool(right))
            if matches!(operator, Operator::Equal | Operator::NotEqual) =>
        {
            Some(left.cmp(right))
        }
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => left.as_f64().partial_cmp(&right.as_f64()),
        },
        _ => None,
    };
    let order = order.ok_or_else(|| refuse(operator, left, right))?;
    Ok(match operator {
        Operator::NotEqual => order != Ordering::Equal,
        Operator::Less => order == Ordering::Less,
        Operator::LessOrEqual => order != Ordering::Greater,
        Operator::Greater => order == Ordering::Greater,
        Operator::GreaterOrEqual => order != Ordering::Less,
        _ => order == Ordering::Equal,
    })
}

/// `& | ^` of two integers or two booleans.
fn bits(operator: Operator, left: &Value, right: &Value) -> Result<Value, Problem> {
    if left.is_null() || right.is_null() {
        return Ok(Value::Bool(false));
    }
    if let (Some(left), Some(right)) = (left.as_i64(), right.as_i64()) {
        return Ok(Value::from(match operator {
            Operator::BitAnd => left & right,
            Operator::BitOr => left | right,
            _ => left ^ right,
        }));
    }
    if let (Some(left), Some(right)) = (left.as_bool(), right.as_bool()) {
        return Ok(Value::from(match operator {
            Operator::BitAnd => left & right,
            Operator::BitOr => left | right,
            _ => left ^ right,
        }));
    }
    Err(refuse(operator, left, right))
}

fn calculate(operator: Operator, integers: bool, left: &Value, right: &Value) -> Result<Value, Problem> {
    if left.is_null() || right.is_null() {
        return Ok(Value::Null);
    }
    let (Some(a), Some(b)) = (left.as_f64(), right.as_f64()) else {
        return Err(refuse(operator, left, right));
    };
    let divides = matches!(operator, Operator::Divide | Operator::Remainder);
    if divides && b == 0.0 {
        return Err(Problem::DivisionByZero(describe(left)));
    }
    if let (Some(a), Some(b)) = (left.as_i64(), right.as_i64()) {
        let exact = match operator {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            Operator::Multiply => a.checked_mul(b),
            Operator::Divide if integers || a.checked_rem(b) == Some(0) => a.checked_div(b),
            Operator::Remainder => a.checked_rem(b),
            _ => None,
        };
        if let Some(exact) = exact {
            return Ok(Value::from(exact));
        }
    }
    let result = match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        _ => a % b,
    };
    from_f64(result).ok_or(Problem::NotFinite)
}

/// `-value`
pub(super) fn negate(value: &Value) -> Result<Value, Problem> {
    match value {
        Value::Null => Ok(Value::Null),
        Value::Number(number) => match (number.as_i64().and_then(i64::checked_neg), number.as_f64()) {
            (Some(integer), _) => Ok(Value::from(integer)),
            (None, float) => float.and_then(|float| from_f64(-float)).ok_or(Problem::NotFinite),
        },
        other => Err(Problem::unexpected(other, "a number after -")),
    }
}

/// Is a condition met? Null is false.
pub(super) fn truth(value: &Value, expected: &'static str) -> Result<bool, Problem> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::Null => Ok(false),
        other => Err(Problem::unexpected(other, expected)),
    }
}
