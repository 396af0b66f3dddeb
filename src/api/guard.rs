//! Owns the refusal of what a browser sends on behalf of a page that is not ours. It reads headers only.
//!
//! The API has no password on loopback, so what protects it is that only programs on this machine reach it. A
//! browser is such a program, and runs the code of strangers. Two things keep strangers out:
//!
//! - A page on another origin may send requests but not hide where it comes from: an `Origin` that is not the
//!   address the request went to is refused.
//! - A page may let the name of its own origin resolve to 127.0.0.1 (DNS rebinding), and then is that origin.
//!   While the host listens on loopback, a `Host` that is neither `localhost` nor an IP address is refused.
//!
//! Programs send no `Origin`, and reach a loopback address by one of those two, so they notice nothing.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

/// Also of IPv4 addresses in IPv6 clothes.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// What the guard has to know of the server.
#[derive(Clone, Copy)]
pub(super) struct Guard {
    loopback: bool,
}

impl Guard {
    pub(super) fn new(listening: SocketAddr) -> Self {
        Self {
            loopback: is_loopback(listening),
        }
    }

    fn judge(self, headers: &HeaderMap) -> Result<(), ApiError> {
        let refusal = |message: String| Err(ApiError::new(StatusCode::FORBIDDEN, message));
        let host = text(headers, &header::HOST)?;
        if self.loopback
            && let Some(host) = host
            && !is_local(host)
        {
            return refusal(format!(
                "the Host {host:?} is neither localhost nor an IP address; by others this host is not reached \
                 while it listens on loopback"
            ));
        }
        match text(headers, &header::ORIGIN)? {
            Some(origin) if !is_same(origin, host) => {
                refusal(format!("requests of pages of the origin {origin:?} are refused"))
            }
            _ => Ok(()),
        }
    }
}

/// The layer.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.judge(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            tracing::warn!(method = %request.method(), path = request.uri().path(), "refused: {error}");
            error.into_response()
        }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Result<Option<&'h str>, ApiError> {
    headers
        .get(name)
        .map(|value| value.to_str())
        .transpose()
        .map_err(|_| ApiError::invalid(format!("the header {name} is no text")))
}

fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

fn is_same(origin: &str, host: Option<&str>) -> bool {
    let (Some((_scheme, authority)), Some(host)) = (origin.split_once("://"), host) else {
        return false;
    };
    authority.eq_ignore_ascii_case(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn passes(listening: &str, host: Option<&str>, origin: Option<&str>) -> bool {
        let headers = [(header::HOST, host), (header::ORIGIN, origin)]
            .into_iter()
            .filter_map(|(name, text)| Some((name, HeaderValue::from_str(text?).unwrap())))
            .collect();
        Guard::new(listening.parse().unwrap()).judge(&headers).is_ok()
    }

    #[test]
    fn on_loopback_foreign_names_are_refused() {
        for host in [
            "localhost:9081",
            "LOCALHOST",
            "127.0.0.1:9081",
            "[::1]:9081",
            "192.168.0.7",
        ] {
            assert!(passes("127.0.0.1:9081", Some(host), None), "{host}");
        }
        for host in [
            "evil.example:9081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "a b",
        ] {
            assert!(!passes("127.0.0.1:9081", Some(host), None), "{host}");
            assert!(!passes("[::1]:9081", Some(host), None), "{host}");
            assert!(!passes("[::ffff:127.0.0.1]:9081", Some(host), None), "{host}");
        }
        assert!(passes("127.0.0.1:9081", None, None), "HTTP/1.0 has no Host");
    }

    #[test]
    fn beyond_loopback_any_name_will_do() {
        assert!(passes("0.0.0.0:9081", Some("edge-7.example:9081"), None));
        assert!(passes("192.168.0.7:9081", Some("edge-7.example:9081"), None));
    }

    #[test]
    fn pages_of_other_origins_are_refused_everywhere() {
        let (host, own) = (Some("127.0.0.1:9081"), Some("http://127.0.0.1:9081"));
        for listening in ["127.0.0.1:9081", "0.0.0.0:9081"] {
            assert!(passes(listening, host, own));
            for origin in [
                "http://evil.example",
                "null",
                "http://127.0.0.1:80",
                "http://127.0.0.1:9081.evil",
            ] {
                assert!(!passes(listening, host, Some(origin)), "{origin}");
            }
            assert!(
                !passes(listening, None, own),
                "without a Host nothing is the same"
            );
        }
    }
}
