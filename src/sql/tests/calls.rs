//! Portable functions: which calls a row needs, one after another, and which it does not.

use serde_json::{Value, json};

use super::super::{CallResults, CallSite, Plan, Step};
use super::{fields, planned, row, row_read};

/// Evaluates until there is a result; `answer` is the portable functions. Returns the calls and the result.
fn run(plan: &Plan, message: &str, answer: impl Fn(&str, &[Value]) -> Value) -> (Vec<String>, Step) {
    let (row, read) = (row(message), row_read(plan, message));
    let mut results = CallResults::default();
    let mut calls = Vec::new();
    loop {
        let step = plan.evaluate(&row, &results).unwrap();
        assert_eq!(
            step,
            plan.evaluate(&row, &results).unwrap(),
            "evaluation must be pure"
        );
        assert_eq!(step, plan.evaluate(&read, &results).unwrap());
        let Step::Call { site, args } = step else {
            return (calls, step);
        };
        let function = &plan.calls()[site].function;
        calls.push(format!("{site}:{function}{}", Value::from(args.clone())));
        assert!(
            calls.len() <= plan.calls().len(),
            "a site was called twice: {calls:?}"
        );
        results.set(site, answer(function, &args));
    }
}

/// `link` joins its arguments, `rank` counts the characters of its first.
fn answer(function: &str, args: &[Value]) -> Value {
    let texts: Vec<String> = args
        .iter()
        .map(|arg| arg.as_str().map_or_else(|| arg.to_string(), str::to_owned))
        .collect();
    match function {
        "link" => json!(texts.join("-")),
        _ => json!(texts[0].len()),
    }
}

#[test]
fn sites_have_their_arguments_as_values_or_text() {
    let plan = planned("SELECT link(a, \"x\", -1, b+1) AS l, rank(link(c)) FROM demo").unwrap();
    let site = |site, function: &str, args: Value| CallSite {
        site,
        function: function.to_owned(),
        args: args.as_array().cloned().unwrap(),
    };
    assert_eq!(
        plan.calls(),
        [
            site(0, "link", json!(["a", "x", -1, "b + 1"])),
            site(1, "rank", json!(["link(c)"])),
            site(2, "link", json!(["c"])),
        ]
    );
}

#[test]
fn calls_are_made_when_they_are_needed_and_once() {
    let message = r#"{"a": 1, "s": "abc"}"#;
    let cases: &[(&str, &[&str], Option<&str>)] = &[
        // In order, each once, also when its result is used again.
        (
            "SELECT link(a, s) AS l, rank(l) AS r, l AS again FROM demo",
            &["0:link[1,\"abc\"]", "1:rank[\"1-abc\"]"],
            Some(r#"{"l":"1-abc","r":5,"again":"1-abc"}"#),
        ),
        // One within another.
        (
            "SELECT rank(link(s, s)) FROM demo",
            &["1:link[\"abc\",\"abc\"]", "0:rank[\"abc-abc\"]"],
            Some(r#"{"rank":7}"#),
        ),
        // WHERE before SELECT, and nothing of SELECT when it drops.
        (
            "SELECT link(a) AS l FROM demo WHERE rank(s) = 3",
            &["1:rank[\"abc\"]", "0:link[1]"],
            Some(r#"{"l":"1"}"#),
        ),
        (
            "SELECT link(a) AS l FROM demo WHERE rank(s) = 4",
            &["1:rank[\"abc\"]"],
            None,
        ),
        (
            "SELECT link(a) AS l FROM demo WHERE a = 2 AND rank(s) = 3",
            &[],
            None,
        ),
        (
            "SELECT a FROM demo WHERE a = 1 OR rank(s) = 3",
            &[],
            Some(r#"{"a":1}"#),
        ),
        // An alias in WHERE is the same call as in SELECT.
        (
            "SELECT rank(s) AS r FROM demo WHERE r = 3",
            &["0:rank[\"abc\"]"],
            Some(r#"{"r":3}"#),
        ),
        // Only the branch that is taken.
        (
            "SELECT CASE WHEN a = 1 THEN link(s) ELSE rank(s) END AS c FROM demo",
            &["0:link[\"abc\"]"],
            Some(r#"{"c":"abc"}"#),
        ),
        // Two sites are two calls, even of the same function with the same arguments.
        (
            "SELECT rank(s) + rank(s) AS c FROM demo",
            &["0:rank[\"abc\"]", "1:rank[\"abc\"]"],
            Some(r#"{"c":6}"#),
        ),
        // Draws are the same whenever the row is evaluated again.
        (
            "SELECT *, rank(cast(rand(), \"string\")) > 0 AS c FROM demo",
            &["*"],
            Some(r#"{"a":1,"s":"abc","c":true}"#),
        ),
    ];
    for (text, expected_calls, expected) in cases {
        let (calls, step) = run(&planned(text).unwrap(), message, answer);
        if *expected_calls != ["*"] {
            assert_eq!(&calls, expected_calls, "{text}");
        }
        let expected = expected.map_or(Step::Drop, |json| Step::Emit(fields(json)));
        assert_eq!(step, expected, "{text}");
    }
}

#[test]
fn a_call_that_gives_nothing_is_not_made_again() {
    let plan = planned("SELECT link(a) AS l, isNull(link(b)) AS m FROM demo").unwrap();
    let (calls, step) = run(&plan, "{}", |_, _| Value::Null);
    assert_eq!(calls, ["0:link[null]", "1:link[null]"]);
    assert_eq!(step, Step::Emit(fields(r#"{"m":true}"#)));
}

#[test]
fn results_are_forgotten_for_the_next_row() {
    let plan = planned("SELECT link(a) AS l FROM demo").unwrap();
    let mut results = CallResults::default();
    results.set(0, json!("x"));
    assert_eq!(
        plan.evaluate(&row("{}"), &results).unwrap(),
        Step::Emit(fields(r#"{"l":"x"}"#))
    );
    results.clear();
    assert!(matches!(
        plan.evaluate(&row("{}"), &results).unwrap(),
        Step::Call { site: 0, .. }
    ));
}
