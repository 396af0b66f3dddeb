//! Real foreign peers, in both directions: nng (`nngcat`), nanomsg (`nanocat`), pynng and mangos, over
//! every transport and in every pattern that they know. A peer that this machine lacks is a skip by name.

mod cats;
mod keep_alive;
mod mangos;
mod meeting;
mod python;
mod reconnect;
mod scripted;
#[cfg(feature = "tls")]
#[path = "../support/tls.rs"]
mod tls;
