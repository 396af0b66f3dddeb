//! Streams and rules: their definitions, their life, their running graphs.
//!
//! [`Manager`] owns every task; [`Handle`] is what the rest of the host calls. Definitions and the wanted run
//! state lie in the store and are read back at start. Of plugins this module knows only their handle.
//!
//! | module | what it decides or does |
//! |---|---|
//! | `definition` | a rule's JSON (pure) |
//! | `stream` | a stream's statement and description (pure) |
//! | `compile` | names resolved, SQL planned (pure) |
//! | `needs` | which portable symbols a rule needs |
//! | `run` | one rule's run: open, watch, retry, park |
//! | `graph` | the nodes of a running rule |
//! | `registry` | which streams and rules there are, in memory and in the store |
//! | `handle` | what others may ask |
//! | `metrics` | what a node counts |

mod compile;
mod definition;
mod graph;
mod handle;
mod metrics;
mod needs;
mod registry;
mod run;
mod stream;

use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use self::handle::Handle;
use self::registry::Shared;
use crate::config::Config;
use crate::plugin;
use crate::store::{States, Store, StoreError};

/// Owns streams, rules and the tasks of their runs.
pub struct Manager {
    shared: Arc<Shared>,
}

/// Why a request about streams or rules fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such stream or rule.
    #[error("{0}")]
    NotFound(String),
    /// The request is at fault: a duplicate, something missing, bad SQL, bad JSON.
    #[error("{0}")]
    Invalid(String),
    /// The host is at fault.
    #[error("{0}")]
    Internal(String),
}

/// One row of the list of streams.
#[derive(Clone, Debug, Serialize)]
pub struct StreamSummary {
    /// Its name.
    pub name: String,
    /// Its source.
    pub r#type: String,
    /// The format of its messages.
    pub format: String,
}

/// One row of the list of rules.
#[derive(Clone, Debug, Serialize)]
pub struct RuleSummary {
    /// The rule's id.
    pub id: String,
    /// Its name, for people; the id when it has none.
    pub name: String,
    /// One word: `running`, `starting`, `waiting` (for a plugin), `stopping`, `stopped`,
    /// `stopped by error`.
    pub status: String,
}

impl Manager {
    /// Reads back what the store holds and starts the rules that ran. A rule that cannot be read or started
    /// is logged and shows it in its status; it stops nothing else.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(
        config: &Config,
        plugins: plugin::Handle,
        store: Store,
        states: States,
        shutdown: CancellationToken,
    ) -> Result<Self, StoreError> {
        let shared = Shared::restore(config, plugins, store, states, shutdown).await?;
        Ok(Self { shared })
    }

    /// The way in for everybody else.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// Stops every rule, letting each work off what it has queued, within its drain limit. What is wanted
    /// running stays so in the store.
    pub async fn shutdown(self) {
        self.shared.shutdown.cancel();
        self.shared.runs.close();
        self.shared.runs.wait().await;
        self.shared.sources.closed().await;
    }
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::Invalid(error.to_string())
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(error.to_string())
}
