//! An open source, whoever it belongs to: built in, or a plugin's.

use futures_util::FutureExt;

use super::End;
use super::flow::BATCH;
use crate::io::{self, Tuple};
use crate::plugin;

/// An open source.
pub(super) struct Input {
    from: From,
    /// An error that came behind tuples which were handed on first.
    behind: Option<String>,
}

enum From {
    BuiltIn(io::Source),
    Portable(plugin::Source),
}

/// Messages, or the text of an error after which the source goes on.
pub(super) type Received = Result<Vec<Tuple>, String>;

impl Input {
    pub(super) fn built_in(source: io::Source) -> Self {
        Self {
            from: From::BuiltIn(source),
            behind: None,
        }
    }

    pub(super) fn portable(source: plugin::Source) -> Self {
        Self {
            from: From::Portable(source),
            behind: None,
        }
    }

    /// What comes next, with what is ready behind it, at most [`BATCH`] messages; `None` when there will be no
    /// more. Cancel safe.
    pub(super) async fn recv(&mut self) -> Option<Received> {
        if let Some(error) = self.behind.take() {
            return Some(Err(error));
        }
        let mut tuples = match self.from.recv().await? {
            Ok(tuple) => vec![tuple],
            Err(error) => return Some(Err(error)),
        };
        while tuples.len() < BATCH {
            match self.from.recv().now_or_never() {
                Some(Some(Ok(tuple))) => tuples.push(tuple),
                Some(Some(Err(error))) => {
                    self.behind = Some(error);
                    break;
                }
                // A source that has ended says so again.
                Some(None) | None => break,
            }
        }
        Some(Ok(tuples))
    }

    /// How a source that says no more ends its rule: a plugin's only does so when it is gone.
    pub(super) fn end(&self) -> End {
        match self.from {
            From::BuiltIn(_) => End::SourceEnded,
            From::Portable(_) => End::Failed("the plugin of its source is gone".to_owned()),
        }
    }

    pub(super) async fn close(self) {
        if let From::Portable(source) = self.from {
            source.close().await;
        }
    }
}

impl From {
    /// Cancel safe.
    async fn recv(&mut self) -> Option<Result<Tuple, String>> {
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
}
