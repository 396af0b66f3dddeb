//! `spperf`: measures sockets between two processes and prints one line of JSON.
//!
//! The parent listens, checks the number and the length of every message, and measures; the child dials. Each
//! mode is a module that knows both parts; `job` knows the command line, `messages`, `process` and `report` no
//! socket at all: programs that measure other libraries share them.

mod contexts;
mod fan;
mod job;
mod messages;
mod ping;
mod pipeline;
mod process;
mod publish;
mod report;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use job::{Job, Mode};
use std::process::ExitCode;
use tokio::task::JoinSet;

fn main() -> ExitCode {
    match run(Job::parse()) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("spperf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(job: Job) -> Result<String> {
    let mut runtime = if std::env::var("SPPERF_RUNTIME").is_ok_and(|runtime| runtime == "current") {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2);
        runtime
    };
    runtime.enable_all().build()?.block_on(async {
        // In a task, as in a server: the main thread of a multi-thread runtime is none of its workers.
        let mut task = JoinSet::new();
        let limit = job.limit();
        task.spawn(async move {
            match job.peer.clone() {
                Some(address) => play(&job, &address).await.map(|never| match never {}),
                None => measure(&job).await,
            }
        });
        let done = tokio::time::timeout(limit, task.join_next());
        let done = done.await.context("the messages stopped coming")?;
        done.context("no task")??
    })
}

/// The child's part, which ends with an error or with the parent.
async fn play(job: &Job, address: &str) -> Result<std::convert::Infallible> {
    process::end_with_parent();
    match job.mode {
        Mode::Throughput => pipeline::play(job, address).await,
        Mode::PingPong => ping::play_pair(address).await,
        Mode::Requests => ping::play_rep(address, 1).await,
        Mode::Contexts(count) => ping::play_rep(address, count).await,
        Mode::Publish => publish::play(job, address).await,
        Mode::Fan(peers) => fan::play(job, address, peers).await,
    }
}

/// The parent's part.
async fn measure(job: &Job) -> Result<String> {
    match job.mode {
        Mode::Throughput => pipeline::measure(job).await,
        Mode::PingPong => ping::measure_pair(job).await,
        Mode::Requests => ping::measure_req(job).await,
        Mode::Contexts(count) => contexts::measure(job, count).await,
        Mode::Publish => publish::measure(job).await,
        Mode::Fan(peers) => fan::measure(job, peers).await,
    }
}
