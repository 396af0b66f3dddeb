//! A connection on its way to being a link.

#[cfg(feature = "tls")]
use crate::transport::tls;
#[cfg(feature = "ws")]
use crate::transport::websocket;
use crate::transport::{Credentials, Link};
#[cfg(feature = "ws")]
use crate::wire::websocket::UpgradeError;
use crate::{DialError, Protocol};
#[cfg(any(feature = "tls", feature = "ws"))]
use std::io;

/// A connection that is made; what its transport has of handshakes is still to come.
#[derive(Debug)]
pub(crate) struct Opening {
    link: Link,
    peer_address: String,
    #[cfg(feature = "tls")]
    tls: Option<tls::Side>,
    #[cfg(feature = "ws")]
    websocket: Option<websocket::Side>,
}

/// Why a transport's handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OpenError {
    #[cfg(feature = "tls")]
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    #[cfg(feature = "ws")]
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    #[cfg(feature = "ws")]
    #[error("the connection broke during the upgrade: {0}")]
    Io(#[from] io::Error),
}

impl OpenError {
    pub(crate) fn into_dial_error(self, address: String) -> DialError {
        #[cfg(not(any(feature = "tls", feature = "ws")))]
        let _ = address;
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(source) => DialError::Tls { address, source },
            #[cfg(feature = "ws")]
            Self::Upgrade(source) => DialError::Upgrade { address, source },
            #[cfg(feature = "ws")]
            Self::Io(source) => DialError::Refused { address, source },
        }
    }
}

impl Opening {
    pub(super) fn new(link: impl Into<Link>) -> Self {
        let link = link.into();
        Self {
            peer_address: link.peer_address(),
            link,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "ws")]
            websocket: None,
        }
    }

    /// The same connection with TLS to come.
    #[cfg(feature = "tls")]
    pub(super) fn with_tls(mut self, side: tls::Side) -> Self {
        self.rename("tls+tcp://");
        self.tls = Some(side);
        self
    }

    /// The same connection with an upgrade to come, after TLS if that is to come as well.
    #[cfg(feature = "ws")]
    pub(super) fn with_websocket(mut self, side: websocket::Side) -> Self {
        #[cfg(feature = "tls")]
        let secure = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let secure = false;
        self.rename(if secure { "wss://" } else { "ws://" });
        self.websocket = Some(side);
        self
    }

    #[cfg(any(feature = "tls", feature = "ws"))]
    fn rename(&mut self, transport: &str) {
        if let Some((_, peer)) = self.peer_address.split_once("://") {
            self.peer_address = format!("{transport}{peer}");
        }
    }

    /// Who is at the other end, for people to read.
    pub(crate) fn peer_address(&self) -> &str {
        &self.peer_address
    }

    pub(crate) fn credentials(&self) -> Option<Credentials> {
        self.link.credentials()
    }

    /// Does the transport's handshakes. `ours` are the protocols that this end can speak; one that the
    /// handshake has settled on comes with the link, and then there is no greeting.
    pub(crate) async fn open(self, ours: &[Protocol]) -> Result<(Link, Option<Protocol>), OpenError> {
        let link = self.link;
        #[cfg(feature = "tls")]
        let link = match (link, self.tls) {
            (Link::Tcp(stream), Some(side)) => Link::Tls(side.open(stream).await.map_err(OpenError::Tls)?),
            (link, _) => link,
        };
        #[cfg(feature = "ws")]
        if let Some(side) = self.websocket {
            let stream: Box<dyn websocket::Stream> = match link {
                Link::Tcp(stream) => Box::new(stream),
                #[cfg(feature = "tls")]
                Link::Tls(stream) => stream,
                _ => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
            };
            let (socket, ours) = side.open(stream, ours).await?;
            return Ok((Link::WebSocket(socket), Some(ours)));
        }
        #[cfg(not(feature = "ws"))]
        let _ = ours;
        Ok((link, None))
    }
}
