//! Owns the fixed address of a use in eKuiper's contract, on which is listened only once a process has to find it
//! there: the worker sees to that before it has such a process start the symbol. Uses that only processes of our own
//! contract have run never take it. It is kept from then on, for what is on its way when another process takes over.

use sp_proto::{ListenError, Pull, Rep};
use tokio::sync::Mutex;

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
    is_open: Mutex<bool>,
}

impl Doorstep {
    pub(super) fn new(listener: Listener, address: String) -> Self {
        Self {
            listener,
            address,
            is_open: Mutex::new(false),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Listens from now on.
    pub(super) async fn open(&self) -> Result<(), ListenError> {
        let mut is_open = self.is_open.lock().await;
        if !*is_open {
            match &self.listener {
                Listener::Pull(pull) => pull.listen(&self.address).await?,
                Listener::Rep(rep) => rep.listen(&self.address).await?,
            };
            *is_open = true;
        }
        Ok(())
    }
}
