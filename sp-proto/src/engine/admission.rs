//! Admission: which peers a socket takes, as its user decides. Asked once per connection, before it is a pipe.

use crate::PipeInfo;
use std::fmt;
use std::sync::Arc;

/// A user's rule for peers.
type Rule = dyn Fn(&PipeInfo) -> Result<(), String> + Send + Sync;

/// Decides which peers a socket takes, by what is known of them before their first message. The default takes
/// everybody who speaks the right protocol.
///
/// ```
/// # #[cfg(feature = "ipc")] {
/// use sp_proto::{Admission, Pull, SocketOptions};
/// let only_this_process = Admission::new(|peer| match peer.credentials {
///     Some(found) if found.pid == Some(std::process::id()) => Ok(()),
///     found => Err(format!("only this process may connect, found {found:?}")),
/// });
/// let options = SocketOptions { admission: only_this_process, ..Default::default() };
/// let pull = Pull::with_options(options);
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Admission(Option<Arc<Rule>>);

impl Admission {
    /// Takes the peers for which `rule` is `Ok`, whether they dialed or were dialed. The error is the reason that
    /// [`Event::PeerRefused`](crate::Event::PeerRefused) or [`DialError`](crate::DialError) tell. `rule` is called
    /// by the tasks of the socket and by whoever dials, possibly by several at a time, and must not block for long.
    pub fn new(rule: impl Fn(&PipeInfo) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(rule)))
    }

    pub(crate) fn check(&self, peer: &PipeInfo) -> Result<(), String> {
        self.0.as_ref().map_or(Ok(()), |rule| rule(peer))
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            None => "Admission(everybody)",
            Some(_) => "Admission(by a rule)",
        })
    }
}
