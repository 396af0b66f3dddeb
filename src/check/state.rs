//! Owns what symbols keep with the host.

use std::collections::HashMap;

use mangrove_protocol::name::SymbolName;

use super::behaviour::{Bench, Flaw, Verdict, demand};
use super::channel::FunctionUse;
use super::function::check;
use super::sink::example;
use super::symbols::{start_sink, start_source};

/// Of functions; whether there were any.
async fn functions(bench: &Bench<'_>) -> Verdict<bool> {
    let functions = bench.plan.functions.iter();
    let keeping: Vec<_> = functions
        .filter(|(_, plan)| plan.state && !plan.calls.is_empty())
        .collect();
    for (symbol, plan) in &keeping {
        let mut firsts = HashMap::new();
        for process in 0..2 {
            let session = bench.open().await?;
            let mut function = FunctionUse::start(&session, symbol).await?;
            for call in plan.calls.iter().filter(|call| call.succeeds()) {
                let outcome = function.call(&session, &call.args).await?;
                if process == 0 {
                    check(symbol, call, &outcome)?;
                }
                firsts.entry(process).or_insert(outcome);
            }
            demand(session.board().state_requests > 0, || {
                format!("{symbol} has not asked the host for its state")
            })?;
        }
        demand(firsts.get(&0) != firsts.get(&1), || {
            format!("{symbol} begins anew in the next process; its state should have outlived the first")
        })?;
    }
    Ok(!keeping.is_empty())
}

/// Of sources and sinks: what the first process has kept, the second one asks for.
async fn uses(bench: &Bench<'_>) -> Verdict<bool> {
    let sources = bench.plan.sources.iter().filter(|(_, plan)| plan.state);
    let sinks = bench.plan.sinks.iter().filter(|(_, plan)| plan.state);
    let (sources, sinks): (Vec<_>, Vec<_>) = (sources.collect(), sinks.collect());
    if sources.is_empty() && sinks.is_empty() {
        return Ok(false);
    }
    for process in 0..2 {
        let session = bench.open().await?;
        for &(symbol, plan) in &sources {
            let mut source = start_source(&session, symbol, plan).await?;
            source.take(&session, 1).await?;
            source.stop(&session).await?;
            recalled(bench, symbol, process)?;
        }
        for &(symbol, plan) in &sinks {
            let mut sink = start_sink(&session, symbol, plan).await?;
            sink.send(&session, &example(plan, 0, 1)).await?;
            sink.acknowledged(&session).await?;
            sink.stop(&session).await?;
            recalled(bench, symbol, process)?;
        }
    }
    Ok(true)
}

fn recalled(bench: &Bench<'_>, symbol: &SymbolName, process: usize) -> Verdict {
    let (has_kept, has_recalled) = bench.ledger.memory(symbol.as_str());
    demand(has_kept, || format!("{symbol} has kept nothing with the host"))?;
    demand(process == 0 || has_recalled, || {
        format!("{symbol} does not ask, in the next process, for what it has kept in the first")
    })
}

pub(super) async fn state(bench: &Bench<'_>) -> Verdict {
    match functions(bench).await? | uses(bench).await? {
        true => Ok(()),
        false => Err(Flaw::skipped("no symbol in check.json has \"state\"")),
    }
}
