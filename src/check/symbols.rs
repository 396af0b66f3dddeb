//! Owns what holds for symbols of all kinds: they start, stop, start again, and don't get into each other's way.

use std::time::Duration;

use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::SymbolName;
use tokio::time::{Instant, sleep};

use super::behaviour::{Bench, Flaw, Verdict, demand};
use super::channel::{FunctionUse, SinkUse, SourceUse, try_start};
use super::plan::{SinkPlan, SourcePlan, placed};
use super::session::{Session, name};
use super::sink::example;

/// How often a symbol is started for [`restart`], before and after what is open is counted.
const ROUNDS: [usize; 2] = [3, 20];

/// How many more files a plugin may have open after that many starts: its own timers and logs.
const SLACK: usize = 4;

/// Every symbol, with its kind.
pub(super) fn all<'a>(bench: &'a Bench<'_>) -> Vec<(SymbolKind, &'a SymbolName)> {
    let sources = bench.plan.sources.keys().map(|name| (SymbolKind::Source, name));
    let sinks = bench.plan.sinks.keys().map(|name| (SymbolKind::Sink, name));
    let functions = bench
        .plan
        .functions
        .keys()
        .map(|name| (SymbolKind::Function, name));
    sources.chain(sinks).chain(functions).collect()
}

pub(super) fn first_source<'a>(bench: &'a Bench<'_>) -> Verdict<(&'a SymbolName, &'a SourcePlan)> {
    bench
        .plan
        .sources
        .iter()
        .next()
        .ok_or_else(|| Flaw::skipped("it has no source"))
}

/// With its usual configuration.
pub(super) async fn start_source(
    session: &Session,
    symbol: &SymbolName,
    plan: &SourcePlan,
) -> Verdict<SourceUse> {
    let config = placed(&plan.config.clone().unwrap_or_default(), &session.scratch());
    SourceUse::start(session, symbol, config, &plan.data_source, None).await
}

/// With its usual configuration; it has to acknowledge.
pub(super) async fn start_sink(session: &Session, symbol: &SymbolName, plan: &SinkPlan) -> Verdict<SinkUse> {
    let config = placed(&plan.config.clone().unwrap_or_default(), &session.scratch());
    SinkUse::start(session, symbol, config, true).await
}

async fn once(bench: &Bench<'_>, session: &Session, kind: SymbolKind, symbol: &SymbolName) -> Verdict {
    match kind {
        SymbolKind::Source => {
            let plan = bench.plan.sources.get(symbol).cloned().unwrap_or_default();
            start_source(session, symbol, &plan).await?.stop(session).await?;
        }
        SymbolKind::Sink => {
            let plan = bench.plan.sinks.get(symbol).cloned().unwrap_or_default();
            start_sink(session, symbol, &plan).await?.stop(session).await?;
        }
        SymbolKind::Function => FunctionUse::start(session, symbol).await?.stop(session).await?,
    }
    Ok(())
}

pub(super) async fn start_stop(bench: &Bench<'_>) -> Verdict {
    let session = bench.open().await?;
    for (kind, symbol) in all(bench) {
        once(bench, &session, kind, symbol).await?;
    }
    Ok(())
}

pub(super) async fn restart(bench: &Bench<'_>) -> Verdict {
    let session = bench.open().await?;
    let mut before = 0;
    for rounds in ROUNDS {
        before = session.trial().usage().map_err(Flaw::broken)?.files;
        for _ in 0..rounds {
            for (kind, symbol) in all(bench) {
                once(bench, &session, kind, symbol).await?;
            }
        }
    }
    // A plugin may close what it does not need any more a little later.
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let after = session.trial().usage().map_err(Flaw::broken)?.files;
        if after <= before + SLACK {
            return Ok(());
        }
        demand(Instant::now() < until, || {
            let starts = ROUNDS[1];
            format!("after {starts} more starts of each symbol it has {after} open files instead of {before}")
        })?;
        sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn uses(bench: &Bench<'_>) -> Verdict {
    let session = bench.open().await?;
    let mut tried = false;
    for (symbol, plan) in &bench.plan.sources {
        tried = true;
        let mut one = start_source(&session, symbol, plan).await?;
        let mut other = start_source(&session, symbol, plan).await?;
        one.take(&session, 1).await?;
        other.take(&session, 1).await?;
        one.stop(&session).await?;
        if !other.ended {
            other.take(&session, 1).await?;
        }
        other.stop(&session).await?;
    }
    for (symbol, plan) in &bench.plan.sinks {
        tried = true;
        let mut one = start_sink(&session, symbol, plan).await?;
        let mut other = start_sink(&session, symbol, plan).await?;
        one.send(&session, &example(plan, 0, 1)).await?;
        other.send(&session, &example(plan, 0, 1)).await?;
        one.stop(&session).await?;
        other.send(&session, &example(plan, 1, 1)).await?;
        other.acknowledged(&session).await?;
        other.stop(&session).await?;
    }
    tried
        .then_some(())
        .ok_or_else(|| Flaw::skipped("functions have one use for all rules"))
}

pub(super) async fn unknown(bench: &Bench<'_>) -> Verdict {
    let session = bench.open().await?;
    let stranger = name::<SymbolName>("no_such_symbol");
    for kind in [SymbolKind::Source, SymbolKind::Sink, SymbolKind::Function] {
        let answer = try_start(&session, kind, &stranger, Default::default()).await?;
        demand(answer.is_err(), || {
            format!("it starts a {kind} that it does not have")
        })?;
    }
    session.ping().await
}

pub(super) async fn wrong_config(bench: &Bench<'_>) -> Verdict {
    let sources = bench.plan.sources.iter();
    let sources = sources.map(|(name, plan)| (SymbolKind::Source, name, &plan.invalid));
    let sinks = bench.plan.sinks.iter();
    let sinks = sinks.map(|(name, plan)| (SymbolKind::Sink, name, &plan.invalid));
    let wrong: Vec<_> = sources
        .chain(sinks)
        .filter_map(|(kind, name, invalid)| Some((kind, name, invalid.as_ref()?)))
        .collect();
    if wrong.is_empty() {
        return Err(Flaw::skipped("check.json has no \"invalid\" configuration"));
    }
    let session = bench.open().await?;
    for (kind, symbol, invalid) in wrong {
        let answer = try_start(&session, kind, symbol, placed(invalid, &session.scratch())).await?;
        demand(answer.is_err(), || {
            format!("the {kind} {symbol} starts with the configuration that check.json says is invalid")
        })?;
        once(bench, &session, kind, symbol).await?;
    }
    Ok(())
}
