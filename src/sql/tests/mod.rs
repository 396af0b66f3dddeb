//! The statement from its text to its result: tables of what is emitted and of what is refused, with which words.

mod calls;
mod documentation;
mod errors;
mod hostile;
mod results;
mod statements;

use mangrove_protocol::Object;
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

fn row(message: &str) -> Row {
    Row {
        message: object(message),
        meta: object(r#"{"topic": "t/1", "device": {"name": "d1"}, "list": ["x", "y"]}"#),
        timestamp: 1_700_000_000_000,
        seed: 42,
    }
}

/// What a statement makes of a message: the JSON text of the result, `dropped`, or the error.
fn result(text: &str, message: &str) -> String {
    let plan = planned(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut row = row(message);
    let kept = plan.evaluate(&row, &CallResults::default());
    let taken = plan.evaluate_taking(&mut row, &CallResults::default());
    assert_eq!(kept, taken, "{text}");
    match kept {
        Ok(Step::Emit(fields)) => {
            let json = Value::Object(fields).to_string();
            if let Ok(Step::Emit(taken)) = taken {
                assert_eq!(
                    json,
                    Value::Object(taken).to_string(),
                    "the order differs: {text}"
                );
            }
            json
        }
        Ok(Step::Drop) => String::from("dropped"),
        Ok(call @ Step::Call { .. }) => panic!("{text}: {call:?}"),
        Err(error) => error.to_string(),
    }
}
