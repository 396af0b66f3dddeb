//! Ten thousand connections at a time, as far as the system lets a process hold them: good ones, silent ones,
//! strangers. A binary of its own, because it measures its process.
#![cfg(feature = "ipc")]
#![allow(missing_docs)]

mod support;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sp_proto::{Pull, Push};
use support::{Transport, bounded, descriptors, resident};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const CONNECTIONS: usize = 10_000;
const PUSH: [u8; 8] = [0, b'S', b'P', 0, 0, 0x50, 0, 0];

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Waits for what other tasks are about to do.
async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

/// How many connections this process can hold, both ends of each, with some descriptors to spare; as many as are wanted
/// where the system lets it.
fn most() -> usize {
    let used = descriptors() + 50;
    let wanted = (used + 2 * CONNECTIONS) as u64;
    let found = getrlimit(Resource::Nofile);
    if found.current.is_some_and(|current| current < wanted) {
        let enough = Rlimit {
            current: Some(wanted),
            maximum: found.maximum.map(|hard| hard.max(wanted)),
        };
        let most = Rlimit {
            current: found.maximum,
            maximum: found.maximum,
        };
        // Only root may go beyond the hard limit.
        setrlimit(Resource::Nofile, enough)
            .or_else(|_| setrlimit(Resource::Nofile, most))
            .unwrap();
    }
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(CONNECTIONS, |current| (current as usize - used) / 2)
}

async fn connect(address: &str) -> Box<dyn Stream> {
    match address.split_once("://").unwrap() {
        ("ipc", path) => loop {
            // A full backlog is told at once on a unix socket.
            match UnixStream::connect(path).await {
                Ok(stream) => return Box::new(stream),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
            }
            tokio::task::yield_now().await;
        },
        (_, host) => Box::new(TcpStream::connect(host).await.unwrap()),
    }
}

async fn crowd(transport: &Transport) {
    let pull = Pull::with_options(transport.options());
    let at = pull.listen(&transport.address).await.unwrap().address;
    let old = Push::with_options(transport.options());
    old.dial(&at).await.unwrap();
    until(|| pull.pipes().len() == 1).await;
    let (wave, open) = (most(), descriptors());
    // Captured, and shown when the test fails.
    println!("{wave} at a time");
    let (mut made, mut memory) = (0, None);
    while made < CONNECTIONS {
        let count = wave.min(CONNECTIONS - made);
        let mut streams = Vec::with_capacity(count);
        let mut good = 0;
        for number in 0..count {
            let mut stream = connect(&at).await;
            let words: &[u8] = match number % 4 {
                0 | 1 => {
                    good += 1;
                    &PUSH
                }
                2 => b"GET / HTTP/1.1\r\n\r\n",
                _ => b"",
            };
            // A stranger may be gone before it has said all.
            let _ = stream.write_all(words).await;
            streams.push(stream);
        }
        let new = Push::with_options(transport.options());
        new.dial(&at).await.unwrap();
        for push in [&new, &old] {
            push.send("good").await.unwrap();
            assert_eq!(&pull.recv().await.unwrap()[..], b"good");
        }
        until(|| pull.pipes().len() == good + 2).await;
        new.close().await;
        drop(streams);
        until(|| pull.pipes().len() == 1 && descriptors() <= open).await;
        made += count;
        let now = resident();
        let grown = now.saturating_sub(*memory.get_or_insert(now));
        assert!(grown < 16 << 20, "memory grew by {grown} bytes");
    }
    old.send("still here").await.unwrap();
    assert_eq!(&pull.recv().await.unwrap()[..], b"still here");
}

/// One test, because they share the descriptors.
#[tokio::test]
async fn ten_thousand_connections_keep_nobody_out_and_leave_nothing_behind() {
    for transport in [Transport::tcp(), Transport::ipc()] {
        bounded(crowd(&transport)).await;
    }
}
