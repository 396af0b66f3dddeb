//! One rule's run: opens its graph, watches it, opens it again with growing pauses when it fails, and parks it
//! while a plugin that it needs is not there.
//!
//! ```text
//!            ┌── retry after a pause, or when its plugin runs again ──┐
//!            ▼                                                        │
//! Stopped ─▶ Starting ──opened──▶ Running ──failed──────────────▶ Failing
//!    ▲        ▲   │ └──── could not be opened ───────────────────────▶│
//!    │  it is │   │ a symbol is missing │                             │
//!    │   back │   ▼                     ▼                             │
//!    │        Waiting ◀──────────── (drained) ◀───────────────────────┘
//!    └── from everywhere: stop, or the source has nothing more
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mangrove_protocol::Object;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::compile::{CompileError, Names, compile};
use super::graph::{End, Graph, NodeMetrics, OpenError, Parts};
use super::metrics::now_ms;
use super::needs::Needs;
use super::registry::{Rule, Shared};
use crate::plugin::Missing;

/// The first pause before a failed rule is tried again.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest one.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A rule that ran this long has its pauses begin anew.
const STABLE: Duration = Duration::from_secs(60);

/// eKuiper's words for a rule that somebody stopped.
const CANCELED: &str = "canceled manually";

/// Where a rule is, with the words of eKuiper's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not wanted, or it has come to its end.
    Stopped { why: String },
    /// Being opened.
    Starting,
    /// All nodes are up.
    Running,
    /// A symbol that it needs cannot be used now. It goes on by itself when that is back.
    Waiting(Missing),
    /// It failed and is tried again.
    Failing { why: String, retry_in: Duration },
    /// Working off what is queued.
    Stopping,
}

impl State {
    /// eKuiper's word for it, where it has one.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Stopped { .. } => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting(_) => "waiting",
            Self::Failing { .. } => "stopped by error",
            Self::Stopping => "stopping",
        }
    }

    /// The reason, for people.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Stopped { why } => why.clone(),
            Self::Waiting(Missing {
                plugin: Some(plugin),
                reason,
            }) => format!("waiting for plugin \"{plugin}\": {reason}"),
            Self::Waiting(Missing { plugin: None, reason }) => {
                format!("waiting for a plugin: {reason}")
            }
            Self::Failing { why, retry_in } => format!("{why}; next try in {retry_in:.1?}"),
            Self::Starting | Self::Running | Self::Stopping => String::new(),
        }
    }
}

/// What is known of a rule's run. Written by its run, read by the API.
pub(crate) struct Status {
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    /// Milliseconds since the epoch; 0 = never.
    last_start: i64,
    last_stop: i64,
    /// Those of the last run stay readable after its end.
    metrics: NodeMetrics,
}

impl Status {
    pub(crate) fn new() -> Self {
        let state = State::Stopped {
            why: "never started".to_owned(),
        };
        Self {
            inner: Mutex::new(Inner {
                state,
                last_start: 0,
                last_stop: 0,
                metrics: Vec::new(),
            }),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// The object of `GET /rules/{id}/status`.
    pub(crate) fn report(&self) -> Object {
        let inner = self.lock();
        let mut status = Object::new();
        status.insert("status".to_owned(), inner.state.word().into());
        status.insert("message".to_owned(), inner.state.message().into());
        status.insert("lastStartTimestamp".to_owned(), inner.last_start.into());
        status.insert("lastStopTimestamp".to_owned(), inner.last_stop.into());
        status.insert("nextStartTimestamp".to_owned(), 0.into());
        for node in &inner.metrics {
            node.report(&mut status);
        }
        status
    }

    fn enter(&self, state: State) {
        let mut inner = self.lock();
        match &state {
            State::Starting => inner.last_start = now_ms(),
            State::Stopped { .. } | State::Failing { .. } | State::Waiting(_) => inner.last_stop = now_ms(),
            State::Running | State::Stopping => {}
        }
        inner.state = state;
    }

    fn running(&self, metrics: NodeMetrics) {
        let mut inner = self.lock();
        inner.metrics = metrics;
        inner.state = State::Running;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0}")]
    Compile(#[from] CompileError),
    #[error("{0}")]
    Open(#[from] OpenError),
}

/// Runs `rule` until `stop` is cancelled or its source ends. A state is logged once it can be seen.
pub(crate) async fn run(shared: Arc<Shared>, rule: Arc<Rule>, stop: CancellationToken) {
    let mut retry = Retry::new();
    let why = loop {
        // Without a plan nothing is needed, and opening it says what is wrong.
        let needs = Needs::of(&rule.definition(), &shared.streams()).unwrap_or_default();
        if !park(&shared, &rule, &needs, &stop).await {
            break CANCELED;
        }
        let started = Instant::now();
        let failure = match attempt(&shared, &rule, &needs, &stop).await {
            Outcome::Over(why) => break why,
            Outcome::Parked => {
                retry = Retry::new();
                continue;
            }
            Outcome::Failed(why) => why,
        };
        let retry_in = retry.after(started.elapsed());
        tracing::warn!(rule = %rule.id, "rule failed, next try in {retry_in:.1?}: {failure}");
        rule.status.enter(State::Failing {
            why: failure,
            retry_in,
        });
        let (mut changes, mut events) = (shared.plugins.changes(), shared.plugins.events());
        tokio::select! {
            () = stop.cancelled() => break CANCELED,
            () = tokio::time::sleep(retry_in) => {}
            () = needs.running(&shared.plugins, &mut events) => {}
            _ = needs.lost(&shared.plugins, &mut changes) => retry = Retry::new(),
        }
    };
    rule.status.enter(State::Stopped { why: why.to_owned() });
    tracing::info!(rule = %rule.id, "rule stopped: {why}");
}

/// Waits while something that the rule needs is missing; `false`: it was stopped meanwhile.
async fn park(shared: &Shared, rule: &Rule, needs: &Needs, stop: &CancellationToken) -> bool {
    let mut changes = shared.plugins.changes();
    while let Some(missing) = needs.missing(&shared.plugins) {
        let waiting = State::Waiting(missing);
        if rule.status.state() != waiting {
            let message = waiting.message();
            rule.status.enter(waiting);
            tracing::info!(rule = %rule.id, "rule is {message}");
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            Ok(()) = changes.changed() => {}
            // The plugins have ended: the host does.
            else => return false,
        }
    }
    true
}

/// How one attempt to run came to its end.
enum Outcome {
    /// For good.
    Over(&'static str),
    /// Something that it needs went missing. What was queued is worked off.
    Parked,
    Failed(String),
}

/// Opens the rule and runs it until it ends, is stopped, or something that it needs goes missing.
async fn attempt(shared: &Shared, rule: &Rule, needs: &Needs, stop: &CancellationToken) -> Outcome {
    let mut changes = shared.plugins.changes();
    rule.status.enter(State::Starting);
    let opened = tokio::select! {
        () = stop.cancelled() => return Outcome::Over(CANCELED),
        _ = needs.lost(&shared.plugins, &mut changes) => return Outcome::Parked,
        opened = open(shared, rule) => opened,
    };
    let (mut graph, metrics) = match opened {
        Ok(opened) => opened,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    rule.status.running(metrics);
    tracing::info!(rule = %rule.id, "rule is running");
    let outcome = tokio::select! {
        () = stop.cancelled() => Outcome::Over(CANCELED),
        _ = needs.lost(&shared.plugins, &mut changes) => Outcome::Parked,
        end = graph.ended() => match end {
            End::SourceEnded => Outcome::Over("its source has ended"),
            End::Failed(why) | End::Unsafe(why) => Outcome::Failed(why),
        },
    };
    rule.status.enter(State::Stopping);
    graph.stop().await;
    outcome
}

async fn open(shared: &Shared, rule: &Rule) -> Result<(Graph, NodeMetrics), StartError> {
    let definition = rule.definition();
    let streams = shared.streams();
    let names = Names {
        streams: &streams,
        plugins: &shared.plugins,
    };
    let compiled = compile(&definition, &names, shared.buffer_length)?;
    let parts = Parts {
        plugins: &shared.plugins,
        hub: &shared.hub,
        shared: &shared.sources,
        home: &shared.home,
    };
    Ok(Graph::open(compiled, &parts).await?)
}

/// The pauses between tries: doubling, with jitter, anew after a stable run.
struct Retry {
    next: Duration,
}

impl Retry {
    fn new() -> Self {
        Self { next: RETRY_MIN }
    }

    /// The pause after a run that lasted `ran`.
    fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STABLE {
            self.next = RETRY_MIN;
        }
        let pause = self.next.mul_f64(0.9 + 0.2 * fastrand::f64());
        self.next = (self.next * 2).min(RETRY_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_a_stable_run() {
        let mut retry = Retry::new();
        let pauses: Vec<_> = (0..12).map(|_| retry.after(Duration::ZERO)).collect();
        assert!(pauses[0] < Duration::from_millis(600));
        assert!(
            pauses.windows(2).take(5).all(|pair| pair[0] < pair[1]),
            "{pauses:?}"
        );
        assert!(pauses.iter().all(|pause| *pause <= RETRY_MAX.mul_f64(1.1)));
        assert!(retry.after(STABLE) < Duration::from_millis(600));
    }

    #[test]
    fn a_failing_rule_says_why_and_when_it_is_tried_again() {
        let state = State::Failing {
            why: "no plugin".to_owned(),
            retry_in: Duration::from_secs(2),
        };
        assert_eq!(
            (state.word(), state.message().as_str()),
            ("stopped by error", "no plugin; next try in 2.0s")
        );
    }
    #[test]
    fn a_waiting_rule_says_for_which_plugin() {
        let state = |plugin: Option<&str>, reason: &str| {
            let plugin = plugin.map(|name| name.parse().unwrap());
            let reason = reason.to_owned();
            State::Waiting(Missing { plugin, reason })
        };
        let removed = state(Some("car"), "the plugin \"car\" was removed");
        assert_eq!(removed.word(), "waiting");
        assert_eq!(
            removed.message(),
            "waiting for plugin \"car\": the plugin \"car\" was removed"
        );
        let unknown = state(None, "no plugin defines the sink \"command\"");
        assert_eq!(
            unknown.message(),
            "waiting for a plugin: no plugin defines the sink \"command\""
        );
    }
}
