//! What the statements beside SELECT are read as, and how statements look as text again.

use serde_json::json;

use super::super::{Field, FieldType, Statement, StreamOptions, parse};
use super::{planned, select, stream};

fn field(name: &str, ty: FieldType) -> Field {
    Field {
        name: name.to_owned(),
        ty,
        default: None,
    }
}

#[test]
fn a_stream_with_everything() {
    let stream = stream(
        r#"create Stream `my stream` (
            USERID BIGINT DEFAULT -1, -- who
            score FLOAT DEFAULT 1, first STRING DEFAULT 'x', gender BOOLEAN DEFAULT TRUE, at DATETIME, raw bytea,
            NICKNAMES ARRAY(STRING), grid ARRAY(ARRAY(FLOAT)), rooms ARRAY(STRUCT(no BIGINT)),
            `address` STRUCT(STREET_NAME STRING, NUMBER BIGINT, inner_one STRUCT(x FLOAT),),
        ) WITH (DATASOURCE="test/", format="json" KEY='USERID', CONF_KEY="demo", TYPE="simulator", SHARED=TRUE,
            TIMESTAMP="at", TIMESTAMP_FORMAT="YYYY", STRICT_VALIDATION="True", RETAIN_SIZE="10", SCHEMAID="p.B",
            DELIMITER=",", KIND="SCAN", VERSION="V1", EXTRA="{\"a\":1}", TEMP="false",);"#,
    );
    assert_eq!(stream.name, "my stream");
    let room = FieldType::Struct(vec![field("no", FieldType::Bigint)]);
    let address = FieldType::Struct(vec![
        field("STREET_NAME", FieldType::String),
        field("NUMBER", FieldType::Bigint),
        field("inner_one", FieldType::Struct(vec![field("x", FieldType::Float)])),
    ]);
    let with_default = |name, ty, default| Field {
        default: Some(default),
        ..field(name, ty)
    };
    assert_eq!(
        stream.fields,
        [
            with_default("USERID", FieldType::Bigint, json!(-1)),
            with_default("score", FieldType::Float, json!(1)),
            with_default("first", FieldType::String, json!("x")),
            with_default("gender", FieldType::Boolean, json!(true)),
            field("at", FieldType::Datetime),
            field("raw", FieldType::Bytea),
            field("NICKNAMES", FieldType::Array(Box::new(FieldType::String))),
            field(
                "grid",
                FieldType::Array(Box::new(FieldType::Array(Box::new(FieldType::Float))))
            ),
            field("rooms", FieldType::Array(Box::new(room))),
            field("address", address),
        ]
    );
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        stream.options,
        StreamOptions {
            source_type: text("simulator"),
            data_source: String::from("test/"),
            format: text("json"),
            conf_key: text("demo"),
            shared: true,
            timestamp: text("at"),
            timestamp_format: text("YYYY"),
            key: text("USERID"),
            strict_validation: true,
            retain_size: Some(10),
            schema_id: text("p.B"),
            delimiter: text(","),
            kind: text("scan"),
            version: text("v1"),
            extra: json!({"a": 1}).as_object().cloned(),
            temporary: false,
        }
    );
}

#[test]
fn the_other_statements() {
    assert_eq!(parse("show streams;"), Ok(Statement::ShowStreams));
    assert_eq!(
        parse("DESCRIBE STREAM demo"),
        Ok(Statement::DescribeStream(String::from("demo")))
    );
    assert_eq!(
        parse("/* away */ DROP STREAM `from`;"),
        Ok(Statement::DropStream(String::from("from")))
    );
}

#[test]
fn statements_as_text_again() {
    let cases = [
        (
            "select a,b as c from demo as d where a>1",
            "SELECT a, b AS c FROM demo AS d WHERE a > 1",
        ),
        (
            "SELECT (a+b)*c-(d-e)-f FROM demo",
            "SELECT (a + b) * c - (d - e) - f FROM demo",
        ),
        (
            "SELECT a or b and not c = d FROM demo",
            "SELECT a OR b AND NOT c = d FROM demo",
        ),
        (
            "SELECT (a or b) and (not c) = d FROM demo",
            "SELECT (a OR b) AND (NOT c) = d FROM demo",
        ),
        (
            "SELECT -(a+1), - -a, 2 - -3, (-5)[0] FROM demo",
            "SELECT -(a + 1), -(-a), 2 - -3, (-5)[0] FROM demo",
        ),
        (
            "SELECT d.a->b.c[0][1:][:2], (a+b)->c FROM demo",
            "SELECT d.a->b.c[0][1:][:2], (a + b)->c FROM demo",
        ),
        (
            "SELECT a in (1,'x'), a not in b, a not between 1 and 2+3, a like \"x\\\"\\n\" FROM demo",
            "SELECT a IN (1, \"x\"), a NOT IN b, a NOT BETWEEN 1 AND 2 + 3, a LIKE \"x\\\"\\n\" FROM demo",
        ),
        (
            "SELECT case a when 1 then 2 else 3 end, case when a then b end FROM demo",
            "SELECT CASE a WHEN 1 THEN 2 ELSE 3 END, CASE WHEN a THEN b END FROM demo",
        ),
        (
            "SELECT *, demo.*, `a b`, `select`, `x` AS `order` FROM demo",
            "SELECT *, demo.*, `a b`, `select`, x AS `order` FROM demo",
        ),
        (
            "SELECT * replace(f(a) as b) except(c) FROM demo",
            "SELECT * EXCEPT (c) REPLACE (f(a) AS b) FROM demo",
        ),
        (
            "SELECT true, 1.50, \"ä\" FROM demo",
            "SELECT true, 1.5, \"ä\" FROM demo",
        ),
    ];
    for (text, expected) in cases {
        let once = select(text).unwrap().to_string();
        assert_eq!(once, expected, "{text}");
        assert_eq!(select(&once).unwrap().to_string(), once, "{text}");
    }
}

#[test]
fn a_plan_explains_itself() {
    let plan = planned("SELECT a, link(b) AS c FROM demo WHERE a > 1 AND rank(c) < 3").unwrap();
    assert_eq!(plan.streams(), ["demo"]);
    insta::assert_snapshot!(plan.explain(), @r"
    source demo
    filter a > 1 AND rank(c) < 3
    project a, link(b) AS c
    ");
}

#[test]
fn a_plan_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<super::super::Plan>();
}
