//! Listening on any transport.

use crate::transport::inproc::InprocListener;
use crate::transport::ipc::{self, SocketFile};
use crate::transport::{Address, Link, TcpTarget};
use std::io;
use tokio::net::{TcpListener, UnixListener};

/// A bound address.
#[derive(Debug)]
pub(crate) enum Listener {
    Ipc(UnixListener),
    Tcp(TcpListener),
    Inproc(InprocListener),
}

impl Listener {
    /// Binds. Gives the concrete address (tcp port 0 resolved) and, for ipc, the file to be removed in the
    /// end.
    pub(crate) async fn bind(address: &Address) -> io::Result<(Self, Address, Option<SocketFile>)> {
        match address {
            Address::Ipc(path) => {
                let (listener, file) = ipc::bind(path).await?;
                Ok((Self::Ipc(listener), address.clone(), Some(file)))
            }
            Address::Tcp(TcpTarget { host, port }) => {
                let listener = TcpListener::bind((host.as_deref().unwrap_or("0.0.0.0"), *port)).await?;
                let port = listener.local_addr()?.port();
                let bound = Address::Tcp(TcpTarget {
                    host: host.clone(),
                    port,
                });
                Ok((Self::Tcp(listener), bound, None))
            }
            Address::Inproc(name) => Ok((Self::Inproc(InprocListener::bind(name)?), address.clone(), None)),
        }
    }

    /// The next connection. Cancel safe: a connection is given out or stays in the queue.
    pub(crate) async fn accept(&mut self) -> io::Result<Link> {
        match self {
            Self::Ipc(listener) => Ok(listener.accept().await?.0.into()),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
            Self::Inproc(listener) => Ok(listener.accept().await?.into()),
        }
    }
}
