//! The transports: addresses, streams and listeners. Knows no pattern; the engine drives it.

mod address;
mod inproc;
mod ipc;
mod ipc_stream;
mod link;
mod listener;

pub use address::{Address, AddressError, TcpTarget};
pub(crate) use ipc::SocketFile;
pub(crate) use link::{Link, Reader, Writer};
pub(crate) use listener::Listener;

use std::io;

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

/// Connects to `address`. Dropping the future leaves nothing behind.
pub(crate) async fn connect(address: &Address) -> io::Result<Link> {
    match address {
        Address::Ipc(path) => ipc::connect(path).await.map(Link::from),
        Address::Tcp(TcpTarget { host, port }) => {
            let host = host.as_deref().unwrap_or("localhost");
            let stream = tokio::net::TcpStream::connect((host, *port)).await?;
            stream.set_nodelay(true)?;
            Ok(stream.into())
        }
        Address::Inproc(name) => inproc::connect(name).await.map(Link::from),
    }
}
