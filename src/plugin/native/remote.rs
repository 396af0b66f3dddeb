//! Owns how a plugin on another machine is let in: where the host listens for it, and from where its data channels
//! may come. The token in its `hello` proves who it is; what comes before that is bounded by a time limit.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sp_proto::{Admission, SocketOptions, TlsIdentity, TlsOptions};

use crate::config::Portable;

/// How long the door is kept for a machine: longer than it takes to dial again.
const KEPT: Duration = Duration::from_secs(6);

/// The way in to a control socket, which takes one connection at a time: whoever waited while a stranger had the place
/// is let in before that one is again.
#[derive(Debug, Default)]
pub(super) struct Door {
    /// For which machine it is kept, and until when.
    kept: Mutex<Option<(String, Instant)>>,
}

impl Door {
    /// Keeps it for the machine of this peer for a while. False when it is kept for another one.
    pub(super) fn keep_for(&self, peer_address: &str, now: Instant) -> bool {
        let mut kept = super::lock(&self.kept);
        let Some(machine) = machine(peer_address) else {
            return false;
        };
        if kept
            .as_ref()
            .is_some_and(|(other, until)| other != machine && now < *until)
        {
            return false;
        }
        *kept = Some((machine.to_owned(), now + KEPT));
        true
    }

    /// It is kept for nobody.
    pub(super) fn open(&self) {
        *super::lock(&self.kept) = None;
    }

    fn admit(&self, peer_address: &str, now: Instant) -> Result<(), String> {
        match &*super::lock(&self.kept) {
            Some((kept, until)) if now < *until && machine(peer_address) != Some(kept) => Err(format!(
                "it comes from {peer_address}; expected {kept}, which waits for its turn"
            )),
            _ => Ok(()),
        }
    }
}

/// The options of the control socket on a remote address: whoever has the token may connect.
///
/// # Errors
/// The certificate or its key cannot be used.
pub(super) async fn options(settings: &Portable, door: &Arc<Door>) -> Result<SocketOptions, String> {
    let door = Arc::clone(door);
    Ok(SocketOptions {
        recv_max_size: settings.max_message,
        tls: tls(settings).await?,
        admission: Admission::new(move |peer| door.admit(&peer.peer_address, Instant::now())),
        ..Default::default()
    })
}

async fn tls(settings: &Portable) -> Result<TlsOptions, String> {
    if !settings.remote.starts_with("tls+tcp://") {
        return Ok(TlsOptions::default());
    }
    let chain = read("remoteCert", settings.remote_cert.as_deref()).await?;
    let key = read("remoteKey", settings.remote_key.as_deref()).await?;
    let identity = TlsIdentity::from_pem(&chain, &key)
        .map_err(|error| format!("portable.remoteCert and portable.remoteKey cannot be used: {error}"))?;
    Ok(TlsOptions {
        identity: Some(identity),
        ..TlsOptions::default()
    })
}

async fn read(setting: &str, path: Option<&Path>) -> Result<Vec<u8>, String> {
    let path = path.ok_or_else(|| format!("portable.{setting} is not set, which tls+tcp needs"))?;
    let read = tokio::fs::read(path).await;
    read.map_err(|error| {
        format!(
            "cannot read {}, which portable.{setting} names: {error}",
            path.display()
        )
    })
}

/// Admits the machine that `control`, the address of a peer, is on, and nobody else.
pub(super) fn same_machine(control: &str) -> Admission {
    let machine = machine(control).map(str::to_owned);
    Admission::new(move |peer| {
        if machine.is_some() && machine.as_deref() == self::machine(&peer.peer_address) {
            return Ok(());
        }
        let (found, expected) = (
            &peer.peer_address,
            machine.as_deref().unwrap_or("another machine"),
        );
        Err(format!(
            "it comes from {found}; expected {expected}, where its control connection comes from"
        ))
    })
}

/// Whether two peers are on one machine, as far as their addresses tell.
pub(super) fn is_same_machine(one: &str, other: &str) -> bool {
    machine(one).is_some() && machine(one) == machine(other)
}

/// The host part of `tcp://host:port`.
fn machine(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once("://")?;
    Some(rest.rsplit_once(':')?.0)
}

/// Any free port beside a listening address.
pub(super) fn beside(address: &str) -> Option<String> {
    Some(format!("{}:0", address.rsplit_once(':')?.0))
}

/// What the plugin dials to reach a listening address: the host is the one that it knows.
pub(super) fn star(address: &str) -> Option<String> {
    let (scheme, rest) = address.split_once("://")?;
    Some(format!("{scheme}://*:{}", rest.rsplit_once(':')?.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_is_kept_for_whoever_waits() {
        let (door, now) = (Door::default(), Instant::now());
        let (stranger, plugin) = ("tcp://10.0.0.9:4000", "tcp://10.0.0.5:4001");
        assert_eq!(door.admit(stranger, now), Ok(()));
        assert!(door.keep_for(plugin, now));
        assert!(!door.keep_for(stranger, now), "it is kept for another one");
        let refused = door.admit(stranger, now).unwrap_err();
        assert!(refused.contains("expected 10.0.0.5"), "{refused}");
        assert_eq!(door.admit("tcp://10.0.0.5:4002", now), Ok(()));
        assert_eq!(door.admit(stranger, now + KEPT), Ok(()));
        assert!(door.keep_for(stranger, now + KEPT));
        door.open();
        assert_eq!(door.admit(plugin, now + KEPT), Ok(()));
    }

    #[test]
    fn addresses_beside_the_control_channel() {
        assert_eq!(beside("tls+tcp://[::1]:7081").unwrap(), "tls+tcp://[::1]:0");
        assert_eq!(star("tcp://10.0.0.5:40113").unwrap(), "tcp://*:40113");
        assert_eq!(machine("tcp://[fe80::1]:4"), Some("[fe80::1]"));
        assert_eq!(machine("tcp"), None);
    }
}
