//! Owns the plugin's end of a turned-around request/reply channel, control or function alike: the plugin's
//! requests are the handshake and the answers, the host's replies are what it wants done.
//!
//! Knows neither commands nor calls: those are for the [`Answer`] that it is given. Driven by the task that owns
//! the channel.

use std::future::pending;
use std::time::Duration;

use mangrove_protocol::control::HANDSHAKE;
use sp_proto::{Event, Message, PipeId, RecvError, Req, ReqContext};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What is done with a message of the host.
pub(crate) trait Answer {
    /// Does what `message` asks for; the result is the next request. One that begins with `h` would be taken for
    /// a handshake.
    fn answer(&mut self, message: &[u8]) -> impl Future<Output = Vec<u8>> + Send;
}

/// The channel's timers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    /// After this long without a message the handshake is sent again.
    pub(crate) keep_alive: Duration,
    /// How long the host may be gone; `None` = for ever.
    pub(crate) host_timeout: Option<Duration>,
}

/// Why a channel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was asked to, or its socket was closed.
    Stopped,
    /// The host has been gone for longer than it may.
    HostGone,
}

enum Wake {
    Stop,
    Message(Result<Message, RecvError>),
    PipesChanged,
    KeepAlive,
    HostTimeout,
}

/// Serves the channel until it ends. `socket` dials already.
pub(crate) async fn serve(
    socket: &Req,
    timers: Timers,
    stop: &CancellationToken,
    answers: &mut impl Answer,
) -> End {
    let mut events = socket.events();
    let mut channel = Channel {
        socket,
        context: socket.context(),
        timers,
        host: Host::Gone {
            since: Instant::now(),
        },
        keep_alive_at: Instant::now() + timers.keep_alive,
    };
    channel.look().await;
    loop {
        let host_timeout_at = channel.host_timeout_at();
        let wake = tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            message = channel.context.recv(), if channel.is_waiting() => Wake::Message(message),
            event = events.recv() => match event {
                Some(Event::PipeAdded(_) | Event::PipeRemoved { .. }) => Wake::PipesChanged,
                Some(event) => {
                    tracing::debug!(?event, "control or function channel");
                    continue;
                }
                None => Wake::Stop,
            },
            () = sleep_until(channel.keep_alive_at) => Wake::KeepAlive,
            () = until(host_timeout_at) => Wake::HostTimeout,
        };
        match wake {
            Wake::Stop | Wake::Message(Err(RecvError::Closed)) => return End::Stopped,
            Wake::HostTimeout => return End::HostGone,
            Wake::PipesChanged => channel.look().await,
            Wake::KeepAlive => {
                // The events tell of a change at once, this look makes sure that none was missed.
                channel.look().await;
                channel.handshake().await;
            }
            Wake::Message(Err(error)) => {
                tracing::debug!(%error, "no message of the host; shaking hands again");
                channel.handshake().await;
            }
            Wake::Message(Ok(message)) => {
                let asked_by = channel.pipe();
                let answering = answers.answer(&message);
                let Some(answer) = stop.run_until_cancelled(answering).await else {
                    return End::Stopped;
                };
                channel.look().await;
                if channel.pipe() == asked_by {
                    channel.request(answer).await;
                }
                // Otherwise the host that asked is gone, and `look` has shaken hands with the new one.
            }
        }
    }
}

struct Channel<'a> {
    socket: &'a Req,
    context: ReqContext,
    timers: Timers,
    host: Host,
    keep_alive_at: Instant,
}

/// Whether somebody is at the other end.
enum Host {
    Gone {
        since: Instant,
    },
    There {
        pipe: PipeId,
        /// A request is on its way or answered: there may be something to receive.
        asked: bool,
    },
}

impl Channel<'_> {
    /// Compares what is known about the host with the socket's pipes; a new host gets a handshake.
    async fn look(&mut self) {
        let now_there = self.socket.pipes().first().map(|pipe| pipe.id);
        match (now_there, self.pipe()) {
            (None, Some(_)) => {
                // What was asked of the old host must not be the first thing that the next one hears.
                self.context = self.socket.context();
                self.host = Host::Gone {
                    since: Instant::now(),
                };
            }
            (Some(pipe), known) if known != Some(pipe) => {
                self.host = Host::There { pipe, asked: false };
                self.handshake().await;
            }
            _ => {}
        }
    }

    async fn handshake(&mut self) {
        self.request(HANDSHAKE.to_vec()).await;
    }

    async fn request(&mut self, body: Vec<u8>) {
        self.keep_alive_at = Instant::now() + self.timers.keep_alive;
        let Host::There { asked, .. } = &mut self.host else {
            return;
        };
        match self.context.send(body).await {
            Ok(()) => *asked = true,
            // The host waits for an answer by a deadline and asks again after the next handshake.
            Err(error) => tracing::debug!(%error, "the host did not take a message"),
        }
    }

    fn pipe(&self) -> Option<PipeId> {
        match self.host {
            Host::There { pipe, .. } => Some(pipe),
            Host::Gone { .. } => None,
        }
    }

    fn is_waiting(&self) -> bool {
        matches!(self.host, Host::There { asked: true, .. })
    }

    fn host_timeout_at(&self) -> Option<Instant> {
        match self.host {
            Host::Gone { since } => self.timers.host_timeout.map(|timeout| since + timeout),
            Host::There { .. } => None,
        }
    }
}

/// Never completes without a time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
