//! How one of our sockets and a foreign one get together: who listens, who dials, and where.

use std::path::Path;

use sp_proto::{Endpoint, Pair, Pull, Push, Rep, Req};
use testkit::{Process, within};
use tokio::process::Command;

/// Who listens; the other one dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    Ours,
    Theirs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Ipc,
    Tcp,
}

/// Every way to meet.
pub(crate) const WAYS: [(Listener, Transport); 4] = [
    (Listener::Ours, Transport::Ipc),
    (Listener::Ours, Transport::Tcp),
    (Listener::Theirs, Transport::Ipc),
    (Listener::Theirs, Transport::Tcp),
];

/// The socket of a foreign peer, by its pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pair,
    Push,
    Pull,
    Req,
    Rep,
}

pub(crate) const KINDS: [Kind; 5] = [Kind::Pair, Kind::Push, Kind::Pull, Kind::Req, Kind::Rep];

/// The command line of a foreign peer with one socket.
pub(crate) trait Peer {
    /// `listen`: at `address`; else it dials there.
    fn command(&self, kind: Kind, listen: bool, address: &str) -> Command;
}

/// Where our sockets are the same.
pub(crate) trait Socket {
    async fn listen_at(&self, address: &str) -> Endpoint;
    fn dial_at(&self, address: &str) -> Endpoint;
}

macro_rules! sockets {
    ($($socket:ident),+) => {$(
        impl Socket for $socket {
            async fn listen_at(&self, address: &str) -> Endpoint {
                within("a listener", self.listen(address)).await.expect("a free address")
            }

            fn dial_at(&self, address: &str) -> Endpoint {
                self.dial_in_background(address).expect("a good address")
            }
        }
    )+};
}

sockets!(Pair, Push, Pull, Req, Rep);

/// Connects `ours` with a new foreign socket. `options` are the foreign program's own.
pub(crate) async fn meet(
    ours: &impl Socket,
    (listener, transport): (Listener, Transport),
    peer: &impl Peer,
    kind: Kind,
    options: &[&str],
) -> Foreign {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = match listener {
        Listener::Ours => {
            let address = match transport {
                Transport::Ipc => ipc(folder.path()),
                Transport::Tcp => "tcp://127.0.0.1:0".to_owned(),
            };
            let endpoint = ours.listen_at(&address).await;
            peer.command(kind, false, &endpoint.address)
        }
        Listener::Theirs => {
            let address = match transport {
                Transport::Ipc => ipc(folder.path()),
                // The programs cannot tell which port they got, so they can't be left to choose it.
                Transport::Tcp => format!("tcp://127.0.0.1:{}", testkit::free_port()),
            };
            ours.dial_at(&address);
            peer.command(kind, true, &address)
        }
    };
    command.args(options);
    Foreign {
        process: Process::spawn(command),
        _folder: folder,
    }
}

/// A foreign peer at work, with the folder of its socket file.
pub(crate) struct Foreign {
    pub(crate) process: Process,
    _folder: tempfile::TempDir,
}

pub(crate) fn ipc(folder: &Path) -> String {
    format!("ipc://{}", folder.join("s.ipc").display())
}
