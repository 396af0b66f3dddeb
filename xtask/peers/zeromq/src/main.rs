//! What `cargo figures sp` measures of zmq.rs: the modes of `spperf` that it has sockets for, with the modules of that
//! program that know no socket.

#[path = "../../../../sp-proto/spperf/job.rs"]
mod job;
#[path = "../../../../sp-proto/spperf/messages.rs"]
mod messages;
#[path = "../../../../sp-proto/spperf/process.rs"]
mod process;
#[path = "../../../../sp-proto/spperf/report.rs"]
mod report;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Parser as _;
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use zeromq::{
    PubSocket, PullSocket, PushSocket, RepSocket, ReqSocket, Socket, SocketRecv, SocketSend, SubSocket,
};

use job::{Job, Mode};
use messages::{Numbered, check, number};
use process::{Child, Meter};

fn main() -> Result<()> {
    let job = Job::parse();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let line = runtime.block_on(async {
        // In a task, as spperf does.
        let limit = job.limit();
        let mut task = JoinSet::new();
        task.spawn(async move {
            match job.peer.clone() {
                Some(address) => play(&job, &address).await.map(|never| match never {}),
                None => measure(&job).await,
            }
        });
        let done = tokio::time::timeout(limit, task.join_next()).await;
        let done = done.context("the messages stopped coming")?;
        done.context("no task")??
    })?;
    println!("{line}");
    Ok(())
}

async fn connected<S: Socket>(address: &str) -> Result<S> {
    let mut socket = S::new();
    socket.connect(address).await?;
    Ok(socket)
}

async fn play(job: &Job, address: &str) -> Result<Infallible> {
    process::end_with_parent();
    match job.mode {
        Mode::Throughput => send_all(job, connected::<PushSocket>(address).await?).await,
        Mode::Publish => send_all(job, connected::<PubSocket>(address).await?).await,
        _ => {
            let mut rep = connected::<RepSocket>(address).await?;
            loop {
                let request = rep.recv().await?;
                rep.send(request).await?;
            }
        }
    }
}

async fn send_all(job: &Job, mut socket: impl SocketSend) -> Result<Infallible> {
    let mut messages = Numbered::new(job.size, 0);
    loop {
        for _ in 0..job.step() {
            socket.send(messages.next().into()).await?;
        }
        // A publisher's send never waits, and its other tasks need their time.
        tokio::task::yield_now().await;
    }
}

async fn measure(job: &Job) -> Result<String> {
    match job.mode {
        Mode::Throughput => receive_all(job, PullSocket::new()).await,
        Mode::Publish => {
            let mut sub = SubSocket::new();
            sub.subscribe("").await?;
            receive_all(job, sub).await
        }
        Mode::Requests => round_trips(job, ReqSocket::new()).await,
        mode => bail!("zmq.rs has no sockets for {mode}"),
    }
}

async fn receive_all(job: &Job, mut socket: impl Socket + SocketRecv) -> Result<String> {
    let at = socket.bind(&job.address()).await?;
    let child = Child::start(job, &at.to_string())?;
    let mut next = 0;
    receive(&mut socket, job, &mut next, 1).await?;
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        receive(&mut socket, job, &mut next, job.step()).await?;
    }
    let (meter, first, mut received) = (Meter::start(&child), next, 0);
    while meter.elapsed() < job.measure {
        receive(&mut socket, job, &mut next, job.step()).await?;
        received += u64::from(job.step());
    }
    let cost = meter.stop(&child, received);
    let lost = 1.0 - received as f64 / (next - first).max(1) as f64;
    Ok(report::with(&report::line(job, &cost), "lost", lost))
}

async fn receive(socket: &mut impl SocketRecv, job: &Job, next: &mut u64, count: u32) -> Result<()> {
    for _ in 0..count {
        let number = number(&payload(socket).await?, job.size)?;
        let in_order = number == *next || job.mode == Mode::Publish && number > *next;
        ensure!(in_order, "message {number} came, expected {next}");
        *next = number + 1;
    }
    Ok(())
}

async fn payload(socket: &mut impl SocketRecv) -> Result<Bytes> {
    let message = socket.recv().await?;
    Ok(message.get(0).context("an empty message came")?.clone())
}

async fn round_trips(job: &Job, mut req: ReqSocket) -> Result<String> {
    let at = req.bind(&job.address()).await?;
    let child = Child::start(job, &at.to_string())?;
    let mut messages = Numbered::new(job.size, 0);
    let mut times = Vec::with_capacity(1 << 20);
    // The first waits until the child is there.
    while round_trip(&mut req, job, &mut messages).await.is_err() {
        messages = Numbered::new(job.size, 0);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        round_trip(&mut req, job, &mut messages).await?;
    }
    let meter = Meter::start(&child);
    let begun = Instant::now();
    let mut last = begun;
    while last - begun < job.measure && times.len() < times.capacity() {
        round_trip(&mut req, job, &mut messages).await?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    let cost = meter.stop(&child, times.len() as u64);
    Ok(report::with_times(job, &cost, &mut times))
}

async fn round_trip(req: &mut ReqSocket, job: &Job, messages: &mut Numbered) -> Result<()> {
    let number = messages.number();
    req.send(messages.next().into()).await?;
    check(&payload(req).await?, number, job.size)
}
