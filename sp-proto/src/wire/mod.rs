//! What goes over the wire: greetings, frames and backtraces. Pure: bytes in, values out.
//!
//! Knows no socket, no task and no clock, and refuses a length before it allocates for it. The engine drives
//! it; so do the fuzz targets.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]

mod backtrace;
mod batch;
mod frame;
mod greeting;
mod spares;
#[cfg(feature = "ws")]
pub mod websocket;

pub use backtrace::{Backtrace, BacktraceError, DEFAULT_TTL, FINAL};
pub use batch::Batch;
pub use frame::{Decoder, FrameError, Framing};
pub use greeting::{GREETING_LEN, GreetingError, decode_greeting, encode_greeting};
pub use spares::Spares;
