//! Connections that end at any byte, with and without a reset, while one side sends and the other receives;
//! and connections that carry one byte at a time. Both ends are ours; what is between them is hostile.
#![allow(missing_docs)]

mod support;

use sp_proto::{Message, Pull, Push, SocketOptions};
use std::cell::Cell;
use std::time::Duration;
use support::{Transport, bounded};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// What becomes of the first connection through a proxy; the others are left alone.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// It ends after so many bytes in the direction of the messages.
    after: usize,
    /// With a reset, where the transport has that.
    reset: bool,
}

/// How many bytes a proxy carries at a time, if not one.
const AT_ONCE: usize = 4096;

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut left: usize,
    at_once: usize,
) {
    let mut buffer = vec![0; at_once];
    while left > 0 {
        let most = left.min(at_once);
        match from.read(&mut buffer[..most]).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                left -= read;
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        }
        if at_once == 1 {
            tokio::task::yield_now().await;
        }
    }
}

/// Something that carries what comes to `address` on to where the listener really is.
struct Proxy {
    door: Door,
    address: String,
    behind: String,
}

enum Door {
    Tcp(TcpListener),
    /// With what keeps the folder of its file.
    Ipc {
        door: UnixListener,
        _at: Transport,
    },
}

impl Proxy {
    async fn before(behind: &str) -> Self {
        if behind.starts_with("ipc://") {
            let at = Transport::ipc();
            let door = UnixListener::bind(at.address.strip_prefix("ipc://").unwrap()).unwrap();
            return Self {
                address: at.address.clone(),
                door: Door::Ipc { door, _at: at },
                behind: behind.to_owned(),
            };
        }
        let (scheme, rest) = behind.split_once("://").unwrap();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = host.split_once(':').unwrap().0;
        let port = door.local_addr().unwrap().port();
        Self {
            address: format!("{scheme}://{name}:{port}/{path}")
                .trim_end_matches('/')
                .to_owned(),
            behind: host.to_owned(),
            door: Door::Tcp(door),
        }
    }

    /// Serves one connection after the other. `up`: the dialer is the one that sends messages.
    async fn serve(&self, fate: Option<Fate>, at_once: usize, up: bool, served: &Cell<u32>) {
        loop {
            let fate = fate.filter(|_| served.get() == 0);
            let after = fate.map_or(usize::MAX, |fate| fate.after);
            let (most_up, most_down) = if up {
                (after, usize::MAX)
            } else {
                (usize::MAX, after)
            };
            let reset = fate.is_some_and(|fate| fate.reset);
            match &self.door {
                Door::Tcp(door) => {
                    let (mut near, _) = door.accept().await.unwrap();
                    let mut far = TcpStream::connect(&self.behind).await.unwrap();
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    {
                        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
                        tokio::select! {
                            () = carry(near_in, far_out, most_up, at_once) => {}
                            () = carry(far_in, near_out, most_down, at_once) => {}
                        }
                    }
                    if reset {
                        near.set_zero_linger().unwrap();
                        far.set_zero_linger().unwrap();
                    }
                }
                Door::Ipc { door, .. } => {
                    let (mut near, _) = door.accept().await.unwrap();
                    let path = self.behind.strip_prefix("ipc://").unwrap();
                    let mut far = UnixStream::connect(path).await.unwrap();
                    let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
                    tokio::select! {
                        () = carry(near_in, far_out, most_up, at_once) => {}
                        () = carry(far_in, near_out, most_down, at_once) => {}
                    }
                }
            }
            served.set(served.get() + 1);
        }
    }
}

fn body(number: u32) -> Message {
    number
        .to_be_bytes()
        .repeat(if number.is_multiple_of(3) { 1 } else { 20 })
        .into()
}

fn number(message: &[u8]) -> u32 {
    let number = u32::from_be_bytes(message[..4].try_into().unwrap());
    assert_eq!(message, &body(number)[..]);
    number
}

/// Messages flow through a proxy until some have come after its first connection ended.
async fn flow(transport: &Transport, fate: Option<Fate>, at_once: usize, up: bool) {
    let eager = SocketOptions {
        reconnect_min: Duration::from_millis(1),
        reconnect_max: Duration::from_millis(1),
        ..transport.options()
    };
    let (push, pull) = (Push::with_options(eager.clone()), Pull::with_options(eager));
    let address = &transport.address;
    let at = if up {
        pull.listen(address).await
    } else {
        push.listen(address).await
    };
    let proxy = Proxy::before(&at.unwrap().address).await;
    if up {
        push.dial_in_background(&proxy.address).unwrap();
    } else {
        pull.dial_in_background(&proxy.address).unwrap();
    }
    let served = Cell::new(0);
    let send = async {
        for number in 0.. {
            push.send(body(number)).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let receive = async {
        let (mut last, mut after) = (None, 0);
        while after < 5 {
            let number = number(&pull.recv().await.unwrap());
            assert!(last < Some(number), "{number} came after {last:?}");
            if fate.is_none() {
                assert_eq!(number, last.map_or(0, |last: u32| last + 1), "none is missing");
            }
            last = Some(number);
            if fate.is_none() || served.get() > 0 {
                after += 1;
            }
        }
    };
    tokio::select! {
        () = send => unreachable!(),
        () = proxy.serve(fate, at_once, up, &served) => unreachable!(),
        () = receive => {}
    }
    assert!(pull.stats().received.messages <= push.stats().sent.messages);
    assert_eq!(pull.stats().dropped, Default::default());
    assert_eq!(push.stats().dropped, Default::default());
    pull.close().await;
    push.close().await;
}

async fn cut_at_every_byte(transport: &Transport, bytes: usize, step: usize) {
    for up in [true, false] {
        for (at, after) in (1..bytes).step_by(step).enumerate() {
            let reset = at.is_multiple_of(2);
            bounded(flow(transport, Some(Fate { after, reset }), AT_ONCE, up)).await;
        }
        bounded(flow(transport, None, 1, up)).await;
    }
}

#[tokio::test]
async fn tcp() {
    cut_at_every_byte(&Transport::tcp(), 300, 1).await;
}

#[tokio::test]
async fn ipc() {
    cut_at_every_byte(&Transport::ipc(), 300, 1).await;
}

#[cfg(feature = "ws")]
#[tokio::test]
async fn ws() {
    cut_at_every_byte(&Transport::ws(), 600, 3).await;
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls() {
    cut_at_every_byte(&Transport::tls(), 2500, 37).await;
}

#[cfg(all(feature = "tls", feature = "ws"))]
#[tokio::test]
async fn wss() {
    cut_at_every_byte(&Transport::wss(), 3000, 37).await;
}
