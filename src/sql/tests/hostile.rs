//! Texts and rows that want to do harm: no text overflows the stack, fills the memory or panics.

use proptest::prelude::*;

use super::super::{MAX_HEIGHT, MAX_NESTING, MAX_TEXT, parse};
use super::{World, json, object, parse as parse_statement, plan, planned, row, select};
use crate::sql::{CallResults, Statement, Step};

/// Reads, plans and evaluates, on a thread with the stack that a runtime's worker has. Says how far it came.
fn outcome(text: String, message: &str) -> String {
    let message = message.to_owned();
    let work = move || match planned(&text) {
        Ok(plan) => {
            // What is shown must be safe too.
            assert!(!plan.explain().is_empty());
            match plan.evaluate(&row(&message), &CallResults::default()) {
                Ok(Step::Emit(fields)) => json(&fields),
                Ok(step) => format!("{step:?}"),
                Err(error) => error.to_string(),
            }
        }
        Err(error) => error.to_string(),
    };
    std::thread::Builder::new()
        .stack_size(2 * 1024 * 1024)
        .spawn(work)
        .unwrap()
        .join()
        .unwrap()
}

#[test]
fn long_chains_are_flat() {
    let n = 30_000;
    let cases = [
        (format!("SELECT 1{} AS r FROM demo", "+1".repeat(n)), "30001"),
        (format!("SELECT 1{} AS r FROM demo", "*1".repeat(n)), r#"{"r":1}"#),
        (
            format!("SELECT 1{} AS r FROM demo", "=1".repeat(2)),
            "cannot apply = to the boolean true",
        ),
        (
            format!("SELECT TRUE{} AS r FROM demo", "=TRUE".repeat(n / 4)),
            r#"{"r":true}"#,
        ),
        (
            format!("SELECT TRUE{} AS r FROM demo", " AND TRUE".repeat(n / 4)),
            r#"{"r":true}"#,
        ),
        (
            format!("SELECT FALSE{} AS r FROM demo", " OR FALSE".repeat(n / 4)),
            r#"{"r":false}"#,
        ),
        (
            format!("SELECT TRUE{} AS r FROM demo", " IN (TRUE)".repeat(n / 4)),
            r#"{"r":true}"#,
        ),
        (format!("SELECT a{} AS r FROM demo", "->a".repeat(n)), "{}"),
        (format!("SELECT a{} AS r FROM demo", "[0]".repeat(n)), "{}"),
        (
            format!("SELECT concat('a'{}) AS r FROM demo", ",'a'".repeat(n / 2)),
            "aaaaaaaa",
        ),
        (
            format!(
                "SELECT CASE{} END AS r FROM demo",
                " WHEN FALSE THEN 1".repeat(n / 8)
            ),
            "{}",
        ),
        (
            format!("SELECT 5 IN (1{}) AS r FROM demo", ",1".repeat(n)),
            r#"{"r":false}"#,
        ),
        (format!("SELECT a{} FROM demo", ",a".repeat(n)), "{}"),
        (
            format!("SELECT 1+2*3{} AS r FROM demo", "-4*5+6".repeat(n / 8)),
            r#"{"r":"#,
        ),
    ];
    for (text, expected) in cases {
        let outcome = outcome(text.clone(), "{}");
        assert!(
            outcome.contains(expected),
            "{}…: {}…",
            &text[..40],
            &outcome[..outcome.len().min(200)]
        );
    }
}

#[test]
fn nesting_is_refused_where_it_gets_too_deep() {
    let n = 40_000;
    let cases = [
        "(".repeat(n),
        "-".to_owned() + &" -".repeat(n),
        "NOT ".repeat(n),
        "abs(".repeat(n),
        "CASE WHEN ".repeat(n / 2),
        "CASE ".repeat(n),
        "a[".repeat(n),
        "a IN (".repeat(n / 2),
        "1 BETWEEN (".repeat(n / 2),
        "1 LIKE (".repeat(n / 2),
        "1 + (".repeat(n / 2),
        "a OR b AND NOT c = d + e * (".repeat(n / 16),
    ];
    for text in cases {
        let outcome = outcome(format!("SELECT {text}"), "{}");
        assert!(
            outcome.contains("nested deeper than the 64 levels"),
            "{}…: {outcome}",
            &text[..20]
        );
    }
    for ty in ["ARRAY(", "STRUCT(a "] {
        let error = parse(&format!("CREATE STREAM s (a {}", ty.repeat(n / 4)))
            .unwrap_err()
            .to_string();
        assert!(error.contains("nested deeper than the 64 levels"), "{error}");
    }
}

#[test]
fn the_deepest_that_is_allowed_is_safe() {
    // Each parenthesis holds an operator of every precedence, so that the tree is higher than the text is deep.
    let wide = |n: usize| {
        let open = "(".repeat(n);
        let close = " * 1 + 1 = 1 AND TRUE OR FALSE)".repeat(n);
        format!("SELECT {open}1{close} AS r FROM demo")
    };
    let highest = (MAX_HEIGHT - 1) / 5;
    assert!(outcome(wide(highest), "{}").contains("cannot apply * to the boolean false"));
    assert!(
        outcome(wide(highest + 1), "{}").contains("this nests deeper than the 128 levels that are allowed")
    );
    assert!(
        outcome(wide(MAX_NESTING - 2), "{}")
            .contains("this nests deeper than the 128 levels that are allowed")
    );
    for open in [
        "CASE WHEN TRUE THEN ",
        "abs(",
        "children[0:",
        "object_construct('a', ",
        "array_create(",
    ] {
        let n = MAX_NESTING - 2;
        let close = if open.starts_with("CASE") {
            " END"
        } else if open.contains('[') {
            "]"
        } else {
            ")"
        };
        let text = format!("SELECT {}1{} AS r FROM demo", open.repeat(n), close.repeat(n));
        let outcome = outcome(text, r#"{"children": [1]}"#);
        assert!(!outcome.contains("nested deeper"), "{open}: {outcome}");
    }
}

#[test]
fn aliases_cannot_pile_up() {
    let chain = |n: usize, step: &str| {
        let fields: Vec<String> = (1..n)
            .map(|i| {
                step.replace("NEXT", &format!("a{i}"))
                    .replace("LAST", &format!("a{}", i - 1))
            })
            .collect();
        format!("SELECT 1 AS a0, {} FROM demo", fields.join(", "))
    };
    assert!(outcome(chain(60, "LAST + 1 AS NEXT"), "{}").contains("\"a59\":60"));
    let too_deep = outcome(chain(5_000, "LAST + 1 AS NEXT"), "{}");
    assert!(
        too_deep.contains("with the aliases that it uses this nests deeper than the 128 levels"),
        "{too_deep}"
    );
    // As deep as it may be, with calls that need much stack.
    let deep = outcome(chain(32, "abs(CASE WHEN TRUE THEN -LAST END) AS NEXT"), "{}");
    assert!(deep.ends_with("\"a31\":1}"), "{deep}");
    // A cycle as long as the text.
    let cycle = chain(5_000, "LAST + 1 AS NEXT").replacen("1 AS a0", "a4999 AS a0", 1);
    assert!(outcome(cycle, "{}").contains("aliases are defined by each other"));
}

#[test]
fn a_result_that_nobody_could_read_is_refused() {
    let message = format!(r#"{{"a":{}{}}}"#, "[".repeat(120), "]".repeat(120));
    let wrapped = |times: usize| {
        let (begin, end) = ("array_create(".repeat(times), ")".repeat(times));
        outcome(format!("SELECT {begin}a{end} AS r FROM demo"), &message)
    };
    assert!(wrapped(3).starts_with(r#"{"r":[[["#), "{}", wrapped(3));
    assert_eq!(
        wrapped(20),
        "the result: it nests deeper than readers of JSON follow"
    );
}

#[test]
fn functions_cannot_double_their_way_through_memory() {
    for double in [
        "concat(LAST, LAST)",
        "array_create(LAST, LAST)",
        "object_construct('a', LAST, 'b', LAST)",
        "to_json(LAST)",
    ] {
        let mut text = String::from("SELECT rpad('\"', 16000) AS a0");
        for i in 1..40 {
            text += &format!(", {} AS a{i}", double.replace("LAST", &format!("a{}", i - 1)));
        }
        let error = outcome(text + " FROM demo", "{}");
        assert!(
            error.ends_with("the result would be larger than 16777216 bytes"),
            "{double}: {}",
            &error[..60]
        );
    }
}

#[test]
fn a_text_has_a_longest_length() {
    let text = format!("SELECT * FROM demo {}", " ".repeat(MAX_TEXT));
    let error = parse(&text).unwrap_err().to_string();
    assert_eq!(
        error,
        "at line 1, column 1: the text has 262163 bytes, more than the 262144 that are allowed"
    );
}

/// Words that a text may be made of, so that random texts come far.
fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "SELECT", "FROM", "WHERE", "AS", "AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "CASE", "WHEN", "THEN",
        "ELSE", "END", "EXCEPT", "REPLACE", "GROUP", "BY", "JOIN", "TRUE", "FALSE", "CREATE", "STREAM",
        "WITH", "SHOW", "STREAMS", "DROP", "DESCRIBE", "DEFAULT", "ARRAY", "STRUCT", "BIGINT", "STRING",
        "TYPE", "demo", "a", "b", "c", "abs", "concat", "link", "meta", "round", "count", "\"text\"", "'t'",
        "1", "2.5", "0", "(", ")", "[", "]", ",", ".", "->", ":", ";", "+", "-", "*", "/", "%", "&", "|",
        "^", "=", "!=", "<", ">", "<=", ">=", "#", "`x y`", "-- c\n", "/* c */", "\\", "?", "\"",
    ])
}

/// Expressions that are always well formed.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "a", "b", "missing", "1", "2.5", "\"x\"", "TRUE", "o->f", "l[0]", "demo.a", "l[:1]",
    ]);
    leaf.prop_map(String::from).prop_recursive(5, 40, 4, |inner| {
        let operators = vec![
            "+", "-", "*", "/", "%", "&", "|", "^", "=", "!=", "<", ">", "<=", ">=", "AND", "OR", "LIKE",
        ];
        let operator = prop::sample::select(operators);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(l, o, r)| format!("{l} {o} {r}")),
            inner.clone().prop_map(|e| format!("({e})")),
            inner.clone().prop_map(|e| format!("- ({e})")),
            inner.clone().prop_map(|e| format!("(NOT {e})")),
            inner.clone().prop_map(|e| format!("({e})->f")),
            inner.clone().prop_map(|e| format!("({e})[{e}]")),
            inner.clone().prop_map(|e| format!("coalesce({e})")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("concat({l}, {r})")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("({l}) NOT IN ({r}, 1)")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(x, l, h)| format!("({x}) BETWEEN ({l}) AND ({h})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(w, t, e)| format!("CASE WHEN {w} THEN {t} ELSE {e} END")),
        ]
    })
}

fn try_all(text: &str) {
    if let Ok(Statement::Select(select)) = parse_statement(text)
        && let Ok(plan) = plan(&select, &World::new())
    {
        let _ = plan.explain();
        let _ = plan.evaluate(
            &row(r#"{"a": 1, "b": "x", "l": [1, 2], "o": {"f": 2}}"#),
            &CallResults::default(),
        );
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(text in "\\PC{0,80}") {
        try_all(&text);
        try_all(&format!("SELECT {text} FROM demo"));
    }

    #[test]
    fn bytes_that_are_nearly_sql_never_panic(text in "[a-z0-9'\"`\\\\().,*+=<>\\[\\]:;/ \n-]{0,60}") {
        try_all(&format!("SELECT {text} FROM demo"));
        try_all(&format!("CREATE STREAM s ({text}) WITH ()"));
    }

    #[test]
    fn words_in_any_order_never_panic(words in prop::collection::vec(word(), 0..30)) {
        let text = words.join(" ");
        try_all(&text);
        try_all(&format!("SELECT {text} FROM demo"));
        let _ = parse(&format!("CREATE STREAM s () WITH ({text})"));
    }

    #[test]
    fn text_and_statement_are_the_same(expression in expression()) {
        let text = format!("SELECT {expression} AS r FROM demo WHERE {expression}");
        let read = select(&text).unwrap();
        let written = read.to_string();
        let read_again = select(&written).unwrap();
        prop_assert_eq!(&read_again.to_string(), &written);
        // Not only the same text: the same meaning.
        let message = object(r#"{"a": 3, "b": 4.5, "l": [1, "x"], "o": {"f": 2}}"#);
        let results = [&read, &read_again].map(|select| {
            let plan = plan(select, &World::new()).unwrap();
            plan.evaluate(&super::Row { message: message.clone().into(), ..super::Row::default() }, &CallResults::default())
        });
        prop_assert_eq!(&results[0], &results[1]);
    }
}
