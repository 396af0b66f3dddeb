//! Listening on any transport.

use crate::transport::inproc::InprocListener;
#[cfg(feature = "ipc")]
use crate::transport::ipc;
#[cfg(feature = "tcp")]
use crate::transport::tcp;
#[cfg(feature = "tls")]
use crate::transport::tls;
use crate::transport::{Address, Opening, Settings, SocketFile, not_built};
#[cfg(feature = "ws")]
use crate::transport::{WsTarget, websocket};
use std::io;

/// A bound address.
#[derive(Debug)]
pub(crate) enum Listener {
    Inproc(InprocListener),
    #[cfg(feature = "ipc")]
    Ipc(tokio::net::UnixListener),
    #[cfg(feature = "tcp")]
    Tcp(tokio::net::TcpListener),
    #[cfg(feature = "tls")]
    Tls(tokio::net::TcpListener, tls::Side),
    #[cfg(feature = "ws")]
    Ws(tokio::net::TcpListener, websocket::Side),
    #[cfg(all(feature = "ws", feature = "tls"))]
    Wss(tokio::net::TcpListener, tls::Side, websocket::Side),
}

impl Listener {
    /// Binds. Gives the concrete address (port 0 and an empty abstract name resolved) and, for ipc, the file
    /// to be removed in the end.
    pub(crate) async fn bind(
        address: &Address,
        settings: &Settings,
    ) -> io::Result<(Self, Address, Option<SocketFile>)> {
        #[cfg(not(any(feature = "ipc", feature = "tls")))]
        let _ = settings;
        match address {
            Address::Inproc(name) => Ok((Self::Inproc(InprocListener::bind(name)?), address.clone(), None)),
            #[cfg(feature = "ipc")]
            Address::Ipc(path) => {
                let (listener, file) = ipc::bind(path, settings.ipc_mode).await?;
                Ok((Self::Ipc(listener), address.clone(), Some(file)))
            }
            #[cfg(feature = "ipc")]
            Address::Abstract(name) => {
                let (listener, name) = ipc::bind_abstract(name)?;
                Ok((Self::Ipc(listener), Address::Abstract(name), None))
            }
            #[cfg(feature = "tcp")]
            Address::Tcp(target) => {
                let (listener, bound) = tcp::bind(target).await?;
                Ok((Self::Tcp(listener), Address::Tcp(bound), None))
            }
            #[cfg(feature = "tls")]
            Address::TlsTcp(target) => {
                let side = settings.tls.listener()?;
                let (listener, bound) = tcp::bind(target).await?;
                Ok((Self::Tls(listener, side), Address::TlsTcp(bound), None))
            }
            #[cfg(feature = "ws")]
            Address::Ws(target) => {
                let side = websocket::Side::listener(target);
                let (listener, bound) = bind_websocket(target).await?;
                Ok((Self::Ws(listener, side), Address::Ws(bound), None))
            }
            #[cfg(all(feature = "ws", feature = "tls"))]
            Address::Wss(target) => {
                let tls = settings.tls.listener()?;
                let side = websocket::Side::listener(target);
                let (listener, bound) = bind_websocket(target).await?;
                Ok((Self::Wss(listener, tls, side), Address::Wss(bound), None))
            }
            #[allow(unreachable_patterns, reason = "with every feature there is none")]
            other => Err(not_built(other)),
        }
    }

    /// The next connection. Cancel safe: a connection is given out or stays in the queue.
    pub(crate) async fn accept(&mut self) -> io::Result<Opening> {
        match self {
            Self::Inproc(listener) => listener.accept().await.map(Opening::new),
            #[cfg(feature = "ipc")]
            Self::Ipc(listener) => listener.accept().await.map(|(stream, _)| Opening::new(stream)),
            #[cfg(feature = "tcp")]
            Self::Tcp(listener) => tcp::accept(listener).await.map(Opening::new),
            #[cfg(feature = "tls")]
            Self::Tls(listener, side) => {
                let stream = tcp::accept(listener).await?;
                Ok(Opening::new(stream).with_tls(side.clone()))
            }
            #[cfg(feature = "ws")]
            Self::Ws(listener, side) => {
                let stream = tcp::accept(listener).await?;
                Ok(Opening::new(stream).with_websocket(side.clone()))
            }
            #[cfg(all(feature = "ws", feature = "tls"))]
            Self::Wss(listener, tls, side) => {
                let opening = Opening::new(tcp::accept(listener).await?).with_tls(tls.clone());
                Ok(opening.with_websocket(side.clone()))
            }
        }
    }
}

#[cfg(feature = "ws")]
async fn bind_websocket(target: &WsTarget) -> io::Result<(tokio::net::TcpListener, WsTarget)> {
    let (listener, server) = tcp::bind(&target.server).await?;
    let path = target.path.clone();
    Ok((listener, WsTarget { server, path }))
}
