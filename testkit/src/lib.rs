//! What the tests of several crates share, and nothing that ships.
//!
//! | module | what it owns |
//! |---|---|
//! | [`foreign`] | the programs, Go programs and Python environments of foreign peers, found or prepared |
//! | [`process`] | a child process whose output lines are events, killed with its group on drop |
//! | [`port`] | tcp ports for peers that cannot say which one they got |
//! | [`lock`] | locks between processes, for what the machine has only once |
//! | [`skip`](mod@skip) | tests that this machine cannot run, each reported by name |
//! | [`bound`] | time limits that turn a hang into a failure |
//!
//! A test that needs a foreign peer asks for it and returns early when there is none:
//!
//! ```no_run
//! let Some(nngcat) = testkit::program("nngcat") else { return };
//! # drop(nngcat);
//! ```
//!
//! Everything here panics with a clear text when a test cannot go on: a test's panic is its report.

pub mod bound;
pub mod foreign;
pub mod lock;
pub mod port;
pub mod process;
pub mod skip;

pub use bound::{PATIENCE, within};
pub use foreign::{built, go, program, python, target_folder, uv};
pub use lock::{Exclusive, exclusive};
pub use port::free_port;
pub use process::Process;
pub use skip::skip;
