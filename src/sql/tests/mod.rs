//! The statement from its text to its result: tables of what is emitted and of what is refused, with which words.

mod calls;
mod documentation;
mod errors;
mod hostile;
mod results;
mod statements;

use mangrove_protocol::{Fields, Object};
use serde_json::Value;

use super::{CallResults, Catalog, CreateStream, Plan, Row, Select, SqlError, Statement, Step, parse, plan};

/// Streams without and with a schema, and the portable functions `link` and `rank`.
struct World(Vec<CreateStream>);

impl World {
    fn new() -> Self {
        let streams = [
            r#"CREATE STREAM demo () WITH (DATASOURCE = "demo")"#,
            r#"CREATE STREAM typed (id BIGINT, temperature FLOAT, name STRING, place STRUCT(x BIGINT)) WITH ()"#,
        ];
        Self(streams.iter().map(|text| stream(text)).collect())
    }
}

impl Catalog for World {
    fn stream(&self, name: &str) -> Option<&CreateStream> {
        self.0.iter().find(|stream| stream.name == name)
    }

    fn is_portable_function(&self, name: &str) -> bool {
        matches!(name, "link" | "rank")
    }
}

fn stream(text: &str) -> CreateStream {
    match parse(text) {
        Ok(Statement::CreateStream(stream)) => *stream,
        other => panic!("{text}: {other:?}"),
    }
}

fn select(text: &str) -> Result<Select, SqlError> {
    match parse(text)? {
        Statement::Select(select) => Ok(select),
        other => panic!("{text}: {other:?}"),
    }
}

fn planned(text: &str) -> Result<Plan, SqlError> {
    plan(&select(text)?, &World::new())
}

fn object(json: &str) -> Object {
    serde_json::from_str(json).unwrap()
}

fn fields(json: &str) -> Fields {
    object(json).into()
}

fn row(message: &str) -> Row {
    Row {
        message: object(message).into(),
        meta: Some(Box::new(object(
            r#"{"topic": "t/1", "device": {"name": "d1"}, "list": ["x", "y"]}"#,
        ))),
        timestamp: 1_700_000_000_000,
        seed: 42,
    }
}

/// The same, read as far as the plan looks at it.
fn row_read(plan: &Plan, message: &str) -> Row {
    let text = Fields::from_text(message.to_owned().into()).unwrap();
    Row {
        message: plan.read(text).unwrap(),
        ..row(message)
    }
}

fn json(fields: &Fields) -> String {
    let object = fields.object().unwrap();
    Value::Object(object.as_ref().clone()).to_string()
}

/// What a statement makes of a message: the JSON text of the result, `dropped`, or the error.
fn result(text: &str, message: &str) -> String {
    let plan = planned(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let whole = plan.evaluate(&row(message), &CallResults::default());
    let read = plan.evaluate(&row_read(&plan, message), &CallResults::default());
    assert_eq!(whole, read, "{text}");
    match whole {
        Ok(Step::Emit(fields)) => {
            if let Ok(Step::Emit(read)) = read {
                assert_eq!(json(&fields), json(&read), "the order differs: {text}");
            }
            json(&fields)
        }
        Ok(Step::Drop) => String::from("dropped"),
        Ok(call @ Step::Call { .. }) => panic!("{text}: {call:?}"),
        Err(error) => error.to_string(),
    }
}
