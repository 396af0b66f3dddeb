//! Owns what the fields of a stream mean for its tuples, and how a stream is described.

use mangrove_protocol::Object;
use serde_json::{Value, json};

use super::ast::{CreateStream, Field, FieldType, StreamOptions};
use crate::function::to_boolean;
use crate::function::value::{as_integer, as_text, describe};

/// A tuple that does not fit the fields of its stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConformError {
    /// A value is of another type.
    #[error("field {field} is {found}, expected {expected}")]
    Type {
        /// Where: fields joined by `.`, elements as `[index]`.
        field: String,
        /// The kind of the value, and how it begins.
        found: String,
        /// The field's type.
        expected: String,
    },
    /// With `STRICT_VALIDATION`: a field without a default is missing.
    #[error("field {field} is missing")]
    Missing {
        /// Which one.
        field: String,
    },
}

impl CreateStream {
    /// Makes a message fit the fields of the stream.
    ///
    /// Without fields every message fits. With fields only those are kept, in their order, and numbers, booleans and
    /// texts become what the field says where that loses nothing: a number becomes a text, `1` and `"true"` a
    /// boolean, `3.0` a bigint. With `STRICT_VALIDATION` every field must be there, or have a default, and only
    /// arrays and structs may be null.
    ///
    /// # Errors
    /// A value is of another type, or with `STRICT_VALIDATION` missing.
    pub fn conform(&self, message: Object) -> Result<Object, ConformError> {
        if self.fields.is_empty() {
            return Ok(message);
        }
        conform_fields(&self.fields, message, self.options.strict_validation).map_err(Mismatch::into_error)
    }

    /// The fields by name, as eKuiper's REST shows a schema: `{"id":{"type":"bigint"},…}`.
    pub fn schema(&self) -> Object {
        properties(&self.fields)
    }

    /// The stream as eKuiper's REST describes it: `{"Name":…,"StreamFields":[…],"Options":{…}}`.
    pub fn describe(&self) -> Value {
        let fields: Vec<Value> = self
            .fields
            .iter()
            .map(|field| {
                let mut description = json!({ "Name": field.name, "FieldType": describe_type(&field.ty) });
                if let Some(default) = &field.default {
                    description["DefaultClause"] = Value::String(as_text(default).into_owned());
                }
                description
            })
            .collect();
        json!({ "Name": self.name, "StreamFields": fields, "Options": describe_options(&self.options) })
    }
}

/// The fields of a stream or struct by name, with their types in words.
fn properties(fields: &[Field]) -> Object {
    fields
        .iter()
        .map(|field| (field.name.clone(), property(&field.ty)))
        .collect()
}

fn property(ty: &FieldType) -> Value {
    match ty {
        FieldType::Array(element) => json!({ "type": "array", "items": property(element) }),
        FieldType::Struct(fields) => json!({ "type": "struct", "properties": properties(fields) }),
        simple => json!({ "type": name(simple) }),
    }
}

fn describe_type(ty: &FieldType) -> Value {
    match ty {
        FieldType::Array(element) => json!({ "Type": "array", "ElementType": describe_type(element) }),
        FieldType::Struct(fields) => {
            let fields: Vec<Value> = fields
                .iter()
                .map(|field| json!({ "FieldType": describe_type(&field.ty), "Name": field.name }))
                .collect();
            json!({ "Type": "struct", "Fields": fields })
        }
        simple => Value::from(name(simple)),
    }
}

/// Only what is set.
fn describe_options(options: &StreamOptions) -> Value {
    let text = |text: &Option<String>| text.clone().map(Value::String);
    let flag = |flag: bool| flag.then_some(Value::Bool(true));
    let all = [
        (
            "datasource",
            Some(&options.data_source)
                .filter(|source| !source.is_empty())
                .cloned()
                .map(Value::String),
        ),
        ("key", text(&options.key)),
        ("format", text(&options.format)),
        ("confKey", text(&options.conf_key)),
        ("type", text(&options.source_type)),
        ("strictValidation", flag(options.strict_validation)),
        ("timestamp", text(&options.timestamp)),
        ("timestampFormat", text(&options.timestamp_format)),
        ("shared", flag(options.shared)),
        ("schemaid", text(&options.schema_id)),
        ("version", text(&options.version)),
        (
            "extra",
            options
                .extra
                .as_ref()
                .map(|extra| json!(json!(extra).to_string())),
        ),
        ("temp", flag(options.temporary)),
        ("retainSize", options.retain_size.map(Value::from)),
        ("kind", text(&options.kind)),
        ("delimiter", text(&options.delimiter)),
    ];
    all.into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect::<Object>()
        .into()
}

fn name(ty: &FieldType) -> &'static str {
    match ty {
        FieldType::Bigint => "bigint",
        FieldType::Float => "float",
        FieldType::String => "string",
        FieldType::Datetime => "datetime",
        FieldType::Boolean => "boolean",
        FieldType::Bytea => "bytea",
        FieldType::Array(_) => "array",
        FieldType::Struct(_) => "struct",
    }
}

/// A mismatch on its way out: the path to it grows from its end.
struct Mismatch {
    /// Innermost first.
    path: Vec<PathPart>,
    /// What was found and what was expected; `None`: it is missing.
    found: Option<(String, &'static str)>,
}

enum PathPart {
    Field(String),
    Element(usize),
}

impl Mismatch {
    fn in_field(mut self, field: &Field) -> Self {
        self.path.push(PathPart::Field(field.name.clone()));
        self
    }

    fn into_error(self) -> ConformError {
        let mut field = String::new();
        for part in self.path.into_iter().rev() {
            match part {
                PathPart::Field(name) => {
                    if !field.is_empty() {
                        field.push('.');
                    }
                    field.push_str(&name);
                }
                PathPart::Element(index) => field.push_str(&format!("[{index}]")),
            }
        }
        match self.found {
            Some((found, expected)) => ConformError::Type {
                field,
                found,
                expected: expected.to_owned(),
            },
            None => ConformError::Missing { field },
        }
    }
}

fn conform_fields(fields: &[Field], mut message: Object, strict: bool) -> Result<Object, Mismatch> {
    let mut fitting = Object::with_capacity(fields.len());
    for field in fields {
        let value = match message.swap_remove(&field.name) {
            Some(value) => conform_value(&field.ty, value, strict).map_err(|wrong| wrong.in_field(field))?,
            None if !strict => continue,
            None => match &field.default {
                Some(default) => default.clone(),
                None => {
                    return Err(Mismatch {
                        path: Vec::new(),
                        found: None,
                    }
                    .in_field(field));
                }
            },
        };
        fitting.insert(field.name.clone(), value);
    }
    Ok(fitting)
}

/// Goes as deep as the type, which the parser bounds, not as deep as the value.
fn conform_value(ty: &FieldType, value: Value, strict: bool) -> Result<Value, Mismatch> {
    match (ty, value) {
        (FieldType::Array(_) | FieldType::Struct(_), Value::Null) => Ok(Value::Null),
        (_, Value::Null) if !strict => Ok(Value::Null),
        (FieldType::Array(element), Value::Array(elements)) => {
            let fitting = elements.into_iter().enumerate().map(|(index, value)| {
                conform_value(element, value, strict).map_err(|mut wrong| {
                    wrong.path.push(PathPart::Element(index));
                    wrong
                })
            });
            fitting.collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        (FieldType::Struct(fields), Value::Object(object)) => {
            conform_fields(fields, object, strict).map(Value::Object)
        }
        (ty, value) if fits(ty, &value) => Ok(value),
        (ty, value) => convert(ty, &value).ok_or_else(|| Mismatch {
            path: Vec::new(),
            found: Some((describe(&value), name(ty))),
        }),
    }
}

/// Is a value of a simple type already?
fn fits(ty: &FieldType, value: &Value) -> bool {
    match ty {
        FieldType::Bigint => value.is_i64(),
        FieldType::Float => value.is_number(),
        FieldType::String | FieldType::Bytea => value.is_string(),
        FieldType::Datetime => value.is_number() || value.is_string(),
        FieldType::Boolean => value.is_boolean(),
        FieldType::Array(_) | FieldType::Struct(_) => false,
    }
}

/// `None`: it cannot become one.
fn convert(ty: &FieldType, value: &Value) -> Option<Value> {
    match ty {
        FieldType::Bigint => as_integer(value).map(Value::from),
        FieldType::String => value.is_number().then(|| Value::from(as_text(value))),
        FieldType::Boolean => to_boolean(value).map(Value::Bool),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Statement, parse};
    use super::*;

    fn stream(fields: &str, options: &str) -> CreateStream {
        match parse(&format!("CREATE STREAM s ({fields}) WITH ({options})")).unwrap() {
            Statement::CreateStream(stream) => *stream,
            other => panic!("{other:?}"),
        }
    }

    fn conform(stream: &CreateStream, message: &str) -> String {
        match stream.conform(serde_json::from_str(message).unwrap()) {
            Ok(message) => Value::Object(message).to_string(),
            Err(error) => error.to_string(),
        }
    }

    const FIELDS: &str = "id BIGINT, size FLOAT, name STRING, on BOOLEAN, at DATETIME, raw BYTEA,
        tags ARRAY(STRING), place STRUCT(x FLOAT, rooms ARRAY(STRUCT(no BIGINT)))";

    #[test]
    fn without_fields_every_message_fits() {
        assert_eq!(
            conform(&stream("", ""), r#"{"b":1,"a":null}"#),
            r#"{"b":1,"a":null}"#
        );
        assert_eq!(
            conform(&stream("", r#"STRICT_VALIDATION="true""#), r#"{"b":1}"#),
            r#"{"b":1}"#
        );
    }

    #[test]
    fn with_fields_only_those_are_kept_and_converted() {
        let fields = FIELDS.replace("on BOOLEAN", "`on` BOOLEAN");
        let stream = stream(&fields, "");
        let cases = [
            (r#"{"x":1}"#, "{}"),
            (r#"{"name":"n","id":3}"#, r#"{"id":3,"name":"n"}"#),
            (r#"{"id":3.0}"#, r#"{"id":3}"#),
            (r#"{"id":null}"#, r#"{"id":null}"#),
            (r#"{"size":3}"#, r#"{"size":3}"#),
            (r#"{"name":3}"#, r#"{"name":"3"}"#),
            (r#"{"name":3.50}"#, r#"{"name":"3.5"}"#),
            (r#"{"on":1}"#, r#"{"on":true}"#),
            (r#"{"on":"false"}"#, r#"{"on":false}"#),
            (r#"{"at":1}"#, r#"{"at":1}"#),
            (r#"{"at":"2020-01-01"}"#, r#"{"at":"2020-01-01"}"#),
            (r#"{"raw":"AAE="}"#, r#"{"raw":"AAE="}"#),
            (r#"{"tags":["a",1,null]}"#, r#"{"tags":["a","1",null]}"#),
            (
                r#"{"place":{"x":1,"y":2,"rooms":[{"no":1.0}]}}"#,
                r#"{"place":{"x":1,"rooms":[{"no":1}]}}"#,
            ),
            (r#"{"id":1.5}"#, "field id is the number 1.5, expected bigint"),
            (r#"{"id":"1"}"#, "field id is the text \"1\", expected bigint"),
            (
                r#"{"size":true}"#,
                "field size is the boolean true, expected float",
            ),
            (
                r#"{"name":true}"#,
                "field name is the boolean true, expected string",
            ),
            (
                r#"{"on":"maybe"}"#,
                "field on is the text \"maybe\", expected boolean",
            ),
            (
                r#"{"at":true}"#,
                "field at is the boolean true, expected datetime",
            ),
            (r#"{"raw":1}"#, "field raw is the number 1, expected bytea"),
            (r#"{"tags":"a"}"#, "field tags is the text \"a\", expected array"),
            (
                r#"{"tags":["a",{}]}"#,
                "field tags[1] is an object, expected string",
            ),
            (
                r#"{"place":{"rooms":[{"no":1},{"no":"x"}]}}"#,
                "field place.rooms[1].no is the text \"x\", expected bigint",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(conform(&stream, message), expected, "{message}");
        }
    }

    #[test]
    fn strict_validation_wants_every_field() {
        let stream = stream(
            r#"id BIGINT, name STRING DEFAULT "none", tags ARRAY(STRING)"#,
            r#"STRICT_VALIDATION = "true""#,
        );
        let cases = [
            (r#"{"id":1,"tags":[]}"#, r#"{"id":1,"name":"none","tags":[]}"#),
            (
                r#"{"id":1,"name":"a","tags":null,"x":1}"#,
                r#"{"id":1,"name":"a","tags":null}"#,
            ),
            (r#"{"id":1}"#, "field tags is missing"),
            (r#"{"tags":[]}"#, "field id is missing"),
            (r#"{"id":null,"tags":[]}"#, "field id is null, expected bigint"),
        ];
        for (message, expected) in cases {
            assert_eq!(conform(&stream, message), expected, "{message}");
        }
    }

    #[test]
    fn the_description_is_that_of_ekuiper() {
        let stream = stream(
            "id BIGINT DEFAULT 2, tags ARRAY(ARRAY(STRING)), place STRUCT(x FLOAT)",
            r#"DATASOURCE = "demo", FORMAT = "json", CONF_KEY = "a", SHARED = "true", TYPE = "mqtt", RETAIN_SIZE = "3""#,
        );
        let expected = json!({
            "Name": "s",
            "StreamFields": [
                { "Name": "id", "FieldType": "bigint", "DefaultClause": "2" },
                {
                    "Name": "tags",
                    "FieldType": { "Type": "array", "ElementType": { "Type": "array", "ElementType": "string" } },
                },
                {
                    "Name": "place",
                    "FieldType": { "Type": "struct", "Fields": [{ "FieldType": "float", "Name": "x" }] },
                },
            ],
            "Options": {
                "datasource": "demo", "format": "json", "confKey": "a", "type": "mqtt", "shared": true, "retainSize": 3,
            },
        });
        assert_eq!(stream.describe(), expected);
    }

    #[test]
    fn a_schema_has_every_field_with_its_type_in_words() {
        let sql =
            "CREATE STREAM s (id BIGINT, tags ARRAY(STRING), place STRUCT(lat FLOAT)) WITH (TYPE=\"memory\")";
        let Ok(Statement::CreateStream(stream)) = parse(sql) else {
            panic!("{sql}")
        };
        let expected = json!({
            "id": { "type": "bigint" },
            "tags": { "type": "array", "items": { "type": "string" } },
            "place": { "type": "struct", "properties": { "lat": { "type": "float" } } },
        });
        assert_eq!(Value::Object(stream.schema()), expected);
    }
}
