//! An open source, whoever it belongs to: built in, or a plugin's.

use futures_util::FutureExt;
use serde_json::Value;

use super::End;
use super::flow::BATCH;
use crate::io::{self, Tuple};
use crate::plugin;

/// An open source.
pub(super) enum Input {
    BuiltIn(io::Source),
    Portable(Box<plugin::Source>),
}

/// Messages that came together.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) tuples: Vec<Tuple>,
    /// Where the source can go on behind them.
    pub(super) offset: Option<Value>,
}

/// Messages, or the text of an error after which the source goes on.
pub(super) type Received = Result<Batch, String>;

impl Input {
    /// What comes next, with what is ready behind it, about [`BATCH`] messages at most; `None` when there will be
    /// no more. Cancel safe.
    pub(super) async fn recv(&mut self) -> Option<Received> {
        match self {
            Self::BuiltIn(source) => {
                let mut tuples = vec![source.recv().await?];
                // A source that has ended says so again.
                while tuples.len() < BATCH
                    && let Some(Some(tuple)) = source.recv().now_or_never()
                {
                    tuples.push(tuple);
                }
                Some(Ok(Batch { tuples, offset: None }))
            }
            Self::Portable(source) => match source.recv_batch(BATCH).await? {
                Err(error) => Some(Err(error.to_string())),
                Ok(received) => {
                    let mut offset = None;
                    let tuple = |tuple: plugin::Tuple| {
                        if tuple.offset.is_some() {
                            offset = tuple.offset.map(|offset| *offset);
                        }
                        Tuple {
                            message: tuple.message,
                            meta: tuple.meta,
                        }
                    };
                    let tuples = received.into_iter().map(tuple).collect();
                    Some(Ok(Batch { tuples, offset }))
                }
            },
        }
    }

    /// Says that everything up to `offset` is safe.
    pub(super) async fn commit(&mut self, offset: &Value) -> Result<(), plugin::ChannelError> {
        match self {
            Self::Portable(source) => source.commit(offset).await,
            Self::BuiltIn(_) => Ok(()),
        }
    }

    /// Tells the source to bring nothing new. Whether something may still be on its way: then it is to be read
    /// until there is no more.
    pub(super) fn stop(&mut self) -> bool {
        match self {
            Self::BuiltIn(_) => false,
            Self::Portable(source) => {
                source.stop();
                true
            }
        }
    }

    /// How a source that says no more ends its rule.
    pub(super) fn end(&self) -> End {
        match self {
            Self::Portable(source) if !source.has_ended_by_itself() => {
                End::Failed("the plugin of its source is gone".to_owned())
            }
            _ => End::SourceEnded,
        }
    }

    pub(super) async fn close(self) {
        if let Self::Portable(source) = self {
            source.close().await;
        }
    }
}
