//! How to use this crate, one page per pattern and a few on what all patterns share. Text only: no code of the
//! crate knows it.
//!
//! | to | use | page |
//! |---|---|---|
//! | deal work out to whoever has time | push, pull | [`pipeline`] |
//! | ask one of several servers | req, rep | [`request_reply`] |
//! | tell everybody who wants to hear | pub, sub | [`publish_subscribe`] |
//! | ask everybody and take what answers come | surveyor, respondent | [`survey`] |
//! | talk with one peer, both ways | pair | [`pair`] |
//! | tell every neighbour | bus | [`bus`] |
//!
//! Who listens and who dials is a matter of the network, not of the pattern: the end whose address stays listens.
//!
//! What all share: [`connecting`] and events, [`back_pressure`] and memory, [`closing`], [`devices`] and raw sockets,
//! [`tls_and_websockets`]. For those who know another library: [`coming_from`].
//!
//! Three things hold everywhere:
//!
//! - **Order.** Messages between two ends of one connection arrive in the order in which they were sent. Between
//!   connections there is no order, and none across a reconnection.
//! - **Loss.** Nothing on the wire acknowledges delivery. `send` is done when the message is queued; what is queued
//!   or under way when a connection breaks is lost. Only req sends again.
//! - **Handles.** A socket is a handle to be cloned; all methods take `&self`, so any number of tasks may send and
//!   receive side by side, first come first served: a future that has waited and been woken must be polled or
//!   dropped, for those behind it wait. A context takes `&mut self`: it is one conversation.

#[doc = include_str!("back_pressure.md")]
pub mod back_pressure {}
#[doc = include_str!("bus.md")]
pub mod bus {}
#[doc = include_str!("closing.md")]
pub mod closing {}
#[doc = include_str!("coming_from.md")]
pub mod coming_from {}
#[doc = include_str!("connecting.md")]
pub mod connecting {}
#[doc = include_str!("devices.md")]
pub mod devices {}
#[doc = include_str!("pair.md")]
pub mod pair {}
#[doc = include_str!("pipeline.md")]
pub mod pipeline {}
#[doc = include_str!("publish_subscribe.md")]
pub mod publish_subscribe {}
#[doc = include_str!("request_reply.md")]
pub mod request_reply {}
#[doc = include_str!("survey.md")]
pub mod survey {}
#[doc = include_str!("tls_and_websockets.md")]
pub mod tls_and_websockets {}
