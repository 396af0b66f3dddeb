//! The files of ipc sockets, and who is at the other end.
#![allow(missing_docs)]

mod support;

use sp_proto::{Admission, DialError, Event, ListenError, Pair, PipeInfo, Pull, Push, SocketOptions};
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Duration;
use support::{Transport, bounded, event, peer_refused, pipe_added};

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
        drop(StdListener::bind(path(&at)).unwrap());
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
async fn what_came_before_the_peer_closed_is_received_though_our_own_message_finds_nobody() {
    bounded(async {
        let at = Transport::ipc();
        let pair = Pair::new();
        let mut events = pair.events();
        pair.listen(&at.address).await.unwrap();
        let mut peer = UnixStream::connect(path(&at)).unwrap();
        peer.write_all(b"\0SP\0\0\x10\0\0").unwrap();
        let added = pipe_added(&mut events).await;
        peer.read_exact(&mut [0; 8]).unwrap();
        // The pipe's task has no turn between these, so it meets our message before what it could read.
        peer.write_all(b"\x01\0\0\0\0\0\0\0\x03bye").unwrap();
        drop(peer);
        pair.try_send("too late").unwrap();
        let removed = event(&mut events, |event| match event {
            Event::PipeRemoved { pipe, is_orderly, .. } => Some((pipe, is_orderly)),
            _ => None,
        });
        let (pipe, is_orderly) = removed.await;
        assert!(is_orderly);
        assert_eq!(pair.try_recv().unwrap().unwrap().as_bytes(), b"bye");
        let told = |pipe: PipeInfo| (pipe.id, pipe.peer, pipe.peer_address, pipe.credentials);
        assert_eq!(
            pipe.credentials.and_then(|peer| peer.pid),
            Some(std::process::id())
        );
        assert_eq!(told(pipe), told(added));
    })
    .await;
}

#[tokio::test]
async fn all_that_came_before_the_peer_closed_is_received_though_it_is_more_than_the_queue_holds() {
    const COUNT: usize = 3000;
    bounded(async {
        let at = Transport::ipc();
        let pair = Pair::new();
        let mut events = pair.events();
        pair.listen(&at.address).await.unwrap();
        let mut peer = UnixStream::connect(path(&at)).unwrap();
        peer.write_all(b"\0SP\0\0\x10\0\0").unwrap();
        pipe_added(&mut events).await;
        peer.read_exact(&mut [0; 8]).unwrap();
        // More than one read takes, and less than the system holds.
        let message = [&b"\x01\0\0\0\0\0\0\0\x20"[..], &[b'x'; 32]].concat();
        peer.write_all(&message.repeat(COUNT)).unwrap();
        drop(peer);
        pair.try_send("too late").unwrap();
        let mut received = 0;
        let is_orderly = loop {
            tokio::select! {
                message = pair.recv() => {
                    assert_eq!(message.unwrap().as_bytes(), [b'x'; 32]);
                    received += 1;
                }
                is_orderly = event(&mut events, |event| match event {
                    Event::PipeRemoved { is_orderly, .. } => Some(is_orderly),
                    _ => None,
                }) => break is_orderly,
            }
        };
        while pair.try_recv().unwrap().is_some() {
            received += 1;
        }
        assert_eq!(received, COUNT);
        assert!(is_orderly);
    })
    .await;
}

#[tokio::test]
async fn a_broken_pipe_with_a_full_queue_ends_with_its_socket() {
    bounded(async {
        let at = Transport::ipc();
        let pair = Pair::with_options(SocketOptions {
            recv_queue: 1,
            linger: Duration::from_secs(3600),
            ..Default::default()
        });
        let mut events = pair.events();
        pair.listen(&at.address).await.unwrap();
        let mut peer = UnixStream::connect(path(&at)).unwrap();
        peer.write_all(b"\0SP\0\0\x10\0\0").unwrap();
        pipe_added(&mut events).await;
        peer.write_all(b"\x01\0\0\0\0\0\0\0\x03bye").unwrap();
        while pair.stats().received.messages == 0 {
            tokio::task::yield_now().await;
        }
        drop(peer);
        pair.try_send("too late").unwrap();
        tokio::task::yield_now().await;
        pair.close().await;
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

/// Each starter is a thread with a runtime of its own, as if it were a process: they share nothing but the file.
#[test]
fn of_several_starters_one_replaces_a_dead_file_and_keeps_its_own() {
    const STARTERS: usize = 4;
    let at = Transport::ipc();
    let barrier = Barrier::new(STARTERS);
    // A starter that fails alone would leave the others at the barrier, so all is judged in the end.
    let start = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut rounds = Vec::new();
        for _ in 0..300 {
            if barrier.wait().is_leader() {
                drop(StdListener::bind(path(&at)));
            }
            barrier.wait();
            let pull = Pull::new();
            let listening = runtime.block_on(pull.listen(&at.address));
            barrier.wait();
            let found = UnixStream::connect(path(&at)).is_ok();
            barrier.wait();
            runtime.block_on(pull.close());
            rounds.push((listening, found));
        }
        rounds
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let starters: Vec<_> = (0..STARTERS).map(|_| scope.spawn(start)).collect();
        starters
            .into_iter()
            .map(|starter| starter.join().unwrap())
            .collect()
    });
    for round in 0..300 {
        let of_all = || results.iter().map(|rounds| &rounds[round]);
        let listening = of_all().filter(|(listening, _)| listening.is_ok()).count();
        assert_eq!(listening, 1, "{:?}", of_all().collect::<Vec<_>>());
        for (listening, found) in of_all() {
            assert!(found, "round {round}: the file of the one that listens is gone");
            assert!(
                matches!(listening, Ok(_) | Err(ListenError::InUse { .. })),
                "{listening:?}"
            );
        }
    }
    assert!(!path(&at).exists());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_replaced_while_another_process_makes_its_file() {
    bounded(async {
        let at = Transport::ipc();
        let here = path(&at).parent().unwrap().to_owned();
        std::fs::set_permissions(&here, Permissions::from_mode(0o711)).unwrap();
        drop(StdListener::bind(path(&at)).unwrap());
        let folder = std::fs::File::open(&here).unwrap();
        folder.lock().unwrap();
        let pull = Pull::new();
        let other = path(&at).with_extension("other");
        // Nor is a file made that whoever has the lock could take for a dead one.
        for address in [at.address.clone(), format!("ipc://{}", other.display())] {
            let listening = pull.listen(&address).await;
            assert!(
                matches!(&listening, Err(ListenError::Io { source, .. }) if source.to_string().contains("locked for 1s")),
                "{listening:?}"
            );
        }
        assert!(!other.exists());
        drop(folder);
        pull.listen(&at.address).await.unwrap();
        pull.close().await;
        let left = here.read_dir().unwrap().count();
        assert_eq!(left, 0, "nothing is left behind");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_a_stranger_can_take_keeps_nobody_from_an_address() {
    bounded(async {
        let at = Transport::ipc();
        let here = path(&at).parent().unwrap().to_owned();
        std::fs::set_permissions(&here, Permissions::from_mode(0o755)).unwrap();
        drop(StdListener::bind(path(&at)).unwrap());
        let folder = std::fs::File::open(&here).unwrap();
        folder.lock().unwrap();
        let pull = Pull::new();
        pull.listen(&at.address).await.unwrap();
        let push = Push::new();
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
