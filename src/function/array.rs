//! Owns the functions on arrays.

use std::cmp::Ordering;

use serde_json::Value;

use super::value::{array, as_text, integer, same, weight, wrong};
use super::{Ambient, Args, Builtin, Failure, Kind, OnNull, length_to_make};

const ONE: &[Kind] = &[Kind::Any];
const TWO: &[Kind] = &[Kind::Any, Kind::Any];

pub(super) const FUNCTIONS: &[Builtin] = &[
    Builtin::new("array_cardinality", ONE, |args| {
        Ok(array(args, 0)?
            .iter()
            .filter(|element| !element.is_null())
            .count()
            .into())
    })
    .on_null(OnNull::Zero)
    .integer(),
    Builtin::new("array_concat", ONE, concat)
        .variadic()
        .on_null(OnNull::Call)
        .grows(),
    Builtin::new("array_contains", TWO, |args| Ok(position(args)?.is_some().into())).on_null(OnNull::Call),
    Builtin::new("array_contains_any", TWO, contains_any).on_null(OnNull::False),
    Builtin::new("array_create", ONE, create)
        .variadic()
        .optional(1)
        .on_null(OnNull::Call)
        .grows(),
    Builtin::new("array_distinct", ONE, |args| Ok(distinct(array(args, 0)?.iter()))),
    Builtin::new("array_except", TWO, except).on_null(OnNull::Call),
    Builtin::new("array_flatten", ONE, flatten),
    Builtin::new("array_intersect", TWO, intersect),
    Builtin::new("array_join", &[Kind::Any, Kind::Text, Kind::Text], join)
        .optional(1)
        .grows(),
    Builtin::new("array_last_position", TWO, last_position)
        .on_null(OnNull::Call)
        .integer(),
    Builtin::new("array_max", ONE, |args| extreme(args, Ordering::Greater)),
    Builtin::new("array_min", ONE, |args| extreme(args, Ordering::Less)),
    Builtin::new("array_position", TWO, |args| {
        Ok(position(args)?.map_or((-1).into(), Value::from))
    })
    .on_null(OnNull::Call)
    .integer(),
    Builtin::new("array_remove", TWO, remove).on_null(OnNull::Call),
    Builtin::ambient("array_shuffle", ONE, shuffle),
    Builtin::new("array_sort", ONE, sort),
    Builtin::new("array_union", TWO, union)
        .on_null(OnNull::Call)
        .grows(),
    Builtin::new("cardinality", ONE, |args| {
        Ok(args[0].as_array().map_or(0, Vec::len).into())
    })
    .on_null(OnNull::Zero)
    .integer(),
    Builtin::new("element_at", TWO, element_at),
    Builtin::new("repeat", &[Kind::Any, Kind::Integer], repeat),
    Builtin::new(
        "sequence",
        &[Kind::Integer, Kind::Integer, Kind::Integer],
        sequence,
    )
    .optional(1),
];

/// The array at `index`, where null is an empty one.
fn array_or_nothing<'a>(args: Args<'a, '_>, index: usize) -> Result<&'a [Value], Failure> {
    match &*args[index] {
        Value::Null => Ok(&[]),
        _ => array(args, index).map(Vec::as_slice),
    }
}

fn position(args: Args<'_, '_>) -> Result<Option<usize>, Failure> {
    Ok(array_or_nothing(args, 0)?
        .iter()
        .position(|element| same(element, &args[1])))
}

fn last_position(args: Args<'_, '_>) -> Result<Value, Failure> {
    let found = array_or_nothing(args, 0)?
        .iter()
        .rposition(|element| same(element, &args[1]));
    Ok(found.map_or((-1).into(), Value::from))
}

fn contains(elements: &[Value], wanted: &Value) -> bool {
    elements.iter().any(|element| same(element, wanted))
}

fn distinct<'a>(elements: impl Iterator<Item = &'a Value>) -> Value {
    let mut kept: Vec<Value> = Vec::new();
    for element in elements {
        if !contains(&kept, element) {
            kept.push(element.clone());
        }
    }
    kept.into()
}

fn concat(args: Args<'_, '_>) -> Result<Value, Failure> {
    let mut all = Vec::new();
    for index in 0..args.len() {
        all.extend_from_slice(array_or_nothing(args, index)?);
    }
    Ok(all.into())
}

fn contains_any(args: Args<'_, '_>) -> Result<Value, Failure> {
    let (left, right) = (array(args, 0)?, array(args, 1)?);
    Ok(left.iter().any(|element| contains(right, element)).into())
}

/// Without what is null; null where nothing is left.
fn create(args: Args<'_, '_>) -> Result<Value, Failure> {
    let elements: Vec<Value> = args
        .iter()
        .filter(|arg| !arg.is_null())
        .map(|arg| Value::clone(arg))
        .collect();
    Ok(if elements.is_empty() {
        Value::Null
    } else {
        elements.into()
    })
}

fn except(args: Args<'_, '_>) -> Result<Value, Failure> {
    if args[0].is_null() {
        return Ok(Value::Null);
    }
    let without = array_or_nothing(args, 1)?;
    Ok(distinct(
        array(args, 0)?
            .iter()
            .filter(|element| !contains(without, element)),
    ))
}

fn flatten(args: Args<'_, '_>) -> Result<Value, Failure> {
    let mut flat = Vec::new();
    for element in array(args, 0)? {
        match element {
            Value::Array(inner) => flat.extend_from_slice(inner),
            other => flat.push(other.clone()),
        }
    }
    Ok(flat.into())
}

fn intersect(args: Args<'_, '_>) -> Result<Value, Failure> {
    let left = array(args, 0)?;
    Ok(distinct(
        array(args, 1)?.iter().filter(|element| contains(left, element)),
    ))
}

/// `array_join(array, separator [, text for null])`; without that text what is null is left out.
fn join(args: Args<'_, '_>) -> Result<Value, Failure> {
    let separator = args[1].as_str().ok_or_else(|| wrong(1, &args[1], "a text"))?;
    let for_null = match args.get(2) {
        Some(text) => {
            Some(text.as_str().ok_or_else(|| wrong(2, text, "a text"))?).filter(|text| !text.is_empty())
        }
        None => None,
    };
    let texts = array(args, 0)?.iter().filter_map(|element| match element {
        Value::Null => for_null.map(Into::into),
        other => Some(as_text(other)),
    });
    let texts: Vec<_> = texts.collect();
    if texts.len().saturating_mul(separator.len()) > super::LARGEST_MADE {
        return Err(Failure::TooLarge);
    }
    Ok(texts.join(separator).into())
}

/// The greatest or the least element; null ones do not count.
fn extreme(args: Args<'_, '_>, wanted: Ordering) -> Result<Value, Failure> {
    let mut found = &Value::Null;
    for element in array(args, 0)?.iter().filter(|element| !element.is_null()) {
        let order = match (element, found) {
            (Value::Number(_) | Value::String(_), Value::Null) => Some(wanted),
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => a.as_f64().partial_cmp(&b.as_f64()),
            },
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            _ => None,
        };
        match order {
            Some(order) if order == wanted => found = element,
            Some(_) => {}
            None => return Err(wrong(0, &args[0], "an array of numbers or one of texts")),
        }
    }
    Ok(found.clone())
}

fn remove(args: Args<'_, '_>) -> Result<Value, Failure> {
    if args[0].is_null() {
        return Ok(Value::Null);
    }
    Ok(array(args, 0)?
        .iter()
        .filter(|element| !same(element, &args[1]))
        .cloned()
        .collect())
}

fn shuffle(ambient: Ambient, args: Args<'_, '_>) -> Result<Value, Failure> {
    let mut elements = array(args, 0)?.clone();
    fastrand::Rng::with_seed(ambient.seed).shuffle(&mut elements);
    Ok(elements.into())
}

/// By text, as eKuiper does it: 10 comes before 9.
fn sort(args: Args<'_, '_>) -> Result<Value, Failure> {
    let mut elements = array(args, 0)?.clone();
    elements.sort_by(|a, b| as_text(a).cmp(&as_text(b)));
    Ok(elements.into())
}

fn union(args: Args<'_, '_>) -> Result<Value, Failure> {
    let (left, right) = (array_or_nothing(args, 0)?, array_or_nothing(args, 1)?);
    Ok(distinct(left.iter().chain(right)))
}

/// Of an array by its index, which below zero counts from the end; of an object by its key.
fn element_at(args: Args<'_, '_>) -> Result<Value, Failure> {
    match &*args[0] {
        Value::Array(elements) => {
            let index = integer(args, 1)?;
            let at = if index < 0 {
                index.checked_add_unsigned(elements.len() as u64)
            } else {
                Some(index)
            };
            let element = at
                .and_then(|at| usize::try_from(at).ok())
                .and_then(|at| elements.get(at));
            element.cloned().ok_or_else(|| Failure::Range {
                position: 2,
                found: index.to_string(),
                expected: format!("the array has {} elements", elements.len()),
            })
        }
        Value::Object(fields) => {
            let key = args[1].as_str().ok_or_else(|| wrong(1, &args[1], "a text"))?;
            Ok(fields.get(key).cloned().unwrap_or(Value::Null))
        }
        other => Err(wrong(0, other, "an array or an object")),
    }
}

fn repeat(args: Args<'_, '_>) -> Result<Value, Failure> {
    let count = length_to_make(2, integer(args, 1)?)?;
    if weight(&args[0]).saturating_mul(count) > super::LARGEST_MADE {
        return Err(Failure::TooLarge);
    }
    Ok(std::iter::repeat_n(&*args[0], count).cloned().collect())
}

/// `sequence(start, stop [, step])`, both ends included.
fn sequence(args: Args<'_, '_>) -> Result<Value, Failure> {
    let (start, stop) = (i128::from(integer(args, 0)?), i128::from(integer(args, 1)?));
    let step = match args.len() {
        2 => (stop - start).signum(),
        _ => i128::from(integer(args, 2)?),
    };
    if step == 0 {
        // Two ends that are one need no step.
        return if args.len() == 2 {
            Ok(vec![Value::clone(&args[0])].into())
        } else {
            Err(wrong(2, &args[2], "a step"))
        };
    }
    let steps = (stop - start) / step;
    if steps < 0 || steps >= i128::from(super::LONGEST_MADE) {
        return Err(Failure::Range {
            position: 2,
            found: stop.to_string(),
            expected: format!(
                "reached from {start} in 0 to {} steps of {step}",
                super::LONGEST_MADE
            ),
        });
    }
    Ok((0..=steps)
        .filter_map(|index| i64::try_from(start + index * step).ok())
        .map(Value::from)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, check, check_failures};

    #[test]
    fn results() {
        check(&[
            ("array_cardinality", "[[1, null, 2]]", "2"),
            ("array_cardinality", "[null]", "0"),
            ("array_concat", "[[1], null, [2, 3]]", "[1,2,3]"),
            ("array_contains", "[[1, 2], 2.0]", "true"),
            ("array_contains", "[null, 2]", "false"),
            ("array_contains_any", "[[1, 2], [2, 3]]", "true"),
            ("array_contains_any", "[null, [2, 3]]", "false"),
            ("array_create", "[1, null, \"a\"]", r#"[1,"a"]"#),
            ("array_create", "[]", "null"),
            ("array_distinct", "[[1, 2, 1.0]]", "[1,2]"),
            ("array_except", "[[1, 2, 2, 3], [3]]", "[1,2]"),
            ("array_except", "[[1, 1], null]", "[1]"),
            ("array_flatten", "[[[1, 4], [2, 3], 5]]", "[1,4,2,3,5]"),
            ("array_intersect", "[[1, 2, 3], [3, 2, 2]]", "[3,2]"),
            ("array_join", r#"[[1, "a", null], ","]"#, r#""1,a""#),
            ("array_join", r#"[[1, null], ",", "-"]"#, r#""1,-""#),
            ("array_last_position", "[[1, 2, 1], 1]", "2"),
            ("array_max", "[[1, 2.5, null]]", "2.5"),
            ("array_min", r#"[["b", "a"]]"#, r#""a""#),
            ("array_position", "[[1, 2], 2]", "1"),
            ("array_position", "[[1, 2], 3]", "-1"),
            ("array_remove", "[[1, 2, 1], 1]", "[2]"),
            ("array_sort", r#"[[3, "b", 2, "a"]]"#, r#"[2,3,"a","b"]"#),
            ("array_union", "[[1, 2], [2, 3]]", "[1,2,3]"),
            ("array_union", "[null, [2]]", "[2]"),
            ("cardinality", "[[1, 2]]", "2"),
            ("cardinality", "[5]", "0"),
            ("element_at", "[[1, 2, 3], -1]", "3"),
            ("element_at", r#"[{"a": 1}, "a"]"#, "1"),
            ("element_at", r#"[{"a": 1}, "b"]"#, "null"),
            ("repeat", "[\"a\", 3]", r#"["a","a","a"]"#),
            ("sequence", "[1, 5, 2]", "[1,3,5]"),
            ("sequence", "[3, 1]", "[3,2,1]"),
            ("sequence", "[3, 3]", "[3]"),
        ]);
    }

    #[test]
    fn failures() {
        check_failures(&[
            (
                "array_max",
                "[[1, \"a\"]]",
                "argument 1 is an array of 2, expected an array of numbers or one of texts",
            ),
            (
                "array_distinct",
                "[1]",
                "argument 1 is the number 1, expected an array",
            ),
            (
                "element_at",
                "[[1], 1]",
                "argument 2 is 1, which is out of range: the array has 1 elements",
            ),
            (
                "element_at",
                "[5, 1]",
                "argument 1 is the number 5, expected an array or an object",
            ),
            (
                "repeat",
                "[1, 16385]",
                "argument 2 is 16385, which is out of range: 0 to 16384",
            ),
            (
                "sequence",
                "[1, 20000]",
                "argument 2 is 20000, which is out of range: reached from 1 in 0 to 16384 steps of 1",
            ),
            (
                "sequence",
                "[1, 5, 0]",
                "argument 3 is the number 0, expected a step",
            ),
            (
                "sequence",
                "[1, 5, -1]",
                "argument 2 is 5, which is out of range: reached from 1 in 0 to 16384 steps of -1",
            ),
        ]);
    }

    #[test]
    fn shuffling_keeps_the_elements() {
        let mut shuffled: Vec<i64> =
            serde_json::from_value(call("array_shuffle", "[[1, 2, 3, 4, 5]]").unwrap()).unwrap();
        shuffled.sort_unstable();
        assert_eq!(shuffled, [1, 2, 3, 4, 5]);
    }
}
