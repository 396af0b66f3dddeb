//! Owns what a behaviour is, and the list of all of them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mangrove_protocol::native::opening::{Hello, Limits};

use super::desk::Ledger;
use super::plan::Plan;
use super::session::{Entry, Session};
use super::{ending, function, hostile, opening, sink, source, state, symbols};
use crate::config::Portable;
use crate::plugin::Candidate;

/// Why a behaviour is not as it should be, or was not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    Failed(String),
    Skipped(String),
}

impl Flaw {
    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(reason.into())
    }

    pub(super) fn skipped(reason: impl Into<String>) -> Self {
        Self::Skipped(reason.into())
    }

    /// Something beside the plugin did not work.
    pub(super) fn broken(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What comes of trying something.
pub(super) type Verdict<T = ()> = Result<T, Flaw>;

/// Fails with `reason` unless `holds`.
pub(super) fn demand(holds: bool, reason: impl FnOnce() -> String) -> Verdict {
    if holds {
        Ok(())
    } else {
        Err(Flaw::Failed(reason()))
    }
}

/// What a behaviour is tried with. Made anew for each.
pub(super) struct Bench<'a> {
    pub(super) candidate: &'a Candidate,
    pub(super) settings: &'a Portable,
    pub(super) plan: &'a Plan,
    pub(super) ledger: Arc<Ledger>,
    /// How long a plugin may take over anything that has no time limit of its own. Far longer than it should: the
    /// machine may be busy.
    pub(super) patience: Duration,
}

impl Bench<'_> {
    /// Starts a process, which has not said hello.
    pub(super) async fn launch(&self) -> Verdict<Session> {
        let entry = Entry {
            candidate: self.candidate,
            settings: self.settings,
            ledger: &self.ledger,
            patience: self.patience,
        };
        Session::launch(entry).await
    }

    /// Starts a process and takes it.
    pub(super) async fn open(&self) -> Verdict<Session> {
        Ok(self.open_with(Limits::default()).await?.0)
    }

    pub(super) async fn open_with(&self, limits: Limits) -> Verdict<(Session, Hello)> {
        let mut session = self.launch().await?;
        let hello = session.hello().await?;
        session.welcome(limits).await?;
        Ok((session, hello))
    }
}

type Play = for<'a> fn(&'a Bench<'a>) -> Pin<Box<dyn Future<Output = Verdict> + 'a>>;

/// Something that every plugin should do.
pub(super) struct Behaviour {
    pub(super) name: &'static str,
    /// What it should do.
    pub(super) about: &'static str,
    pub(super) play: Play,
}

macro_rules! behaviours {
    ($($name:literal $about:literal $module:ident::$play:ident;)+) => {
        &[$(Behaviour {
            name: $name,
            about: $about,
            play: |bench| Box::pin($module::$play(bench)),
        }),+]
    };
}

/// All, in the order in which they are tried. Without the first, none of the others means anything.
pub(super) const ALL: &[Behaviour] = behaviours![
    "hello" "says its version, its token and at least the symbols of its manifest" opening::hello;
    "refused" "ends with status 1 when the host refuses it" opening::refused;
    "later-versions" "ignores what it does not know, and answers unknown requests with an error" opening::later_versions;
    "ping" "answers pings while its symbols work" opening::ping;
    "reconnect" "connects again, drops what ran, and starts anew" opening::reconnect;
    "start-stop" "starts and stops each symbol, and closes its channel" symbols::start_stop;
    "restart" "starts a symbol again and again without keeping anything open" symbols::restart;
    "uses" "keeps two uses of one symbol apart" symbols::uses;
    "unknown-symbol" "refuses to start what it does not have" symbols::unknown;
    "wrong-config" "refuses a wrong configuration, and the rest goes on" symbols::wrong_config;
    "batches" "numbers batches 1, 2, 3… and keeps within the limits" source::batches;
    "drain" "sends everything up to the batch that it answers stop with, and nothing after" source::drain;
    "back-pressure" "waits for a host that does not read, in bounded memory, and loses nothing" source::back_pressure;
    "ends" "reports errors that it survives, and its own end" source::ends;
    "offset" "goes on behind the offset that it is given back" source::offset;
    "acks" "acknowledges every batch, in order" sink::acks;
    "no-acks" "acknowledges nothing when it is not asked to" sink::no_acks;
    "sink-errors" "says which result failed, and takes the next one" sink::errors;
    "sink-stop" "takes what was sent before stop, and answers then" sink::stop;
    "flood" "takes 100,000 results" sink::flood;
    "calls" "answers each call once, with its result" function::calls;
    "in-flight" "answers 1,000 calls of a function at once" function::in_flight;
    "deadlines" "answers a fast call before a slow one, and one behind calls whose time is up" function::deadlines;
    "call-errors" "answers a call that fails with its error" function::errors;
    "panics" "survives a panic in a call" function::panics;
    "validate" "accepts and refuses arguments" function::validate;
    "aggregates" "says which functions work on groups, and gives them lists" function::aggregates;
    "cancel" "goes on after calls are cancelled" function::cancel;
    "state" "keeps its state with the host, in order" state::state;
    "unicode" "passes on any text" hostile::unicode;
    "large" "takes and sends messages of 16 MiB" hostile::large;
    "garbage-control" "survives garbage on its control channel" hostile::garbage_control;
    "garbage-data" "survives garbage on its data channels" hostile::garbage_data;
    "shutdown" "ends everything and itself with status 0 when it is told to" ending::shutdown;
    "sigterm" "does the same on SIGTERM" ending::sigterm;
    "nothing-left" "leaves no process behind" ending::nothing_left;
];
