//! What is refused, and with which words.

use super::{parse, planned};

/// A table of texts and what is said about them.
fn check(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let error = match text.trim_start().to_ascii_uppercase().starts_with("SELECT") {
            true => planned(text).map(|_| ()).unwrap_err(),
            false => parse(text).map(|_| ()).unwrap_err(),
        };
        assert_eq!(error.to_string(), *expected, "{text}");
    }
}

#[test]
fn statements() {
    const ANY: &str = "expected SELECT, CREATE STREAM, SHOW STREAMS, DESCRIBE STREAM or DROP STREAM";
    check(&[
        (
            "",
            &format!("at line 1, column 1: found the end of the text, {ANY}"),
        ),
        (
            "  -- nothing",
            &format!("at line 1, column 1: found the end of the text, {ANY}"),
        ),
        (
            "INSERT INTO x",
            &format!("at line 1, column 1: found INSERT, {ANY}"),
        ),
        (
            "CREATE",
            "at line 1, column 7: found the end of the text, expected STREAM",
        ),
        (
            "create table t () WITH ()",
            "at line 1, column 8: tables are not supported yet, expected STREAM",
        ),
        (
            "SHOW TABLES",
            "at line 1, column 6: tables are not supported yet, expected STREAMS",
        ),
        (
            "SHOW STREAM",
            "at line 1, column 6: found STREAM, expected STREAMS",
        ),
        (
            "SHOW STREAMS x",
            "at line 1, column 14: found x, expected the end of the statement",
        ),
        (
            "DROP STREAM 5",
            "at line 1, column 13: found 5, expected a stream's name",
        ),
        (
            "SELECT * FROM demo; SELECT 1",
            "at line 1, column 21: found the keyword SELECT, expected the end of the statement",
        ),
    ]);
}

#[test]
fn streams() {
    const TYPES: &str = "expected BIGINT, FLOAT, STRING, DATETIME, BOOLEAN, BYTEA, ARRAY or STRUCT";
    check(&[
        (
            "CREATE STREAM s WITH ()",
            "at line 1, column 17: found WITH, expected '(' and the stream's fields, or '()' for a stream without a schema",
        ),
        (
            "CREATE STREAM s ()",
            "at line 1, column 19: found the end of the text, expected WITH",
        ),
        (
            "CREATE STREAM s () WITH",
            "at line 1, column 24: found the end of the text, expected '(' and the stream's options",
        ),
        (
            "CREATE STREAM s (a) WITH ()",
            &format!("at line 1, column 19: found ')', {TYPES}"),
        ),
        (
            "CREATE STREAM s (a INT) WITH ()",
            &format!("at line 1, column 20: found INT, {TYPES}"),
        ),
        (
            "CREATE STREAM s (a BIGINT b FLOAT) WITH ()",
            "at line 1, column 27: found b, expected DEFAULT, ',' or ')'",
        ),
        (
            "CREATE STREAM s (a BIGINT, a FLOAT) WITH ()",
            "at line 1, column 28: the field a is defined twice",
        ),
        (
            "CREATE STREAM s (a ARRAY) WITH ()",
            "at line 1, column 25: found ')', expected '(' and the type of the array's elements",
        ),
        (
            "CREATE STREAM s (a ARRAY(BIGINT, FLOAT)) WITH ()",
            "at line 1, column 32: found ',', expected ')' after the type of the array's elements",
        ),
        (
            "CREATE STREAM s (a STRUCT) WITH ()",
            "at line 1, column 26: found ')', expected '(' and the fields of the struct",
        ),
        (
            "CREATE STREAM s (order BIGINT) WITH ()",
            "at line 1, column 18: found the keyword ORDER, expected a field's name or ')'; a name that is a keyword stands in backquotes: `ORDER`",
        ),
        (
            "CREATE STREAM s (a BIGINT DEFAULT 1.5) WITH ()",
            "at line 1, column 35: found 1.5, expected an integer",
        ),
        (
            "CREATE STREAM s (a BYTEA DEFAULT \"x\") WITH ()",
            "at line 1, column 34: found \"x\", expected no DEFAULT: only BIGINT, FLOAT, STRING and BOOLEAN have one",
        ),
        (
            "CREATE STREAM s (a BIGINT DEFAULT -\"x\") WITH ()",
            "at line 1, column 35: found \"x\", expected a literal after DEFAULT",
        ),
        (
            "CREATE STREAM s () WITH (TYP=\"x\")",
            "at line 1, column 26: there is no option TYP; did you mean TYPE?",
        ),
        (
            "CREATE STREAM s () WITH (TYPE \"x\")",
            "at line 1, column 31: found \"x\", expected '='",
        ),
        (
            "CREATE STREAM s () WITH (TYPE=x)",
            "at line 1, column 31: found x, expected a text, an integer, TRUE or FALSE",
        ),
        (
            "CREATE STREAM s () WITH (TYPE=\"x\"",
            "at line 1, column 34: found the end of the text, expected an option's name or ')'",
        ),
        (
            "CREATE STREAM s () WITH (SHARED=\"yes\")",
            "at line 1, column 33: found \"yes\", expected \"true\" or \"false\"",
        ),
        (
            "CREATE STREAM s () WITH (RETAIN_SIZE=\"-1\")",
            "at line 1, column 38: found \"-1\", expected a number of tuples",
        ),
        (
            "CREATE STREAM s () WITH (EXTRA=\"[]\")",
            "at line 1, column 32: expected a JSON object as text: invalid type: sequence, expected a map at line 1 column 0",
        ),
    ]);
}

#[test]
fn syntax() {
    const EXPRESSION: &str = "expected an expression";
    check(&[
        (
            "SELECT FROM demo",
            "at line 1, column 8: found the keyword FROM, expected an expression; a name that is a keyword stands in backquotes: `FROM`",
        ),
        (
            "SELECT *",
            "at line 1, column 9: found the end of the text, expected ',' or FROM",
        ),
        (
            "SELECT a b FROM demo",
            "at line 1, column 10: found b, expected ',' or FROM",
        ),
        (
            "SELECT a, FROM demo",
            "at line 1, column 11: found the keyword FROM, expected an expression; a name that is a keyword stands in backquotes: `FROM`",
        ),
        (
            "SELECT * AS x FROM demo",
            "at line 1, column 10: * stands for many fields and cannot have an alias",
        ),
        (
            "SELECT demo.* AS x FROM demo",
            "at line 1, column 15: * stands for many fields and cannot have an alias",
        ),
        (
            "SELECT a AS FROM demo",
            "at line 1, column 13: found the keyword FROM, expected an alias; a name that is a keyword stands in backquotes: `FROM`",
        ),
        (
            "SELECT a AS 'x' FROM demo",
            "at line 1, column 13: found \"x\", expected an alias",
        ),
        (
            "SELECT * FROM",
            "at line 1, column 14: found the end of the text, expected a stream's name",
        ),
        (
            "SELECT * FROM demo WHERE",
            &format!("at line 1, column 25: found the end of the text, {EXPRESSION}"),
        ),
        (
            "SELECT * FROM demo LIMITED",
            "at line 1, column 20: found LIMITED, expected WHERE or the end of the statement",
        ),
        (
            "SELECT *\nFROM demo\nWHERE a >",
            &format!("at line 3, column 10: found the end of the text, {EXPRESSION}"),
        ),
        (
            "SELECT (a FROM demo",
            "at line 1, column 11: found the keyword FROM, expected an operator or ')'",
        ),
        (
            "SELECT f(a FROM demo",
            "at line 1, column 12: found the keyword FROM, expected ',' or ')'",
        ),
        (
            "SELECT f(a,) FROM demo",
            &format!("at line 1, column 12: found ')', {EXPRESSION}"),
        ),
        (
            "SELECT a-> FROM demo",
            "at line 1, column 12: found the keyword FROM, expected a field's name after '->'; a name that is a keyword stands in backquotes: `FROM`",
        ),
        (
            "SELECT a[1 FROM demo",
            "at line 1, column 12: found the keyword FROM, expected ':' or ']'",
        ),
        (
            "SELECT a[1:2 FROM demo",
            "at line 1, column 14: found the keyword FROM, expected ']'",
        ),
        (
            "SELECT a NOT 5 FROM demo",
            "at line 1, column 14: found 5, expected IN, BETWEEN or LIKE after NOT",
        ),
        (
            "SELECT a BETWEEN 1 FROM demo",
            "at line 1, column 20: found the keyword FROM, expected AND and the upper bound of BETWEEN",
        ),
        (
            "SELECT a IN () FROM demo",
            &format!("at line 1, column 14: found ')', {EXPRESSION}"),
        ),
        (
            "SELECT a IS NULL FROM demo",
            "at line 1, column 10: found IS, expected an operator; whether a value is null is told by isNull(value)",
        ),
        (
            "SELECT CASE END FROM demo",
            "at line 1, column 13: found the keyword END, expected an expression; a name that is a keyword stands in backquotes: `END`",
        ),
        (
            "SELECT CASE a END FROM demo",
            "at line 1, column 15: found the keyword END, expected an operator or WHEN",
        ),
        (
            "SELECT CASE WHEN a END FROM demo",
            "at line 1, column 20: found the keyword END, expected an operator or THEN",
        ),
        (
            "SELECT CASE WHEN a THEN 1 FROM demo",
            "at line 1, column 27: found the keyword FROM, expected an operator, WHEN, ELSE or END",
        ),
        (
            "SELECT CASE WHEN a THEN 1 ELSE 2 FROM demo",
            "at line 1, column 34: found the keyword FROM, expected an operator or END",
        ),
        (
            "SELECT * EXCEPT a FROM demo",
            "at line 1, column 17: found a, expected '(' after EXCEPT",
        ),
        (
            "SELECT * REPLACE (a + 1) FROM demo",
            "at line 1, column 24: found ')', expected AS and the name of the column to replace",
        ),
        (
            "SELECT a == 1 FROM demo",
            &format!("at line 1, column 11: found '=', {EXPRESSION}"),
        ),
        (
            "SELECT 'a FROM demo",
            "at line 1, column 8: this text has no end, expected '",
        ),
    ]);
}

#[test]
fn what_comes_later_says_so() {
    check(&[
        (
            "SELECT * FROM demo, typed",
            "at line 1, column 19: more than one stream in FROM is not supported yet",
        ),
        (
            "SELECT * FROM demo LEFT JOIN typed ON 1",
            "at line 1, column 20: JOIN is not supported yet",
        ),
        (
            "SELECT * FROM demo GROUP BY a",
            "at line 1, column 20: GROUP BY and windows are not supported yet",
        ),
        (
            "SELECT * FROM demo WHERE a GROUP BY a",
            "at line 1, column 28: GROUP BY and windows are not supported yet",
        ),
        (
            "SELECT * FROM demo HAVING a",
            "at line 1, column 20: HAVING is not supported yet",
        ),
        (
            "SELECT * FROM demo ORDER BY a",
            "at line 1, column 20: ORDER BY is not supported yet",
        ),
        (
            "SELECT * FROM demo LIMIT 1",
            "at line 1, column 20: LIMIT is not supported yet",
        ),
        (
            "SELECT a, count(*) FROM demo",
            "at line 1, column 11: function count: aggregate functions are not supported yet",
        ),
        (
            "SELECT lag(a) FROM demo",
            "at line 1, column 8: function lag: analytic functions are not supported yet",
        ),
        (
            "SELECT abs(a) OVER (PARTITION BY b) FROM demo",
            "at line 1, column 15: OVER is not supported yet",
        ),
        (
            "SELECT a FROM demo WHERE window_start() > 1",
            "at line 1, column 26: function window_start: windows are not supported yet",
        ),
        (
            "SELECT md5(a) FROM demo",
            "at line 1, column 8: function md5: it is not supported yet",
        ),
        (
            "SELECT cast(a, 'datetime') FROM demo",
            "at line 1, column 16: found \"datetime\", expected one of bigint, float, string, boolean as type",
        ),
    ]);
}

#[test]
fn names() {
    check(&[
        (
            "SELECT * FROM nothing",
            "at line 1, column 15: there is no stream nothing",
        ),
        (
            "SELECT * FROM topic/sensor1",
            "at line 1, column 15: there is no stream topic/sensor1",
        ),
        (
            "SELECT other.* FROM demo",
            "at line 1, column 8: there is no stream other in FROM",
        ),
        (
            "SELECT flor(a) FROM demo",
            "at line 1, column 8: there is no function flor; did you mean floor?",
        ),
        (
            "SELECT nothing_like_it(a) FROM demo",
            "at line 1, column 8: there is no function nothing_like_it",
        ),
        (
            "SELECT Link(a) FROM demo",
            "at line 1, column 8: there is no function Link; did you mean ln?",
        ),
        (
            "SELECT temprature FROM typed",
            "at line 1, column 8: there is no column temprature in stream typed; did you mean temperature?",
        ),
        (
            "SELECT id FROM typed WHERE typed.ID > 1",
            "at line 1, column 28: there is no column ID in stream typed; did you mean id?",
        ),
        (
            "SELECT nothing->x FROM typed",
            "at line 1, column 8: there is no column nothing in stream typed",
        ),
        (
            "SELECT id FROM typed WHERE abs(speed) > 1",
            "at line 1, column 32: there is no column speed in stream typed",
        ),
        (
            "SELECT a AS x, b AS x FROM demo",
            "at line 1, column 21: the alias x is defined twice",
        ),
        (
            "SELECT b + 1 AS a, a + 1 AS b FROM demo",
            "at line 1, column 17: aliases are defined by each other: a → b → a",
        ),
        (
            "SELECT 1 AS z, c AS a, a AS b, b + z AS c, a AS d FROM demo",
            "at line 1, column 21: aliases are defined by each other: a → c → b → a",
        ),
    ]);
}

#[test]
fn arguments() {
    check(&[
        (
            "SELECT abs() FROM demo",
            "at line 1, column 8: function abs takes 1 argument, found 0",
        ),
        (
            "SELECT round(1, 2, 3) FROM demo",
            "at line 1, column 8: function round takes 1 to 2 arguments, found 3",
        ),
        (
            "SELECT a FROM demo WHERE pi(1) > 3",
            "at line 1, column 26: function pi takes no arguments, found 1",
        ),
        (
            "SELECT concat() FROM demo",
            "at line 1, column 8: function concat takes at least 1 argument, found 0",
        ),
        (
            "SELECT abs('x') FROM demo",
            "at line 1, column 12: found the text \"x\", expected a number as argument 1 of abs",
        ),
        (
            "SELECT upper(5) FROM demo",
            "at line 1, column 14: found the number 5, expected a text as argument 1 of upper",
        ),
        (
            "SELECT bitand(1, 1.5) FROM demo",
            "at line 1, column 18: found the number 1.5, expected an integer as argument 2 of bitand",
        ),
        (
            "SELECT meta() FROM demo",
            "at line 1, column 8: function meta takes 1 argument, found 0",
        ),
        (
            "SELECT meta('x') FROM demo",
            "at line 1, column 13: expected a key of the metadata in meta(…)",
        ),
        (
            "SELECT abs(*) FROM demo",
            "at line 1, column 12: * can only stand as a field of its own or in meta(*)",
        ),
        (
            "SELECT 1 + demo.* FROM demo",
            "at line 1, column 12: demo.* can only stand as a field of its own or in meta(*)",
        ),
        (
            "SELECT * + 1 FROM demo",
            "at line 1, column 8: * can only stand as a field of its own or in meta(*)",
        ),
    ]);
}
