//! The handshake: from a raw connection to one whose peer is known.

use crate::transport::{Credentials, Link, OpenError, Opening};
use crate::wire::{GreetingError, decode_greeting, encode_greeting};
use crate::{DialError, Protocol};
use std::io;
use std::time::Duration;

/// A connection whose peer has said what it is, and has been told the same.
#[derive(Debug)]
pub(crate) struct Greeted {
    pub(crate) link: Link,
    pub(crate) peer: Protocol,
    pub(crate) peer_address: String,
    pub(crate) credentials: Option<Credentials>,
    /// The longest message accepted, when the listener has a limit of its own.
    pub(crate) recv_max_size: Option<usize>,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the connection broke during the greeting: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error("the peer speaks {found}, expected {expected}")]
    WrongProtocol { found: Protocol, expected: Protocol },
    #[error("the peer speaks {0}, which is not welcome here")]
    Unwelcome(Protocol),
    #[error("the peer did not greet within {0:?}")]
    TimedOut(Duration),
}

impl Failure {
    pub(crate) fn into_dial_error(self, address: String) -> DialError {
        match self {
            Self::Io(source) => DialError::Refused { address, source },
            Self::Open(error) => error.into_dial_error(address),
            Self::Greeting(source) => DialError::Greeting { address, source },
            Self::WrongProtocol { found, expected } => DialError::WrongProtocol {
                address,
                found,
                expected,
            },
            // Only listeners choose among several protocols.
            Self::Unwelcome(found) => DialError::WrongProtocol {
                address,
                found,
                expected: found.peer(),
            },
            Self::TimedOut(limit) => DialError::TimedOut { address, limit },
        }
    }
}

/// Who greets first, and whom we talk to.
#[derive(Clone, Debug)]
pub(crate) enum Manners {
    /// Sends its own greeting at once.
    Known(Protocol),
    /// Listens for the peer's greeting, then answers as the peer of that. Only a listener may: two ends that
    /// both wait would wait for ever.
    Any(Vec<Protocol>),
}

impl Manners {
    /// What this end can speak.
    fn ours(&self) -> Vec<Protocol> {
        match self {
            Self::Known(ours) => vec![*ours],
            Self::Any(welcome) => welcome.iter().map(|peer| peer.peer()).collect(),
        }
    }
}

/// Opens and greets within `limit`. Dropping the future closes the connection.
pub(crate) async fn greet(opening: Opening, manners: &Manners, limit: Duration) -> Result<Greeted, Failure> {
    let (peer_address, credentials) = (opening.peer_address().to_owned(), opening.credentials());
    let handshake = async {
        let (mut link, settled) = opening.open(&manners.ours()).await?;
        let peer = match settled {
            Some(ours) => ours.peer(),
            None => exchange(&mut link, manners).await?,
        };
        Ok::<_, Failure>((link, peer))
    };
    let (link, peer) = tokio::time::timeout(limit, handshake)
        .await
        .map_err(|_| Failure::TimedOut(limit))??;
    Ok(Greeted {
        link,
        peer,
        peer_address,
        credentials,
        recv_max_size: None,
    })
}

/// Sends our greeting and reads theirs, in the order that our manners want.
async fn exchange(link: &mut Link, manners: &Manners) -> Result<Protocol, Failure> {
    match manners {
        Manners::Known(ours) => {
            link.send_greeting(encode_greeting(*ours)).await?;
            let found = decode_greeting(link.recv_greeting().await?)?;
            let expected = ours.peer();
            if found == expected {
                Ok(found)
            } else {
                Err(Failure::WrongProtocol { found, expected })
            }
        }
        Manners::Any(welcome) => {
            let found = decode_greeting(link.recv_greeting().await?)?;
            if !welcome.contains(&found) {
                return Err(Failure::Unwelcome(found));
            }
            link.send_greeting(encode_greeting(found.peer())).await?;
            Ok(found)
        }
    }
}
