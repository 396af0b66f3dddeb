//! Owns who may speak on a control or function channel. Their addresses are known to every local user, so a
//! peer has to be a process of the user that the host runs as. (Which process, is for a later contract with a
//! token.)

use sp_proto::{PipeId, Rep};

/// Remembers the peer that was let in last, which is nearly always the one that speaks next.
#[derive(Debug, Default)]
pub(super) struct Gate {
    admitted: Option<PipeId>,
}

impl Gate {
    /// Whether to listen to `pipe` of `socket`; a stranger is disconnected.
    pub(super) fn admits(&mut self, socket: &Rep, pipe: PipeId, plugin: &str) -> bool {
        if self.admitted == Some(pipe) {
            return true;
        }
        // A pipe that is gone has nothing to say any more.
        let Some(info) = socket.pipes().into_iter().find(|info| info.id == pipe) else {
            return false;
        };
        let host = rustix::process::geteuid().as_raw();
        match info.credentials {
            Some(peer) if peer.uid == host => {
                self.admitted = Some(pipe);
                true
            }
            peer => {
                tracing::warn!(
                    plugin,
                    "refused a connection of {}: user {:?}, process {:?}; only user {host} may connect",
                    info.peer_address,
                    peer.map(|peer| peer.uid),
                    peer.and_then(|peer| peer.pid),
                );
                socket.disconnect(pipe);
                false
            }
        }
    }
}
