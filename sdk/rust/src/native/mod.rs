//! Owns a plugin's life under Mangrove's own contract: it dials the host, says hello, and serves session after session
//! until it is told to end.
//!
//! Knows nothing of signals and process arguments; [`crate::Plugin`] drives it. Everything a plugin does is dial.

mod function;
mod link;
mod orders;
mod session;
mod sink;
mod source;
mod using;

use std::sync::Arc;
use std::time::Duration;

use mangrove_protocol::name::PluginName;
use mangrove_protocol::native::control::{ToHost, ToPlugin};
use mangrove_protocol::native::opening::{FunctionSymbol, Hello, Limits, Symbols as Offered, Welcome};
use mangrove_protocol::native::{MAX_ITEMS, VERSIONS};
use sp_proto::{Event, Events, Pair, RecvError, SocketOptions};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::guard::guard_call;
use crate::symbols::Symbols;
use crate::{Options, RunError};
use link::Link;
use session::{Outcome, Parts, Session};

/// What this SDK calls itself.
const SDK: &str = concat!("mangrove-rust/", env!("CARGO_PKG_VERSION"));

/// How messages are written.
const ENCODING: &str = "json";

/// Between two sessions: doubled with each one that comes to nothing.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where the host is, and what it knows this process by.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) control: String,
    pub(crate) token: String,
    pub(crate) plugin: PluginName,
}

/// Serves the host until it or `stop` ends the plugin.
pub(crate) async fn serve(
    symbols: Arc<Symbols>,
    options: Options,
    endpoint: Endpoint,
    socket: SocketOptions,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let options = Arc::new(options);
    let hello = ToHost::Hello(hello(&symbols, &endpoint));
    let mut last_heard = Instant::now();
    let mut pause = PAUSE;
    loop {
        let opening = Opening {
            endpoint: &endpoint,
            hello: &hello,
            socket: &socket,
            give_up: last_heard + options.host_timeout,
        };
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            opened = opening.run() => opened,
        };
        match opened {
            Opened::Welcome(welcome, link, events) => {
                let limits = Limits {
                    batch: welcome.limits.batch.clamp(1, MAX_ITEMS),
                    ..welcome.limits
                };
                let parts = Parts {
                    symbols: Arc::clone(&symbols),
                    options: Arc::clone(&options),
                    socket: data_socket(&socket, limits.message),
                    control: endpoint.control.clone(),
                    limits,
                };
                match Session::new(parts, link, events).run(stop).await {
                    Outcome::Finished => return Ok(()),
                    Outcome::Refused(reason) => return Err(RunError::Refused { reason }),
                    Outcome::Broken => {}
                }
                last_heard = Instant::now();
                pause = PAUSE;
            }
            Opened::Refused(reason) => return Err(RunError::Refused { reason }),
            Opened::Broken => {}
            Opened::Nobody => {
                return Err(RunError::HostGone {
                    address: endpoint.control,
                    after: options.host_timeout,
                });
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn hello(symbols: &Symbols, endpoint: &Endpoint) -> Hello {
    let functions = symbols.functions.iter().map(|(name, function)| FunctionSymbol {
        name: name.clone(),
        aggregate: guard_call(|| function.is_aggregate()).unwrap_or(false),
    });
    Hello {
        versions: VERSIONS.to_vec(),
        token: endpoint.token.clone(),
        plugin: endpoint.plugin.clone(),
        sdk: SDK.to_owned(),
        symbols: Offered {
            sources: symbols.sources.keys().cloned().collect(),
            sinks: symbols.sinks.keys().cloned().collect(),
            functions: functions.collect(),
        },
        encodings: vec![ENCODING.to_owned()],
    }
}

/// The host says how long its messages are.
fn data_socket(socket: &SocketOptions, message: usize) -> SocketOptions {
    let recv_max_size = match socket.recv_max_size {
        0 => 0,
        own => own.max(message),
    };
    SocketOptions {
        recv_max_size,
        ..socket.clone()
    }
}

/// One attempt to get a session.
struct Opening<'a> {
    endpoint: &'a Endpoint,
    hello: &'a ToHost,
    socket: &'a SocketOptions,
    give_up: Instant,
}

enum Opened {
    Welcome(Welcome, Arc<Link>, Events),
    Refused(String),
    /// The connection broke before the host had answered.
    Broken,
    /// The host could not be reached in time, or was silent.
    Nobody,
}

impl Opening<'_> {
    /// A socket of its own for each attempt: nothing that belonged to a session before can come into this one.
    async fn run(&self) -> Opened {
        let pair = Pair::with_options(self.socket.clone());
        let mut events = pair.events();
        if let Err(error) = pair.dial_in_background(&self.endpoint.control) {
            return Opened::Refused(error.to_string());
        }
        let opened = tokio::select! {
            opened = self.greet(&pair, &mut events) => opened,
            () = sleep_until(self.give_up) => Err(Opened::Nobody),
        };
        match opened {
            Ok(welcome) => Opened::Welcome(welcome, Arc::new(Link::new(pair)), events),
            Err(opened) => {
                pair.close().await;
                opened
            }
        }
    }

    async fn greet(&self, pair: &Pair, events: &mut Events) -> Result<Welcome, Opened> {
        loop {
            match events.recv().await {
                Some(Event::PipeAdded(_)) => break,
                Some(event) => tracing::debug!(?event, "no connection to the host yet"),
                None => return Err(Opened::Broken),
            }
        }
        pair.send(self.hello.encode()).await.map_err(|_| Opened::Broken)?;
        loop {
            let message = tokio::select! {
                biased;
                message = pair.recv() => message,
                event = events.recv() => match event {
                    Some(Event::PipeRemoved { .. }) | None => return Err(Opened::Broken),
                    Some(_) => continue,
                },
            };
            let message = match message {
                Ok(message) => message,
                Err(RecvError::TimedOut) => continue,
                Err(_) => return Err(Opened::Broken),
            };
            match ToPlugin::decode(&message) {
                Ok(ToPlugin::Welcome(welcome)) => return check(welcome),
                Ok(ToPlugin::Refused(refused)) => return Err(Opened::Refused(refused.reason)),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a message of the host was not understood"),
            }
        }
    }
}

fn check(welcome: Welcome) -> Result<Welcome, Opened> {
    if !VERSIONS.contains(&welcome.version) {
        let version = welcome.version;
        return Err(Opened::Refused(format!(
            "the host speaks version {version} of the contract, this plugin {VERSIONS:?}"
        )));
    }
    if welcome.encoding != ENCODING {
        let encoding = welcome.encoding;
        return Err(Opened::Refused(format!(
            "the host wants messages as {encoding:?}, this plugin writes {ENCODING:?}"
        )));
    }
    Ok(welcome)
}
