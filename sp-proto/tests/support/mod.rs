//! What the tests of this crate share: addresses that nobody else uses, and the bound on every wait.
#![allow(dead_code, reason = "every test binary uses its own part")]

use sp_proto::{Event, Events};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A free address of one transport.
pub(crate) struct Transport {
    pub(crate) address: String,
    _folder: Option<TempDir>,
}

impl Transport {
    pub(crate) fn ipc() -> Self {
        let folder = tempfile::Builder::new().prefix("sp").tempdir().unwrap();
        let address = format!("ipc://{}", folder.path().join("s.ipc").display());
        Self {
            address,
            _folder: Some(folder),
        }
    }

    pub(crate) fn tcp() -> Self {
        Self {
            address: "tcp://127.0.0.1:0".to_owned(),
            _folder: None,
        }
    }

    pub(crate) fn inproc() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let address = format!("inproc://test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            address,
            _folder: None,
        }
    }
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
