//! Who may connect to an ipc socket. A binary of its own with one test, because the umask is the process's.
#![cfg(feature = "ipc")]
#![allow(missing_docs)]

mod support;

use rustix::fs::Mode;
use sp_proto::{EndpointOptions, Listener, ListenerOptions, Protocol, Pull, SocketOptions};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::{Transport, bounded};

fn path(at: &Transport) -> &Path {
    Path::new(at.address.strip_prefix("ipc://").unwrap())
}

fn mode(path: &Path) -> Option<u32> {
    Some(path.symlink_metadata().ok()?.permissions().mode() & 0o777)
}

fn open_to(ipc_mode: u32) -> SocketOptions {
    SocketOptions {
        ipc_mode,
        ..Default::default()
    }
}

#[tokio::test]
async fn the_option_says_who_may_connect_and_the_umask_says_nothing() {
    bounded(async {
        for umask in [0, 0o022, 0o077, 0o177] {
            rustix::process::umask(Mode::from_raw_mode(umask));
            let at = Transport::ipc();
            let pull = Pull::new();
            pull.listen(&at.address).await.unwrap();
            assert_eq!(mode(path(&at)), Some(0o600), "the default, umask {umask:o}");

            let at = Transport::ipc();
            let pull = Pull::with_options(open_to(0o666));
            pull.listen(&at.address).await.unwrap();
            assert_eq!(mode(path(&at)), Some(0o666), "a socket's option, umask {umask:o}");

            let at = Transport::ipc();
            let strict = EndpointOptions {
                ipc_mode: Some(0o620),
                ..Default::default()
            };
            pull.listen_with(&at.address, strict).await.unwrap();
            assert_eq!(
                mode(path(&at)),
                Some(0o620),
                "an endpoint's option, umask {umask:o}"
            );

            let (default, opened) = (Transport::ipc(), Transport::ipc());
            let welcome = [Protocol::Push];
            let _default = Listener::bind(&default.address, &welcome, ListenerOptions::default())
                .await
                .unwrap();
            let options = ListenerOptions {
                // What is no permission is ignored.
                ipc_mode: 0o7660,
                ..Default::default()
            };
            let _opened = Listener::bind(&opened.address, &welcome, options).await.unwrap();
            assert_eq!(mode(path(&default)), Some(0o600), "a listener's default");
            assert_eq!(mode(path(&opened)), Some(0o660), "a listener's option");
        }

        // And on Linux there is no moment at which it is open to more.
        rustix::process::umask(Mode::empty());
        let (at, pull) = (Transport::ipc(), Pull::new());
        let over = Arc::new(AtomicBool::new(false));
        let watch = std::thread::spawn({
            let (over, path) = (Arc::clone(&over), path(&at).to_owned());
            move || {
                let mut found = BTreeSet::new();
                while !over.load(Ordering::Relaxed) {
                    found.extend(mode(&path));
                }
                found
            }
        });
        for _ in 0..500 {
            let endpoint = pull.listen(&at.address).await.unwrap();
            pull.close_endpoint(endpoint.id).await;
        }
        over.store(true, Ordering::Relaxed);
        let found = watch.join().unwrap();
        assert!(!found.is_empty());
        // Elsewhere the permissions are set after the file is made, before anybody can connect.
        #[cfg(target_os = "linux")]
        assert!(found.iter().all(|&mode| mode == 0o600), "{found:?}");
    })
    .await;
}
