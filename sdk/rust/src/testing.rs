//! Owns what a symbol's own tests need in place of a host.
//!
//! ```
//! use mangrove_sdk::{Context, Output, Result, Source, Tuple, testing};
//!
//! struct Once;
//! impl Source for Once {
//!     type Config = mangrove_sdk::Object;
//!     async fn open(_: String, _: Self::Config, _: &Context) -> Result<Self> {
//!         Ok(Self)
//!     }
//!     async fn run(self, output: Output, _: Context) -> Result {
//!         Ok(output.send(Tuple::new(&serde_json::json!({"n": 1}))?).await?)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result {
//! let context = testing::context();
//! let (output, mut sent) = testing::output(8);
//! let source = Once::open(String::new(), Default::default(), &context).await?;
//! source.run(output, context).await?;
//! assert_eq!(sent.recv().await, Some(Ok(Tuple::new(&serde_json::json!({"n": 1}))?)));
//! assert_eq!(sent.recv().await, None);
//! # Ok(())
//! # }
//! ```

use mangrove_protocol::control::Meta;
use mangrove_protocol::data::SourceMessage;
use mangrove_protocol::manifest::SymbolKind;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Context, Output, Tuple};

/// A context of the rule `rule`, operator `op`; cancel it through [`Context::cancellation`].
pub fn context() -> Context {
    let meta = Meta {
        rule_id: "rule".parse().ok(),
        op_id: "op".parse().ok(),
        instance_id: 0,
    };
    Context::of_use(SymbolKind::Source, "symbol", &meta, CancellationToken::new())
}

/// An output for a source, and what comes out of it. `capacity` messages wait between the two.
pub fn output(capacity: usize) -> (Output, Sent) {
    let (output, messages) = Output::channel(capacity);
    (output, Sent { messages })
}

/// What a source sends.
#[derive(Debug)]
pub struct Sent {
    messages: mpsc::Receiver<SourceMessage>,
}

impl Sent {
    /// The next tuple, or the next error that the source reported; `None` when every output is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Result<Tuple, String>> {
        Some(match self.messages.recv().await? {
            SourceMessage::Tuple { message, meta } => Ok(Tuple { message, meta }),
            SourceMessage::Error(text) => Err(text),
        })
    }
}
