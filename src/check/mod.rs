//! Owns the conformance kit: what every plugin that speaks the contract should do, played against one of them. It
//! takes the host's place with sockets of its own, so that it can do what no host does. Knows no manager and no rule;
//! `mangrove plugin check` drives it.
//!
//! | module | what it owns |
//! |---|---|
//! | `plan` | what the author tells in `check.json` |
//! | `behaviour` | the list of behaviours |
//! | `session`, `desk` | a process, and what it says on its control channel |
//! | `channel` | the data channels of one use |
//! | `opening`, `symbols`, `source`, `sink`, `function`, `state`, `hostile`, `ending` | the behaviours |
//! | `ekuiper` | those of a plugin that speaks eKuiper's contract |

mod behaviour;
mod channel;
mod desk;
mod ekuiper;
mod ending;
mod function;
mod hostile;
mod opening;
mod plan;
mod session;
mod sink;
mod source;
mod state;
mod symbols;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use behaviour::{ALL, Behaviour, Bench, Flaw, Verdict};
use desk::Ledger;
use plan::Plan;

use crate::config::Portable;
use crate::plugin::{Candidate, TrialError};

/// How long one behaviour may take, whatever it waits for.
const LIMIT: Duration = Duration::from_secs(180);

/// Why nothing can be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// There is no plugin, or it cannot be started.
    #[error(transparent)]
    Plugin(#[from] TrialError),
    /// Its `check.json` makes no sense.
    #[error("its check.json cannot be used: {0}")]
    Plan(String),
}

/// What has come of a behaviour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The behaviour.
    pub name: &'static str,
    /// What the plugin should do.
    pub about: &'static str,
    /// Whether it does.
    pub result: Mark,
    /// Why not; empty when it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Whether a plugin does what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// It does.
    Ok,
    /// It does not.
    Failed,
    /// It was not tried.
    Skipped,
}

/// What is tried, and how.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Only behaviours with this in their names.
    pub only: &'a str,
    /// How long the plugin may take over anything that has no time limit of its own.
    pub patience: Duration,
}

/// Plays behaviours against the plugin in `folder`. `told` hears of each as soon as it
/// is known, and may end the check with an error.
///
/// # Errors
/// Nothing can be checked; or what `told` says.
///
/// # Cancel safety
/// Dropped before it is ready, no process is left.
pub async fn run<E: From<CheckError>>(
    folder: &Path,
    settings: &Portable,
    wish: Wish<'_>,
    mut told: impl FnMut(Line) -> Result<(), E>,
) -> Result<(), E> {
    let folder = folder.to_owned();
    let read = move || {
        let candidate = Candidate::inspect(&folder)?;
        let plan = Plan::read(&candidate.folder(), candidate.manifest())?;
        Ok::<_, CheckError>((candidate, plan))
    };
    let read = tokio::task::spawn_blocking(read).await;
    let (candidate, plan) = read.map_err(|error| CheckError::Plan(error.to_string()))??;
    candidate.prepare(settings).await.map_err(CheckError::from)?;
    let list = match ekuiper::is_spoken(&candidate, settings, wish.patience).await {
        true => ekuiper::ALL,
        false => ALL,
    };
    let mut opened = true;
    for behaviour in list.iter().filter(|behaviour| behaviour.name.contains(wish.only)) {
        let bench = Bench {
            candidate: &candidate,
            settings,
            plan: &plan,
            ledger: Arc::new(Ledger::default()),
            patience: wish.patience,
        };
        let verdict = match opened {
            true => play(behaviour, &bench).await,
            false => Err(Flaw::skipped("there was no hello")),
        };
        opened &= behaviour.name != "hello" || verdict.is_ok();
        told(line(behaviour, verdict))?;
    }
    Ok(())
}

/// What breaks the contract anywhere fails the behaviour that was played then.
async fn play(behaviour: &Behaviour, bench: &Bench<'_>) -> Verdict {
    let played = tokio::time::timeout(LIMIT, (behaviour.play)(bench)).await;
    let verdict = played.unwrap_or_else(|_| {
        let limit = LIMIT.as_secs();
        Err(Flaw::failed(format!("it took longer than {limit} s")))
    });
    match bench.ledger.first_fault() {
        // It is mostly why something else did not come.
        Some(fault) => Err(Flaw::failed(match verdict {
            Err(Flaw::Failed(reason)) => format!("{fault}; {reason}"),
            _ => fault,
        })),
        None => verdict,
    }
}

fn line(behaviour: &Behaviour, verdict: Verdict) -> Line {
    let (result, reason) = match verdict {
        Ok(()) => (Mark::Ok, String::new()),
        Err(Flaw::Failed(reason)) => (Mark::Failed, reason),
        Err(Flaw::Skipped(reason)) => (Mark::Skipped, reason),
    };
    Line {
        name: behaviour.name,
        about: behaviour.about,
        result,
        reason,
    }
}
