//! The peers of a pattern that sends to all of them: pub, bus, surveyor. Best effort: a peer whose queue is
//! full misses the message, and nobody waits for it.

use crate::pattern::{Key, Pipes};
use bytes::Bytes;

#[derive(Debug, Default)]
pub(crate) struct Broadcast {
    peers: Vec<Key>,
}

impl Broadcast {
    pub(crate) fn attach(&mut self, key: Key) {
        self.peers.push(key);
    }

    pub(crate) fn detach(&mut self, key: Key) {
        self.peers.retain(|peer| *peer != key);
    }

    /// Queues the message for every peer with room, but for `except`. Gives one that has got it, if any.
    pub(crate) fn send(
        &self,
        pipes: &mut Pipes,
        header: &[u8],
        body: &Bytes,
        except: Option<Key>,
    ) -> Option<Key> {
        let mut last = None;
        for &peer in self.peers.iter().filter(|peer| Some(**peer) != except) {
            if pipes.has_room(peer) {
                pipes.push(peer, header, body.clone());
                last = Some(peer);
            } else {
                pipes.drops.slow_peer += 1;
            }
        }
        last
    }
}
