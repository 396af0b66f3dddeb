//! Owns the functions that turn values of one kind into another.

use serde_json::Value;

use super::value::{as_integer, as_text, describe, finite, integer, number, wrong};
use super::{Args, Builtin, Failure, Kind, OnNull};

pub(super) const FUNCTIONS: &[Builtin] = &[
    Builtin::new("cast", &[Kind::Any, Kind::Text], cast),
    Builtin::new("chr", &[Kind::Any], chr),
    Builtin::new("dec2hex", &[Kind::Integer], dec2hex),
    Builtin::new("hex2dec", &[Kind::Text], hex2dec).integer(),
    Builtin::new("parse_json", &[Kind::Text], parse_json).on_null(OnNull::Call),
    Builtin::new("to_json", &[Kind::Any], |args| Ok(args[0].to_string().into())).grows(),
    Builtin::new("trunc", &[Kind::Number, Kind::Integer], trunc),
];

/// The types that [`cast`] makes.
pub(crate) const CAST_TYPES: &[&str] = &["bigint", "float", "string", "boolean"];

fn cast(args: Args<'_, '_>) -> Result<Value, Failure> {
    let value = &*args[0];
    match args[1].as_str() {
        Some("bigint") => to_bigint(value)
            .map(Value::from)
            .ok_or_else(|| wrong(0, value, "what reads as an integer")),
        Some("float") => match to_float(value) {
            Some(float) => finite(float),
            None => Err(wrong(0, value, "what reads as a number")),
        },
        Some("string") => Ok(as_text(value).into()),
        Some("boolean") => to_boolean(value)
            .map(Value::from)
            .ok_or_else(|| wrong(0, value, "what reads as a boolean")),
        _ => Err(wrong(1, &args[1], "one of bigint, float, string and boolean")),
    }
}

fn to_bigint(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(value) => Some(i64::from(*value)),
        Value::Number(number) => number.as_i64().or_else(|| {
            let whole = number.as_f64()?.trunc();
            as_integer(&super::value::from_f64(whole)?)
        }),
        Value::String(text) => match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        },
        _ => None,
    }
}

fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Numbers are true unless they are zero; texts are what Go's `ParseBool` takes.
pub(crate) fn to_boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => Some(number.as_f64()? != 0.0),
        Value::String(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// The character of a number; a text of one character is that character.
fn chr(args: Args<'_, '_>) -> Result<Value, Failure> {
    let value = &*args[0];
    if let Some(text) = value.as_str() {
        return if text.chars().count() == 1 {
            Ok(text.into())
        } else {
            Err(wrong(0, value, "one character"))
        };
    }
    u32::try_from(integer(args, 0)?)
        .ok()
        .and_then(char::from_u32)
        .map(|character| character.to_string().into())
        .ok_or_else(|| wrong(0, value, "the number of a character"))
}

fn dec2hex(args: Args<'_, '_>) -> Result<Value, Failure> {
    let number = integer(args, 0)?;
    let sign = if number < 0 { "-" } else { "" };
    Ok(format!("0x{sign}{:x}", number.unsigned_abs()).into())
}

fn hex2dec(args: Args<'_, '_>) -> Result<Value, Failure> {
    let text = args[0]
        .as_str()
        .ok_or_else(|| wrong(0, &args[0], "a hexadecimal number as text"))?;
    i64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16)
        .map(Value::from)
        .map_err(|_| wrong(0, &args[0], "a hexadecimal number as text"))
}

fn parse_json(args: Args<'_, '_>) -> Result<Value, Failure> {
    match &*args[0] {
        Value::Null => Ok(Value::Null),
        Value::String(text) => serde_json::from_str(text).map_err(|error| Failure::Argument {
            position: 1,
            found: format!("{} ({error})", describe(&args[0])),
            expected: "JSON",
        }),
        other => Err(wrong(0, other, "a text")),
    }
}

/// Cuts all but so many decimals off; as documented 0 to 34.
fn trunc(args: Args<'_, '_>) -> Result<Value, Failure> {
    let x = number(args, 0)?;
    let decimals = integer(args, 1)?.clamp(0, 34);
    let factor = 10_f64.powi(decimals as i32);
    let scaled = x * factor;
    // Beyond 2^53 there are no decimals left to cut.
    finite(if scaled.abs() < 9e15 {
        scaled.trunc() / factor
    } else {
        x
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_failures};

    #[test]
    fn results() {
        check(&[
            ("cast", r#"[1.9, "bigint"]"#, "1"),
            ("cast", r#"["0x1f", "bigint"]"#, "31"),
            ("cast", r#"["-12", "bigint"]"#, "-12"),
            ("cast", r#"[true, "bigint"]"#, "1"),
            ("cast", r#"["1.5", "float"]"#, "1.5"),
            ("cast", r#"[3, "float"]"#, "3"),
            ("cast", r#"[3.0, "string"]"#, r#""3""#),
            ("cast", r#"[1e21, "string"]"#, r#""1000000000000000000000""#),
            ("cast", r#"[true, "string"]"#, r#""true""#),
            ("cast", r#"["T", "boolean"]"#, "true"),
            ("cast", r#"[0, "boolean"]"#, "false"),
            ("cast", r#"[null, "boolean"]"#, "null"),
            ("chr", "[65]", r#""A""#),
            ("chr", r#"["ä"]"#, r#""ä""#),
            ("dec2hex", "[16]", r#""0x10""#),
            ("dec2hex", "[-16]", r#""0x-10""#),
            ("hex2dec", r#"["0x10"]"#, "16"),
            ("hex2dec", r#"["ff"]"#, "255"),
            ("parse_json", r#"["{\"a\":[1]}"]"#, r#"{"a":[1]}"#),
            ("parse_json", "[null]", "null"),
            ("to_json", r#"[{"a": 1}]"#, r#""{\"a\":1}""#),
            ("trunc", "[1.259, 2]", "1.25"),
            ("trunc", "[-1.9, 0]", "-1"),
            ("trunc", "[1.5, 400]", "1.5"),
        ]);
    }

    #[test]
    fn failures() {
        check_failures(&[
            (
                "cast",
                r#"["abc", "bigint"]"#,
                "argument 1 is the text \"abc\", expected what reads as an integer",
            ),
            ("cast", r#"["inf", "float"]"#, "the result is not a finite number"),
            (
                "cast",
                r#"["yes", "boolean"]"#,
                "argument 1 is the text \"yes\", expected what reads as a boolean",
            ),
            (
                "cast",
                r#"[1, "datetime"]"#,
                "argument 2 is the text \"datetime\", expected one of bigint, float, string and boolean",
            ),
            (
                "chr",
                "[-1]",
                "argument 1 is the number -1, expected the number of a character",
            ),
            (
                "hex2dec",
                r#"["xyz"]"#,
                "argument 1 is the text \"xyz\", expected a hexadecimal number as text",
            ),
            (
                "parse_json",
                r#"["{"]"#,
                "argument 1 is the text \"{\" (EOF while parsing an object at line 1 column 1), expected JSON",
            ),
        ]);
    }
}
