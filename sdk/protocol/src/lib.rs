//! The contract between the Mangrove host and its portable plugins.
//!
//! Owns the data types of two contracts, the one that the published LF Edge eKuiper SDKs speak and our own, and how they look as
//! bytes. It does no I/O, knows no socket and no clock; the host and the Rust SDK both build on it.
//!
//! | module | what it describes |
//! |---|---|
//! | [`name`] | the names that may become part of a path |
//! | [`manifest`] | `<plugin>.json`, what a plugin folder says of itself |
//! | [`address`] | the fixed ipc addresses of the channels |
//! | [`control`] | the commands of the control channel and their answers |
//! | [`data`] | what travels on source, sink and function channels |
//! | [`Fields`] | a tuple that nobody may have looked into yet |
//! | [`native`] | our own contract, version 1 |
//!
//! Bytes from the other side never panic: every decoder returns an error that says what was expected.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

pub mod address;
pub mod control;
pub mod data;
pub mod manifest;
pub mod name;
pub mod native;

mod excerpt;
mod fields;

pub use fields::Fields;

/// A JSON object, its fields in the order in which they were written.
pub type Object = serde_json::Map<String, serde_json::Value>;
