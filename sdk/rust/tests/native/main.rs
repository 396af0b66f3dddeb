//! The SDK against Mangrove's own contract: a host that is played message by message, and the one of `testing`.

mod batches;
mod calls;
mod results;
mod script;
mod sessions;
mod symbols;
mod whole;
