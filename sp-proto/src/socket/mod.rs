//! The public handles and their options. Knows what people ask for; the engine does it.

mod bus;
mod device;
mod halves;
mod listener;
mod options;
mod pair;
mod pair1;
mod publish;
mod pull;
mod push;
mod raw;
mod rep;
mod req;
mod respondent;
mod sub;
mod surveyor;

pub use bus::Bus;
pub use device::{DeviceError, device};
pub use halves::{Incoming, Outgoing};
pub use listener::{Connection, Listener};
pub(crate) use options::Terms;
pub use options::{EndpointOptions, SocketOptions};
pub use pair::Pair;
pub use pair1::Pair1;
pub use publish::Pub;
pub use pull::Pull;
pub use push::Push;
pub use raw::Raw;
pub use rep::{Rep, ReplyError, Request};
pub use req::{Req, ReqContext};
pub use respondent::Respondent;
pub use sub::{Sub, SubContext};
pub use surveyor::{SurveyContext, Surveyor};

/// What every socket type has whose protocol is known: construction, and what all have.
macro_rules! socket {
    ($name:ident, $new:expr) => {
        $crate::socket::endpoints!($name);

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl $name {
            /// A socket with the default options, connected to nobody.
            pub fn new() -> Self {
                Self::with_options($crate::SocketOptions::default())
            }

            /// A socket with these options, connected to nobody.
            pub fn with_options(options: $crate::SocketOptions) -> Self {
                let pattern = $new(&options);
                let owner = $crate::engine::Owner::new($crate::engine::Core::new(pattern, options));
                Self {
                    owner: std::sync::Arc::new(owner),
                }
            }
        }
    };
}
use socket;

/// What all socket types have: endpoints, pipes, events, statistics, closing.
macro_rules! endpoints {
    ($name:ident) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("pipes", &self.pipes())
                    .finish_non_exhaustive()
            }
        }

        impl $name {
            /// Listens on `address`, an [`Address`]($crate::Address) as text, for as long as there is a handle of this
            /// socket. Bound before it returns: a peer that dials afterwards is connected.
            ///
            /// # Errors
            /// The address makes no sense, is in use, or the system refuses.
            ///
            /// # Cancel safety
            /// Dropped before it is ready, the socket does not listen.
            pub async fn listen(&self, address: &str) -> Result<$crate::Endpoint, $crate::ListenError> {
                self.listen_with(address, Default::default()).await
            }

            /// The same with options of its own.
            ///
            /// # Errors
            /// As [`listen`](Self::listen).
            ///
            /// # Cancel safety
            /// As [`listen`](Self::listen).
            pub async fn listen_with(
                &self,
                address: &str,
                options: $crate::EndpointOptions,
            ) -> Result<$crate::Endpoint, $crate::ListenError> {
                self.owner.listen(address, options).await
            }

            /// Dials `address` and waits for the first connection; once it is made the socket reconnects, for as long as
            /// there is a handle of it unless [`reconnect_attempts`]($crate::SocketOptions::reconnect_attempts) says otherwise.
            ///
            /// # Errors
            /// The first connection failed, and nothing is left behind.
            ///
            /// # Cancel safety
            /// Dropped before it is ready, the socket does not dial.
            pub async fn dial(&self, address: &str) -> Result<$crate::Endpoint, $crate::DialError> {
                self.dial_with(address, Default::default()).await
            }

            /// The same with options of its own.
            ///
            /// # Errors
            /// As [`dial`](Self::dial).
            ///
            /// # Cancel safety
            /// As [`dial`](Self::dial).
            pub async fn dial_with(
                &self,
                address: &str,
                options: $crate::EndpointOptions,
            ) -> Result<$crate::Endpoint, $crate::DialError> {
                self.owner.dial(address, options).await
            }

            /// Dials `address` in the background, for ever unless
            /// [`reconnect_attempts`]($crate::SocketOptions::reconnect_attempts) says otherwise.
            /// [`Event::DialFailed`]($crate::Event::DialFailed) tells of failures. On a closed socket nothing happens.
            ///
            /// # Errors
            /// The address makes no sense.
            ///
            /// # Panics
            /// Outside of a tokio runtime.
            pub fn dial_in_background(
                &self,
                address: &str,
            ) -> Result<$crate::Endpoint, $crate::AddressError> {
                self.dial_in_background_with(address, Default::default())
            }

            /// The same with options of its own.
            ///
            /// # Errors
            /// The address makes no sense.
            ///
            /// # Panics
            /// Outside of a tokio runtime.
            pub fn dial_in_background_with(
                &self,
                address: &str,
                options: $crate::EndpointOptions,
            ) -> Result<$crate::Endpoint, $crate::AddressError> {
                self.owner.dial_in_background(address, options)
            }

            /// Stops listening or dialing there; its pipes are closed at once. An unknown endpoint is already
            /// closed.
            ///
            /// # Cancel safety
            /// Dropped before it is ready, the endpoint is closed all the same.
            pub async fn close_endpoint(&self, id: $crate::EndpointId) {
                self.owner.close_endpoint(id).await;
            }

            /// Takes over a connection that a [`Listener`]($crate::Listener) accepted.
            ///
            /// # Errors
            /// Its protocol is not this socket's peer, or this socket is closed or has no place for it. The
            /// connection is dropped.
            ///
            /// # Panics
            /// Outside of a tokio runtime.
            pub fn attach(
                &self,
                connection: $crate::Connection,
            ) -> Result<$crate::PipeId, $crate::DialError> {
                self.owner.attach(connection.into_greeted())
            }

            /// Closes one pipe. Its dialer, if it has one, connects again.
            pub fn disconnect(&self, pipe: $crate::PipeId) {
                self.owner.core.disconnect(pipe);
            }

            /// The pipes that are connected now, the oldest first.
            pub fn pipes(&self) -> Vec<$crate::PipeInfo> {
                self.owner.core.pipes()
            }

            /// What has gone through this socket so far, and what it has dropped.
            pub fn stats(&self) -> $crate::Stats {
                self.owner.core.stats()
            }

            /// What happens to this socket from now on.
            pub fn events(&self) -> $crate::Events {
                self.owner.core.events.subscribe()
            }

            /// Closes the socket, whatever other handles there are: what is queued for sending is written
            /// within the linger time, then every pipe is closed, every task has ended and ipc files are
            /// removed.
            ///
            /// # Cancel safety
            /// Dropped before it is ready, the socket is closed without waiting for what is queued.
            pub async fn close(&self) {
                self.owner.close().await;
            }
        }
    };
}
use endpoints;

/// How many requests are kept that nobody has received yet. Room for two of the largest, so that options that fit each
/// other in all else do not push out what a few contexts ask at a time.
fn backlog(options: &SocketOptions) -> crate::pattern::RecvLimits {
    crate::pattern::RecvLimits {
        messages: options.rep_backlog,
        bytes: options
            .recv_queue_bytes
            .max(options.recv_max_size.saturating_mul(2)),
    }
}

/// The message queue limits, as the patterns want them.
fn recv_limits(options: &SocketOptions) -> crate::pattern::RecvLimits {
    crate::pattern::RecvLimits {
        messages: options.recv_queue,
        bytes: options.recv_queue_bytes,
    }
}
