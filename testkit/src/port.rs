//! Owns the choice of tcp ports for programs that must be told one. Ours listen on port 0 instead.

use std::net::{Ipv4Addr, TcpListener};

/// A port of the loopback address that is free now. Another program may take it before the peer does, so this
/// is only for peers that cannot listen on port 0 and tell.
///
/// # Panics
/// When the system has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener
        .unwrap_or_else(|error| panic!("no free tcp port: {error}"))
        .port()
}
