//! Owns the fixed address of a use in eKuiper's contract, on which is listened only once a process has to find it
//! there: the worker sees to that before it has such a process start the symbol. Uses that only processes of our own
//! contract have run never take it. It is kept from then on, for what is on its way when another process takes over.

use sp_proto::{ListenError, Pull, Rep};
use tokio::sync::Mutex;

use super::native::{Elsewhere, Native};

/// The end that listens.
#[derive(Debug)]
pub(super) enum Listener {
    Pull(Pull),
    Rep(Rep),
}

#[derive(Debug)]
pub(super) struct Doorstep {
    listener: Listener,
    address: String,
    /// Where the process listens, for the same use.
    opposite: Option<String>,
    /// Once somebody listens; with what remembers the sockets.
    open: Mutex<Option<Vec<Elsewhere>>>,
}

impl Doorstep {
    pub(super) fn new(listener: Listener, address: String) -> Self {
        Self {
            listener,
            address,
            opposite: None,
            open: Mutex::default(),
        }
    }

    /// The process that runs the use listens, too; it ends with the host.
    pub(super) fn opposite(self, address: String) -> Self {
        Self {
            opposite: Some(address),
            ..self
        }
    }

    /// Listens from now on.
    pub(super) async fn open(&self, native: &Native) -> Result<(), ListenError> {
        let mut open = self.open.lock().await;
        if open.is_some() {
            return Ok(());
        }
        let mut elsewhere = Vec::new();
        for address in self.opposite.iter().chain([&self.address]) {
            elsewhere.extend(native.note_elsewhere(address).await);
        }
        match &self.listener {
            Listener::Pull(pull) => pull.listen(&self.address).await?,
            Listener::Rep(rep) => rep.listen(&self.address).await?,
        };
        *open = Some(elsewhere);
        Ok(())
    }
}
