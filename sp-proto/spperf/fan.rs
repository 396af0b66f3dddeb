//! `fan:N`: one push socket to many pull sockets of one process. The parent sends and measures, also the resident
//! memory that each of its pipes takes before the first message.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use sp_proto::{Event, Pull, Push};
use std::convert::Infallible;
use std::time::Instant;
use tokio::task::JoinSet;

use crate::job::Job;
use crate::messages::{Numbered, number};
use crate::process::{Child, Meter};
use crate::report;

pub(crate) async fn play(job: &Job, address: &str, peers: usize) -> Result<Infallible> {
    raise_descriptor_limit()?;
    let mut pulls: JoinSet<Result<Infallible>> = JoinSet::new();
    for _ in 0..peers {
        let pull = Pull::new();
        pull.dial(address).await?;
        let size = job.size;
        pulls.spawn(async move {
            let mut next = 0;
            loop {
                let number = number(&pull.recv().await?, size)?;
                ensure!(number >= next, "message {number} came, expected {next} or later");
                next = number + 1;
            }
        });
    }
    pulls.join_next().await.context("no peers")??
}

pub(crate) async fn measure(job: &Job, peers: usize) -> Result<String> {
    raise_descriptor_limit()?;
    let push = Push::new();
    let mut events = push.events();
    let at = push.listen(&job.address()).await?;
    let before = resident()?;
    let child = Child::start(job, &at.address)?;
    let mut connected = 0;
    while connected < peers {
        if let Event::PipeAdded(_) = events.recv().await.context("the socket closed")? {
            connected += 1;
        }
    }
    let idle_pipe = resident()?.saturating_sub(before) / peers as u64;
    let mut messages = Numbered::new(job.size, 0);
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        send(&push, job, &mut messages).await?;
    }
    let (meter, first) = (Meter::start(&child), messages.number());
    while meter.elapsed() < job.measure {
        send(&push, job, &mut messages).await?;
    }
    let cost = meter.stop(&child, messages.number() - first);
    drop(child);
    push.close().await;
    let line = report::line(job, &cost);
    Ok(report::with(&line, "idle_pipe_bytes", idle_pipe as f64))
}

async fn send(push: &Push, job: &Job, messages: &mut Numbered) -> Result<()> {
    for _ in 0..job.step() {
        push.send(messages.next()).await?;
    }
    Ok(())
}

/// As many descriptors as the system allows.
fn raise_descriptor_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// The resident memory of this process, in bytes.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes: u64 = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("/proc/self/status has no VmRSS")?
        .parse()?;
    Ok(kilobytes * 1024)
}
