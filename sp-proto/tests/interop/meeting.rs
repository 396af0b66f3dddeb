//! How one of our sockets and a foreign one get together: who listens, who dials, and where.

use std::path::Path;

use sp_proto::{
    Bus, Endpoint, Event, Events, Message, Pair, Pair1, Pub, Pull, Push, Raw, Rep, Req, Respondent, Sub,
    Surveyor,
};
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
    #[cfg(feature = "ws")]
    Ws,
    /// A Unix socket without a file.
    #[cfg(target_os = "linux")]
    Abstract,
    #[cfg(feature = "tls")]
    Tls,
    #[cfg(all(feature = "tls", feature = "ws"))]
    Wss,
}

impl Transport {
    /// Where to listen: for ourselves any port will do, others must be told.
    pub(crate) fn address(self, folder: &Path, listener: Listener) -> String {
        // The programs cannot tell which port they got, so they can't be left to choose it.
        let port = || match listener {
            Listener::Ours => 0,
            Listener::Theirs => testkit::free_port(),
        };
        match self {
            Self::Ipc => ipc(folder),
            Self::Tcp => format!("tcp://127.0.0.1:{}", port()),
            // Nobody else has this folder.
            #[cfg(target_os = "linux")]
            Self::Abstract => format!("abstract://{}", folder.display()),
            #[cfg(feature = "tls")]
            Self::Tls => format!("tls+tcp://localhost:{}", port()),
            #[cfg(all(feature = "tls", feature = "ws"))]
            Self::Wss => format!("wss://localhost:{}/sp", port()),
            #[cfg(feature = "ws")]
            Self::Ws if listener == Listener::Ours => "ws://127.0.0.1:0/sp".to_owned(),
            // nanomsg knows no path when it listens.
            #[cfg(feature = "ws")]
            Self::Ws => format!("ws://127.0.0.1:{}", port()),
        }
    }
}

/// Every way that all of them know.
pub(crate) const WAYS: [(Listener, Transport); if cfg!(feature = "ws") { 6 } else { 4 }] = [
    (Listener::Ours, Transport::Ipc),
    (Listener::Ours, Transport::Tcp),
    (Listener::Theirs, Transport::Ipc),
    (Listener::Theirs, Transport::Tcp),
    #[cfg(feature = "ws")]
    (Listener::Ours, Transport::Ws),
    #[cfg(feature = "ws")]
    (Listener::Theirs, Transport::Ws),
];

/// With TLS, for peers that are given the certificates.
pub(crate) const SECURE_WAYS: &[(Listener, Transport)] = &[
    #[cfg(feature = "tls")]
    (Listener::Ours, Transport::Tls),
    #[cfg(feature = "tls")]
    (Listener::Theirs, Transport::Tls),
    #[cfg(all(feature = "tls", feature = "ws"))]
    (Listener::Ours, Transport::Wss),
    #[cfg(all(feature = "tls", feature = "ws"))]
    (Listener::Theirs, Transport::Wss),
];

/// Names without files, which nanomsg does not know.
pub(crate) const ABSTRACT_WAYS: &[(Listener, Transport)] = &[
    #[cfg(target_os = "linux")]
    (Listener::Ours, Transport::Abstract),
    #[cfg(target_os = "linux")]
    (Listener::Theirs, Transport::Abstract),
];

/// The certificates of this run, and the folder where peers find them: `authority.pem`, and `both.pem` with a
/// certificate and its key.
#[cfg(feature = "tls")]
pub(crate) fn certificates() -> &'static (sp_proto::TlsOptions, tempfile::TempDir) {
    static CERTIFICATES: std::sync::LazyLock<(sp_proto::TlsOptions, tempfile::TempDir)> =
        std::sync::LazyLock::new(|| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let made = crate::tls::Certificates::new();
            let both = format!("{}{}", made.certificate, made.key);
            for (name, text) in [("authority.pem", &made.authority), ("both.pem", &both)] {
                std::fs::write(folder.path().join(name), text).expect("a written file");
            }
            (made.options(), folder)
        });
    &CERTIFICATES
}

/// The socket of a foreign peer, by its pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pair,
    Push,
    Pull,
    Req,
    Rep,
    Pair1,
    Pub,
    Sub,
    Surveyor,
    Respondent,
    Bus,
}

pub(crate) const KINDS: [Kind; 11] = [
    Kind::Pair,
    Kind::Push,
    Kind::Pull,
    Kind::Req,
    Kind::Rep,
    Kind::Pair1,
    Kind::Pub,
    Kind::Sub,
    Kind::Surveyor,
    Kind::Respondent,
    Kind::Bus,
];

/// The command line of a foreign peer with one socket.
pub(crate) trait Peer {
    /// `listen`: at `address`; else it dials there.
    fn command(&self, kind: Kind, listen: bool, address: &str) -> Command;

    /// Lets it use the certificates in this folder.
    #[cfg(feature = "tls")]
    fn secure(&self, command: &mut Command, _listen: bool, folder: &Path) {
        command.env("SP_TLS", folder);
    }
}

/// Where our sockets are the same.
pub(crate) trait Socket {
    async fn listen_at(&self, address: &str) -> Endpoint;
    fn dial_at(&self, address: &str) -> Endpoint;
    fn happenings(&self) -> Events;
}

/// Sends and receives plain messages.
pub(crate) trait Duplex: Socket {
    async fn give(&self, message: Message);
    async fn take(&self) -> Message;
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

            fn happenings(&self) -> Events {
                self.events()
            }
        }
    )+};
}

sockets!(
    Pair, Push, Pull, Req, Rep, Pair1, Pub, Sub, Surveyor, Respondent, Bus, Raw
);

macro_rules! duplex {
    ($($socket:ident),+) => {$(
        impl Duplex for $socket {
            async fn give(&self, message: Message) {
                self.send(message).await.expect("an open socket");
            }

            async fn take(&self) -> Message {
                self.recv().await.expect("an open socket")
            }
        }
    )+};
}

duplex!(Pair, Pair1, Bus);

/// The same as [`meet`], and waits until the connection is made, for those who do not wait when they send.
pub(crate) async fn meet_connected(
    ours: &impl Socket,
    way: (Listener, Transport),
    peer: &impl Peer,
    kind: Kind,
    options: &[&str],
) -> Foreign {
    let mut events = ours.happenings();
    let mut foreign = meet(ours, way, peer, kind, options).await;
    let connected =
        async { while !matches!(events.recv().await.expect("an open socket"), Event::PipeAdded(_)) {} };
    foreign.process.during("a connection", connected).await;
    foreign
}

/// Connects `ours` with a new foreign socket. `options` are the foreign program's own.
pub(crate) async fn meet(
    ours: &impl Socket,
    (listener, transport): (Listener, Transport),
    peer: &impl Peer,
    kind: Kind,
    options: &[&str],
) -> Foreign {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let address = transport.address(folder.path(), listener);
    let mut command = match listener {
        Listener::Ours => {
            let endpoint = ours.listen_at(&address).await;
            peer.command(kind, false, &endpoint.address)
        }
        Listener::Theirs => {
            ours.dial_at(&address);
            peer.command(kind, true, &address)
        }
    };
    #[cfg(feature = "tls")]
    if SECURE_WAYS.contains(&(listener, transport)) {
        peer.secure(
            &mut command,
            listener == Listener::Theirs,
            certificates().1.path(),
        );
    }
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
