//! What a broken or hostile plugin may write to the host's sockets, to which its processes are admitted: noise
//! instead of the greeting, noise in messages, lengths that are lies, messages that are cut off, acknowledgements of
//! what nobody has taken. The sockets are those that this process is connected with, whichever contract it speaks. What
//! was written to is recorded, so that the soak sees that it was.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream as Connection;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// How long the host may look at it.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a dialer of the two contracts may say that it is: a pair, a requester, a pusher. No puller: a second one beside
/// a sink of its own would be given results, and the sink say of later ones that it has taken them all.
const PROTOCOLS: [u8; 3] = [0x10, 0x30, 0x50];

/// For so many uses of our own contract it is said that everything was taken: those of other plugins are among them.
const USES: u64 = 4096;

/// Over so many connections each acknowledgement of eKuiper's contract is forged.
const FORGED: usize = 4;

/// Writes garbage to every socket of the host that this process is connected with, each time over a new connection.
pub(crate) async fn write() {
    let mut writers = JoinSet::new();
    for (path, _) in connections() {
        for protocol in PROTOCOLS {
            let (path, bytes) = (path.clone(), garbage(protocol));
            writers.spawn(async move { litter("new", &path, &bytes).await });
        }
    }
    writers.join_all().await;
}

/// Writes garbage into the connections that are in use. Nothing else should be said over them after that.
pub(crate) fn spew() {
    for (path, mut connection) in connections() {
        let protocol = fastrand::choice(PROTOCOLS).unwrap_or_default();
        // What the host does not take at once need not be written.
        if connection
            .write(garbage(protocol).split_at(8).1)
            .is_ok_and(|written| written > 0)
        {
            note("live", &path);
        }
    }
}

/// Acknowledges what nobody has taken.
pub(crate) async fn lie() {
    let control = std::env::var("MANGROVE_CONTROL").unwrap_or_default();
    let control = Path::new(control.strip_prefix("ipc://").unwrap_or_default());
    for (path, connection) in connections_with_acknowledgements() {
        if path == control {
            let lies: Vec<u8> = (1..=USES).flat_map(acknowledgement).collect();
            write_all(connection, &lies).await;
            note("lie", &path);
        } else if is_for_acknowledgements(&path) {
            for _ in 0..FORGED {
                let lie = [greeting(0x50), frame(2, 0x50, b"{}")].concat();
                litter("lie", &path, &lie).await;
            }
        }
    }
}

/// Addresses and connections of this process with the host, but for acknowledgements: whoever forges these has lost what
/// they stand for.
fn connections() -> Vec<(PathBuf, Connection)> {
    let mut all = connections_with_acknowledgements();
    all.retain(|(path, _)| !is_for_acknowledgements(path));
    all
}

fn is_for_acknowledgements(path: &Path) -> bool {
    path.to_string_lossy().ends_with("_ack.ipc")
}

/// All that this process has dialed. The SDK keeps its connections to itself, but a process may look at its own.
fn connections_with_acknowledgements() -> Vec<(PathBuf, Connection)> {
    let found = || -> io::Result<Vec<_>> {
        let this = pidfd_open(getpid(), PidfdFlags::empty())?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let number = entry?.file_name().to_string_lossy().parse();
            let Ok(number) = number else { continue };
            let descriptor = match pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) {
                Ok(descriptor) => descriptor,
                Err(error @ (Errno::PERM | Errno::NOSYS)) => {
                    // As some containers do: to this process, of all of them.
                    note("refused", Path::new("pidfd_getfd"));
                    return Err(error.into());
                }
                // It is closed meanwhile.
                Err(_) => continue,
            };
            let connection = Connection::from(descriptor);
            let peer = connection.peer_addr();
            if let Some(path) = peer.ok().as_ref().and_then(|peer| peer.as_pathname()) {
                found.push((path.to_owned(), connection));
            }
        }
        Ok(found)
    };
    found().unwrap_or_else(|error| {
        eprintln!("cannot look for connections: {error}");
        Vec::new()
    })
}

async fn write_all(mut connection: Connection, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match connection.write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(_) => return,
        }
    }
}

/// The host may hang up in the middle of it, or not listen any more: both is right.
async fn litter(how: &str, path: &Path, bytes: &[u8]) {
    let Ok(mut stream) = UnixStream::connect(path).await else {
        return;
    };
    if stream.write_all(bytes).await.is_ok() {
        note(how, path);
    }
    let mut answer = [0; 256];
    let read = async { while stream.read(&mut answer).await.is_ok_and(|read| read > 0) {} };
    // Until the host hangs up, or for a while.
    let _kept = tokio::time::timeout(PATIENCE, read).await;
}

/// Records that this was written to.
fn note(how: &str, path: &Path) {
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(crate::folder().join("garbage"));
    let line = format!("{how} {}\n", path.display());
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("cannot record garbage: {error}");
    }
}

fn garbage(protocol: u8) -> Vec<u8> {
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(fastrand::usize(8..4096))
        .collect();
    match fastrand::u8(..5) {
        0 => noise,
        1 => [greeting(protocol), frame(noise.len() as u64, protocol, &noise)].concat(),
        2 => [greeting(protocol), frame(u64::MAX, protocol, &noise)].concat(),
        3 => [greeting(protocol), frame(1 << 20, protocol, &noise)].concat(),
        // An empty tuple, or a message that says nothing.
        _ => [greeting(protocol), frame(2, protocol, b"{}")].concat(),
    }
}

fn greeting(protocol: u8) -> Vec<u8> {
    vec![0, b'S', b'P', 0, 0, protocol, 0, 0]
}

/// A message over ipc that says to be `length` bytes long behind its request id.
fn frame(length: u64, protocol: u8, body: &[u8]) -> Vec<u8> {
    let id: &[u8] = match protocol {
        0x30 => &[0x80, 0, 0, 7],
        _ => &[],
    };
    let length = length.saturating_add(id.len() as u64);
    [&[1][..], &length.to_be_bytes(), id, body].concat()
}

/// A message of our own contract that says that this use has taken everything.
fn acknowledgement(number: u64) -> Vec<u8> {
    let text = format!(r#"{{"type":"ack","use":{number},"seq":9007199254740991}}"#);
    frame(text.len() as u64, 0x10, text.as_bytes())
}
