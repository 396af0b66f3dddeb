//! Tcp connections: names, and the several addresses that they can have.

use crate::transport::TcpTarget;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::JoinSet;

/// How long one address of a host is waited for before the next one is tried beside it. RFC 8305 recommends
/// this.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first address of the host that answers. One that is silent doesn't hold up the others.
pub(super) async fn connect(target: &TcpTarget) -> io::Result<TcpStream> {
    let host = target.host.as_deref().unwrap_or("localhost");
    let addresses = lookup_host((host, target.port)).await?;
    let stream = connect_any(addresses).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn connect_any(mut addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    loop {
        let more = addresses.next();
        let last = more.is_none();
        if let Some(address) = more {
            attempts.spawn(TcpStream::connect(address));
        }
        let finished = if last {
            attempts.join_next().await
        } else {
            match tokio::time::timeout(HEAD_START, attempts.join_next()).await {
                Ok(finished) => finished,
                Err(_) => continue,
            }
        };
        match finished {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => failure = error,
            // The runtime shuts down.
            Some(Err(error)) => return Err(error.into()),
            None if last => return Err(failure),
            None => {}
        }
    }
}

/// Listens, and says on which port.
pub(super) async fn bind(target: &TcpTarget) -> io::Result<(TcpListener, TcpTarget)> {
    let listener = TcpListener::bind((target.host.as_deref().unwrap_or("0.0.0.0"), target.port)).await?;
    let port = listener.local_addr()?.port();
    let host = target.host.clone();
    Ok((listener, TcpTarget { host, port }))
}

pub(super) async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_address_that_answers_is_taken() {
        let closed = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let stream = connect_any([closed, open, closed].into_iter()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let refused = connect_any([closed, closed].into_iter()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let nothing = connect_any(std::iter::empty()).await.unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::NotFound);
    }
}
