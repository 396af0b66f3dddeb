//! Owns how a plugin's process ends.

use futures_util::future::select_all;
use mangrove_protocol::native::control::{Shutdown, ToPlugin};

use super::behaviour::{Bench, Flaw, Verdict, demand};
use super::channel::{FunctionUse, SourceUse};
use super::session::{STOP, Session, milliseconds};
use super::sink::example;
use super::symbols::{start_sink, start_source};
use crate::plugin::End;

/// How the process is told to end.
#[derive(Clone, Copy)]
enum Way {
    Message,
    Signal,
}

/// Everything of a plugin at work.
struct Work {
    sources: Vec<SourceUse>,
    _functions: Vec<FunctionUse>,
}

async fn begin(bench: &Bench<'_>, session: &Session) -> Verdict<Work> {
    let mut work = Work {
        sources: Vec::new(),
        _functions: Vec::new(),
    };
    for (symbol, plan) in &bench.plan.sources {
        let mut source = start_source(session, symbol, plan).await?;
        source.take(session, 1).await?;
        work.sources.push(source);
    }
    for symbol in bench.plan.functions.keys() {
        work._functions.push(FunctionUse::start(session, symbol).await?);
    }
    for (symbol, plan) in &bench.plan.sinks {
        let mut sink = start_sink(session, symbol, plan).await?;
        sink.send(session, &example(plan, 0, 4)).await?;
        // Results and the order to end travel apart: what is on its way then may be left out.
        sink.acknowledged(session).await?;
    }
    Ok(work)
}

async fn end(bench: &Bench<'_>, way: Way) -> Verdict<End> {
    let session = bench.open().await?;
    let mut work = begin(bench, &session).await?;
    let what = match way {
        Way::Message => {
            let timeout = milliseconds(STOP);
            session
                .send(ToPlugin::Shutdown(Shutdown { timeout }).encode())
                .await?;
            "the message \"shutdown\""
        }
        Way::Signal => {
            session.trial().terminate();
            "SIGTERM"
        }
    };
    // A host goes on reading.
    let reading = async {
        match work.sources.is_empty() {
            true => std::future::pending().await,
            false => {
                let readers = work
                    .sources
                    .iter_mut()
                    .map(|source| Box::pin(source.read_on(&session)));
                select_all(readers).await.0
            }
        }
    };
    let ended = async {
        match tokio::time::timeout(STOP, session.trial().ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Flaw::failed(format!(
                "its process did not end within {} s after {what}",
                STOP.as_secs()
            ))),
        }
    };
    tokio::select! {
        ended = ended => ended?,
        Err(flaw) = reading => return Err(flaw),
    }
    drop(work);
    session.ended(what).await
}

async fn ends_well(bench: &Bench<'_>, way: Way) -> Verdict {
    let end = end(bench, way).await?;
    demand(end.status == Some(0), || {
        format!("it ended with {}; expected exit code 0", end.text)
    })
}

pub(super) async fn shutdown(bench: &Bench<'_>) -> Verdict {
    ends_well(bench, Way::Message).await
}

pub(super) async fn sigterm(bench: &Bench<'_>) -> Verdict {
    ends_well(bench, Way::Signal).await
}

pub(super) async fn nothing_left(bench: &Bench<'_>) -> Verdict {
    let end = end(bench, Way::Message).await?;
    demand(end.left == 0, || {
        format!(
            "{} processes that it has started were left when it ended; the host had to end them",
            end.left
        )
    })
}
