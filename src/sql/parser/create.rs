//! Owns the grammar of `CREATE STREAM`.

use serde_json::Value;

use super::super::ast::{CreateStream, Field, FieldType, StreamOptions};
use super::super::error::{Position, SqlError, suggestion};
use super::super::token::Token;
use super::Parser;

const TYPES: &str = "BIGINT, FLOAT, STRING, DATETIME, BOOLEAN, BYTEA, ARRAY or STRUCT";

const OPTIONS: &[&str] = &[
    "CONF_KEY",
    "DATASOURCE",
    "DELIMITER",
    "EXTRA",
    "FORMAT",
    "KEY",
    "KIND",
    "RETAIN_SIZE",
    "SCHEMAID",
    "SHARED",
    "STRICT_VALIDATION",
    "TEMP",
    "TIMESTAMP",
    "TIMESTAMP_FORMAT",
    "TYPE",
    "VERSION",
];

impl Parser<'_> {
    /// What follows CREATE STREAM.
    pub(super) fn create_stream(&mut self) -> Result<CreateStream, SqlError> {
        let name = self.name("a stream's name")?;
        self.expect_symbol(
            "(",
            "'(' and the stream's fields, or '()' for a stream without a schema",
        )?;
        let fields = self.fields()?;
        if !self.eat_word("WITH")? {
            return Err(self.unexpected("WITH"));
        }
        self.expect_symbol("(", "'(' and the stream's options")?;
        let options = self.options()?;
        Ok(CreateStream {
            name,
            fields,
            options,
        })
    }

    /// `name type [DEFAULT value], … )`; as in eKuiper a comma may stand before the parenthesis.
    fn fields(&mut self) -> Result<Vec<Field>, SqlError> {
        let mut fields: Vec<Field> = Vec::new();
        let mut names = std::collections::HashSet::new();
        while !self.eat_symbol(")")? {
            let at = self.at;
            let name = self.name("a field's name or ')'")?;
            if !names.insert(name.clone()) {
                return Err(at.error(format_args!("the field {name} is defined twice")));
            }
            let ty = self.field_type()?;
            let default = if self.eat_keyword("DEFAULT")? {
                Some(self.default(&ty)?)
            } else {
                None
            };
            fields.push(Field { name, ty, default });
            if !self.eat_symbol(",")? && self.token != Token::Symbol(")") {
                return Err(self.unexpected("DEFAULT, ',' or ')'"));
            }
        }
        Ok(fields)
    }

    fn field_type(&mut self) -> Result<FieldType, SqlError> {
        self.enter()?;
        let Token::Word(word) = self.token else {
            return Err(self.unexpected(TYPES));
        };
        let ty = match word.to_ascii_uppercase().as_str() {
            "BIGINT" => FieldType::Bigint,
            "FLOAT" => FieldType::Float,
            "STRING" => FieldType::String,
            "DATETIME" => FieldType::Datetime,
            "BOOLEAN" => FieldType::Boolean,
            "BYTEA" => FieldType::Bytea,
            "ARRAY" => {
                self.advance()?;
                self.expect_symbol("(", "'(' and the type of the array's elements")?;
                let element = self.field_type()?;
                // The closing parenthesis is what the `advance` below takes.
                if self.token != Token::Symbol(")") {
                    return Err(self.unexpected("')' after the type of the array's elements"));
                }
                FieldType::Array(Box::new(element))
            }
            "STRUCT" => {
                self.advance()?;
                self.expect_symbol("(", "'(' and the fields of the struct")?;
                let fields = self.fields()?;
                self.depth -= 1;
                return Ok(FieldType::Struct(fields));
            }
            _ => return Err(self.unexpected(TYPES)),
        };
        self.advance()?;
        self.depth -= 1;
        Ok(ty)
    }

    fn default(&mut self, ty: &FieldType) -> Result<Value, SqlError> {
        let at = self.at;
        let negative = self.eat_symbol("-")?;
        let literal = match (self.advance()?, negative) {
            (Token::Integer(value), _) => Value::from(if negative { -value } else { value }),
            (Token::Float(value), _) => Value::from(if negative { -value } else { value }),
            (Token::Text(text), false) => Value::String(text),
            (Token::Keyword("TRUE"), false) => Value::Bool(true),
            (Token::Keyword("FALSE"), false) => Value::Bool(false),
            (token, _) => {
                return Err(at.error(format_args!("found {token}, expected a literal after DEFAULT")));
            }
        };
        let (fits, expected) = match ty {
            FieldType::Bigint => (literal.is_i64(), "an integer"),
            FieldType::Float => (literal.is_number(), "a number"),
            FieldType::String => (literal.is_string(), "a text"),
            FieldType::Boolean => (literal.is_boolean(), "TRUE or FALSE"),
            _ => (
                false,
                "no DEFAULT: only BIGINT, FLOAT, STRING and BOOLEAN have one",
            ),
        };
        if fits {
            Ok(literal)
        } else {
            Err(at.error(format_args!("found {literal}, expected {expected}")))
        }
    }

    /// `NAME = value, … )`; as in eKuiper the commas may be missing, and of two values for one name the last is taken.
    fn options(&mut self) -> Result<StreamOptions, SqlError> {
        let mut options = StreamOptions::default();
        while !self.eat_symbol(")")? {
            let at = self.at;
            let name = self.name("an option's name or ')'")?;
            if !OPTIONS.iter().any(|option| option.eq_ignore_ascii_case(&name)) {
                let hint = suggestion(&name, OPTIONS.iter().copied());
                return Err(at.error(format_args!("there is no option {name}{hint}")));
            }
            self.expect_symbol("=", "'='")?;
            let value_at = self.at;
            let value = match self.token {
                Token::Text(_) | Token::Integer(_) | Token::Keyword("TRUE" | "FALSE") => self.advance()?,
                _ => return Err(self.unexpected("a text, an integer, TRUE or FALSE")),
            };
            let value = match value {
                Token::Text(text) => text,
                Token::Integer(value) => value.to_string(),
                token => String::from(if token == Token::Keyword("TRUE") {
                    "true"
                } else {
                    "false"
                }),
            };
            set_option(&mut options, &name.to_ascii_uppercase(), value, value_at)?;
            self.eat_symbol(",")?;
        }
        Ok(options)
    }
}

fn set_option(options: &mut StreamOptions, name: &str, value: String, at: Position) -> Result<(), SqlError> {
    match name {
        "TYPE" => options.source_type = Some(value),
        "DATASOURCE" => options.data_source = value,
        "FORMAT" => options.format = Some(value),
        "CONF_KEY" => options.conf_key = Some(value),
        "SHARED" => options.shared = boolean(&value, at)?,
        "TIMESTAMP" => options.timestamp = Some(value),
        "TIMESTAMP_FORMAT" => options.timestamp_format = Some(value),
        "KEY" => options.key = Some(value),
        "STRICT_VALIDATION" => options.strict_validation = boolean(&value, at)?,
        "RETAIN_SIZE" => {
            let size = value.parse();
            options.retain_size = Some(
                size.map_err(|_| at.error(format_args!("found {value:?}, expected a number of tuples")))?,
            );
        }
        "SCHEMAID" => options.schema_id = Some(value),
        "DELIMITER" => options.delimiter = Some(value),
        "KIND" => options.kind = Some(value.to_lowercase()),
        "VERSION" => options.version = Some(value.to_lowercase()),
        "EXTRA" => {
            let object = serde_json::from_str(&value);
            let object =
                object.map_err(|error| at.error(format_args!("expected a JSON object as text: {error}")))?;
            options.extra = Some(object);
        }
        "TEMP" => options.temporary = boolean(&value, at)?,
        _ => return Err(at.error(format_args!("the option {name} cannot be set"))),
    }
    Ok(())
}

fn boolean(value: &str, at: Position) -> Result<bool, SqlError> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(at.error(format_args!("found {value:?}, expected \"true\" or \"false\""))),
    }
}
