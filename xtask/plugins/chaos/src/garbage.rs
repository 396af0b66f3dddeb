//! What a broken or hostile plugin may write to the host's sockets, to which its processes are admitted: noise
//! instead of the greeting, noise in messages, lengths that are lies, messages that are cut off.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mangrove_sdk::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// What the host listens for at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A requester: the control channel, functions.
    Requester,
    /// A pusher of tuples.
    Source,
    /// A pusher of acknowledgements.
    Acknowledgement,
}

/// How long the host may look at it.
const PATIENCE: Duration = Duration::from_millis(200);

static TARGETS: Mutex<BTreeSet<(String, Kind)>> = Mutex::new(BTreeSet::new());

/// Remembers the address of this use.
pub(crate) fn note_target(context: &Context, kind: Kind) {
    let end = match kind {
        Kind::Acknowledgement => "_ack",
        Kind::Requester | Kind::Source => "",
    };
    let path = format!(
        "/tmp/{}_{}_{}{end}.ipc",
        context.rule_id(),
        context.op_id(),
        context.instance()
    );
    let mut targets = TARGETS.lock().unwrap_or_else(PoisonError::into_inner);
    targets.insert((path, kind));
}

/// Writes garbage to every socket of the host that is known here.
pub(crate) async fn write(plugin: &str) {
    let mut targets = TARGETS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    targets.insert((format!("/tmp/plugin_{plugin}.ipc"), Kind::Requester));
    targets.insert((format!("/tmp/func_{plugin}_function.ipc"), Kind::Requester));
    for (path, kind) in targets {
        // The host may hang up in the middle of it, or not listen: both is right.
        if let Err(error) = litter(Path::new(&path), &garbage(kind)).await {
            eprintln!("garbage to {path}: {error}");
        }
    }
}

async fn litter(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(bytes).await?;
    let mut answer = [0; 256];
    let read = async { while stream.read(&mut answer).await.is_ok_and(|read| read > 0) {} };
    // Until the host hangs up, or for a while.
    let _kept = tokio::time::timeout(PATIENCE, read).await;
    Ok(())
}

fn garbage(kind: Kind) -> Vec<u8> {
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(fastrand::usize(1..4096))
        .collect();
    match fastrand::u8(..5) {
        0 => noise,
        1 => [greeting(kind), frame(noise.len() as u64, kind, &noise)].concat(),
        2 => [greeting(kind), frame(u64::MAX, kind, &noise)].concat(),
        3 => [greeting(kind), frame(1 << 20, kind, &noise)].concat(),
        // An empty tuple, or the acknowledgement of what nobody has taken.
        _ => [greeting(kind), frame(2, kind, b"{}")].concat(),
    }
}

fn greeting(kind: Kind) -> Vec<u8> {
    let protocol = match kind {
        Kind::Requester => 0x30,
        Kind::Source | Kind::Acknowledgement => 0x50,
    };
    vec![0, b'S', b'P', 0, 0, protocol, 0, 0]
}

/// A message over ipc that says to be `length` bytes long behind its request id.
fn frame(length: u64, kind: Kind, body: &[u8]) -> Vec<u8> {
    let id: &[u8] = match kind {
        Kind::Requester => &[0x80, 0, 0, 7],
        Kind::Source | Kind::Acknowledgement => &[],
    };
    let length = length.saturating_add(id.len() as u64);
    [&[1][..], &length.to_be_bytes(), id, body].concat()
}
