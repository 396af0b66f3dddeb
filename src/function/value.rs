//! Owns how values are read as numbers and texts and how numbers become values, the same for operators and functions.

use std::borrow::Cow;

use serde_json::Value;

use super::Failure;
use crate::sql::Shown;

/// Whole floating-point numbers up to this size are exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A number as a value. As in eKuiper a whole number shows no fraction, wherever it came from.
///
/// `None`: it is infinite or no number, which JSON cannot hold.
pub(crate) fn from_f64(number: f64) -> Option<Value> {
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return Some(Value::from(number as i64));
    }
    serde_json::Number::from_f64(number).map(Value::Number)
}

/// A result that must be finite.
pub(crate) fn finite(number: f64) -> Result<Value, Failure> {
    from_f64(number).ok_or(Failure::NotFinite)
}

/// An integer, also one that is written with a fraction of zero.
pub(crate) fn as_integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| match from_f64(value.as_f64()?) {
        Some(Value::Number(number)) => number.as_i64(),
        _ => None,
    })
}

/// Null or an empty array or object, which eKuiper's functions take for nothing.
pub(crate) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(elements) => elements.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Roughly how many bytes it takes.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 8,
        Value::Array(elements) => 8 + elements.iter().map(weight).sum::<usize>(),
        Value::Object(fields) => {
            8 + fields
                .iter()
                .map(|(name, value)| 8 + name.len() + weight(value))
                .sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}

/// Its text; null has none, an array or object its JSON.
pub(crate) fn as_text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => Cow::Borrowed(""),
        Value::String(text) => Cow::Borrowed(text),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => Cow::Owned(float.to_string()),
            None => Cow::Owned(number.to_string()),
        },
        other => Cow::Owned(other.to_string()),
    }
}

/// Are two values equal? Numbers are by their size, however they are written.
pub(crate) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a == b,
            _ => a.as_f64() == b.as_f64(),
        },
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => left == right,
    }
}

/// A value in an error message: its kind and how it begins.
pub(crate) fn describe(value: &Value) -> String {
    let kind = match value {
        Value::Null => return String::from("null"),
        Value::Bool(_) => "the boolean",
        Value::Number(_) => "the number",
        Value::String(_) => "the text",
        Value::Array(elements) => return format!("an array of {}", elements.len()),
        Value::Object(_) => return String::from("an object"),
    };
    match value {
        // Cut before it is quoted, so that a megabyte of text costs nothing here.
        Value::String(text) => format!("{kind} \"{}\"", Shown(text).to_string().escape_debug()),
        other => format!("{kind} {other}"),
    }
}

/// That the argument at `index`, from 0, is not what was expected.
pub(super) fn wrong(index: usize, found: &Value, expected: &'static str) -> Failure {
    Failure::Argument {
        position: index + 1,
        found: describe(found),
        expected,
    }
}

/// The number at `index`.
pub(super) fn number(args: super::Args<'_, '_>, index: usize) -> Result<f64, Failure> {
    args[index]
        .as_f64()
        .ok_or_else(|| wrong(index, &args[index], "a number"))
}

/// The integer at `index`.
pub(super) fn integer(args: super::Args<'_, '_>, index: usize) -> Result<i64, Failure> {
    as_integer(&args[index]).ok_or_else(|| wrong(index, &args[index], "an integer"))
}

/// The array at `index`.
pub(super) fn array<'a>(args: super::Args<'a, '_>, index: usize) -> Result<&'a Vec<Value>, Failure> {
    args[index]
        .as_array()
        .ok_or_else(|| wrong(index, &args[index], "an array"))
}

/// The object at `index`.
pub(super) fn object<'a>(
    args: super::Args<'a, '_>,
    index: usize,
) -> Result<&'a mangrove_protocol::Object, Failure> {
    args[index]
        .as_object()
        .ok_or_else(|| wrong(index, &args[index], "an object"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_show_no_fraction() {
        assert_eq!(from_f64(4.0).unwrap().to_string(), "4");
        assert_eq!(from_f64(-0.0).unwrap().to_string(), "0");
        assert_eq!(from_f64(0.5).unwrap().to_string(), "0.5");
        assert_eq!(from_f64(1e300).unwrap().to_string(), "1e+300");
        assert_eq!(from_f64(f64::NAN), None);
        assert_eq!(from_f64(f64::INFINITY), None);
    }

    #[test]
    fn numbers_are_the_same_by_size() {
        assert!(same(&json!(1), &json!(1.0)));
        assert!(same(&json!([1, {"a": 2.0}]), &json!([1.0, {"a": 2}])));
        assert!(!same(
            &json!(9_007_199_254_740_993_i64),
            &json!(9_007_199_254_740_992_i64)
        ));
        assert!(!same(&json!(1), &json!("1")));
    }

    #[test]
    fn texts_of_values() {
        assert_eq!(as_text(&json!(null)), "");
        assert_eq!(as_text(&json!(1.5)), "1.5");
        assert_eq!(as_text(&json!(3.0)), "3");
        assert_eq!(as_text(&json!([1, "a"])), "[1,\"a\"]");
    }
}
