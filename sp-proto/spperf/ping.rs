//! `lat` and `rr`: one message there and back, over pair or as a request and its reply.

use anyhow::Result;
use sp_proto::{Pair, Rep, Req, ReqContext, SocketOptions};
use std::convert::Infallible;
use std::time::Instant;

use crate::job::Job;
use crate::messages::{Numbered, check};
use crate::process::{Child, Meter};
use crate::report;

pub(crate) async fn play_pair(address: &str) -> Result<Infallible> {
    let pair = Pair::new();
    pair.dial(address).await?;
    loop {
        pair.send(pair.recv().await?).await?;
    }
}

/// Answers up to so many requests that are in flight together.
pub(crate) async fn play_rep(address: &str, in_flight: usize) -> Result<Infallible> {
    let rep = Rep::with_options(SocketOptions {
        rep_backlog: in_flight,
        ..Default::default()
    });
    rep.dial(address).await?;
    loop {
        let request = rep.recv().await?;
        let body = request.body().clone();
        request.reply(body).await?;
    }
}

pub(crate) async fn measure_pair(job: &Job) -> Result<String> {
    let pair = Pair::new();
    let at = pair.listen(&job.address()).await?;
    let child = Child::start(job, &at.address)?;
    let line = round_trips(job, &child, &mut Asker::Pair(&pair)).await?;
    drop(child);
    pair.close().await;
    Ok(line)
}

pub(crate) async fn measure_req(job: &Job) -> Result<String> {
    let req = Req::new();
    let at = req.listen(&job.address()).await?;
    let child = Child::start(job, &at.address)?;
    let line = round_trips(job, &child, &mut Asker::Req(req.context())).await?;
    drop(child);
    req.close().await;
    Ok(line)
}

/// Who sends a message and waits for it to come back.
enum Asker<'a> {
    Pair(&'a Pair),
    Req(ReqContext),
}

impl Asker<'_> {
    async fn round_trip(&mut self, job: &Job, messages: &mut Numbered) -> Result<()> {
        let (number, message) = (messages.number(), messages.next());
        let back = match self {
            Self::Pair(pair) => {
                pair.send(message).await?;
                pair.recv().await?
            }
            Self::Req(context) => {
                context.send(message).await?;
                context.recv().await?
            }
        };
        check(&back, number, job.size)
    }
}

async fn round_trips(job: &Job, child: &Child, asker: &mut Asker<'_>) -> Result<String> {
    let mut messages = Numbered::new(job.size, 0);
    // The first waits until the child is there.
    asker.round_trip(job, &mut messages).await?;
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        asker.round_trip(job, &mut messages).await?;
    }
    let mut times = Vec::with_capacity(1 << 20);
    let meter = Meter::start(child);
    let begun = Instant::now();
    let mut last = begun;
    while last - begun < job.measure && times.len() < times.capacity() {
        asker.round_trip(job, &mut messages).await?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    let cost = meter.stop(child, times.len() as u64);
    Ok(report::with_times(job, &cost, &mut times))
}
