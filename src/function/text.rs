//! Owns the functions on texts. Positions and lengths count characters.

use serde_json::Value;

use super::value::{as_text, integer, is_nothing};
use super::{Args, Builtin, Failure, Kind, OnNull, length_to_make};

const TEXT: &[Kind] = &[Kind::Text];
const TEXTS: &[Kind] = &[Kind::Text, Kind::Text];
const TEXT_AND_INTEGER: &[Kind] = &[Kind::Text, Kind::Integer];

pub(super) const FUNCTIONS: &[Builtin] = &[
    Builtin::new("concat", &[Kind::Any], concat)
        .variadic()
        .on_null(OnNull::Call)
        .grows(),
    Builtin::new("endswith", TEXTS, |args| {
        Ok(as_text(&args[0]).ends_with(&*as_text(&args[1])).into())
    })
    .on_null(OnNull::False),
    Builtin::new("indexof", TEXTS, index_of)
        .on_null(OnNull::Call)
        .integer(),
    Builtin::new("length", &[Kind::Any], length)
        .on_null(OnNull::Zero)
        .integer(),
    Builtin::new("lower", TEXT, |args| Ok(as_text(&args[0]).to_lowercase().into())).grows(),
    Builtin::new("lpad", TEXT_AND_INTEGER, |args| {
        Ok(format!("{}{}", padding(args)?, as_text(&args[0])).into())
    })
    .grows(),
    Builtin::new("ltrim", TEXT, |args| Ok(as_text(&args[0]).trim_start().into())),
    Builtin::new("numbytes", TEXT, |args| Ok(as_text(&args[0]).len().into()))
        .on_null(OnNull::Zero)
        .integer(),
    Builtin::new("reverse", TEXT, |args| {
        Ok(as_text(&args[0]).chars().rev().collect::<String>().into())
    }),
    Builtin::new("rpad", TEXT_AND_INTEGER, |args| {
        Ok(format!("{}{}", as_text(&args[0]), padding(args)?).into())
    })
    .grows(),
    Builtin::new("rtrim", TEXT, |args| Ok(as_text(&args[0]).trim_end().into())),
    Builtin::new(
        "split_value",
        &[Kind::Text, Kind::Text, Kind::Integer],
        split_value,
    ),
    Builtin::new("startswith", TEXTS, |args| {
        Ok(as_text(&args[0]).starts_with(&*as_text(&args[1])).into())
    })
    .on_null(OnNull::False),
    Builtin::new(
        "substring",
        &[Kind::Text, Kind::Integer, Kind::Integer],
        substring,
    )
    .optional(1),
    Builtin::new("trim", TEXT, |args| Ok(as_text(&args[0]).trim().into())),
    Builtin::new("upper", TEXT, |args| Ok(as_text(&args[0]).to_uppercase().into())).grows(),
];

fn concat(args: Args<'_, '_>) -> Result<Value, Failure> {
    // Of arrays an array, as documented.
    if args.iter().all(|arg| arg.is_array()) {
        return Ok(args
            .iter()
            .filter_map(|arg| arg.as_array())
            .flatten()
            .cloned()
            .collect());
    }
    Ok(args.iter().map(|arg| as_text(arg)).collect::<String>().into())
}

/// From 0; -1 where it is not there.
fn index_of(args: Args<'_, '_>) -> Result<Value, Failure> {
    if args.iter().any(|arg| is_nothing(arg)) {
        return Ok((-1).into());
    }
    let text = as_text(&args[0]);
    Ok(match text.find(&*as_text(&args[1])) {
        Some(bytes) => text[..bytes].chars().count().into(),
        None => (-1).into(),
    })
}

fn length(args: Args<'_, '_>) -> Result<Value, Failure> {
    Ok(match &*args[0] {
        Value::Array(elements) => elements.len().into(),
        Value::Object(fields) => fields.len().into(),
        other => as_text(other).chars().count().into(),
    })
}

fn padding(args: Args<'_, '_>) -> Result<String, Failure> {
    Ok(" ".repeat(length_to_make(2, integer(args, 1)?)?))
}

/// `split_value(text, separator, index)`; an index below zero counts from the end.
fn split_value(args: Args<'_, '_>) -> Result<Value, Failure> {
    let (text, separator) = (as_text(&args[0]), as_text(&args[1]));
    let index = integer(args, 2)?;
    let mut parts = text.split(&*separator);
    // Between the characters only, as Go splits.
    let count = if separator.is_empty() {
        text.chars().count()
    } else {
        parts.clone().count()
    };
    let at = if index < 0 {
        index.checked_add_unsigned(count as u64)
    } else {
        Some(index)
    };
    let part = at
        .and_then(|at| usize::try_from(at).ok())
        .filter(|at| *at < count)
        .and_then(|at| parts.nth(if separator.is_empty() { at + 1 } else { at }));
    part.map(Value::from).ok_or_else(|| Failure::Range {
        position: 3,
        found: index.to_string(),
        expected: format!("the text has {count} parts"),
    })
}

/// `substring(text, start)`, `substring(text, start, end)`: from 0, the end excluded, as eKuiper does it.
fn substring(args: Args<'_, '_>) -> Result<Value, Failure> {
    let text = as_text(&args[0]);
    let position = |index: usize, least: usize| {
        let value = integer(args, index)?;
        usize::try_from(value)
            .ok()
            .filter(|value| *value >= least)
            .ok_or_else(|| Failure::Range {
                position: index + 1,
                found: value.to_string(),
                expected: format!("at least {least}"),
            })
    };
    let start = position(1, 0)?;
    let rest = text.chars().skip(start);
    Ok(match args.len() {
        2 => rest.collect::<String>(),
        _ => rest.take(position(2, start)? - start).collect(),
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_failures};

    #[test]
    fn results() {
        check(&[
            ("concat", r#"["a", 1, null, true]"#, r#""a1true""#),
            ("concat", "[[1], [2, 3]]", "[1,2,3]"),
            ("endswith", r#"["front door", "door"]"#, "true"),
            ("endswith", r#"[null, "door"]"#, "false"),
            ("indexof", r#"["häuser", "user"]"#, "2"),
            ("indexof", r#"["abc", "x"]"#, "-1"),
            ("indexof", r#"[null, "x"]"#, "-1"),
            ("length", r#"["Zürich"]"#, "6"),
            ("length", "[[1, 2]]", "2"),
            ("length", r#"[{"a": 1}]"#, "1"),
            ("length", "[null]", "0"),
            ("lower", r#"["ABC"]"#, r#""abc""#),
            ("lpad", r#"["a", 2]"#, r#""  a""#),
            ("ltrim", "[\" \\ta \"]", r#""a ""#),
            ("numbytes", r#"["Zürich"]"#, "7"),
            ("reverse", r#"["abc"]"#, r#""cba""#),
            ("rpad", r#"["a", 2]"#, r#""a  ""#),
            ("rtrim", r#"[" a "]"#, r#"" a""#),
            ("split_value", r#"["/test/device001/message", "/", 0]"#, r#""""#),
            (
                "split_value",
                r#"["/test/device001/message", "/", 3]"#,
                r#""message""#,
            ),
            (
                "split_value",
                r#"["/test/device001/message", "/", -1]"#,
                r#""message""#,
            ),
            ("split_value", r#"["abc", "", 1]"#, r#""b""#),
            ("startswith", r#"["abc", "ab"]"#, "true"),
            ("substring", r#"["Zürich", 1, 3]"#, r#""ür""#),
            ("substring", r#"["Zürich", 2]"#, r#""rich""#),
            ("substring", r#"["abc", 5]"#, r#""""#),
            ("substring", r#"["abc", 1, 50]"#, r#""bc""#),
            ("trim", r#"[" a "]"#, r#""a""#),
            ("upper", r#"["straße"]"#, r#""STRASSE""#),
            ("upper", "[null]", "null"),
        ]);
    }

    #[test]
    fn failures() {
        check_failures(&[
            (
                "lpad",
                r#"["a", 100000]"#,
                "argument 2 is 100000, which is out of range: 0 to 16384",
            ),
            (
                "rpad",
                r#"["a", -1]"#,
                "argument 2 is -1, which is out of range: 0 to 16384",
            ),
            (
                "split_value",
                r#"["a/b", "/", 2]"#,
                "argument 3 is 2, which is out of range: the text has 2 parts",
            ),
            (
                "split_value",
                r#"["a/b", "/", -3]"#,
                "argument 3 is -3, which is out of range: the text has 2 parts",
            ),
            (
                "substring",
                r#"["abc", -1]"#,
                "argument 2 is -1, which is out of range: at least 0",
            ),
            (
                "substring",
                r#"["abc", 2, 1]"#,
                "argument 3 is 1, which is out of range: at least 2",
            ),
        ]);
    }
}
