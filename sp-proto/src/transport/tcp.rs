//! Tcp connections: names, and the several addresses that they can have.

use crate::transport::TcpTarget;
use std::io;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::JoinSet;

/// How long one address of a host is waited for before the next one is tried beside it. RFC 8305 recommends
/// this.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first address of the host that answers. One that is silent doesn't hold up the others.
pub(super) async fn connect(target: &TcpTarget) -> io::Result<TcpStream> {
    let host = target.host.as_deref().unwrap_or("localhost");
    let mut addresses = lookup_host((host, target.port)).await?;
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
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
            Some(Ok(Ok(stream))) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
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
