//! Owns what sources do.

use std::time::Duration;

use mangrove_protocol::Object;
use mangrove_protocol::native::control::{Commit, ToPlugin};
use mangrove_protocol::native::opening::Limits;
use mangrove_protocol::native::source::SourceContent;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::behaviour::{Bench, Flaw, Verdict, demand};
use super::channel::SourceUse;
use super::plan::placed;
use super::session::{LONGEST, Session};
use super::symbols::{first_source, start_source};

/// How many tuples are looked at, and for how long at most, for the sake of sources that take their time.
const TUPLES: usize = 200;
const WHILE: Duration = Duration::from_secs(3);

/// How long the host does not read.
const PAUSE: Duration = Duration::from_secs(2);

/// How much a source has sent at least that has felt it, and how much more memory it may need then.
const FULL: usize = 128 << 10;
const GROWTH: u64 = 32 << 20;

/// How many batches are looked at for the sake of their offsets.
const BATCHES: usize = 4;

pub(super) async fn batches(bench: &Bench<'_>) -> Verdict {
    first_source(bench)?;
    let limits = Limits {
        message: LONGEST,
        batch: 16,
    };
    let (session, _) = bench.open_with(limits).await?;
    for (symbol, plan) in &bench.plan.sources {
        let mut source = start_source(&session, symbol, plan).await?;
        let until = Instant::now() + WHILE;
        let mut found = 0;
        while !source.ended && found < TUPLES && (found == 0 || Instant::now() < until) {
            if let SourceContent::Tuples { tuples, .. } = source.next(&session).await? {
                demand(!tuples.is_empty(), || {
                    format!("the source {symbol} sent batch {} without tuples", source.seq)
                })?;
                found += tuples.len();
            }
        }
    }
    Ok(())
}

pub(super) async fn drain(bench: &Bench<'_>) -> Verdict {
    first_source(bench)?;
    let session = bench.open().await?;
    for (symbol, plan) in &bench.plan.sources {
        let mut source = start_source(&session, symbol, plan).await?;
        source.take(&session, 1).await?;
        source.stop(&session).await?;
        // Nothing was read, so that there may be much to be drained.
        let mut source = start_source(&session, symbol, plan).await?;
        source.stop(&session).await?;
    }
    Ok(())
}

pub(super) async fn back_pressure(bench: &Bench<'_>) -> Verdict {
    first_source(bench)?;
    let mut fast = false;
    for (symbol, plan) in &bench.plan.sources {
        // Of its own, so that its memory is.
        let session = bench.open().await?;
        let mut source = start_source(&session, symbol, plan).await?;
        source.take(&session, 1).await?;
        sleep(PAUSE / 4).await;
        let before = session.trial().usage().map_err(Flaw::broken)?.memory;
        sleep(PAUSE).await;
        let after = session.trial().usage().map_err(Flaw::broken)?.memory;
        let growth = after.saturating_sub(before);
        demand(growth < GROWTH, || {
            let (growth, pause) = (growth >> 20, PAUSE.as_secs());
            format!(
                "while the source {symbol} was not read for {pause} s, its process took {growth} MiB more"
            )
        })?;
        let read = source.bytes;
        let until = Instant::now() + WHILE;
        while source.bytes < read + FULL && Instant::now() < until {
            if !source.read_queued(&session)? {
                sleep(Duration::from_millis(10)).await;
            }
        }
        fast |= source.bytes >= read + FULL;
        session.ping().await?;
        source.stop(&session).await?;
    }
    fast.then_some(())
        .ok_or_else(|| Flaw::skipped("no source is fast enough; check.json can tell how one is"))
}

pub(super) async fn ends(bench: &Bench<'_>) -> Verdict {
    let sources = bench.plan.sources.iter();
    let ending: Vec<_> = sources
        .filter_map(|(symbol, plan)| Some((symbol, plan, plan.ends.as_ref()?)))
        .collect();
    if ending.is_empty() {
        return Err(Flaw::skipped("no source in check.json has \"ends\""));
    }
    let session = bench.open().await?;
    for (symbol, plan, ends) in ending {
        let config = placed(&ends.config, &session.scratch());
        let mut source = SourceUse::start(&session, symbol, config, &plan.data_source, None).await?;
        let (mut tuples, mut errors) = (0, 0);
        while !source.ended {
            match source.next(&session).await? {
                SourceContent::Tuples { tuples: more, .. } => tuples += more.len(),
                SourceContent::Error(_) => errors += 1,
                SourceContent::End(_) => {}
            }
        }
        demand((tuples, errors) == (ends.tuples, ends.errors), || {
            format!(
                "the source {symbol} ended after {tuples} tuples and {errors} errors; expected {} and {}",
                ends.tuples, ends.errors
            )
        })?;
    }
    session.ping().await
}

/// The first tuple, and the offsets of the first batches.
async fn beginning(source: &mut SourceUse, session: &Session) -> Verdict<(Object, Vec<Value>)> {
    let (mut first, mut offsets) = (None, Vec::new());
    for _ in 0..BATCHES {
        if source.ended {
            break;
        }
        if let SourceContent::Tuples {
            mut tuples, offset, ..
        } = source.next(session).await?
        {
            if first.is_none() && !tuples.is_empty() {
                first = Some(tuples.swap_remove(0));
            }
            offsets.extend(offset);
        }
    }
    Ok((first.unwrap_or_default(), offsets))
}

pub(super) async fn offset(bench: &Bench<'_>) -> Verdict {
    first_source(bench)?;
    let mut tried = false;
    let session = bench.open().await?;
    for (symbol, plan) in &bench.plan.sources {
        let mut source = start_source(&session, symbol, plan).await?;
        let (first, seen) = beginning(&mut source, &session).await?;
        let Some(last) = seen.last().cloned() else {
            source.stop(&session).await?;
            continue;
        };
        tried = true;
        let commit = Commit {
            number: source.number,
            seq: source.seq,
        };
        session.send(ToPlugin::Commit(commit).encode()).await?;
        source.stop(&session).await?;
        let config = placed(&plan.config.clone().unwrap_or_default(), &session.scratch());
        let mut again =
            SourceUse::start(&session, symbol, config, &plan.data_source, Some(last.clone())).await?;
        let (first_again, offsets) = beginning(&mut again, &session).await?;
        demand(first_again != first, || {
            format!("started with the offset {last}, the source {symbol} begins where it began without one")
        })?;
        demand(
            offsets.first().is_none_or(|offset| !seen.contains(offset)),
            || format!("started with the offset {last}, the source {symbol} sends a batch that was safe"),
        )?;
        again.stop(&session).await?;
    }
    tried
        .then_some(())
        .ok_or_else(|| Flaw::skipped("no source gives offsets"))
}
