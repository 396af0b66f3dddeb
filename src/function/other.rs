//! Owns the functions that belong to no other subject: null, time, identity.

use jiff::Timestamp;
use serde_json::Value;

use super::value::{integer, is_nothing};
use super::{Ambient, Args, Builtin, Failure, Kind, OnNull};

const FRACTION: &[Kind] = &[Kind::Integer];

pub(super) const FUNCTIONS: &[Builtin] = &[
    Builtin::new("bypass", &[Kind::Any], |args| Ok(Value::clone(&args[0]))).on_null(OnNull::Call),
    Builtin::new("coalesce", &[Kind::Any], coalesce)
        .variadic()
        .on_null(OnNull::Call),
    Builtin::ambient("cur_date", &[], |ambient, _| time(ambient, "%Y-%m-%d", 0)),
    Builtin::ambient("cur_time", FRACTION, cur_time).optional(1),
    Builtin::ambient("current_date", &[], |ambient, _| time(ambient, "%Y-%m-%d", 0)),
    Builtin::ambient("current_time", FRACTION, cur_time).optional(1),
    Builtin::ambient("current_timestamp", FRACTION, now).optional(1),
    Builtin::ambient("event_time", &[], |ambient, _| Ok(ambient.timestamp.into())).integer(),
    Builtin::new("isnull", &[Kind::Any], |args| Ok(args[0].is_null().into())).on_null(OnNull::Call),
    Builtin::ambient("local_time", FRACTION, now).optional(1),
    Builtin::ambient("local_timestamp", FRACTION, now).optional(1),
    Builtin::ambient("newuuid", &[], new_uuid),
    Builtin::ambient("now", FRACTION, now).optional(1),
    Builtin::ambient("tstamp", &[], |ambient, _| Ok(ambient.timestamp.into())).integer(),
];

fn coalesce(args: Args<'_, '_>) -> Result<Value, Failure> {
    Ok(args
        .iter()
        .find(|arg| !arg.is_null())
        .map_or(Value::Null, |arg| Value::clone(arg)))
}

fn now(ambient: Ambient, args: Args<'_, '_>) -> Result<Value, Failure> {
    time(ambient, "%Y-%m-%d %H:%M:%S", fraction(args)?)
}

fn cur_time(ambient: Ambient, args: Args<'_, '_>) -> Result<Value, Failure> {
    time(ambient, "%H:%M:%S", fraction(args)?)
}

/// How many digits of a second are wanted.
fn fraction(args: Args<'_, '_>) -> Result<u8, Failure> {
    if args.is_empty() || is_nothing(&args[0]) {
        return Ok(0);
    }
    let digits = integer(args, 0)?;
    u8::try_from(digits)
        .ok()
        .filter(|digits| *digits <= 6)
        .ok_or_else(|| Failure::Range {
            position: 1,
            found: digits.to_string(),
            expected: String::from("0 to 6"),
        })
}

/// The time of the tuple in UTC: nothing here may depend on where the host runs.
fn time(ambient: Ambient, format: &str, digits: u8) -> Result<Value, Failure> {
    let timestamp =
        Timestamp::from_millisecond(ambient.timestamp).map_err(|_| Failure::Time(ambient.timestamp))?;
    let mut text = timestamp.strftime(format).to_string();
    if digits > 0 {
        let microseconds = format!("{:06}", ambient.timestamp.rem_euclid(1000) * 1000);
        text.push('.');
        text.push_str(&microseconds[..usize::from(digits)]);
    }
    Ok(text.into())
}

/// A random UUID, version 4.
fn new_uuid(ambient: Ambient, _: Args<'_, '_>) -> Result<Value, Failure> {
    let random = fastrand::Rng::with_seed(ambient.seed).u128(..);
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(parts.join("-").into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, check, check_failures};
    use super::{Ambient, Failure};

    #[test]
    fn results() {
        check(&[
            ("bypass", "[5]", "5"),
            ("coalesce", "[null, 2, 3]", "2"),
            ("coalesce", "[null]", "null"),
            ("cur_date", "[]", r#""2023-11-14""#),
            ("current_time", "[]", r#""22:13:20""#),
            ("cur_time", "[2]", r#""22:13:20.12""#),
            ("event_time", "[]", "1700000000123"),
            ("isnull", "[null]", "true"),
            ("isnull", "[[]]", "false"),
            ("now", "[]", r#""2023-11-14 22:13:20""#),
            ("now", "[6]", r#""2023-11-14 22:13:20.123000""#),
            ("tstamp", "[]", "1700000000123"),
        ]);
    }

    #[test]
    fn failures() {
        check_failures(&[("now", "[7]", "argument 1 is 7, which is out of range: 0 to 6")]);
    }

    #[test]
    fn a_time_beyond_all_calendars_is_no_panic() {
        for timestamp in [i64::MIN, i64::MAX] {
            let ambient = Ambient { timestamp, seed: 0 };
            for name in ["now", "cur_time", "cur_date"] {
                let result = super::super::find(name).unwrap().call(ambient, &[]);
                assert_eq!(result, Err(Failure::Time(timestamp)), "{name}");
            }
        }
    }

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        let uuid = call("newuuid", "[]").unwrap();
        let uuid = uuid.as_str().unwrap();
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{uuid}");
        assert_eq!(&uuid[14..15], "4", "{uuid}");
        assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
    }
}
