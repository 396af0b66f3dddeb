//! The upgrade: an HTTP/1.1 request and its response, after which the connection is a websocket.

use crate::Protocol;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};

/// The longest head of a request or response that is read, in bytes.
pub const HEAD_MAX: usize = 8 * 1024;

/// How many header fields a head may have.
const FIELDS: usize = 64;

/// What RFC 6455 adds to the key of a request before it is hashed.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What stands behind the name of a protocol to make a sub-protocol.
const SUFFIX: &str = ".sp.nanomsg.org";

/// Why an upgrade was refused, by us or by the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The first bytes are no HTTP/1.1.
    #[error("the peer does not speak HTTP/1.1: {0}")]
    NotHttp(&'static str),
    /// The head is longer than [`HEAD_MAX`] bytes.
    #[error("the head of the peer's HTTP message is longer than {HEAD_MAX} bytes")]
    TooLong,
    /// A request without the header fields of an upgrade.
    #[error("the peer's request is no upgrade to a websocket: its {0} field is missing or wrong")]
    NoUpgrade(&'static str),
    /// The path of the request is not the one that is listened on.
    #[error("the peer asks for the path {found:?}, expected {expected:?}")]
    Path {
        /// What was asked for.
        found: String,
        /// What is listened on.
        expected: String,
    },
    /// None of the sub-protocols that the request offers is one of ours.
    #[error("the peer offers the sub-protocols {offered:?}, expected {expected:?}")]
    Protocol {
        /// The value of the request's field.
        offered: String,
        /// Ours, separated by commas.
        expected: String,
    },
    /// The listener's response is no upgrade.
    #[error("the upgrade to a websocket was refused with status {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The listener chose a sub-protocol that was not offered, or answered to another key.
    #[error("the response to the upgrade has a wrong {0} field")]
    Response(&'static str),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeRequest {
    path: String,
    protocols: String,
    key: String,
}

/// The sub-protocol of a server that speaks `protocol`.
fn sub_protocol(server: Protocol) -> String {
    format!("{server}{SUFFIX}")
}

/// The hash that proves to a client that its key was read.
fn accept(key: &str) -> String {
    BASE64.encode(Sha1::new().chain_update(key).chain_update(MAGIC).finalize())
}

/// Does a field that lists tokens have this one?
fn has_token(value: &str, token: &str) -> bool {
    value
        .split(',')
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// The value of a field; several of the same name are joined, as HTTP says.
fn field(headers: &[httparse::Header<'_>], name: &str) -> Option<String> {
    let values: Vec<&str> = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name))
        .filter_map(|header| str::from_utf8(header.value).ok())
        .map(str::trim)
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn not_http(error: httparse::Error) -> UpgradeError {
    UpgradeError::NotHttp(match error {
        httparse::Error::HeaderName => "a header name is malformed",
        httparse::Error::HeaderValue => "a header value is malformed",
        httparse::Error::NewLine => "a line ends wrongly",
        httparse::Error::Status => "the status is malformed",
        httparse::Error::Token => "there is no request or status line",
        httparse::Error::TooManyHeaders => "there are too many headers",
        httparse::Error::Version => "the version is another one",
    })
}

/// A head that is not complete yet.
fn partial<T>(bytes: &[u8]) -> Result<Option<T>, UpgradeError> {
    if bytes.len() >= HEAD_MAX {
        return Err(UpgradeError::TooLong);
    }
    Ok(None)
}

impl UpgradeRequest {
    /// Reads a request and says how long it is; `None` when it is not complete.
    ///
    /// # Errors
    /// It is no HTTP/1.1 request for an upgrade to a websocket, or too long.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, UpgradeError> {
        let mut headers = [httparse::EMPTY_HEADER; FIELDS];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes).map_err(not_http)? {
            httparse::Status::Complete(length) if length <= HEAD_MAX => length,
            httparse::Status::Complete(_) => return Err(UpgradeError::TooLong),
            httparse::Status::Partial => return partial(bytes),
        };
        if request.version != Some(1) {
            return Err(UpgradeError::NotHttp("the version is another one"));
        }
        if request.method != Some("GET") {
            return Err(UpgradeError::NotHttp("the method is not GET"));
        }
        let field = |name: &'static str, right: &dyn Fn(&str) -> bool| {
            field(request.headers, name)
                .filter(|value| right(value))
                .ok_or(UpgradeError::NoUpgrade(name))
        };
        field("Host", &|_| true)?;
        field("Upgrade", &|value| has_token(value, "websocket"))?;
        field("Connection", &|value| has_token(value, "upgrade"))?;
        field("Sec-WebSocket-Version", &|value| value == "13")?;
        let key = field("Sec-WebSocket-Key", &|value| {
            BASE64.decode(value).is_ok_and(|key| key.len() == 16)
        })?;
        let protocols = field("Sec-WebSocket-Protocol", &|_| true)?;
        let path = request.path.unwrap_or_default().to_owned();
        Ok(Some((Self { path, protocols, key }, length)))
    }

    /// The one of `ours` to speak: the first that the client offers. `path` is what is listened on.
    ///
    /// # Errors
    /// The client wants something else.
    pub fn choose(&self, path: &str, ours: &[Protocol]) -> Result<Protocol, UpgradeError> {
        let (found, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let (expected, _) = path.split_once('?').unwrap_or((path, ""));
        if found != expected {
            return Err(UpgradeError::Path {
                found: found.to_owned(),
                expected: expected.to_owned(),
            });
        }
        let chosen = self.protocols.split(',').map(str::trim).find_map(|offered| {
            ours.iter()
                .find(|protocol| offered.eq_ignore_ascii_case(&sub_protocol(**protocol)))
        });
        chosen.copied().ok_or_else(|| UpgradeError::Protocol {
            offered: self.protocols.clone(),
            expected: ours
                .iter()
                .copied()
                .map(sub_protocol)
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// The request of a client. `server` is what the other end is to speak, `nonce` 16 random bytes.
pub fn request_upgrade(host: &str, path: &str, server: Protocol, nonce: [u8; 16]) -> Vec<u8> {
    let path = if path.is_empty() { "/" } else { path };
    let (key, protocol) = (BASE64.encode(nonce), sub_protocol(server));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
    .into()
}

/// The response of a server that speaks `chosen`.
pub fn accept_upgrade(request: &UpgradeRequest, chosen: Protocol) -> Vec<u8> {
    let (accept, protocol) = (accept(&request.key), sub_protocol(chosen));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
    .into()
}

/// The response of a server that refuses.
pub fn refuse_upgrade(error: &UpgradeError) -> Vec<u8> {
    let status = match error {
        UpgradeError::TooLong => "431 Request Header Fields Too Large",
        UpgradeError::Path { .. } => "404 Not Found",
        UpgradeError::NoUpgrade(_) => "426 Upgrade Required",
        _ => "400 Bad Request",
    };
    let body = format!("{error}\n");
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: close\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into()
}

/// Reads the response to a request with `server` and `nonce` and says how long it is; `None` when it is not
/// complete.
///
/// # Errors
/// It does not agree to the upgrade.
pub fn check_upgrade(bytes: &[u8], server: Protocol, nonce: [u8; 16]) -> Result<Option<usize>, UpgradeError> {
    let mut headers = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes).map_err(not_http)? {
        httparse::Status::Complete(length) if length <= HEAD_MAX => length,
        httparse::Status::Complete(_) => return Err(UpgradeError::TooLong),
        httparse::Status::Partial => return partial(bytes),
    };
    match response.code {
        Some(101) => {}
        status => {
            let status = status.unwrap_or_default();
            return Err(UpgradeError::Refused { status });
        }
    }
    let field = |name: &'static str, right: &dyn Fn(&str) -> bool| {
        let value = field(response.headers, name).unwrap_or_default();
        right(&value).then_some(()).ok_or(UpgradeError::Response(name))
    };
    field("Upgrade", &|value| has_token(value, "websocket"))?;
    field("Connection", &|value| has_token(value, "upgrade"))?;
    field("Sec-WebSocket-Accept", &|value| {
        value == accept(&BASE64.encode(nonce))
    })?;
    field("Sec-WebSocket-Protocol", &|value| {
        value.eq_ignore_ascii_case(&sub_protocol(server))
    })?;
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: [u8; 16] = *b"the sample nonce";

    fn changed(from: &str, to: &str) -> Result<Protocol, UpgradeError> {
        let request = request_upgrade("host:80", "/path", Protocol::Rep, NONCE);
        let request = String::from_utf8(request).unwrap();
        assert!(request.contains(from), "{from}");
        let request = request.replace(from, to);
        let (request, length) = UpgradeRequest::parse(request.as_bytes())?.expect("all of it");
        assert!(length > 100);
        request.choose("/path", &[Protocol::Pull, Protocol::Rep])
    }

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(BASE64.encode(NONCE), "dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn an_upgrade_is_agreed_on_however_it_is_split() {
        let request = request_upgrade("host:80", "", Protocol::Pair0, NONCE);
        for cut in 0..request.len() {
            assert_eq!(UpgradeRequest::parse(&request[..cut]), Ok(None));
        }
        let more = [&request[..], b"more"].concat();
        let (parsed, length) = UpgradeRequest::parse(&more).unwrap().unwrap();
        assert_eq!(length, request.len());
        assert_eq!(parsed.choose("/", &[Protocol::Pair0]), Ok(Protocol::Pair0));
        let response = accept_upgrade(&parsed, Protocol::Pair0);
        for cut in 0..response.len() {
            assert_eq!(check_upgrade(&response[..cut], Protocol::Pair0, NONCE), Ok(None));
        }
        let more = [&response[..], b"more"].concat();
        assert_eq!(
            check_upgrade(&more, Protocol::Pair0, NONCE),
            Ok(Some(response.len()))
        );
        let wrong = |result| matches!(result, Err(UpgradeError::Response(_)));
        assert!(wrong(check_upgrade(&response, Protocol::Pair1, NONCE)));
        assert!(wrong(check_upgrade(&response, Protocol::Pair0, [0; 16])));
        let refused = check_upgrade(&refuse_upgrade(&UpgradeError::TooLong), Protocol::Pair0, NONCE);
        assert_eq!(refused, Err(UpgradeError::Refused { status: 431 }));
    }

    #[test]
    fn what_peers_write_differently_means_the_same() {
        for (from, to) in [
            ("Upgrade: websocket", "UPGRADE: WebSocket"),
            ("Connection: Upgrade", "Connection: keep-alive, upgrade"),
            (": rep.sp.nanomsg.org", ": x, REP.SP.nanomsg.org"),
            (
                ": rep.sp.nanomsg.org",
                ": x\r\nSec-WebSocket-Protocol: rep.sp.nanomsg.org",
            ),
            ("/path", "/path?query"),
        ] {
            assert_eq!(changed(from, to), Ok(Protocol::Rep), "{to}");
        }
    }

    #[test]
    fn what_is_no_upgrade_is_refused_with_its_reason() {
        for (from, to, reason) in [
            ("GET ", "POST ", "the method is not GET"),
            ("HTTP/1.1", "HTTP/1.0", "the version is another one"),
            ("GET /path", "\0SP\0", "does not speak HTTP"),
            ("Host: ", "Hose: ", "its Host field"),
            ("Upgrade: websocket", "Upgrade: h2c", "its Upgrade field"),
            ("Connection: Upgrade", "Connection: close", "its Connection field"),
            ("Version: 13", "Version: 8", "its Sec-WebSocket-Version field"),
            ("Key: dGhl", "Key: ", "its Sec-WebSocket-Key field"),
            ("Sec-WebSocket-Protocol", "X", "its Sec-WebSocket-Protocol field"),
            (
                "/path",
                "/other",
                "asks for the path \"/other\", expected \"/path\"",
            ),
            (
                ": rep.",
                ": req.",
                "expected \"pull.sp.nanomsg.org, rep.sp.nanomsg.org\"",
            ),
            (
                ": rep.sp.nanomsg.org",
                ": rep",
                "offers the sub-protocols \"rep\"",
            ),
        ] {
            let error = changed(from, to).unwrap_err().to_string();
            assert!(error.contains(reason), "{to}: {error}");
        }
        let endless = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; HEAD_MAX]].concat();
        assert_eq!(UpgradeRequest::parse(&endless), Err(UpgradeError::TooLong));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(FIELDS + 1));
        assert!(UpgradeRequest::parse(many.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, nonce: [u8; 16]) {
            let _ = UpgradeRequest::parse(&bytes);
            let _ = check_upgrade(&bytes, Protocol::Rep, nonce);
        }
    }
}
