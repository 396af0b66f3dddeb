//! The transports: addresses, streams and listeners. Knows no pattern; the engine drives it.
//!
//! A connection is first an [`Opening`]: TLS and websockets have handshakes of their own, which the engine
//! drives within the same time limit as the greeting. What they give is a [`Link`].

mod address;
mod inproc;
#[cfg(feature = "ipc")]
mod ipc;
#[cfg(feature = "ipc")]
mod ipc_stream;
mod link;
mod listener;
mod opening;
#[cfg(feature = "tcp")]
mod tcp;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "ws")]
mod websocket;

pub use address::{Address, AddressError, TcpTarget, WsTarget};
#[cfg(all(test, sp_loom))]
pub(crate) use inproc::Duplex;
#[cfg(feature = "ipc")]
pub(crate) use ipc::SocketFile;
pub(crate) use link::{Link, Reader, Writer};
pub(crate) use listener::Listener;
pub(crate) use opening::{OpenError, Opening};
#[cfg(feature = "tls")]
pub use tls::{ClientAuth, TlsAuthorities, TlsError, TlsIdentity, TlsOptions};
#[cfg(feature = "ws")]
pub(crate) use websocket::ReadEnd;

use std::io;
#[cfg(feature = "tls")]
use std::sync::Arc;

/// Who is at the other end of an ipc pipe, by the kernel's word at the moment of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its process id, where the system tells. Ids are used again: the process may be another one by now.
    pub pid: Option<u32>,
    /// Its effective user id.
    pub uid: u32,
    /// Its effective group id.
    pub gid: u32,
}

/// The permissions of socket files when nobody says otherwise: the owner may connect.
#[cfg(feature = "ipc")]
pub(crate) const IPC_MODE: u32 = 0o600;

/// What listeners own when there are no socket files.
#[cfg(not(feature = "ipc"))]
#[derive(Debug)]
pub(crate) enum SocketFile {}

/// What the transports must be told, and what they keep for the next connection of the same socket.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    #[cfg(feature = "ipc")]
    pub(crate) ipc_mode: u32,
    #[cfg(feature = "tls")]
    pub(crate) tls: Arc<tls::Tls>,
}

/// Connects to `address`. Dropping the future leaves nothing behind.
pub(crate) async fn connect(address: &Address, settings: &Settings) -> io::Result<Opening> {
    #[cfg(not(feature = "tls"))]
    let _ = settings;
    match address {
        Address::Inproc(name) => inproc::connect(name).await.map(Opening::new),
        #[cfg(feature = "ipc")]
        Address::Ipc(path) => ipc::connect(path).await.map(Opening::new),
        #[cfg(feature = "ipc")]
        Address::Abstract(name) => ipc::connect_abstract(name).await.map(Opening::new),
        #[cfg(feature = "tcp")]
        Address::Tcp(target) => tcp::connect(target).await.map(Opening::new),
        #[cfg(feature = "tls")]
        Address::TlsTcp(target) => {
            let side = settings.tls.dialer(target)?;
            let stream = tcp::connect(target).await?;
            Ok(Opening::new(stream).with_tls(side))
        }
        #[cfg(feature = "ws")]
        Address::Ws(target) => {
            let stream = tcp::connect(&target.server).await?;
            Ok(Opening::new(stream).with_websocket(websocket::Side::dialer(target)))
        }
        #[cfg(all(feature = "ws", feature = "tls"))]
        Address::Wss(target) => {
            let side = settings.tls.dialer(&target.server)?;
            let stream = tcp::connect(&target.server).await?;
            let opening = Opening::new(stream).with_tls(side);
            Ok(opening.with_websocket(websocket::Side::dialer(target)))
        }
        #[allow(unreachable_patterns, reason = "with every feature there is none")]
        other => Err(not_built(other)),
    }
}

/// Addresses are checked when they are parsed, so nobody meets this.
fn not_built(address: &Address) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("{address} needs a transport that this build lacks"),
    )
}
