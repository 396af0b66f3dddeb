//! Mangrove's own contract between host and plugin, version 1: pipelined, batched, with state, logs and health.
//!
//! Owns its messages and how they look as bytes; `docs/protocol.md` is the page that explains them. Knows no
//! socket and no clock. The host and the Rust SDK drive it.
//!
//! | module | what it describes |
//! |---|---|
//! | [`opening`] | `hello` and what the host says to it |
//! | [`control`] | everything else on the control channel |
//! | [`source`] | batches of tuples |
//! | [`sink`] | batches of results |
//! | [`function`] | calls and their results |
//! | [`address`] | where a data channel is |
//!
//! Every SP message is one JSON object. Fields that are not known are ignored. What has many items is written
//! by a *writer*, which never builds a tree of values, and read into the type that the caller wants.

pub mod address;
pub mod control;
pub mod function;
pub mod opening;
pub mod sink;
pub mod source;

mod limited;

#[cfg(test)]
mod tests;

use serde::Serialize;

/// The versions of the contract that this crate speaks, the best one first.
pub const VERSIONS: &[u32] = &[1];

/// The environment variable that tells a plugin's process where the host listens.
pub const CONTROL_VARIABLE: &str = "MANGROVE_CONTROL";
/// The environment variable with the token that a plugin's `hello` must repeat.
pub const TOKEN_VARIABLE: &str = "MANGROVE_TOKEN";
/// The environment variable with the plugin's name.
pub const PLUGIN_VARIABLE: &str = "MANGROVE_PLUGIN";
/// The environment variable that says which of the plugin's instances a process is, from 0; 0 when it is not there.
pub const INSTANCE_VARIABLE: &str = "MANGROVE_INSTANCE";
/// The environment variable with the PEM file of those whom a plugin trusts on `tls+tcp`.
pub const CA_VARIABLE: &str = "MANGROVE_CA";

/// The most items that any list of a message may have, whatever limits are agreed on.
pub const MAX_ITEMS: usize = 65_536;

/// The longest key of a state, in bytes; the shortest has 1.
pub const MAX_KEY_LEN: usize = 256;
/// The longest value of a state, in bytes of JSON.
pub const MAX_VALUE_LEN: usize = 1 << 20;
/// The most keys of one scope of a state.
pub const MAX_KEYS: usize = 10_000;

/// The number by which the two sides name one use of a symbol; a function has one for all rules. Unique for a
/// process.
pub type UseNumber = u64;

/// Appends `value` as JSON. Only a value whose `Serialize` fails, or a map whose keys are no texts, cannot be
/// written; then nothing is appended.
fn append(buffer: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<(), serde_json::Error> {
    let before = buffer.len();
    serde_json::to_writer(&mut *buffer, value).inspect_err(|_| buffer.truncate(before))
}

/// Appends a number.
fn append_number(buffer: &mut Vec<u8>, number: u64) {
    // Writing a number to memory does not fail.
    let _ = append(buffer, &number);
}

/// Begins the next item of a list.
fn separate(buffer: &mut Vec<u8>, is_first: bool) {
    if !is_first {
        buffer.push(b',');
    }
}
