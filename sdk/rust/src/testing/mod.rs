//! Owns what takes the host's place in tests.
//!
//! [`Host`] runs a whole plugin within the test, over the real contract: it starts symbols, feeds them, collects what comes
//! out, keeps their state, and sees their logs and figures.
//!
//! ```
//! use mangrove_sdk::testing::Host;
//! use mangrove_sdk::{Context, Message, Output, Plugin, Result, Sink, Source};
//! use serde::Deserialize;
//! use serde_json::json;
//!
//! #[derive(Deserialize)]
//! struct Range { count: u64 }
//!
//! impl Source for Range {
//!     type Config = Self;
//!     async fn open(_: String, range: Self, _: &Context) -> Result<Self> {
//!         Ok(range)
//!     }
//!     async fn run(self, output: Output, _: Context) -> Result {
//!         for n in 1..=self.count {
//!             output.send_json(&json!({"n": n})).await?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! struct NoTwo;
//! impl Sink for NoTwo {
//!     type Config = mangrove_sdk::Object;
//!     async fn open(_: Self::Config, _: &Context) -> Result<Self> {
//!         Ok(Self)
//!     }
//!     async fn collect(&mut self, message: Message, _: &Context) -> Result {
//!         if message.rows()?.iter().any(|row| row["n"] == 2) { Err("no two".into()) } else { Ok(()) }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result {
//! let plugin = Plugin::new("example").source::<Range>("range").sink::<NoTwo>("no_two");
//! let host = Host::start(plugin).await?;
//!
//! let mut range = host.source("range").config(json!({"count": 2})).start().await?;
//! let mut no_two = host.sink("no_two").start().await?;
//! assert_eq!(no_two.send(&range.tuple().await?.message()).await?, Ok(()));
//! assert_eq!(no_two.send(&range.tuple().await?.message()).await?, Err("no two".to_owned()));
//! assert_eq!(range.next().await?, None);
//!
//! let error = host.source("range").config(json!({"count": "two"})).start().await.unwrap_err();
//! assert!(error.to_string().contains("expected u64"));
//! host.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Where only the code of one symbol is of interest, [`context`] and [`output`] do:
//!
//! ```
//! # use mangrove_sdk::{Context, Output, Result, Source, testing};
//! # struct Once;
//! # impl Source for Once {
//! #     type Config = mangrove_sdk::Object;
//! #     async fn open(_: String, _: Self::Config, _: &Context) -> Result<Self> {
//! #         Ok(Self)
//! #     }
//! #     async fn run(self, output: Output, _: Context) -> Result {
//! #         Ok(output.send_json(&serde_json::json!({"n": 1})).await?)
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result {
//! let context = testing::context();
//! let (output, mut sent) = testing::output(8);
//! let source = Once::open(String::new(), Default::default(), &context).await?;
//! source.run(output, context).await?;
//! assert_eq!(sent.recv().await.unwrap()?.message()["n"], 1);
//! assert_eq!(sent.recv().await, None);
//! # Ok(())
//! # }
//! ```

mod host;
mod uses;

pub use host::{Host, LogLine};
pub use uses::{FunctionStart, RunningFunction, RunningSink, RunningSource, SinkStart, SourceStart};

use std::sync::Arc;

use mangrove_protocol::Object;
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::native::source::{SourceBatch, SourceContent};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::context::{Place, Services};
use crate::metrics::{Figures, Metrics};
use crate::native::Endpoint;
use crate::output::{Bounds, Framing, Messages};
use crate::state::{Memory, MemoryStore, Scope, State};
use crate::{Context, Output, Plugin, RunError, Tuple};

/// A context of the rule `rule`, operator `op`, with an empty state; cancel it through [`Context::cancellation`].
pub fn context() -> Context {
    make_context(None)
}

/// The same for a source that goes on at `offset`.
pub fn context_at(offset: Value) -> Context {
    make_context(Some(offset))
}

fn make_context(offset: Option<Value>) -> Context {
    let place = Place {
        rule: "rule".to_owned(),
        op: "op".to_owned(),
        ..Place::default()
    };
    let store = MemoryStore {
        memory: Memory::default(),
        scope: Scope {
            symbol: "symbol".to_owned(),
            rule: place.rule.clone(),
        },
    };
    let services = Services {
        state: State::new(store),
        metrics: Metrics::new(Figures::new(0, Arc::default())),
        log: None,
        offset,
    };
    Context::new(
        SymbolKind::Source,
        "symbol",
        place,
        services,
        CancellationToken::new(),
    )
}

/// Runs a plugin for a host of the test's own at `control`, an address of `sp_proto`'s, as if the environment had said so;
/// `token` is what its hello repeats.
///
/// # Errors
/// As [`Plugin::run`].
pub async fn run_at(
    mut plugin: Plugin,
    control: &str,
    token: &str,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let endpoint = Endpoint {
        control: control.to_owned(),
        token: token.to_owned(),
        plugin: plugin.check()?,
    };
    plugin.serve_native(endpoint, &stop).await
}

/// An output for a source, and what comes out of it. `capacity` messages wait between the two.
pub fn output(capacity: usize) -> (Output, Sent) {
    let bounds = Bounds {
        tuples: capacity.max(1),
        message: 0,
    };
    let (output, messages) = Output::channel(Framing::Batches(1), bounds);
    (output, Sent { messages })
}

/// What a source sends.
#[derive(Debug)]
pub struct Sent {
    messages: Messages,
}

impl Sent {
    /// The next tuple, or the next error that the source reported; `None` when every output is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Result<Tuple, String>> {
        let message = self.messages.next().await?;
        // What our own queue has written can be read, and has one tuple.
        match SourceBatch::<Object>::decode(&message, 1).ok()?.content {
            SourceContent::Tuples { tuples, meta, offset } => {
                let meta = meta.into_iter().next().flatten();
                Some(Ok(Tuple::from_parts(tuples.into_iter().next()?, meta, offset)))
            }
            SourceContent::Error(text) => Some(Err(text)),
            SourceContent::End(_) => None,
        }
    }
}
