//! The host as its users meet it: the real program in a home folder of its own, driven over REST.
//!
//! Results and changes of state are awaited as lines of the host's log.

mod author;
mod cli;
mod documents;
mod host;
mod killed;
mod languages;
mod mount;
mod parking;
mod plugins;
mod rest;
mod restart;
mod rules;
mod samples;
