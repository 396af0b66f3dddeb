//! `pub`: pub to sub, one way. A publisher waits for nobody, so what counts is what arrives; the line also tells
//! which part of the messages did not.

use anyhow::{Result, ensure};
use sp_proto::{Pub, Sub};
use std::convert::Infallible;
use std::time::Instant;

use crate::job::Job;
use crate::messages::{Numbered, number};
use crate::process::{Child, Meter};
use crate::report;

pub(crate) async fn play(job: &Job, address: &str) -> Result<Infallible> {
    let publisher = Pub::new();
    publisher.dial(address).await?;
    let mut messages = Numbered::new(job.size, 0);
    loop {
        publisher.send(messages.next()).await?;
    }
}

pub(crate) async fn measure(job: &Job) -> Result<String> {
    let sub = Sub::new();
    sub.subscribe("");
    let at = sub.listen(&job.address()).await?;
    let child = Child::start(job, &at.address)?;
    let mut next = 0;
    receive(&sub, job, &mut next, 1).await?;
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        receive(&sub, job, &mut next, job.step()).await?;
    }
    let (meter, first, mut received) = (Meter::start(&child), next, 0);
    while meter.elapsed() < job.measure {
        receive(&sub, job, &mut next, job.step()).await?;
        received += u64::from(job.step());
    }
    let cost = meter.stop(&child, received);
    drop(child);
    sub.close().await;
    let lost = 1.0 - received as f64 / (next - first).max(1) as f64;
    Ok(report::with(&report::line(job, &cost), "lost", lost))
}

/// Receives so many messages; each must be newer than the one before.
async fn receive(sub: &Sub, job: &Job, next: &mut u64, count: u32) -> Result<()> {
    for _ in 0..count {
        let number = number(&sub.recv().await?, job.size)?;
        ensure!(number >= *next, "message {number} came, expected {next} or later");
        *next = number + 1;
    }
    Ok(())
}
