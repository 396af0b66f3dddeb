//! Owns the built-in functions: their names, which arguments they take, what they give. Names and meaning are those
//! of eKuiper. All are pure: time and randomness come in with `Ambient`. They know nothing of SQL text; the planner
//! in `sql/` finds them by name and the evaluator calls them.

mod array;
mod math;
mod object;
mod other;
mod text;
mod transform;
pub(crate) mod value;

pub(crate) use transform::{CAST_TYPES, to_boolean};

use std::borrow::Cow;

use serde_json::Value;

/// The arguments of a call; as many as the function takes.
pub(crate) type Args<'a, 'v> = &'a [Cow<'v, Value>];

/// What a function may know beside its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ambient {
    /// The time of the tuple, in milliseconds since 1970: "now".
    pub(crate) timestamp: i64,
    /// Another for every tuple and every call in a rule, the same whenever one tuple is evaluated again.
    pub(crate) seed: u64,
}

/// Why a function gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// An argument is not what the function works on.
    #[error("argument {position} is {found}, expected {expected}")]
    Argument {
        /// Counted from 1.
        position: usize,
        /// Its kind, and the beginning of its value.
        found: String,
        /// What the function works on.
        expected: &'static str,
    },
    /// An argument is what the function works on, but not in its range.
    #[error("argument {position} is {found}, which is out of range: {expected}")]
    Range {
        /// Counted from 1.
        position: usize,
        /// Its value.
        found: String,
        /// The range.
        expected: String,
    },
    /// The result is infinite or no number.
    #[error("the result is not a finite number")]
    NotFinite,
    /// The tuple's time is in no year that can be written.
    #[error("the tuple's time, {0} ms since 1970, is beyond all calendars")]
    Time(i64),
    /// The result would be too large to hold.
    #[error("the result would be larger than {LARGEST_MADE} bytes")]
    TooLarge,
}

/// What a parameter takes. Literals are checked when a rule is made, all else when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Any,
    Number,
    Integer,
    Text,
}

impl Kind {
    /// What is wrong with a literal argument.
    pub(crate) fn refuses(self, literal: &Value) -> Option<&'static str> {
        match self {
            Self::Number if !literal.is_number() => Some("a number"),
            Self::Integer if !literal.is_i64() => Some("an integer"),
            Self::Text if !literal.is_string() => Some("a text"),
            _ => None,
        }
    }
}

/// What a call gives at once when an argument is null or, as in eKuiper, an empty array or object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnNull {
    Call,
    Null,
    False,
    Zero,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Pure(fn(Args<'_, '_>) -> Result<Value, Failure>),
    Ambient(fn(Ambient, Args<'_, '_>) -> Result<Value, Failure>),
}

/// One built-in function.
#[derive(Debug)]
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    parameters: &'static [Kind],
    /// How many parameters at the end may be missing.
    optional: usize,
    /// The last parameter may come again and again.
    variadic: bool,
    on_null: OnNull,
    /// It may give more than it got: without a limit a few calls within each other would fill the memory.
    grows: bool,
    /// What it gives is always an integer: dividing it by an integer is an integer division.
    pub(crate) integer: bool,
    body: Body,
}

impl Builtin {
    const fn new(
        name: &'static str,
        parameters: &'static [Kind],
        body: fn(Args<'_, '_>) -> Result<Value, Failure>,
    ) -> Self {
        let body = Body::Pure(body);
        Self {
            name,
            parameters,
            optional: 0,
            variadic: false,
            on_null: OnNull::Null,
            grows: false,
            integer: false,
            body,
        }
    }

    const fn ambient(
        name: &'static str,
        parameters: &'static [Kind],
        body: fn(Ambient, Args<'_, '_>) -> Result<Value, Failure>,
    ) -> Self {
        let body = Body::Ambient(body);
        Self {
            name,
            parameters,
            optional: 0,
            variadic: false,
            on_null: OnNull::Null,
            grows: false,
            integer: false,
            body,
        }
    }

    const fn optional(mut self, count: usize) -> Self {
        self.optional = count;
        self
    }

    const fn variadic(mut self) -> Self {
        self.variadic = true;
        self
    }

    const fn on_null(mut self, on_null: OnNull) -> Self {
        self.on_null = on_null;
        self
    }

    const fn grows(mut self) -> Self {
        self.grows = true;
        self
    }

    const fn integer(mut self) -> Self {
        self.integer = true;
        self
    }

    /// What a number of arguments that is wrong should have been.
    pub(crate) fn refuses_count(&self, count: usize) -> Option<String> {
        let most = self.parameters.len();
        let least = most - self.optional;
        if count >= least && (self.variadic || count <= most) {
            return None;
        }
        let plural = |count| if count == 1 { "" } else { "s" };
        Some(match (self.variadic, least == most) {
            (true, _) => format!("at least {least} argument{}", plural(least)),
            (false, true) if most == 0 => String::from("no arguments"),
            (false, true) => format!("{most} argument{}", plural(most)),
            (false, false) => format!("{least} to {most} arguments"),
        })
    }

    /// What the argument at `index`, from 0, must be.
    pub(crate) fn parameter(&self, index: usize) -> Kind {
        self.parameters
            .get(index)
            .or(self.parameters.last())
            .copied()
            .unwrap_or(Kind::Any)
    }

    /// Is its result another one in every row, whatever the arguments?
    pub(crate) fn is_ambient(&self) -> bool {
        matches!(self.body, Body::Ambient(_))
    }

    /// `args` must be as many as [`refuses_count`](Self::refuses_count) allows.
    pub(crate) fn call(&self, ambient: Ambient, args: Args<'_, '_>) -> Result<Value, Failure> {
        if self.on_null != OnNull::Call && args.iter().any(|arg| value::is_nothing(arg)) {
            return Ok(match self.on_null {
                OnNull::Null | OnNull::Call => Value::Null,
                OnNull::False => Value::Bool(false),
                OnNull::Zero => Value::from(0),
            });
        }
        if self.grows && args.iter().map(|arg| value::weight(arg)).sum::<usize>() > LARGEST_MADE {
            return Err(Failure::TooLarge);
        }
        match self.body {
            Body::Pure(body) => body(args),
            Body::Ambient(body) => body(ambient, args),
        }
    }
}

/// The functions, by subject.
const ALL: &[&[Builtin]] = &[
    math::FUNCTIONS,
    text::FUNCTIONS,
    transform::FUNCTIONS,
    array::FUNCTIONS,
    object::FUNCTIONS,
    other::FUNCTIONS,
];

/// The function of this name; upper and lower case do not differ.
pub(crate) fn find(name: &str) -> Option<&'static Builtin> {
    ALL.iter()
        .flat_map(|group| group.iter())
        .find(|function| function.name.eq_ignore_ascii_case(name))
}

/// The names of all built-in functions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter()
        .flat_map(|group| group.iter())
        .map(|function| function.name)
}

/// What eKuiper has and this host has not yet, with the reason to tell.
pub(crate) fn unsupported(name: &str) -> Option<&'static str> {
    const AGGREGATE: &[&str] = &[
        "avg",
        "collect",
        "count",
        "deduplicate",
        "last_value",
        "max",
        "median",
        "merge_agg",
        "min",
        "percentile_cont",
        "percentile_disc",
        "stddev",
        "stddevs",
        "sum",
        "var",
        "vars",
    ];
    const ANALYTIC: &[&str] = &[
        "acc_avg",
        "acc_count",
        "acc_max",
        "acc_min",
        "acc_sum",
        "changed_col",
        "changed_cols",
        "had_changed",
        "lag",
        "last_agg_hit_count",
        "last_agg_hit_time",
        "last_hit_count",
        "last_hit_time",
        "latest",
    ];
    const WINDOW: &[&str] = &[
        "countwindow",
        "hoppingwindow",
        "row_number",
        "sessionwindow",
        "slidingwindow",
        "statewindow",
        "tumblingwindow",
        "window_end",
        "window_start",
        "window_trigger",
    ];
    const OTHER: &[&str] = &[
        "array_map",
        "compress",
        "conv",
        "convert_tz",
        "crc32",
        "date_calc",
        "date_diff",
        "day",
        "day_name",
        "day_of_month",
        "day_of_week",
        "day_of_year",
        "decode",
        "decompress",
        "delay",
        "encode",
        "extract",
        "format",
        "format_time",
        "from_days",
        "from_unix_time",
        "get_keyed_state",
        "hour",
        "json_path_exists",
        "json_path_query",
        "json_path_query_first",
        "last_day",
        "md5",
        "microsecond",
        "minute",
        "month",
        "month_name",
        "mqtt",
        "props",
        "regexp_matches",
        "regexp_replace",
        "regexp_substr",
        "rule_id",
        "rule_start",
        "second",
        "sha1",
        "sha256",
        "sha384",
        "sha512",
        "to_seconds",
        "unnest",
    ];
    let name = name.to_ascii_lowercase();
    let name = name.as_str();
    if AGGREGATE.contains(&name) || name.starts_with("inc_") {
        Some("aggregate functions are not supported yet")
    } else if ANALYTIC.contains(&name) {
        Some("analytic functions are not supported yet")
    } else if WINDOW.contains(&name) {
        Some("windows are not supported yet")
    } else if OTHER.contains(&name) {
        Some("it is not supported yet")
    } else {
        None
    }
}

/// How many elements or characters a function may make out of a number alone.
const LONGEST_MADE: i64 = 16_384;

/// How many bytes, roughly, the arguments of a function that grows may have together, and what it gives.
const LARGEST_MADE: usize = 16 * 1024 * 1024;

/// Checks what becomes a length.
fn length_to_make(position: usize, count: i64) -> Result<usize, Failure> {
    usize::try_from(count)
        .ok()
        .filter(|_| count <= LONGEST_MADE)
        .ok_or_else(|| Failure::Range {
            position,
            found: count.to_string(),
            expected: format!("0 to {LONGEST_MADE}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMBIENT: Ambient = Ambient {
        timestamp: 1_700_000_000_123,
        seed: 7,
    };

    /// Calls a function with arguments given as a JSON array.
    pub(super) fn call(name: &str, args: &str) -> Result<Value, String> {
        let args: Vec<Value> = serde_json::from_str(args).unwrap();
        let args: Vec<Cow<'_, Value>> = args.iter().map(Cow::Borrowed).collect();
        let function = find(name).unwrap_or_else(|| panic!("there is no function {name}"));
        assert_eq!(function.refuses_count(args.len()), None, "{name}");
        function
            .call(AMBIENT, &args)
            .map_err(|failure| failure.to_string())
    }

    /// A table of calls: name, arguments, result as JSON text.
    pub(super) fn check(cases: &[(&str, &str, &str)]) {
        for (name, args, expected) in cases {
            let result = call(name, args).unwrap_or_else(|error| panic!("{name}{args}: {error}"));
            assert_eq!(result.to_string(), *expected, "{name}{args}");
        }
    }

    /// A table of failures: name, arguments, the error's text.
    pub(super) fn check_failures(cases: &[(&str, &str, &str)]) {
        for (name, args, expected) in cases {
            assert_eq!(call(name, args).unwrap_err(), *expected, "{name}{args}");
        }
    }

    #[test]
    fn names_are_unique_lower_case_and_found_in_any_case() {
        let mut seen = std::collections::HashSet::new();
        for name in names() {
            assert!(seen.insert(name), "{name} is there twice");
            assert_eq!(name, name.to_ascii_lowercase());
            assert_eq!(find(&name.to_ascii_uppercase()).unwrap().name, name);
            assert_eq!(unsupported(name), None, "{name} is there and listed as missing");
        }
    }

    #[test]
    fn wrong_counts_say_what_was_expected() {
        let wrong = |name: &str, count| find(name).unwrap().refuses_count(count).unwrap();
        assert_eq!(wrong("abs", 2), "1 argument");
        assert_eq!(wrong("power", 1), "2 arguments");
        assert_eq!(wrong("pi", 1), "no arguments");
        assert_eq!(wrong("round", 3), "1 to 2 arguments");
        assert_eq!(wrong("concat", 0), "at least 1 argument");
    }

    #[test]
    fn no_function_panics_whatever_it_gets() {
        let values: Vec<Value> = serde_json::from_str(
            r#"[null, true, 0, -1, 7, 9223372036854775807, -9223372036854775808, 18446744073709551615, 0.5, -1e308, 1e308,
                "", "ä", "0x10", "-5", "base64", "bigint", "nothing", [], [1], [null, "a", [1]], [["a", 1]], {},
                {"key": "a", "value": 1}, [{"key": "a", "value": 1}]]"#,
        )
        .unwrap();
        for function in ALL.iter().flat_map(|group| group.iter()) {
            for first in &values {
                for second in &values {
                    for third in [first, second] {
                        let all = [first, second, third];
                        for count in 0..=3 {
                            if function.refuses_count(count).is_none() {
                                let args: Vec<Cow<'_, Value>> =
                                    all[..count].iter().map(|arg| Cow::Borrowed(*arg)).collect();
                                // Only that it comes back, and the same again: it is pure.
                                let once = function.call(AMBIENT, &args);
                                assert_eq!(once, function.call(AMBIENT, &args), "{}", function.name);
                            }
                        }
                    }
                }
            }
        }
    }
}
