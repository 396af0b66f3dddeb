//! Owns what sinks do.

use std::collections::BTreeSet;

use mangrove_protocol::native::opening::Limits;
use serde_json::{Value, json};

use super::behaviour::{Bench, Flaw, Verdict, demand};
use super::channel::SinkUse;
use super::plan::{SinkPlan, placed};
use super::session::LONGEST;
use super::symbols::start_sink;

/// How many results the flood has.
const FLOOD: usize = 100_000;

/// `count` results that the sink takes, from the `from`th on.
pub(super) fn example(plan: &SinkPlan, from: usize, count: usize) -> Vec<Value> {
    let numbers = from..from + count;
    match plan.results.as_slice() {
        [] => numbers.map(|number| json!([{ "n": number }])).collect(),
        results => numbers
            .filter_map(|number| results.get(number % results.len()).cloned())
            .collect(),
    }
}

fn some(bench: &Bench<'_>) -> Verdict {
    demand(!bench.plan.sinks.is_empty(), String::new).map_err(|_| Flaw::skipped("it has no sink"))
}

pub(super) async fn acks(bench: &Bench<'_>) -> Verdict {
    some(bench)?;
    let limits = Limits {
        message: LONGEST,
        batch: 16,
    };
    let (session, _) = bench.open_with(limits).await?;
    for (symbol, plan) in &bench.plan.sinks {
        let mut sink = start_sink(&session, symbol, plan).await?;
        sink.send(&session, &example(plan, 0, 1)).await?;
        sink.acknowledged(&session).await?;
        for batch in 1..20 {
            sink.send(&session, &example(plan, batch * 3, 3)).await?;
        }
        sink.acknowledged(&session).await?;
        demand(
            session.board().acks.iter().all(|ack| ack.errors.is_empty()),
            || {
                format!(
                    "the sink {symbol} says that it failed with a result; check.json can tell which it takes"
                )
            },
        )?;
        sink.stop(&session).await?;
    }
    Ok(())
}

/// What it acknowledges all the same, breaks the contract and is noticed there.
pub(super) async fn no_acks(bench: &Bench<'_>) -> Verdict {
    some(bench)?;
    let session = bench.open().await?;
    for (symbol, plan) in &bench.plan.sinks {
        let config = placed(&plan.config.clone().unwrap_or_default(), &session.scratch());
        let mut sink = SinkUse::start(&session, symbol, config, false).await?;
        for batch in 0..5 {
            sink.send(&session, &example(plan, batch, 1)).await?;
        }
        sink.stop(&session).await?;
    }
    session.ping().await
}

pub(super) async fn errors(bench: &Bench<'_>) -> Verdict {
    let sinks = bench.plan.sinks.iter();
    let failing: Vec<_> = sinks
        .filter_map(|(symbol, plan)| Some((symbol, plan, plan.fails.as_ref()?)))
        .collect();
    if failing.is_empty() {
        return Err(Flaw::skipped("no sink in check.json has \"fails\""));
    }
    let session = bench.open().await?;
    for (symbol, plan, fails) in failing {
        let config = fails.config.as_ref().or(plan.config.as_ref());
        let config = placed(&config.cloned().unwrap_or_default(), &session.scratch());
        let mut sink = SinkUse::start(&session, symbol, config, true).await?;
        let good = || example(plan, 0, 1);
        let batch = [good(), vec![fails.result.clone()], good()].concat();
        sink.send(&session, &batch).await?;
        sink.acknowledged(&session).await?;
        sink.send(&session, &good()).await?;
        sink.acknowledged(&session).await?;
        let mut found = BTreeSet::new();
        for ack in session
            .board()
            .acks
            .iter()
            .filter(|ack| ack.number == sink.number)
        {
            for (index, error) in &ack.errors {
                found.insert((ack.seq, *index));
                demand(error.contains(&fails.error), || {
                    format!(
                        "the sink {symbol} failed with {error:?}; expected {:?} in it",
                        fails.error
                    )
                })?;
            }
        }
        demand(found == BTreeSet::from([(1, 1)]), || {
            format!("the sink {symbol} says that of (batch, result) {found:?} failed; expected {{(1, 1)}}")
        })?;
        sink.stop(&session).await?;
    }
    Ok(())
}

pub(super) async fn stop(bench: &Bench<'_>) -> Verdict {
    some(bench)?;
    let session = bench.open().await?;
    for (symbol, plan) in &bench.plan.sinks {
        let mut sink = start_sink(&session, symbol, plan).await?;
        for batch in 0..50 {
            sink.send(&session, &example(plan, batch * 4, 4)).await?;
        }
        sink.stop(&session).await?;
        let acked = session
            .board()
            .uses
            .get(&sink.number)
            .map_or(0, |record| record.acked);
        demand(acked == sink.seq, || {
            let seq = sink.seq;
            format!("the sink {symbol} answered stop behind batch {seq} when it had acknowledged {acked}")
        })?;
    }
    Ok(())
}

pub(super) async fn flood(bench: &Bench<'_>) -> Verdict {
    some(bench)?;
    let session = bench.open().await?;
    let most = session.limits().batch;
    for (symbol, plan) in &bench.plan.sinks {
        let mut sink = start_sink(&session, symbol, plan).await?;
        let mut sent = 0;
        while sent < FLOOD {
            let count = most.min(FLOOD - sent);
            sink.send(&session, &example(plan, sent, count)).await?;
            sent += count;
            sink.within_window(&session).await?;
        }
        sink.acknowledged(&session).await?;
        sink.stop(&session).await?;
    }
    session.ping().await
}
