//! `thr`: push to pull, one way.

use anyhow::Result;
use sp_proto::{Pull, Push};
use std::convert::Infallible;
use std::time::Instant;

use crate::job::Job;
use crate::messages::{Numbered, check};
use crate::process::{Child, Meter};
use crate::report;

pub(crate) async fn play(job: &Job, address: &str) -> Result<Infallible> {
    let push = Push::new();
    push.dial(address).await?;
    let mut messages = Numbered::new(job.size, 0);
    loop {
        push.send(messages.next()).await?;
    }
}

pub(crate) async fn measure(job: &Job) -> Result<String> {
    let pull = Pull::new();
    let at = pull.listen(&job.address()).await?;
    let child = Child::start(job, &at.address)?;
    let mut expected = 0;
    receive(&pull, job, &mut expected, 1).await?;
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        receive(&pull, job, &mut expected, job.step()).await?;
    }
    let (meter, first) = (Meter::start(&child), expected);
    while meter.elapsed() < job.measure {
        receive(&pull, job, &mut expected, job.step()).await?;
    }
    let cost = meter.stop(&child, expected - first);
    drop(child);
    pull.close().await;
    Ok(report::line(job, &cost))
}

async fn receive(pull: &Pull, job: &Job, expected: &mut u64, count: u32) -> Result<()> {
    for _ in 0..count {
        check(&pull.recv().await?, *expected, job.size)?;
        *expected += 1;
    }
    Ok(())
}
