//! The SDK against the host's side of the contract, on the contract's real addresses.

mod control;
mod functions;
mod host;
mod sinks;
mod sources;
