//! Pipes within the process: messages are handed over as they are and not framed. One with a header of its
//! protocol was made one piece by then.

use crate::sync::mpsc;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Messages on their way between two ends; more wait in the sender's queue.
const IN_FLIGHT: usize = 16;

/// Dialers that wait to be accepted.
const BACKLOG: usize = 128;

static NAMES: Mutex<Option<HashMap<String, mpsc::Sender<Duplex>>>> = Mutex::new(None);

fn names<R>(f: impl FnOnce(&mut HashMap<String, mpsc::Sender<Duplex>>) -> R) -> R {
    f(NAMES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_default())
}

/// One end of a pipe.
#[derive(Debug)]
pub(crate) struct Duplex {
    pub(crate) sender: mpsc::Sender<Bytes>,
    pub(crate) receiver: mpsc::Receiver<Bytes>,
}

/// A name that is listened on; free again when dropped.
#[derive(Debug)]
pub(crate) struct InprocListener {
    name: String,
    accepted: mpsc::Receiver<Duplex>,
}

impl Drop for InprocListener {
    fn drop(&mut self) {
        names(|names| names.remove(&self.name));
    }
}

impl InprocListener {
    pub(crate) fn bind(name: &str) -> io::Result<Self> {
        let (sender, accepted) = mpsc::channel(BACKLOG);
        names(|names| {
            if names.contains_key(name) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            names.insert(name.to_owned(), sender);
            Ok(Self {
                name: name.to_owned(),
                accepted,
            })
        })
    }

    pub(crate) async fn accept(&mut self) -> io::Result<Duplex> {
        // The other end of the channel lives in the table of names for as long as this does.
        self.accepted
            .recv()
            .await
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

pub(crate) async fn connect(name: &str) -> io::Result<Duplex> {
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let listener = names(|names| names.get(name).cloned()).ok_or_else(refused)?;
    let (sender, their_receiver) = mpsc::channel(IN_FLIGHT);
    let (their_sender, receiver) = mpsc::channel(IN_FLIGHT);
    let theirs = Duplex {
        sender: their_sender,
        receiver: their_receiver,
    };
    listener.send(theirs).await.map_err(|_| refused())?;
    Ok(Duplex { sender, receiver })
}
