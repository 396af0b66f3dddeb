//! Owns the way to a host over its REST API: one connection per request. It knows HTTP and the shape of errors,
//! and nothing of what is asked.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long a host may take to accept a connection. How long it then works is up to what it was asked.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest line of an event; the host's are far shorter.
const MAX_LINE: usize = 1 << 20;

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("{0:?} is no host; expected ADDR:PORT or http://ADDR:PORT")]
    Host(String),
    #[error("cannot reach the host at {host}: {reason}; is it running, and is --host right?")]
    Unreachable { host: String, reason: String },
    #[error("the connection to the host broke: {0}")]
    Broken(#[from] hyper::Error),
    /// In the host's own words.
    #[error("{message}")]
    Refused { status: u16, message: String },
    #[error("the host's answer cannot be read: {0}")]
    Unreadable(String),
}

/// One host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// `ADDR:PORT`.
    host: String,
}

/// What a host tells without being asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// In JSON.
    Event(String),
    /// So many events came faster than they were read.
    Lost(String),
}

impl Client {
    /// `host` is an address with a port, with or without `http://`.
    pub(super) fn new(host: &str) -> Result<Self, ClientError> {
        let address = host.strip_prefix("http://").unwrap_or(host).trim_end_matches('/');
        let valid = address.parse::<hyper::http::uri::Authority>().ok();
        let valid = valid.filter(|authority| authority.port_u16().is_some() && !address.contains('@'));
        match valid {
            Some(authority) => Ok(Self {
                host: authority.to_string(),
            }),
            None => Err(ClientError::Host(host.to_owned())),
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let text = self.text(Method::GET, path, None).await?;
        serde_json::from_str(&text).map_err(|error| ClientError::Unreadable(error.to_string()))
    }

    /// The answer as text.
    pub(super) async fn text(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<String, ClientError> {
        let (response, _connection) = self.send(method, path, body).await?;
        text(response).await
    }

    /// Hands over what the host tells from now on, until it says no more. `begun` is called first, `told` may
    /// end it with an error.
    pub(super) async fn follow<E: From<ClientError>>(
        &self,
        path: &str,
        begun: impl FnOnce() -> Result<(), E>,
        mut told: impl FnMut(Told) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut response, _connection) = self.send(Method::GET, path, None).await?;
        begun()?;
        let mut events = Events::default();
        while let Some(frame) = response.frame().await {
            let frame = frame.map_err(ClientError::from)?;
            let Ok(bytes) = frame.into_data() else { continue };
            for event in events.take(&bytes)? {
                told(event)?;
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Response<Incoming>, JoinSet<()>), ClientError> {
        let unreachable = |reason: String| ClientError::Unreachable {
            host: self.host.clone(),
            reason,
        };
        let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(&self.host)).await {
            Ok(connected) => connected.map_err(|error| unreachable(error.to_string()))?,
            Err(_) => return Err(unreachable(format!("no answer within {} s", CONNECT.as_secs()))),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut task = JoinSet::new();
        // What goes wrong with it, the answer tells.
        task.spawn(async move { drop(connection.await) });
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Unreadable(error.to_string()))?;
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok((response, task));
        }
        let status = response.status();
        let body = text(response).await?;
        let error: Option<Value> = serde_json::from_str(&body).ok();
        let message = error.as_ref().and_then(|error| error["message"].as_str());
        Err(ClientError::Refused {
            status: status.as_u16(),
            message: message.map_or_else(|| format!("the host answered {status}"), str::to_owned),
        })
    }
}

async fn text(response: Response<Incoming>) -> Result<String, ClientError> {
    let body = response.into_body().collect().await?.to_bytes();
    String::from_utf8(body.into()).map_err(|error| ClientError::Unreadable(error.to_string()))
}

/// A name as one part of a path.
pub(super) fn encode(name: &str) -> String {
    encode_but(name, b"-._~")
}

/// A path, with its slashes.
pub(super) fn encode_path(path: &str) -> String {
    encode_but(path, b"-._~/")
}

fn encode_but(text: &str, plain: &[u8]) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Cuts what comes into server-sent events.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
    kind: String,
}

impl Events {
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Told>, ClientError> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if let Some(kind) = line.strip_prefix("event: ") {
                kind.clone_into(&mut self.kind);
            } else if let Some(data) = line.strip_prefix("data: ") {
                events.push(match self.kind.as_str() {
                    "lost" => Told::Lost(data.to_owned()),
                    _ => Told::Event(data.to_owned()),
                });
            } else if line.is_empty() {
                self.kind.clear();
            }
        }
        if self.rest.len() > MAX_LINE {
            return Err(ClientError::Unreadable(format!(
                "a line is longer than {MAX_LINE} bytes"
            )));
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_with_a_port() {
        for host in [
            "127.0.0.1:9081",
            "http://127.0.0.1:9081",
            "http://127.0.0.1:9081/",
        ] {
            assert_eq!(Client::new(host).unwrap().host, "127.0.0.1:9081");
        }
        assert_eq!(Client::new("http://[::1]:80").unwrap().host, "[::1]:80");
        for host in ["", "127.0.0.1", "https://a:1", "a:b@c:1", "a:1/x", "a b:1"] {
            assert!(matches!(Client::new(host), Err(ClientError::Host(_))), "{host}");
        }
    }

    #[test]
    fn names_stay_one_part_of_a_path() {
        assert_eq!(encode("../a b?c"), "..%2Fa%20b%3Fc");
        assert_eq!(encode_path("/srv/50%/ä.zip"), "/srv/50%25/%C3%A4.zip");
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let text = b":\n\ndata: {\"a\":1}\n\nevent: lost\ndata: 3\n\ndata: {\"a\":2}\n\n";
        let expected = [
            Told::Event(r#"{"a":1}"#.to_owned()),
            Told::Lost("3".to_owned()),
            Told::Event(r#"{"a":2}"#.to_owned()),
        ];
        for size in 1..=text.len() {
            let mut events = Events::default();
            let pieces = text.chunks(size);
            let found: Vec<Told> = pieces.flat_map(|piece| events.take(piece).unwrap()).collect();
            assert_eq!(found, expected, "{size}");
        }
        assert!(Events::default().take(&vec![b'x'; MAX_LINE + 1]).is_err());
    }
}
