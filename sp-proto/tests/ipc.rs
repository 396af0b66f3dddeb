//! The files of ipc sockets, and who is at the other end.
#![allow(missing_docs)]

mod support;

use sp_proto::{Admission, DialError, ListenError, PipeInfo, Pull, Push, SocketOptions};
use std::path::PathBuf;
use support::{Transport, bounded, peer_refused, pipe_added};

fn path(transport: &Transport) -> PathBuf {
    transport.address.strip_prefix("ipc://").unwrap().into()
}

#[tokio::test]
async fn the_file_goes_with_its_socket() {
    bounded(async {
        let at = Transport::ipc();
        let pull = Pull::new();
        let endpoint = pull.listen(&at.address).await.unwrap();
        assert!(path(&at).exists());
        pull.close_endpoint(endpoint.id).await;
        assert!(!path(&at).exists());
        pull.listen(&at.address).await.unwrap();
        pull.close().await;
        assert!(!path(&at).exists());
        let pull = Pull::new();
        pull.listen(&at.address).await.unwrap();
        let clone = pull.clone();
        drop(pull);
        assert!(path(&at).exists(), "a handle is left");
        drop(clone);
        assert!(!path(&at).exists());
    })
    .await;
}

#[tokio::test]
async fn a_file_that_a_dead_process_left_is_replaced() {
    bounded(async {
        let at = Transport::ipc();
        drop(std::os::unix::net::UnixListener::bind(path(&at)).unwrap());
        assert!(path(&at).exists());
        let (pull, push) = (Pull::new(), Push::new());
        pull.listen(&at.address).await.unwrap();
        push.dial(&at.address).await.unwrap();
        push.send("x").await.unwrap();
        assert_eq!(&pull.recv().await.unwrap()[..], b"x");
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    bounded(async {
        let at = Transport::ipc();
        std::fs::write(path(&at), "precious").unwrap();
        let error = Pull::new().listen(&at.address).await.unwrap_err();
        assert!(matches!(error, ListenError::Io { .. }), "{error:?}");
        assert_eq!(std::fs::read_to_string(path(&at)).unwrap(), "precious");
    })
    .await;
}

#[tokio::test]
async fn a_live_socket_keeps_its_file() {
    bounded(async {
        let at = Transport::ipc();
        let (pull, push) = (Pull::new(), Push::new());
        pull.listen(&at.address).await.unwrap();
        assert!(matches!(
            Pull::new().listen(&at.address).await,
            Err(ListenError::InUse { .. })
        ));
        push.dial(&at.address).await.unwrap();
        push.send("x").await.unwrap();
        assert_eq!(&pull.recv().await.unwrap()[..], b"x");
    })
    .await;
}

#[tokio::test]
async fn a_successor_keeps_its_file_when_the_predecessor_closes() {
    bounded(async {
        let at = Transport::ipc();
        let (old, new) = (Pull::new(), Pull::new());
        old.listen(&at.address).await.unwrap();
        std::fs::remove_file(path(&at)).unwrap();
        new.listen(&at.address).await.unwrap();
        old.close().await;
        assert!(path(&at).exists());
    })
    .await;
}

#[tokio::test]
async fn the_peer_is_who_the_kernel_says() {
    bounded(async {
        let at = Transport::ipc();
        let (pull, push) = (Pull::new(), Push::new());
        let mut events = pull.events();
        pull.listen(&at.address).await.unwrap();
        push.dial(&at.address).await.unwrap();
        let credentials = pipe_added(&mut events).await.credentials.unwrap();
        assert_eq!(credentials.pid, Some(std::process::id()));
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_system_chooses_an_abstract_name() {
    bounded(async {
        let (first, second) = (Pull::new(), Pull::new());
        let mut events = first.events();
        let first_at = first.listen("abstract://").await.unwrap().address;
        let second_at = second.listen("abstract://").await.unwrap().address;
        assert!(first_at.len() > "abstract://".len(), "{first_at}");
        assert_ne!(first_at, second_at);
        let push = Push::new();
        push.dial(&first_at).await.unwrap();
        push.send("x").await.unwrap();
        assert_eq!(&first.recv().await.unwrap()[..], b"x");
        let credentials = pipe_added(&mut events).await.credentials.unwrap();
        assert_eq!(credentials.pid, Some(std::process::id()));
        assert!(Push::new().dial("abstract://nobody-has-this-name").await.is_err());
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_abstract_name_is_any_bytes() {
    bounded(async {
        let address = format!("abstract://{}%00%FF%2F x", std::process::id());
        let (pull, push) = (Pull::new(), Push::new());
        let at = pull.listen(&address).await.unwrap();
        assert!(at.address.ends_with("%00%FF/%20x"), "{}", at.address);
        push.dial(&at.address).await.unwrap();
        push.send("x").await.unwrap();
        assert_eq!(&pull.recv().await.unwrap()[..], b"x");
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_is_not_admitted_never_becomes_a_pipe() {
    bounded(async {
        let at = Transport::ipc();
        let nobody = |peer: &PipeInfo| {
            let pid = peer.credentials.and_then(|found| found.pid);
            Err(format!("process {} is a stranger", pid.unwrap_or_default()))
        };
        let reason = format!("process {} is a stranger", std::process::id());
        let careful = || SocketOptions {
            admission: Admission::new(nobody),
            ..Default::default()
        };
        let pull = Pull::with_options(careful());
        let mut events = pull.events();
        let endpoint = pull.listen(&at.address).await.unwrap();
        let push = Push::new();
        push.dial(&at.address).await.unwrap();
        assert_eq!(peer_refused(&mut events).await, reason);
        assert!(pull.pipes().is_empty());
        pull.close_endpoint(endpoint.id).await;

        let pull = Pull::new();
        pull.listen(&at.address).await.unwrap();
        let error = Push::with_options(careful()).dial(&at.address).await.unwrap_err();
        assert!(
            matches!(&error, DialError::NotAdmitted { reason: found, .. } if *found == reason),
            "{error:?}"
        );
    })
    .await;
}
