//! Real foreign peers, in both directions: nng (`nngcat`), nanomsg (`nanocat`) and pynng, over ipc and tcp, in
//! all five patterns. A peer that this machine lacks is a skip by name.

mod cats;
mod keep_alive;
mod meeting;
mod python;
mod reconnect;
