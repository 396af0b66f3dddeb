//! Owns the shape of errors, `{"error": <code>, "message": "…"}`, and which status and code they have.
//!
//! The codes are eKuiper's. A message names the thing that the client spoke of; of what went wrong inside of the
//! host it has no more than what the system says, such as that the disk is full. The rest goes to the log.

use std::fmt;
use std::io;

use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::rule;

/// eKuiper's code of anything without one of its own.
const UNDEFINED: u16 = 1000;
/// Something failed inside of the host.
const GENERAL: u16 = 1001;
const NOT_FOUND: u16 = 1002;
const STREAM: u16 = 3000;
const RULE: u16 = 4000;

/// An answer that says why not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    code: u16,
    message: String,
}

#[derive(Serialize)]
struct Body {
    error: u16,
    message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code: UNDEFINED,
            message: message.into(),
        }
    }

    /// The client's request cannot be carried out as it stands.
    pub(super) fn invalid(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message.to_string())
    }

    pub(super) fn not_found(message: impl ToString) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            code: NOT_FOUND,
            message: message.to_string(),
        }
    }

    /// The host is about to end.
    pub(super) fn unavailable(message: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message.to_string())
    }

    /// The host is at fault; `cause` is for the log.
    pub(super) fn internal(cause: impl fmt::Display) -> Self {
        Self::failed(cause, "the host could not do this; its log says why".to_owned())
    }

    /// The system does not let the host do `what`; `cause` is for the log, and no path of it is told.
    pub(super) fn system(cause: impl fmt::Display, what: &str, error: &io::Error) -> Self {
        let system = error.raw_os_error().map(io::Error::from_raw_os_error);
        let reason = match (system, error.kind()) {
            (Some(system), _) => system.to_string(),
            (None, io::ErrorKind::Other) => "the host's log says why".to_owned(),
            (None, kind) => kind.to_string(),
        };
        Self::failed(cause, format!("{what}: {reason}"))
    }

    fn failed(cause: impl fmt::Display, message: String) -> Self {
        tracing::error!("a request failed: {cause}");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: GENERAL,
            message,
        }
    }

    /// Of a request about streams.
    pub(super) fn stream(error: rule::Error) -> Self {
        Self::of(error, STREAM)
    }

    /// Of a request about rules.
    pub(super) fn rule(error: rule::Error) -> Self {
        Self::of(error, RULE)
    }

    fn of(error: rule::Error, code: u16) -> Self {
        match error {
            rule::Error::NotFound(message) => Self::not_found(message),
            rule::Error::Invalid(message) => Self {
                code,
                ..Self::invalid(message)
            },
            rule::Error::Internal(cause) => Self::internal(cause),
        }
    }

    /// The same with another status.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body {
            error: self.code,
            message: self.message,
        };
        (self.status, Json(body)).into_response()
    }
}

pub(super) async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is no path {:?}", uri.path()))
}

/// The answer's `Allow` header, which the router adds, has the methods that are known.
pub(super) async fn unknown_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{:?} has no {method}", uri.path()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_to_blame_decides_the_status() {
        let text = || "about s".to_owned();
        for (error, status, code) in [
            (ApiError::stream(rule::Error::NotFound(text())), 404, 1002),
            (ApiError::stream(rule::Error::Invalid(text())), 400, 3000),
            (ApiError::rule(rule::Error::NotFound(text())), 404, 1002),
            (ApiError::rule(rule::Error::Invalid(text())), 400, 4000),
            (ApiError::invalid(text()), 400, 1000),
        ] {
            assert_eq!((error.status.as_u16(), error.code), (status, code), "{error:?}");
            assert_eq!(error.message, "about s");
        }
    }

    #[test]
    fn what_fails_inside_of_the_host_is_not_told() {
        let error = ApiError::rule(rule::Error::Internal(
            "cannot write /srv/m/data/mangrove.redb".to_owned(),
        ));
        assert_eq!((error.status.as_u16(), error.code), (500, 1001));
        assert!(!error.message.contains("/srv"), "{}", error.message);
    }
}
