//! Every example of `docs/sql.md` gives what stands there.

use super::super::{CallResults, Catalog, CreateStream, Statement, Step, parse, plan};
use super::{fields, row};

const PAGE: &str = include_str!("../../../docs/sql.md");

/// The fenced blocks: language and content.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let mut parts = PAGE.split("```");
    parts.next();
    let mut blocks = Vec::new();
    while let (Some(block), Some(_)) = (parts.next(), parts.next()) {
        blocks.push(block.split_once('\n').unwrap());
    }
    blocks
}

struct Streams(Vec<CreateStream>);

impl Catalog for Streams {
    fn stream(&self, name: &str) -> Option<&CreateStream> {
        self.0.iter().find(|stream| stream.name == name)
    }

    fn is_portable_function(&self, _: &str) -> bool {
        false
    }
}

/// What a SELECT comes to: the result, or the error as text.
fn outcome(text: &str, streams: &Streams, message: &str) -> Result<Step, String> {
    let Statement::Select(select) = parse(text).map_err(|error| error.to_string())? else {
        panic!("{text}");
    };
    let plan = plan(&select, streams).map_err(|error| error.to_string())?;
    plan.evaluate(&row(message), &CallResults::default())
        .map_err(|error| error.to_string())
}

#[test]
fn the_examples_give_what_they_say() {
    let mut streams = Streams(Vec::new());
    let mut message = "";
    let mut statement: Option<&str> = None;
    let mut checked = 0;
    for (language, content) in blocks() {
        match (language, statement.take()) {
            ("sql", None) if content.starts_with("CREATE") => match parse(content) {
                Ok(Statement::CreateStream(stream)) => streams.0.push(*stream),
                other => panic!("{content}: {other:?}"),
            },
            ("sql", None) => statement = Some(content),
            ("json", None) => message = content,
            ("json", Some(text)) => {
                assert_eq!(
                    outcome(text, &streams, message),
                    Ok(Step::Emit(fields(content))),
                    "{text}"
                );
                checked += 1;
            }
            ("text", Some(text)) => {
                assert_eq!(
                    outcome(text, &streams, message),
                    Err(content.trim_end().to_owned()),
                    "{text}"
                );
                checked += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(statement, None, "this example has no result");
    assert!(checked >= 11, "only {checked} examples were found");
}

#[test]
fn every_function_is_named() {
    for name in crate::function::names() {
        assert!(
            PAGE.contains(&format!("`{name}`")),
            "docs/sql.md does not name {name}"
        );
    }
}
