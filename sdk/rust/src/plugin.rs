//! Owns a plugin's process: its symbols, what the host tells it by its environment and on the command line, the
//! contract that is spoken with it, and its end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mangrove_protocol::address;
use mangrove_protocol::address::AddressTooLong;
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::{NameError, PluginName, SymbolName};
use mangrove_protocol::native::{CONTROL_VARIABLE, PLUGIN_VARIABLE, TOKEN_VARIABLE};
use serde::Deserialize;
use sp_proto::{AddressError, Req, SocketOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ekuiper::{End, Runtime, Timers};
use crate::erased::{open_sink, open_source};
use crate::error::describe;
use crate::native::Endpoint;
use crate::symbols::Symbols;
use crate::{Function, Options, Sink, Source, ekuiper, log, native};

/// A plugin and its symbols. The names are those of its manifest.
///
/// ```no_run
/// # use mangrove_sdk::{Context, Function, Plugin, Result, RunError, Value};
/// # struct Shout;
/// # impl Function for Shout {
/// #     async fn exec(&self, args: Vec<Value>, _: &Context) -> Result<Value> { Ok(Value::Null) }
/// # }
/// #[tokio::main]
/// async fn main() -> Result<(), RunError> {
///     Plugin::new("megaphone").function("shout", Shout).run().await
/// }
/// ```
#[must_use = "a plugin does nothing until it is run"]
pub struct Plugin {
    name: String,
    symbols: Symbols,
    options: Options,
    /// The first thing that is wrong with the names; `run` tells.
    problem: Option<RunError>,
}

/// Why a plugin's process cannot go on.
///
/// Its `Debug` form is the same text as its `Display` form, since that is what a `main` that returns it prints.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The plugin's name or a symbol's.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Two symbols of one kind with the same name.
    #[error("the plugin has two {}s \"{name}\"", kind)]
    Twice {
        /// Their kind.
        kind: SymbolKind,
        /// Their name.
        name: SymbolName,
    },
    /// Nothing to run.
    #[error("the plugin has no symbol: give it a source, a sink or a function")]
    NoSymbol,
    /// The first process argument is not the configuration that hosts pass.
    #[error("the first argument is {found:?}; expected a JSON object such as {{\"sendTimeout\":1000}}")]
    Argument {
        /// What it is.
        found: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The plugin's name is too long for its address.
    #[error(transparent)]
    Address(#[from] AddressTooLong),
    /// The control channel's address is refused.
    #[error("cannot dial {address}")]
    Dial {
        /// The address.
        address: String,
        /// Why.
        source: AddressError,
    },
    /// No handler for SIGTERM or SIGINT.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// The host has said that it does not take this plugin, or the two have no version of the contract in common.
    #[error("the host does not take this plugin: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// An environment variable by which a host tells where it is.
    #[error("the environment variable {name} {problem}")]
    Environment {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The host could not be reached, or has not come back.
    #[error("nobody has answered at {address} for {after:?}; is the host running?")]
    HostGone {
        /// Where the host was expected.
        address: String,
        /// For how long.
        after: Duration,
    },
}

impl fmt::Debug for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(self))
    }
}

/// What the host passes as the first argument.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProcessConfig {
    send_timeout: Option<u64>,
}

impl Plugin {
    /// A plugin without symbols. `name` is that of its folder and manifest.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            symbols: Symbols::default(),
            options: Options::default(),
            problem: None,
        }
    }

    /// Adds a source; it is opened for every use of its own.
    pub fn source<S: Source>(mut self, name: &str) -> Self {
        if let Some(name) = self.checked(SymbolKind::Source, name) {
            self.symbols.sources.insert(name, open_source::<S>);
        }
        self
    }

    /// Adds a sink; it is opened for every use of its own.
    pub fn sink<S: Sink>(mut self, name: &str) -> Self {
        if let Some(name) = self.checked(SymbolKind::Sink, name) {
            self.symbols.sinks.insert(name, open_sink::<S>);
        }
        self
    }

    /// Adds a function; this one value serves all rules.
    pub fn function(mut self, name: &str, function: impl Function) -> Self {
        if let Some(name) = self.checked(SymbolKind::Function, name) {
            self.symbols.functions.insert(name, Arc::new(function));
        }
        self
    }

    /// Other settings than the defaults.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Runs the plugin as the process that a host has started, until the host or SIGTERM or SIGINT ends it. Logs go to
    /// the host, or to standard error when it speaks eKuiper's contract; `RUST_LOG` chooses what, by default `info`. A
    /// `tracing` subscriber that is already set stays in place.
    ///
    /// The environment variable `MANGROVE_CONTROL` tells that the host speaks Mangrove's contract, and where it is. Started
    /// by hand, without it and without an argument, the plugin serves a host that waits for it by eKuiper's contract.
    ///
    /// # Errors
    /// Wrong names, a first argument or environment that no host makes, a host that refuses the plugin or stays away.
    pub async fn run(mut self) -> Result<(), RunError> {
        match std::env::var_os(CONTROL_VARIABLE) {
            Some(_) => log::to_host("info"),
            None => log::to_stderr(),
        }
        // Not `args`: it panics at a program's path that is no UTF-8.
        if let Some(argument) = std::env::args_os().nth(1) {
            let argument = argument.to_string_lossy().into_owned();
            self.options = with_argument(self.options, argument)?;
        }
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
        let mut signals = JoinSet::new();
        signals.spawn({
            let stop = stop.clone();
            async move {
                tokio::select! {
                    _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                    _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
                }
                stop.cancel();
            }
        });
        let result = self.run_until(stop).await;
        signals.shutdown().await;
        result
    }

    /// Serves the host until `stop` is cancelled or the host ends the plugin, then stops every symbol. Of the process it
    /// looks at the environment only: no arguments, no signals, no log.
    ///
    /// # Errors
    /// As [`Plugin::run`].
    ///
    /// # Cancel safety
    /// Dropping the future aborts the symbols where they stand; cancel `stop` instead.
    pub async fn run_until(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let name = self.check()?;
        match endpoint(name.clone())? {
            Some(endpoint) => self.serve_native(endpoint, &stop).await,
            None => self.serve_ekuiper(&name, stop).await,
        }
    }

    /// The plugin's name, if nothing is wrong with it and the symbols.
    pub(crate) fn check(&mut self) -> Result<PluginName, RunError> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        if self.symbols.is_empty() {
            return Err(RunError::NoSymbol);
        }
        Ok(self.name.parse()?)
    }

    pub(crate) async fn serve_native(
        self,
        endpoint: Endpoint,
        stop: &CancellationToken,
    ) -> Result<(), RunError> {
        let socket = secured(self.options.socket())?;
        native::serve(Arc::new(self.symbols), self.options, endpoint, socket, stop).await
    }

    async fn serve_ekuiper(self, name: &PluginName, stop: CancellationToken) -> Result<(), RunError> {
        let address = address::control(name)?;
        let timers = Timers {
            keep_alive: self.options.keep_alive,
            host_timeout: Some(self.options.host_timeout),
        };
        let socket = Req::with_options(self.options.answering_socket());
        socket
            .dial_in_background(&address)
            .map_err(|source| RunError::Dial {
                address: address.clone(),
                source,
            })?;
        let mut runtime = Runtime::new(self.symbols, self.options, stop.child_token());
        let end = ekuiper::serve(&socket, timers, &stop, &mut runtime).await;
        runtime.shut_down().await;
        socket.close().await;
        match end {
            End::Stopped => Ok(()),
            End::HostGone => Err(RunError::HostGone {
                address,
                after: timers.host_timeout.unwrap_or_default(),
            }),
        }
    }

    fn checked(&mut self, kind: SymbolKind, name: &str) -> Option<SymbolName> {
        let problem = match name.parse() {
            Ok(name) if !self.symbols.has(kind, &name) => return Some(name),
            Ok(name) => RunError::Twice { kind, name },
            Err(error) => RunError::Name(error),
        };
        self.problem.get_or_insert(problem);
        None
    }
}

fn with_argument(options: Options, argument: String) -> Result<Options, RunError> {
    let config: ProcessConfig = serde_json::from_str(&argument).map_err(|source| RunError::Argument {
        found: argument,
        source,
    })?;
    Ok(match config.send_timeout {
        Some(milliseconds) => Options {
            send_timeout: Duration::from_millis(milliseconds),
            ..options
        },
        None => options,
    })
}

/// Where the host is that speaks our own contract, if there is one. `name` is the plugin's own.
fn endpoint(name: PluginName) -> Result<Option<Endpoint>, RunError> {
    let Some(control) = variable(CONTROL_VARIABLE)? else {
        return Ok(None);
    };
    let plugin = match variable(PLUGIN_VARIABLE)? {
        Some(plugin) => plugin.parse()?,
        None => name,
    };
    Ok(Some(Endpoint {
        control,
        token: variable(TOKEN_VARIABLE)?.unwrap_or_default(),
        plugin,
    }))
}

fn variable(name: &'static str) -> Result<Option<String>, RunError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(RunError::Environment {
            name,
            problem: "is no UTF-8".to_owned(),
        }),
    }
}

/// With those whom it trusts on `tls+tcp`.
#[cfg(feature = "tls")]
fn secured(socket: SocketOptions) -> Result<SocketOptions, RunError> {
    use mangrove_protocol::native::CA_VARIABLE;
    use sp_proto::{TlsAuthorities, TlsOptions};

    let Some(path) = std::env::var_os(CA_VARIABLE) else {
        return Ok(socket);
    };
    let problem = |problem: String| RunError::Environment {
        name: CA_VARIABLE,
        problem,
    };
    let pem = std::fs::read(&path).map_err(|error| {
        let path = path.to_string_lossy();
        problem(format!("names {path}, which cannot be read: {error}"))
    })?;
    let authorities = TlsAuthorities::from_pem(&pem)
        .map_err(|error| problem(format!("names {}: {error}", path.to_string_lossy())))?;
    Ok(SocketOptions {
        tls: TlsOptions {
            authorities,
            ..TlsOptions::default()
        },
        ..socket
    })
}

#[cfg(not(feature = "tls"))]
fn secured(socket: SocketOptions) -> Result<SocketOptions, RunError> {
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, Value};

    struct Nothing;
    impl Function for Nothing {
        async fn exec(&self, _: Vec<Value>, _: &Context) -> crate::Result<Value> {
            Ok(Value::Null)
        }
    }

    async fn problem(plugin: Plugin) -> String {
        plugin
            .run_until(CancellationToken::new())
            .await
            .unwrap_err()
            .to_string()
    }

    #[tokio::test]
    async fn wrong_names_are_told_when_it_runs() {
        assert!(problem(Plugin::new("p")).await.contains("no symbol"));
        let bad = Plugin::new("p").function("a/b", Nothing);
        assert!(problem(bad).await.contains("contains '/'"));
        let twice = Plugin::new("p").function("a", Nothing).function("a", Nothing);
        assert_eq!(problem(twice).await, "the plugin has two functions \"a\"");
        assert!(
            problem(Plugin::new("").function("a", Nothing))
                .await
                .contains("empty")
        );
    }

    #[test]
    fn the_argument_sets_the_send_timeout() {
        let options =
            with_argument(Options::default(), r#"{"sendTimeout":250,"more":1}"#.to_owned()).unwrap();
        assert_eq!(options.send_timeout, Duration::from_millis(250));
        let error = with_argument(Options::default(), "serve".to_owned()).unwrap_err();
        assert!(format!("{error:?}").starts_with("the first argument is \"serve\""));
    }
}
