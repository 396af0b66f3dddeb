//! Owns the mathematical functions.

use std::f64::consts::PI;

use serde_json::Value;

use super::value::{as_integer, finite, integer, number, wrong};
use super::{Ambient, Args, Builtin, Failure, Kind};

const NUMBER: &[Kind] = &[Kind::Number];
const NUMBERS: &[Kind] = &[Kind::Number, Kind::Number];
const INTEGERS: &[Kind] = &[Kind::Integer, Kind::Integer];

pub(super) const FUNCTIONS: &[Builtin] = &[
    Builtin::new("abs", NUMBER, abs),
    Builtin::new("acos", NUMBER, |args| real(number(args, 0)?.acos())),
    Builtin::new("asin", NUMBER, |args| real(number(args, 0)?.asin())),
    Builtin::new("atan", NUMBER, |args| real(number(args, 0)?.atan())),
    Builtin::new("atan2", NUMBERS, |args| {
        real(number(args, 0)?.atan2(number(args, 1)?))
    }),
    Builtin::new("bitand", INTEGERS, |args| {
        Ok(Value::from(integer(args, 0)? & integer(args, 1)?))
    })
    .integer(),
    Builtin::new("bitnot", &[Kind::Integer], |args| {
        Ok(Value::from(!integer(args, 0)?))
    })
    .integer(),
    Builtin::new("bitor", INTEGERS, |args| {
        Ok(Value::from(integer(args, 0)? | integer(args, 1)?))
    })
    .integer(),
    Builtin::new("bitxor", INTEGERS, |args| {
        Ok(Value::from(integer(args, 0)? ^ integer(args, 1)?))
    })
    .integer(),
    Builtin::new("ceil", NUMBER, ceiling),
    Builtin::new("ceiling", NUMBER, ceiling),
    Builtin::new("cos", NUMBER, |args| real(number(args, 0)?.cos())),
    Builtin::new("cosh", NUMBER, |args| real(number(args, 0)?.cosh())),
    Builtin::new("cot", NUMBER, |args| real(number(args, 0)?.tan().recip())),
    Builtin::new("degrees", NUMBER, |args| real(number(args, 0)?.to_degrees())),
    Builtin::new("exp", NUMBER, |args| real(number(args, 0)?.exp())),
    Builtin::new("floor", NUMBER, |args| finite(number(args, 0)?.floor())),
    Builtin::new("ln", NUMBER, |args| finite(number(args, 0)?.ln())),
    Builtin::new("log", NUMBERS, log).optional(1),
    Builtin::new("mod", NUMBERS, |args| finite(number(args, 0)? % number(args, 1)?)),
    Builtin::new("pi", &[], |_| finite(PI)),
    Builtin::new("pow", NUMBERS, power),
    Builtin::new("power", NUMBERS, power),
    Builtin::new("radians", NUMBER, |args| real(number(args, 0)?.to_radians())),
    Builtin::ambient("rand", &[], rand),
    Builtin::new("round", NUMBERS, round).optional(1),
    Builtin::new("sign", NUMBER, sign).integer(),
    Builtin::new("sin", NUMBER, |args| real(number(args, 0)?.sin())),
    Builtin::new("sinh", NUMBER, |args| real(number(args, 0)?.sinh())),
    Builtin::new("sqrt", NUMBER, |args| finite(number(args, 0)?.sqrt())),
    Builtin::new("tan", NUMBER, |args| real(number(args, 0)?.tan())),
    Builtin::new("tanh", NUMBER, |args| real(number(args, 0)?.tanh())),
];

/// As in eKuiper what is no number is null.
fn real(result: f64) -> Result<Value, Failure> {
    if result.is_nan() {
        Ok(Value::Null)
    } else {
        finite(result)
    }
}

fn abs(args: Args<'_, '_>) -> Result<Value, Failure> {
    match as_integer(&args[0]).and_then(i64::checked_abs) {
        Some(result) => Ok(Value::from(result)),
        None => finite(number(args, 0)?.abs()),
    }
}

fn ceiling(args: Args<'_, '_>) -> Result<Value, Failure> {
    finite(number(args, 0)?.ceil())
}

/// `log(x)` to base 10, `log(base, x)`; null where it is not defined.
fn log(args: Args<'_, '_>) -> Result<Value, Failure> {
    let first = number(args, 0)?;
    let (base, x) = if args.len() == 1 {
        (10.0, first)
    } else {
        (first, number(args, 1)?)
    };
    if x <= 0.0 || base <= 1.0 {
        return Ok(Value::Null);
    }
    let result = if base == 10.0 {
        x.log10()
    } else {
        x.ln() / base.ln()
    };
    finite(result)
}

fn power(args: Args<'_, '_>) -> Result<Value, Failure> {
    finite(number(args, 0)?.powf(number(args, 1)?))
}

/// From 0 to 1, 1 excluded.
fn rand(ambient: Ambient, _: Args<'_, '_>) -> Result<Value, Failure> {
    finite(fastrand::Rng::with_seed(ambient.seed).f64())
}

/// `round(x)`, `round(x, decimals)`: halves away from zero.
fn round(args: Args<'_, '_>) -> Result<Value, Failure> {
    let x = number(args, 0)?;
    let decimals = if args.len() > 1 { number(args, 1)? } else { 0.0 };
    let factor = 10_f64.powf(decimals.trunc());
    let scaled = (x * factor).round();
    if scaled.is_finite() && factor.is_normal() {
        return finite(scaled / factor);
    }
    // So many decimals change nothing, and so many digits before the point leave nothing.
    finite(if decimals > 0.0 { x } else { 0.0 })
}

fn sign(args: Args<'_, '_>) -> Result<Value, Failure> {
    match number(args, 0)?.partial_cmp(&0.0) {
        Some(order) => Ok(Value::from(order as i8)),
        None => Err(wrong(0, &args[0], "a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, check, check_failures};

    #[test]
    fn results() {
        check(&[
            ("abs", "[-5]", "5"),
            ("abs", "[-5.5]", "5.5"),
            ("abs", "[-9223372036854775808]", "9.223372036854776e+18"),
            ("acos", "[1]", "0"),
            ("acos", "[2]", "null"),
            ("atan2", "[0, 1]", "0"),
            ("bitand", "[6, 3]", "2"),
            ("bitnot", "[0]", "-1"),
            ("bitor", "[6, 3]", "7"),
            ("bitxor", "[6, 3]", "5"),
            ("ceil", "[1.2]", "2"),
            ("ceiling", "[-1.2]", "-1"),
            ("cos", "[0]", "1"),
            ("degrees", "[0]", "0"),
            ("exp", "[0]", "1"),
            ("floor", "[-1.2]", "-2"),
            ("floor", "[null]", "null"),
            ("ln", "[1]", "0"),
            ("log", "[1000]", "3"),
            ("log", "[2, 8]", "3"),
            ("log", "[0]", "null"),
            ("log", "[1, 8]", "null"),
            ("mod", "[10, 3]", "1"),
            ("mod", "[-10.5, 3]", "-1.5"),
            ("pi", "[]", "3.141592653589793"),
            ("pow", "[2, 10]", "1024"),
            ("power", "[4, 0.5]", "2"),
            ("radians", "[0]", "0"),
            ("round", "[42.4]", "42"),
            ("round", "[42.4382, 2]", "42.44"),
            ("round", "[-2.5]", "-3"),
            ("round", "[1234, -2]", "1200"),
            ("round", "[1.5, 400]", "1.5"),
            ("round", "[1.5, -400]", "0"),
            ("sign", "[-3.5]", "-1"),
            ("sign", "[0]", "0"),
            ("sqrt", "[9]", "3"),
            ("tanh", "[0]", "0"),
        ]);
    }

    #[test]
    fn failures() {
        check_failures(&[
            (
                "abs",
                r#"["five"]"#,
                "argument 1 is the text \"five\", expected a number",
            ),
            (
                "bitand",
                "[1.5, 1]",
                "argument 1 is the number 1.5, expected an integer",
            ),
            ("sqrt", "[-1]", "the result is not a finite number"),
            ("ln", "[0]", "the result is not a finite number"),
            ("mod", "[1, 0]", "the result is not a finite number"),
            ("exp", "[1000]", "the result is not a finite number"),
            (
                "power",
                "[[1], 2]",
                "argument 1 is an array of 1, expected a number",
            ),
        ]);
    }

    #[test]
    fn rand_is_in_its_range() {
        let number = call("rand", "[]").unwrap().as_f64().unwrap();
        assert!((0.0..1.0).contains(&number), "{number}");
    }
}
