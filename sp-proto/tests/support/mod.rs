//! What the tests of this crate share: addresses that nobody else uses, and the bound on every wait.
#![allow(dead_code, reason = "every test binary uses its own part")]

#[cfg(feature = "tls")]
pub(crate) mod tls;

use sp_proto::{Event, Events, SocketOptions};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A free address of one transport.
pub(crate) struct Transport {
    pub(crate) address: String,
    _folder: Option<TempDir>,
    #[cfg(feature = "tls")]
    tls: Option<sp_proto::TlsOptions>,
}

impl Transport {
    fn at(address: String) -> Self {
        Self {
            address,
            _folder: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    pub(crate) fn ipc() -> Self {
        let folder = tempfile::Builder::new().prefix("sp").tempdir().unwrap();
        let address = format!("ipc://{}", folder.path().join("s.ipc").display());
        Self {
            _folder: Some(folder),
            ..Self::at(address)
        }
    }

    pub(crate) fn abstract_name() -> Self {
        Self::at(format!("abstract://sp-test-{}-{}", std::process::id(), number()))
    }

    pub(crate) fn tcp() -> Self {
        Self::at("tcp://127.0.0.1:0".to_owned())
    }

    pub(crate) fn inproc() -> Self {
        Self::at(format!("inproc://test-{}", number()))
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls() -> Self {
        Self {
            tls: Some(tls::Certificates::new().options()),
            ..Self::at("tls+tcp://localhost:0".to_owned())
        }
    }

    #[cfg(feature = "ws")]
    pub(crate) fn ws() -> Self {
        Self::at("ws://127.0.0.1:0/a/path".to_owned())
    }

    #[cfg(all(feature = "ws", feature = "tls"))]
    pub(crate) fn wss() -> Self {
        Self {
            tls: Some(tls::Certificates::new().options()),
            ..Self::at("wss://localhost:0".to_owned())
        }
    }

    /// What a socket at either end needs to know.
    pub(crate) fn options(&self) -> SocketOptions {
        SocketOptions {
            #[cfg(feature = "tls")]
            tls: self.tls.clone().unwrap_or_default(),
            ..Default::default()
        }
    }
}

/// A new one with each call.
fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Turns a hang into a failure.
pub(crate) async fn bounded<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), test)
        .await
        .expect("the test hangs")
}

/// The next event that `select` takes; others are passed over.
pub(crate) async fn event<T>(events: &mut Events, mut select: impl FnMut(Event) -> Option<T>) -> T {
    loop {
        if let Some(selected) = select(events.recv().await.expect("the socket was closed")) {
            return selected;
        }
    }
}

pub(crate) async fn pipe_added(events: &mut Events) -> sp_proto::PipeInfo {
    event(events, |event| match event {
        Event::PipeAdded(info) => Some(info),
        _ => None,
    })
    .await
}

pub(crate) async fn pipe_removed(events: &mut Events) -> String {
    event(events, |event| match event {
        Event::PipeRemoved { reason, .. } => Some(reason),
        _ => None,
    })
    .await
}

pub(crate) async fn peer_refused(events: &mut Events) -> String {
    event(events, |event| match event {
        Event::PeerRefused { reason, .. } => Some(reason),
        _ => None,
    })
    .await
}

/// The resident memory of this process, in bytes.
pub(crate) fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// How many descriptors this process has open.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
