//! Owns how requests are read: names in the path, and bodies, bounded in size and time. What is wrong with
//! either is answered in the shape of all errors.
//!
//! The content type is not looked at: eKuiper does not, and `curl -d` sends that of a form.

use std::time::Duration;

use axum::RequestExt;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The one name in the path, percent-decoded. Whether it names anything is for the handles to say.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(name) = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::new(error.status(), format!("the path cannot be read: {error}")))?;
        Ok(Self(name))
    }
}

/// The body as JSON text, checked to be JSON.
pub(super) struct JsonText(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for JsonText {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let text =
            String::from_utf8(bytes(request).await?.into()).map_err(|error| malformed(error.utf8_error()))?;
        serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(malformed)?;
        Ok(Self(text))
    }
}

/// The body as a JSON value of type `T`.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = bytes(request).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(malformed)
    }
}

async fn bytes(request: Request) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(BODY_TIMEOUT, request.extract::<Bytes, _>()).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(ApiError::new(
            error.status(),
            "the body is larger than the setting rest.maxBody allows",
        )),
        Ok(Err(error)) => Err(ApiError::new(
            error.status(),
            format!("the body cannot be read: {error}"),
        )),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()),
        )),
    }
}

fn malformed(error: impl std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("the body is not the JSON that was expected: {error}"))
}
