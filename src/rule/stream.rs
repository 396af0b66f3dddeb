//! A stream's statement and what it means.

use std::sync::Arc;

use crate::sql::{self, CreateStream, SqlError, Statement};

/// A stream as it was created.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// The statement, for the store and for showing it again.
    pub sql: String,
    pub definition: Arc<CreateStream>,
}

/// Why a text is no stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("{0}")]
    Sql(#[from] SqlError),
    #[error("expected a CREATE STREAM statement")]
    NotAStream,
    #[error("FORMAT {0:?} is not supported; expected json")]
    Format(String),
}

impl Stream {
    pub(crate) fn parse(sql: &str) -> Result<Self, StreamError> {
        let Statement::CreateStream(definition) = sql::parse(sql)? else {
            return Err(StreamError::NotAStream);
        };
        let options = &definition.options;
        if let Some(format) = options
            .format
            .as_ref()
            .filter(|format| !format.eq_ignore_ascii_case("json"))
        {
            return Err(StreamError::Format(format.clone()));
        }
        Ok(Self {
            sql: sql.to_owned(),
            definition: Arc::from(definition),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> Result<Stream, String> {
        let sql = format!("CREATE STREAM s () WITH (TYPE=\"memory\"{options})");
        Stream::parse(&sql).map_err(|error| error.to_string())
    }

    #[test]
    fn formats_other_than_json_and_broken_extras_are_refused() {
        assert!(parse(", FORMAT=\"JSON\"").is_ok());
        assert_eq!(
            parse(", FORMAT=\"protobuf\"").unwrap_err(),
            "FORMAT \"protobuf\" is not supported; expected json"
        );
        assert!(
            parse(", EXTRA=\"[1]\"")
                .unwrap_err()
                .contains("expected a JSON object")
        );
        assert!(Stream::parse("SHOW STREAMS").is_err());
    }

    #[test]
    fn extra_holds_properties() {
        let stream = parse(", EXTRA='{\"interval\": 5}'").unwrap();
        assert_eq!(stream.definition.options.extra.clone().unwrap()["interval"], 5);
    }
}
