//! Dialing: one task per dialer, which connects, is the pipe, and connects again.

use crate::engine::backoff::Backoff;
use crate::engine::core::{Attached, Core, Unattached};
use crate::engine::events::Event;
use crate::engine::greeting::{Manners, greet};
use crate::engine::{now, pipe};
use crate::pattern::Pattern;
use crate::socket::Terms;
use crate::transport::{self, Address};
use crate::{DialError, EndpointId};
use std::io;
use std::sync::Arc;

/// Connects and greets once.
pub(crate) async fn connect<P: Pattern>(
    core: &Arc<Core<P>>,
    address: &Address,
    endpoint: EndpointId,
    terms: &Terms,
) -> Result<Attached<P>, DialError> {
    let limit = terms.handshake_timeout;
    let named = || address.to_string();
    let opening = tokio::time::timeout(limit, transport::connect(address, &terms.settings))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| DialError::Refused {
            address: named(),
            source,
        })?;
    let mut greeted = greet(opening, &Manners::Known(core.protocol), limit)
        .await
        .map_err(|failure| failure.into_dial_error(named()))?;
    // What was dialed says more than what the system calls the other end.
    greeted.peer_address = named();
    greeted.recv_max_size = Some(terms.recv_max_size);
    core.attach(greeted, Some(endpoint))
        .map_err(|error| error.into_dial_error(named()))
}

impl Unattached {
    pub(crate) fn into_dial_error(self, address: String) -> DialError {
        match self {
            Self::Closed => DialError::Closed,
            Self::NotAdmitted(reason) => DialError::NotAdmitted { address, reason },
            Self::Refused(refusal) => DialError::NotNow {
                address,
                reason: refusal.to_string(),
            },
            Self::Io(source) => DialError::Refused { address, source },
        }
    }
}

/// Keeps a pipe to `address` for as long as the socket is open and the attempts last, beginning with `first` if there is one.
pub(crate) async fn run<P: Pattern>(
    core: Arc<Core<P>>,
    address: Address,
    endpoint: EndpointId,
    terms: Terms,
    first: Option<Attached<P>>,
) {
    let mut backoff = Backoff::new(terms.reconnect_min, terms.reconnect_max);
    let mut failures = 0;
    let mut connected = first.map(Ok);
    let closing = core.closing.clone();
    loop {
        let attempt = match connected.take() {
            Some(connected) => connected,
            None => match closing
                .run_until_cancelled(connect(&core, &address, endpoint, &terms))
                .await
            {
                Some(attempt) => attempt,
                None => return,
            },
        };
        let retry_in = match attempt {
            Ok(attached) => {
                failures = 0;
                let since = now();
                pipe::run(attached).await;
                backoff.note_connection(now() - since);
                backoff.next(fastrand::f64())
            }
            Err(DialError::Closed) => return,
            Err(error) => {
                let reason = with_source(&error);
                failures += 1;
                if terms.reconnect_attempts.is_some_and(|most| failures >= most) {
                    core.events.publish(Event::DialerGaveUp { endpoint, reason });
                    return;
                }
                let retry_in = backoff.next(fastrand::f64());
                core.events.publish(Event::DialFailed {
                    endpoint,
                    reason,
                    retry_in,
                });
                retry_in
            }
        };
        if closing
            .run_until_cancelled(tokio::time::sleep(retry_in))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// An event carries text only, so the cause goes into it.
fn with_source(error: &DialError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
