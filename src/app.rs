//! The composition root: builds the parts of a host in order, and takes them down in the reverse one.
//!
//! Up: store, plugins, rules, REST. Down: REST stops taking requests, rules work off what is queued, plugin
//! processes stop. Every part owns its tasks and joins them in its `shutdown`; this module only knows the order
//! and the time that each may take.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::store::{States, Store, StoreError};
use crate::{api, plugin, rule};

/// The most that one part may take to shut down; the parts' own limits are shorter.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// What a home folder has, relative to it.
const FOLDERS: [&str; 5] = [
    "etc/sources",
    "etc/sinks",
    "etc/functions",
    "plugins/portable",
    "data",
];

/// Why a host cannot start or end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// A folder of the home folder cannot be made.
    #[error("the folder {path:?} cannot be made: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The REST address cannot be listened on.
    #[error("cannot listen on {address} for REST: {source}")]
    Listen {
        /// The wanted address.
        address: SocketAddr,
        /// Why, such as that it is in use.
        source: io::Error,
    },
    /// The embedded store cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The plugins' folder cannot be read.
    #[error("plugins cannot be started: {0}")]
    Plugins(#[source] io::Error),
}

/// Runs a host in its home folder until `stop` is ready; what is missing there is made. `ready` is told the
/// address as soon as REST answers there; plugins and rules come up in the background.
///
/// # Errors
/// What could not be made, opened or listened on. Nothing is left running.
///
/// # Cancel safety
/// Not safe: dropped, it stops plugins without their grace.
pub async fn run(
    config: &Config,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), AppError> {
    make_folders(&config.home)?;
    let store = config.home.join("data/mangrove.redb");
    let states = config.home.join("data/states.redb");
    let states = States::start(&states, config.portable.checkpoint_interval);
    let (store, states) = tokio::join!(Store::open(&store), states);
    let (store, (states, keeper)) = (store?, states?);
    let address = config.rest.address;
    let listen = |source| AppError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;

    let root = CancellationToken::new();
    let plugins = plugin::Manager::start(config, states.clone(), root.child_token())
        .await
        .map_err(AppError::Plugins)?;
    let rules = match rule::Manager::start(config, plugins.handle(), store, states, root.child_token()).await
    {
        Ok(rules) => rules,
        Err(error) => {
            plugins.shutdown().await;
            keeper.shutdown().await;
            return Err(error.into());
        }
    };

    let stop_rest = root.child_token();
    let router = api::router(rules.handle(), plugins.handle(), &config.rest, stop_rest.clone());
    let rest = api::serve(listener, router, stop_rest.clone());
    let mut rest = std::pin::pin!(rest);
    ready(address);
    tokio::select! {
        () = &mut rest => {}
        () = stop => {
            stop_rest.cancel();
            within("REST", &mut rest).await;
        }
    }
    within("rules", rules.shutdown()).await;
    within("plugins", plugins.shutdown()).await;
    within("what plugins remember", keeper.shutdown()).await;
    root.cancel();
    Ok(())
}

/// Waits for one part's end and names it when it misses the limit.
async fn within(part: &str, end: impl Future<Output = ()>) {
    if tokio::time::timeout(SHUTDOWN_LIMIT, end).await.is_err() {
        tracing::error!("{part} did not shut down within {SHUTDOWN_LIMIT:?}");
    }
}

fn make_folders(home: &Path) -> Result<(), AppError> {
    for folder in FOLDERS {
        let path = home.join(folder);
        std::fs::create_dir_all(&path).map_err(|source| AppError::Folder { path, source })?;
    }
    Ok(())
}
