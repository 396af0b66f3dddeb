//! Portable plugins: separate processes that bring sources, sinks and functions, in any language.
//!
//! The rest of the host sees a [`Handle`] and what it gives out; it knows neither processes nor sockets. This
//! module knows neither rules nor REST. Decisions are pure; one task per instance of a plugin (mostly there is one),
//! and one per function symbol, carries them out.
//!
//! | | module | what it owns |
//! |---|---|---|
//! | pure | `catalog` | which plugins and symbols there are, and who comes first |
//! | pure | `diff` | what has to be done so that what runs is what lies in the folder |
//! | pure | `lifecycle` | the states of one plugin, which command comes next, and how a new version takes over |
//! | pure | `turn` | whose turn it is on a turned-around channel |
//! | pure | `missed` | what stands for events of a socket that came too fast |
//! | pure | `backoff` | how long to wait before the next process |
//! | pure | `launch` | how a process is called |
//! | I/O | `package`, `archive`, `download`, `install` | folders, zips, and how one becomes the other |
//! | I/O | `staging` | how a new version takes the place of the old one, and what undoes it after a kill |
//! | I/O | `disk` | what makes a change of a folder last over a power cut |
//! | I/O | `settings`, `checksum` | `etc` files of symbols, told apart from the user's by their sums |
//! | I/O | `watch`, `scan`, `fingerprint`, `inspect` | what lies in the folder, and when it changes |
//! | I/O | `script`, `environment` | programs that run while a plugin is installed, and the Python environments that some build |
//! | I/O | `process`, `output` | processes and what they say |
//! | I/O | `worker`, `remote` | one plugin at run time: the task around its `lifecycle`, and the way to it |
//! | I/O | `instances` | what the workers of one plugin have in common, when there are several |
//! | I/O | `source`, `sink`, `function` | the data channels, as rules use them |
//! | I/O | `sender`, `calls`, `doorstep` | the parts of them that move with the plugin's processes |
//! | I/O | `native` | our own contract: its control channel, and what is its own of the data channels |
//! | I/O | `record` | when each symbol last worked |
//! | I/O | `events` | what happened to them, for whoever listens |
//! | I/O | `reconcile`, `operate` | what is done because the folder changed, and what by hand |
//! | I/O | `order` | how the workers of a plugin are told what to run, and to stop |
//! | I/O | `starts` | how many may be starting at the same time |
//! | I/O | `shared` | what all that is done with plugins shares |
//! | I/O | `trial` | a plugin's folder and process without a host, for those who try a plugin out |
//! | I/O | `manager`, `handle` | all of it together, and the edge |
//!
//! Whatever a plugin does, no part of the host waits for it without a limit, and nothing that it sends is
//! kept without one.

mod archive;
mod backoff;
mod calls;
mod catalog;
mod causes;
mod channel;
mod checksum;
mod diff;
mod disk;
mod doorstep;
mod download;
mod environment;
mod error;
mod events;
mod fingerprint;
mod function;
pub mod guard;
mod handle;
mod inspect;
mod install;
mod instances;
mod launch;
mod lifecycle;
mod limits;
mod locks;
mod manager;
mod missed;
mod native;
mod operate;
mod order;
mod output;
mod package;
mod peers;
mod process;
mod reconcile;
mod record;
mod remote;
mod scan;
mod script;
mod sender;
mod settings;
mod shared;
mod sink;
mod source;
mod staging;
mod starts;
mod status;
mod throttle;
mod trial;
mod turn;
mod users;
mod watch;
mod worker;

pub use archive::{ArchiveError, EntryError};
pub use catalog::{Conflict, Missing};
pub use checksum::{Checksum, ChecksumError};
pub use download::DownloadError;
pub use environment::EnvironmentError;
pub use error::{CallError, ChannelError, ControlError, InstallError, OpenError, RemoveError};
pub use events::Event;
pub use function::Function;
pub use handle::{Handle, Removed};
pub use install::InstallRequest;
pub use manager::Manager;
pub use output::{Line, Stream};
pub use package::PackageError;
pub use script::{Said, ScriptError};
pub use sink::{Settled, Sink};
pub use source::{Source, Tuple};
pub use status::{Instance, Plugin, State, Status, SymbolStatus, Symbols};
pub use trial::TrialError;
pub(crate) use trial::{Candidate, End, Trial, check_package};

use std::sync::Arc;

use crate::config::Portable;
use peers::Peers;

/// The options of every socket of a plugin's channels.
fn socket_options(settings: &Portable, peers: &Arc<Peers>) -> sp_proto::SocketOptions {
    sp_proto::SocketOptions {
        recv_max_size: settings.max_message,
        // Only the newest keep-alive of a plugin matters, and it has one request at a time.
        rep_backlog: 1,
        admission: peers.admission(),
        ..Default::default()
    }
}

/// Settings for unit tests, with limits that no healthy test reaches.
#[cfg(test)]
fn test_settings() -> Portable {
    use std::time::Duration;
    Portable {
        python_bin: "python3".to_owned(),
        conda_bin: "conda".to_owned(),
        uv_bin: "uv".to_owned(),
        ca_file: None,
        install_timeout: Duration::from_secs(50),
        send_timeout: Duration::from_secs(10),
        start_timeout: Duration::from_secs(10),
        command_timeout: Duration::from_secs(10),
        call_timeout: Duration::from_secs(10),
        ack_timeout: Duration::from_secs(10),
        checkpoint_interval: Duration::from_secs(10),
        ack_window: 1024,
        ping_interval: Duration::from_secs(10),
        stop_grace: Duration::from_secs(2),
        restart_delay_min: Duration::from_millis(10),
        restart_delay_max: Duration::from_millis(100),
        restart_limit: 5,
        log_lines: 100,
        settle: Duration::from_millis(50),
        rescan: Duration::from_secs(30),
        parallel_starts: 4,
        max_message: 1 << 20,
        limit_memory: 0,
        limit_open_files: 0,
        limit_cpu_share: 100,
        remote: String::new(),
        remote_cert: None,
        remote_key: None,
        contract: "both".to_owned(),
        peers: "plugin".to_owned(),
        guard: "/proc/self/exe".into(),
    }
}
