//! An open source, whoever it belongs to: built in, or a plugin's.

use super::End;
use crate::io::{self, Tuple};
use crate::plugin;

/// An open source.
pub(super) enum Input {
    BuiltIn(io::Source),
    Portable(plugin::Source),
}

/// A message, or the text of an error after which the source goes on.
pub(super) type Received = Result<Tuple, String>;

impl Input {
    /// What comes next; `None` when there will be no more. Cancel safe.
    pub(super) async fn recv(&mut self) -> Option<Received> {
        match self {
            Self::BuiltIn(source) => source.recv().await.map(Ok),
            Self::Portable(source) => {
                let received = source.recv().await?;
                let tuple = |tuple: plugin::Tuple| Tuple {
                    message: tuple.message,
                    meta: tuple.meta,
                };
                Some(received.map(tuple).map_err(|error| error.to_string()))
            }
        }
    }

    /// How a source that says no more ends its rule: a plugin's only does so when it is gone.
    pub(super) fn end(&self) -> End {
        match self {
            Self::BuiltIn(_) => End::SourceEnded,
            Self::Portable(_) => End::Failed("the plugin of its source is gone".to_owned()),
        }
    }

    pub(super) async fn close(self) {
        if let Self::Portable(source) = self {
            source.close().await;
        }
    }
}
