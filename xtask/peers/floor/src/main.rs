//! What is left of `spperf` without sp-proto: the same messages in the same frames, after the same greeting, over
//! plain sockets on the same runtime, in one task per process. Nothing is queued, shared, bounded or resumed, and
//! nothing but the number and the length of a message is checked. What this does not reach beside another peer, no
//! library on this runtime will, however little it does; what it reaches and sp-proto does not is sp-proto's to
//! find. It speaks SP, so it can also be one side of another library.
//!
//! `stream` knows sockets and frames; the modes are here.

#[expect(dead_code, reason = "it listens in a way of its own")]
#[path = "../../../../sp-proto/spperf/job.rs"]
mod job;
#[path = "../../../../sp-proto/spperf/messages.rs"]
mod messages;
#[path = "../../../../sp-proto/spperf/process.rs"]
mod process;
#[expect(dead_code, reason = "not all modes of spperf are here")]
#[path = "../../../../sp-proto/spperf/report.rs"]
mod report;
mod stream;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use std::convert::Infallible;
use std::time::Instant;
use tokio::task::JoinSet;

use job::{Job, Mode};
use messages::{Numbered, check};
use process::{Child, Meter};
use stream::{Greeting, Listener, Stream};

fn main() -> Result<()> {
    let job = Job::parse();
    let mut runtime = if std::env::var("SPPERF_RUNTIME").is_ok_and(|runtime| runtime == "current") {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2);
        runtime
    };
    let line = runtime.enable_all().build()?.block_on(async {
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

/// The protocol numbers of the dialing side and of the one that measures.
fn protocols(mode: Mode) -> Result<[u8; 2]> {
    Ok(match mode {
        Mode::Throughput => [0x50, 0x51],
        Mode::PingPong => [0x10, 0x10],
        Mode::Requests | Mode::Contexts(_) => [0x31, 0x30],
        mode => bail!("there is no floor of {mode}"),
    })
}

/// A request's id, of 4 bytes, or nothing.
fn id(mode: Mode, number: u64) -> ([u8; 4], usize) {
    let length = match mode {
        Mode::Requests | Mode::Contexts(_) => 4,
        _ => 0,
    };
    ((number as u32 | 1 << 31).to_be_bytes(), length)
}

async fn play(job: &Job, address: &str) -> Result<Infallible> {
    process::end_with_parent();
    let [own, peer] = protocols(job.mode)?;
    let stream = Stream::dial(address, Greeting { own, peer }, job.size)?;
    if job.mode == Mode::Throughput {
        send_all(job, stream).await
    } else {
        echo(stream).await
    }
}

/// Most messages, and most bytes, that one write gathers.
const BATCH: (usize, usize) = (64, 64 * 1024);

async fn send_all(job: &Job, mut stream: Stream) -> Result<Infallible> {
    let mut messages = Numbered::new(job.size, 0);
    let count = (BATCH.1 / job.size).clamp(1, BATCH.0);
    let mut batch = Vec::with_capacity(count);
    loop {
        batch.extend((0..count).map(|_| messages.next()));
        stream.send(&batch).await?;
        batch.clear();
    }
}

/// Sends back whatever comes: a reply is its request, id included.
async fn echo(mut stream: Stream) -> Result<Infallible> {
    loop {
        stream.echo().await?;
    }
}

async fn measure(job: &Job) -> Result<String> {
    let [peer, own] = protocols(job.mode)?;
    let (listener, address) = Listener::bind(job.transport)?;
    let child = Child::start(job, &address)?;
    let (_, id) = id(job.mode, 0);
    let stream = listener.accept(Greeting { own, peer }, id + job.size)?;
    match job.mode {
        Mode::Throughput => receive_all(job, &child, stream).await,
        Mode::Contexts(count) => window(job, &child, stream, count).await,
        _ => round_trips(job, &child, stream).await,
    }
}

async fn receive_all(job: &Job, child: &Child, mut stream: Stream) -> Result<String> {
    let mut expected = 0;
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        receive(&mut stream, job, &mut expected).await?;
    }
    let (meter, first) = (Meter::start(child), expected);
    while meter.elapsed() < job.measure {
        receive(&mut stream, job, &mut expected).await?;
    }
    Ok(report::line(job, &meter.stop(child, expected - first)))
}

async fn receive(stream: &mut Stream, job: &Job, expected: &mut u64) -> Result<()> {
    for _ in 0..job.step() {
        check(&stream.next().await?, *expected, job.size)?;
        *expected += 1;
    }
    Ok(())
}

async fn round_trips(job: &Job, child: &Child, mut stream: Stream) -> Result<String> {
    let mut messages = Numbered::new(job.size, 0);
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        round_trip(job, &mut stream, &mut messages).await?;
    }
    let mut times = Vec::with_capacity(1 << 20);
    let meter = Meter::start(child);
    let begun = Instant::now();
    let mut last = begun;
    while last - begun < job.measure && times.len() < times.capacity() {
        round_trip(job, &mut stream, &mut messages).await?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    let cost = meter.stop(child, times.len() as u64);
    Ok(report::with_times(job, &cost, &mut times))
}

async fn round_trip(job: &Job, stream: &mut Stream, messages: &mut Numbered) -> Result<()> {
    let number = messages.number();
    ask(job, stream, messages);
    stream.flush().await?;
    let back = stream.next().await?;
    let (id, length) = id(job.mode, number);
    ensure!(back.starts_with(&id[..length]), "a reply to another request came");
    check(&back[length..], number, job.size)
}

fn ask(job: &Job, stream: &mut Stream, messages: &mut Numbered) {
    let (id, length) = id(job.mode, messages.number());
    stream.push(&id[..length], &messages.next());
}

/// So many requests in flight, whose replies may come in any order.
async fn window(job: &Job, child: &Child, mut stream: Stream, count: usize) -> Result<String> {
    let mut messages = Numbered::new(job.size, 0);
    (0..count).for_each(|_| ask(job, &mut stream, &mut messages));
    let begun = Instant::now();
    let mut measured = None;
    let mut answered = 0;
    loop {
        stream.flush().await?;
        stream.next().await?;
        loop {
            answered += 1;
            ask(job, &mut stream, &mut messages);
            if stream.take()?.is_none() {
                break;
            }
        }
        match &measured {
            None if begun.elapsed() >= job.warmup => measured = Some((Meter::start(child), answered)),
            Some((meter, first)) if meter.elapsed() >= job.measure => {
                return Ok(report::line(job, &meter.stop(child, answered - first)));
            }
            _ => {}
        }
    }
}
