//! Just enough of an HTTP client for JSON requests to a host on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest wait for an answer: creating a rule starts symbols of plugins.
const PATIENCE: Duration = Duration::from_secs(60);

/// Posts `body`; the answer must be a success.
///
/// # Errors
/// The host cannot be reached or refuses, with its reason.
pub(crate) async fn post(address: SocketAddr, path: &str, body: &Value) -> Result<()> {
    request(address, "POST", path, &body.to_string()).await.map(drop)
}

/// The body of the answer, which must be a success.
///
/// # Errors
/// The host cannot be reached or refuses, with its reason.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<String> {
    request(address, "GET", path, "").await
}

/// Puts `body`; the answer must be a success.
///
/// # Errors
/// The host cannot be reached or refuses, with its reason.
pub(crate) async fn put(address: SocketAddr, path: &str, body: &Value) -> Result<()> {
    request(address, "PUT", path, &body.to_string()).await.map(drop)
}

/// Deletes; the answer must be a success.
///
/// # Errors
/// The host cannot be reached or refuses, with its reason.
pub(crate) async fn delete(address: SocketAddr, path: &str) -> Result<()> {
    request(address, "DELETE", path, "").await.map(drop)
}

/// The JSON of the answer, or `None` when there is no such thing.
///
/// # Errors
/// The host cannot be reached, refuses for another reason, or answers with what is no JSON.
pub(crate) async fn find(address: SocketAddr, path: &str) -> Result<Option<Value>> {
    let (status, body) = exchange(address, "GET", path, "").await?;
    if status == 404 {
        return Ok(None);
    }
    let what = || format!("GET http://{address}{path}: {status}: {}", body.trim_end());
    ensure!((200..300).contains(&status), what());
    serde_json::from_str(&body).map(Some).with_context(what)
}

async fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<String> {
    let (status, body) = exchange(address, method, path, body).await?;
    ensure!(
        (200..300).contains(&status),
        "{method} http://{address}{path}: {status}: {}",
        body.trim_end()
    );
    Ok(body)
}

async fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    // By the older version nobody answers in chunks.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let what = || format!("{method} http://{address}{path}");
    let Ok(answer) = tokio::time::timeout(PATIENCE, exchange).await else {
        bail!("{}: no answer within {} s", what(), PATIENCE.as_secs());
    };
    split(&answer.with_context(what)?).with_context(what)
}

/// The status and the body of a whole answer.
fn split(answer: &[u8]) -> Result<(u16, String)> {
    let answer = std::str::from_utf8(answer).context("the answer is no UTF-8")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of its head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("the answer has no status")?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 4\r\n\r\ndone";
        assert_eq!(split(answer).unwrap(), (201, "done".to_owned()));
        assert!(split(b"HTTP/1.1 nonsense\r\n\r\n").is_err());
        assert!(split(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
