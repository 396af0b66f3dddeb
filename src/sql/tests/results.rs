//! What is emitted.

use super::result;

const MESSAGE: &str = r#"{"a": 3, "b": 4, "f": 1.5, "s": "text", "t": true, "n": null, "name": {"first": "Tom", "last": "Anderson"},
    "children": ["Sara", "Alex", "Jack"], "friends": [{"first": "Dale", "age": 44}, {"first": "Roger", "age": 68}],
    "ops": {"functionA": {"numArgs": 2}}, "x": 0, "y": 2, "select": 1, "empty": []}"#;

/// A table of expressions and what `SELECT expression AS r FROM demo` gives: `-` where there is no `r`.
fn check(cases: &[(&str, &str)]) {
    for (expression, expected) in cases {
        let text = format!("SELECT {expression} AS r FROM demo");
        let expected = match *expected {
            "-" => String::from("{}"),
            error if error.starts_with("field r: ") => error.to_owned(),
            value => format!("{{\"r\":{value}}}"),
        };
        assert_eq!(result(&text, MESSAGE), expected, "{expression}");
    }
}

#[test]
fn literals() {
    check(&[
        ("1", "1"),
        ("-1", "-1"),
        ("1.5", "1.5"),
        ("-1.50", "-1.5"),
        ("2.0", "2"),
        (".5", "0.5"),
        ("1e3", "1000"),
        ("TRUE", "true"),
        ("false", "false"),
        ("\"it's\"", "\"it's\""),
        (r#"'a "quoted" \'text\''"#, r#""a \"quoted\" 'text'""#),
        (r#""tab\tä\u00e4""#, r#""tab\tää""#),
    ]);
}

#[test]
fn arithmetic() {
    check(&[
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("10 - 3 - 2", "5"),
        ("2 * 3 % 4", "2"),
        ("a + f", "4.5"),
        ("a * 2.0", "6"),
        ("-a", "-3"),
        ("- - a", "3"),
        ("2 - -a", "5"),
        ("a-1", "2"),
        // Integers by declaration give integers; numbers of a message without a schema do not.
        ("7 / 2", "3"),
        ("-7 / 2", "-3"),
        ("7 / 2.0", "3.5"),
        ("a / 2", "1.5"),
        ("b / 2", "2"),
        ("length(s) / 3", "1"),
        ("cast(a, \"bigint\") / 2", "1"),
        ("cast(a, \"float\") / 2", "1.5"),
        ("7 % 4", "3"),
        ("-7 % 4", "-3"),
        ("7.5 % 2", "1.5"),
        ("5 & 3", "1"),
        ("5 | 3", "7"),
        ("5 ^ 3", "6"),
        ("t & FALSE", "false"),
        ("t ^ FALSE", "true"),
        ("n + 1", "-"),
        ("1 - missing", "-"),
        ("-missing", "-"),
        ("n & 1", "false"),
        ("9223372036854775807 + 1", "9.223372036854776e+18"),
        ("(0 - 9223372036854775807 - 1) / -1", "9.223372036854776e+18"),
        ("1 / 0", "field r: division of the number 1 by zero"),
        ("1.5 % 0", "field r: division of the number 1.5 by zero"),
        ("1e300 * 1e300", "field r: the result is not a finite number"),
        (
            "s + 1",
            "field r: cannot apply + to the text \"text\" and the number 1",
        ),
        (
            "s + s",
            "field r: cannot apply + to the text \"text\" and the text \"text\"",
        ),
        (
            "t * 2",
            "field r: cannot apply * to the boolean true and the number 2",
        ),
        (
            "1.5 & 1",
            "field r: cannot apply & to the number 1.5 and the number 1",
        ),
        (
            "children + 1",
            "field r: cannot apply + to an array of 3 and the number 1",
        ),
        (
            "-s",
            "field r: found the text \"text\", expected a number after -",
        ),
    ]);
}

#[test]
fn comparison() {
    check(&[
        ("a = 3", "true"),
        ("a = 3.0", "true"),
        ("a != 3", "false"),
        ("a <> 4", "true"),
        ("a < b", "true"),
        ("a <= 3", "true"),
        ("a > 3", "false"),
        ("f >= 1.5", "true"),
        ("s = \"text\"", "true"),
        ("s < \"u\"", "true"),
        ("t = TRUE", "true"),
        ("t != false", "true"),
        ("a = 3 = TRUE", "true"),
        ("1 + 2 = 3", "true"),
        ("9007199254740993 = 9007199254740992", "false"),
        // Comparing with null is false.
        ("n = 1", "false"),
        ("n != 1", "false"),
        ("missing = missing", "false"),
        ("n BETWEEN 1 AND 2", "false"),
        ("n NOT BETWEEN 1 AND 2", "false"),
        ("n LIKE \"%\"", "false"),
        ("n IN (1)", "false"),
        ("n NOT IN (1)", "false"),
        (
            "a = s",
            "field r: cannot apply = to the number 3 and the text \"text\"",
        ),
        (
            "t < TRUE",
            "field r: cannot apply < to the boolean true and the boolean true",
        ),
        (
            "children = 1",
            "field r: cannot apply = to an array of 3 and the number 1",
        ),
        (
            "name = name",
            "field r: cannot apply = to an object and an object",
        ),
    ]);
}

#[test]
fn logic() {
    check(&[
        ("t AND a = 3", "true"),
        ("t and false", "false"),
        ("FALSE OR t", "true"),
        ("FALSE OR FALSE AND 1 / 0 = 1", "false"),
        ("t OR 1 / 0 = 1", "true"),
        ("TRUE OR TRUE AND FALSE", "true"),
        ("NOT t", "false"),
        ("NOT a = 4", "true"),
        ("NOT t OR t", "true"),
        ("NOT NOT t", "true"),
        // Null is not true.
        ("n AND t", "false"),
        ("n OR t", "true"),
        ("NOT n", "true"),
        (
            "a AND t",
            "field r: found the number 3, expected a condition beside AND",
        ),
        (
            "FALSE OR s",
            "field r: found the text \"text\", expected a condition beside OR",
        ),
        (
            "NOT s",
            "field r: found the text \"text\", expected a condition after NOT",
        ),
    ]);
}

#[test]
fn predicates() {
    check(&[
        ("a IN (1, 2, 3)", "true"),
        ("a NOT IN (1, 2, 3)", "false"),
        ("s IN (\"a\", \"text\")", "true"),
        ("\"Alex\" IN children", "true"),
        ("\"Tim\" NOT IN children", "true"),
        ("a IN (n, 3)", "true"),
        ("a IN missing", "false"),
        ("a NOT IN missing", "true"),
        ("a IN friends[0]->first", "false"),
        ("a BETWEEN 1 AND 3", "true"),
        ("a BETWEEN 1 + 1 AND 2 * 2 AND t", "true"),
        ("a NOT BETWEEN 4 AND 9", "true"),
        ("f BETWEEN 1 AND 2", "true"),
        ("s BETWEEN \"a\" AND \"z\"", "true"),
        ("s LIKE \"t%t\"", "true"),
        ("s LIKE 't__t'", "true"),
        ("s NOT LIKE \"x%\"", "true"),
        ("s LIKE concat(\"te\", \"%\")", "true"),
        ("\"100%\" LIKE \"100\\\\%\"", "true"),
        (
            "a IN (\"x\")",
            "field r: cannot apply = to the number 3 and the text \"x\"",
        ),
        (
            "a BETWEEN \"x\" AND 1",
            "field r: cannot apply >= to the number 3 and the text \"x\"",
        ),
        (
            "a LIKE \"x\"",
            "field r: found the number 3, expected a text before LIKE",
        ),
        (
            "s LIKE a",
            "field r: found the number 3, expected a text after LIKE",
        ),
    ]);
}

#[test]
fn paths() {
    check(&[
        ("name->first", "\"Tom\""),
        ("name.first", "\"Tom\""),
        ("demo.a", "3"),
        ("demo.name.first", "\"Tom\""),
        ("demo.name->first", "\"Tom\""),
        ("ops->functionA.numArgs", "2"),
        ("children[0]", "\"Sara\""),
        ("children[-1]", "\"Jack\""),
        ("children[-2]", "\"Alex\""),
        ("friends[0]->first", "\"Dale\""),
        ("friends[y - 1].age + 1", "69"),
        ("children[0:1]", "[\"Sara\"]"),
        ("children[1:-1]", "[\"Alex\"]"),
        ("children[0:-1]", "[\"Sara\",\"Alex\"]"),
        ("children[:]", "[\"Sara\",\"Alex\",\"Jack\"]"),
        ("children[]", "[\"Sara\",\"Alex\",\"Jack\"]"),
        ("children[:2]", "[\"Sara\",\"Alex\"]"),
        ("children[x:y]", "[\"Sara\",\"Alex\"]"),
        ("children[x+1:y]", "[\"Alex\"]"),
        ("children[1:][0]", "\"Alex\""),
        ("children[1:1]", "[]"),
        ("empty[:]", "[]"),
        ("`select`", "1"),
        ("2 * friends[0]->age", "88"),
        ("(name)->first", "\"Tom\""),
        ("name->missing", "-"),
        ("missing->first->second", "-"),
        ("missing[0]", "-"),
        ("missing[0:1]", "-"),
        ("a->first", "-"),
        ("children[3]", "field r: index 3 is outside of an array of 3"),
        ("children[-4]", "field r: index -4 is outside of an array of 3"),
        ("children[0:4]", "field r: index 4 is outside of an array of 3"),
        (
            "children[2:1]",
            "field r: found a slice from 2 to 1, expected one that ends after its beginning",
        ),
        (
            "children[s]",
            "field r: found the text \"text\", expected an integer as index",
        ),
        (
            "children[1.5]",
            "field r: found the number 1.5, expected an integer as index",
        ),
        ("name[0]", "field r: found an object, expected an array before ["),
        (
            "friends->first",
            "field r: found an array of 2, expected an object before -> or .",
        ),
    ]);
}

#[test]
fn cases() {
    check(&[
        (
            "CASE WHEN a > 5 THEN \"L\" WHEN a > 2 THEN \"M\" ELSE \"S\" END",
            "\"M\"",
        ),
        ("CASE WHEN a > 5 THEN \"L\" END", "-"),
        ("CASE s WHEN \"x\" THEN 1 WHEN \"text\" THEN 2 ELSE 3 END", "2"),
        ("CASE a WHEN 1 THEN 1 ELSE b END + 1", "5"),
        ("CASE n WHEN n THEN 1 ELSE 2 END", "2"),
        ("CASE WHEN n THEN 1 ELSE 2 END", "2"),
        // What is not chosen is not evaluated.
        ("CASE WHEN t THEN 1 WHEN 1 / 0 = 1 THEN 1 / 0 ELSE 1 / 0 END", "1"),
        (
            "CASE WHEN a THEN 1 END",
            "field r: found the number 3, expected a condition after WHEN",
        ),
        (
            "CASE a WHEN s THEN 1 END",
            "field r: cannot apply = to the number 3 and the text \"text\"",
        ),
    ]);
}

#[test]
fn functions_and_meta() {
    check(&[
        ("UPPER(s)", "\"TEXT\""),
        ("round(f * 2.5, 1)", "3.8"),
        ("concat(s, \"-\", a)", "\"text-3\""),
        ("coalesce(n, missing, a)", "3"),
        ("isNull(n)", "true"),
        ("object_construct(\"k\", a)", "{\"k\":3}"),
        ("tstamp()", "1700000000000"),
        ("meta(topic)", "\"t/1\""),
        ("META(device->name)", "\"d1\""),
        ("meta(device.name)", "\"d1\""),
        ("meta(demo.device.name)", "\"d1\""),
        ("meta(nothing)", "-"),
        ("meta(*)->topic", "\"t/1\""),
        (
            "sqrt(-1)",
            "field r: function sqrt: the result is not a finite number",
        ),
        (
            "abs(s)",
            "field r: function abs: argument 1 is the text \"text\", expected a number",
        ),
    ]);
}

#[test]
fn draws_differ_within_a_row_and_are_the_same_again() {
    let text = "SELECT newuuid() AS a, newuuid() AS b, rand() = rand() AS c, a = a AS d FROM demo";
    let first = result(text, "{}");
    assert_eq!(first, result(text, "{}"));
    let fields = super::object(&first);
    assert_ne!(fields["a"], fields["b"]);
    assert_eq!((&fields["c"], &fields["d"]), (&false.into(), &true.into()));
}

/// A table of statements and what they give for one message.
fn check_statements(message: &str, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(result(text, message), *expected, "{text}");
    }
}

#[test]
fn what_is_selected_and_how_it_is_called() {
    check_statements(
        r#"{"a": 1, "b": 2, "n": null, "o": {"f": 5}}"#,
        &[
            ("SELECT * FROM demo", r#"{"a":1,"b":2,"n":null,"o":{"f":5}}"#),
            (
                "SELECT demo.* FROM demo;",
                r#"{"a":1,"b":2,"n":null,"o":{"f":5}}"#,
            ),
            (
                "SELECT d.*, d.a AS c FROM demo AS d",
                r#"{"a":1,"b":2,"n":null,"o":{"f":5},"c":1}"#,
            ),
            ("SELECT b, a FROM demo", r#"{"b":2,"a":1}"#),
            ("SELECT a, a FROM demo", r#"{"a":1}"#),
            ("SELECT a, missing, n FROM demo", r#"{"a":1,"n":null}"#),
            ("SELECT n AS m FROM demo", "{}"),
            ("SELECT demo.a FROM demo", r#"{"a":1}"#),
            ("SELECT d.a, demo.b FROM demo AS d", r#"{"a":1,"b":2}"#),
            (
                "SELECT a + b, 7, a FROM demo",
                r#"{"kuiper_field_0":3,"kuiper_field_1":7,"a":1}"#,
            ),
            (
                "SELECT ABS(a), meta(topic) FROM demo",
                r#"{"abs":1,"meta":"t/1"}"#,
            ),
            ("SELECT o.f FROM demo", r#"{"f":5}"#),
            ("SELECT o->f FROM demo", r#"{"kuiper_field_0":5}"#),
            (
                "SELECT *, a + 1 AS a FROM demo",
                r#"{"a":2,"b":2,"n":null,"o":{"f":5}}"#,
            ),
            (
                "SELECT a + 1 AS a, * FROM demo",
                r#"{"a":2,"b":2,"n":null,"o":{"f":5}}"#,
            ),
            (
                "SELECT *, n + 1 AS a FROM demo",
                r#"{"a":1,"b":2,"n":null,"o":{"f":5}}"#,
            ),
            ("SELECT a, * FROM demo", r#"{"a":1,"b":2,"n":null,"o":{"f":5}}"#),
            ("SELECT b, * FROM demo", r#"{"b":2,"a":1,"n":null,"o":{"f":5}}"#),
            ("SELECT * EXCEPT (a, o) FROM demo", r#"{"b":2,"n":null}"#),
            (
                "SELECT * REPLACE (a + b AS b) FROM demo",
                r#"{"a":1,"b":3,"n":null,"o":{"f":5}}"#,
            ),
            (
                "SELECT * EXCEPT (a, o) REPLACE (a + 9 AS a) FROM demo",
                r#"{"b":2,"n":null,"a":10}"#,
            ),
            ("SELECT a AS `a-b` FROM demo", r#"{"a-b":1}"#),
        ],
    );
}

#[test]
fn aliases_are_seen_by_the_other_fields_and_by_where() {
    check_statements(
        r#"{"a": 1}"#,
        &[
            (
                "SELECT a + 1 AS sum1, sum1 + 1 AS sum2 FROM demo",
                r#"{"sum1":2,"sum2":3}"#,
            ),
            (
                "SELECT sum1 + 1 AS sum2, a + 1 AS sum1 FROM demo",
                r#"{"sum2":3,"sum1":2}"#,
            ),
            // In its own definition the name is the column, elsewhere the alias.
            (
                "SELECT a + 1 AS a, a + 2 AS sum2 FROM demo",
                r#"{"a":2,"sum2":4}"#,
            ),
            ("SELECT a + 1 AS a, demo.a AS b FROM demo", r#"{"a":2,"b":1}"#),
            ("SELECT a + 1 AS c FROM demo WHERE c = 2", r#"{"c":2}"#),
            ("SELECT a + 1 AS a FROM demo WHERE a = 1", "dropped"),
            ("SELECT a + 1 AS c, c FROM demo", r#"{"c":2}"#),
            (
                "SELECT list[i] AS l, meta(list[i]) AS m, 1 AS i FROM demo",
                r#"{"m":"y","i":1}"#,
            ),
            (
                "SELECT a AS topic, meta(topic) AS m FROM demo",
                r#"{"topic":1,"m":"t/1"}"#,
            ),
        ],
    );
    // An alias of a bigint is one too.
    assert_eq!(
        result("SELECT id AS x, x / 2 AS y FROM typed", r#"{"id": 5}"#),
        r#"{"x":5,"y":2}"#
    );
}

#[test]
fn where_keeps_and_drops() {
    check_statements(
        r#"{"a": 1, "s": "x", "n": null}"#,
        &[
            ("SELECT a FROM demo WHERE a = 1", r#"{"a":1}"#),
            ("SELECT a FROM demo WHERE a = 2", "dropped"),
            ("SELECT a FROM demo WHERE n", "dropped"),
            ("SELECT a FROM demo WHERE missing > 1", "dropped"),
            // WHERE comes first: what it drops is not computed.
            ("SELECT 1 / 0 AS e FROM demo WHERE a = 2", "dropped"),
            (
                "SELECT a FROM demo WHERE a",
                "WHERE: found the number 1, expected a condition",
            ),
            (
                "SELECT a FROM demo WHERE s > 1",
                "WHERE: cannot apply > to the text \"x\" and the number 1",
            ),
        ],
    );
}

#[test]
fn a_schema_says_what_is_an_integer() {
    let message = r#"{"id": 7, "temperature": 7, "place": {"x": 7}}"#;
    check_statements(
        message,
        &[
            ("SELECT id / 2 AS r FROM typed", r#"{"r":3}"#),
            ("SELECT (id + 2) / (1 + 1) AS r FROM typed", r#"{"r":4}"#),
            ("SELECT temperature / 2 AS r FROM typed", r#"{"r":3.5}"#),
            ("SELECT id / 2.0 AS r FROM typed", r#"{"r":3.5}"#),
        ],
    );
}
