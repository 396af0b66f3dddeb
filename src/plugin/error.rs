//! Owns what can go wrong between the host and its plugins, told apart by who has to do something about it.

use std::path::PathBuf;
use std::time::Duration;

use mangrove_protocol::address::AddressTooLong;
use mangrove_protocol::data::DataError;
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::{NameError, PluginName};

use super::archive::ArchiveError;
use super::catalog::Conflict;
use super::causes::with_sources;
use super::checksum::Checksum;
use super::download::DownloadError;
use super::environment::EnvironmentError;
use super::lifecycle::Refusal;
use super::package::PackageError;
use super::script::ScriptError;
use super::status::State;

/// A plugin was not installed, or not replaced. Nothing of it is left behind, and an old version runs on; unless it is
/// [`InstallError::Stuck`] or [`InstallError::Unrecorded`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The name is taken.
    #[error("the plugin \"{0}\" already exists; update it, or remove it first")]
    AlreadyExists(PluginName),
    /// There is nothing to update.
    #[error("there is no plugin \"{0}\" to update; install it")]
    NotFound(PluginName),
    /// Where the package is has to be said in another way.
    #[error(
        "cannot fetch {url:?}: expected file:///an/absolute/path.zip, or an http:// or https:// URL without a password"
    )]
    Url {
        /// What the request says.
        url: String,
    },
    /// The package cannot be fetched.
    #[error("cannot fetch the package: {0}")]
    Download(#[from] DownloadError),
    /// The package is another one than the request says.
    #[error("the package's SHA-256 sum is {found}; expected {expected}")]
    Checksum {
        /// What the request says.
        expected: Checksum,
        /// What it is.
        found: Checksum,
    },
    /// The package cannot be opened.
    #[error("cannot open the package {}: {source}", path.display())]
    Open {
        /// The package.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The package is not what it should be.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// What is in the package is not a plugin.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// One of its symbols belongs to another plugin.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The package's own script failed.
    #[error("the install.sh of the plugin \"{name}\" failed: {source}")]
    Script {
        /// The plugin.
        name: PluginName,
        /// How, with the last that it said.
        source: ScriptError,
    },
    /// A Python plugin without its environment.
    #[error("the plugin \"{name}\" cannot be installed: {source}")]
    Environment {
        /// The plugin.
        name: PluginName,
        /// Why.
        source: EnvironmentError,
    },
    /// It was whole, but it does not run.
    #[error("the plugin \"{name}\" does not start: {reason}")]
    Start {
        /// The plugin.
        name: PluginName,
        /// Why, with the last that it said.
        reason: String,
    },
    /// The host's own folder does not let itself be written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It failed, and what was there before cannot be put back. It is kept, and put back when the host starts again.
    #[error("{cause}; and what was there before cannot be put back: {source}; it is kept in {}", kept.display())]
    Stuck {
        /// Why it is to be undone.
        cause: Box<InstallError>,
        /// Where the old version is.
        kept: PathBuf,
        /// Why it cannot be.
        source: std::io::Error,
    },
    /// It was installed and runs, but the next start of the host may put back what was there before.
    #[error(
        "the plugin \"{name}\" is installed, but that cannot be written down, so what was there before may be back when the \
         host starts again; it is kept in {}: {source}", kept.display()
    )]
    Unrecorded {
        /// The plugin.
        name: PluginName,
        /// Where the old version is.
        kept: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The host is ending, somebody stops or removes the plugin, or the installation died.
    #[error("the installation of the plugin \"{0}\" was interrupted")]
    Interrupted(PluginName),
}

/// A plugin was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// There is no such plugin.
    #[error("there is no plugin {0:?}")]
    NotFound(String),
    /// Its folder cannot be removed. Its process has been stopped.
    #[error("cannot remove {}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The host is ending.
    #[error("the removal of the plugin {0:?} was interrupted")]
    Interrupted(String),
}

/// A plugin was not started, stopped, restarted or attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// There is no such plugin.
    #[error("there is no plugin {0:?}")]
    NotFound(String),
    /// What lies in its folder cannot run.
    #[error("the plugin {name:?} cannot run: {reason}")]
    Refused {
        /// The plugin.
        name: String,
        /// Why not.
        reason: String,
    },
    /// It could run, but does not.
    #[error("the plugin {name:?} does not run: {reason}")]
    Failed {
        /// The plugin.
        name: String,
        /// Why, with the last that it said.
        reason: String,
    },
    /// The host is ending.
    #[error("the command for the plugin {0:?} was interrupted: the host is stopping")]
    Interrupted(String),
}

/// A symbol did not come to run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No plugin defines it.
    #[error("no plugin defines the {kind} {name:?}")]
    Unknown {
        /// The kind that was asked for.
        kind: SymbolKind,
        /// The name that was asked for.
        name: String,
    },
    /// A plugin defines it, but is refused.
    #[error("the plugin \"{plugin}\", which defines the {kind} {name:?}, is refused: {reason}")]
    Refused {
        /// The kind that was asked for.
        kind: SymbolKind,
        /// The name that was asked for.
        name: String,
        /// The plugin.
        plugin: PluginName,
        /// Why it is refused.
        reason: String,
    },
    /// The rule's or the operator's id is missing or cannot be part of an address.
    #[error("the {field} cannot be part of an address: {source}")]
    Id {
        /// `rule id` or `operator id`.
        field: &'static str,
        /// What is wrong with it.
        source: NameError,
    },
    /// The ids make too long an address.
    #[error(transparent)]
    Address(#[from] AddressTooLong),
    /// The host cannot listen there.
    #[error("{}", with_sources(.0))]
    Listen(#[from] sp_proto::ListenError),
    /// The sink said that it runs, but does not listen.
    #[error("cannot reach the sink {name:?} at {address}: {reason}")]
    Unreachable {
        /// The sink.
        name: String,
        /// Its address.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// The plugin does not run.
    #[error("the plugin \"{plugin}\" is {state}: {reason}")]
    Down {
        /// The plugin.
        plugin: PluginName,
        /// How it is.
        state: State,
        /// Why.
        reason: String,
    },
    /// The plugin answered with an error.
    #[error("the plugin \"{plugin}\" cannot start {name:?}: {text}")]
    Plugin {
        /// The plugin.
        plugin: PluginName,
        /// The symbol.
        name: String,
        /// The plugin's own words.
        text: String,
    },
    /// The plugin did not answer.
    #[error("the plugin \"{plugin}\" has not answered the command to start {name:?} within {limit:?}")]
    TimedOut {
        /// The plugin.
        plugin: PluginName,
        /// The symbol.
        name: String,
        /// The time limit.
        limit: Duration,
    },
    /// The host is ending.
    #[error("the host is stopping")]
    Stopping,
}

/// Something went wrong on a source's or a sink's channel. It goes on, unless said otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The source's or the sink's own error.
    #[error("{0}")]
    Plugin(String),
    /// It sent what cannot be understood.
    #[error(transparent)]
    Garbage(#[from] DataError),
    /// It sent what can be understood, but not at this time or in this way.
    #[error("it broke the contract: {0}")]
    Contract(String),
    /// The result is too long for a message.
    #[error("the result has {length} bytes; at most {limit} fit into a message")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The connection was closed: by the plugin, or because of what it sent.
    #[error("the plugin \"{plugin}\" closed its connection or broke the protocol: {reason}")]
    Closed {
        /// The plugin.
        plugin: PluginName,
        /// What happened.
        reason: String,
    },
    /// The plugin's process does not run; it goes on when the process is back.
    #[error("the plugin \"{plugin}\" is {state}: {reason}")]
    Down {
        /// The plugin.
        plugin: PluginName,
        /// How it is.
        state: State,
        /// Why.
        reason: String,
    },
    /// The sink does not take the message.
    #[error("the sink has not taken the message within {limit:?}; the plugin \"{plugin}\" is {status}")]
    NotTaken {
        /// The plugin.
        plugin: PluginName,
        /// The time limit.
        limit: Duration,
        /// How the plugin is.
        status: String,
    },
    /// The sink does not acknowledge.
    #[error(
        "no acknowledgement within {limit:?}; the plugin \"{plugin}\" is {status}; plugins on the Go SDK, or on \
         a Python SDK before 1.14, never acknowledge: use them without requireAck"
    )]
    NotAcknowledged {
        /// The plugin.
        plugin: PluginName,
        /// The time limit.
        limit: Duration,
        /// How the plugin is.
        status: String,
    },
    /// The same of a sink that has promised to acknowledge.
    #[error("no acknowledgement within {limit:?}; the plugin \"{plugin}\" is {status}")]
    Overdue {
        /// The plugin.
        plugin: PluginName,
        /// The time limit.
        limit: Duration,
        /// How the plugin is.
        status: String,
    },
    /// The symbol could not be started again: it is over for good.
    #[error("the plugin \"{plugin}\" did not start it again: {reason}")]
    Ended {
        /// The plugin.
        plugin: PluginName,
        /// Why.
        reason: String,
    },
    /// The host is ending: it is over for good.
    #[error("the host is stopping")]
    Stopping,
}

/// A call of a function failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The function's own error.
    #[error("{0}")]
    Plugin(String),
    /// It answered with what cannot be understood.
    #[error(transparent)]
    Garbage(#[from] DataError),
    /// It did not answer in time.
    #[error(
        "the function \"{function}\" has not answered within {limit:?}; {channel}; \
         the plugin \"{plugin}\" is {status}"
    )]
    TimedOut {
        /// The function.
        function: String,
        /// The plugin.
        plugin: PluginName,
        /// The time limit.
        limit: Duration,
        /// How its channel is.
        channel: &'static str,
        /// How the plugin is.
        status: String,
    },
    /// The connection broke while it worked: whether it did is unknown.
    #[error(
        "the connection to the function \"{function}\" broke during the call; \
         the plugin \"{plugin}\" is {status}"
    )]
    Disconnected {
        /// The function.
        function: String,
        /// The plugin.
        plugin: PluginName,
        /// How the plugin is.
        status: String,
    },
    /// The function is over for good: it could not be started again, or the host is ending.
    #[error("the function \"{function}\" is no longer there; the plugin \"{plugin}\" is {status}")]
    Ended {
        /// The function.
        function: String,
        /// The plugin.
        plugin: PluginName,
        /// How the plugin is.
        status: String,
    },
}

impl Refusal {
    /// The same, for whoever wanted `name` to run.
    pub(super) fn into_open_error(self, plugin: &PluginName, name: &str) -> OpenError {
        let (plugin, name) = (plugin.clone(), name.to_owned());
        match self {
            Self::Plugin(text) | Self::Undefined(text) => OpenError::Plugin { plugin, name, text },
            Self::TimedOut(limit) => OpenError::TimedOut { plugin, name, limit },
            Self::Down(state, reason) => OpenError::Down {
                plugin,
                state,
                reason,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_nobody_can_listen_is_said() {
        let error = OpenError::from(sp_proto::ListenError::Io {
            address: "ipc:///tmp/r_s_0.ipc".to_owned(),
            source: std::io::ErrorKind::AddrInUse.into(),
        });
        assert_eq!(
            error.to_string(),
            "cannot listen on ipc:///tmp/r_s_0.ipc: address in use"
        );
    }
}
