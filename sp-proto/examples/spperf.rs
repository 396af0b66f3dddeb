//! Measures one socket pair between two processes and prints one line of JSON.
//!
//! ```text
//! spperf thr|lat|rr|fan:PEERS ipc|tcp SIZE [WARMUP_MS [MEASURE_MS]]
//! ```
//! `thr`: push → pull, messages per second. `lat`: pair ping-pong. `rr`: req/rep. The parent listens,
//! receives or asks, checks the number and the length of every message, and measures; the child is this
//! program once more. `fan`: one push socket → so many pull sockets; the parent sends and measures, also the
//! resident memory that each of its pipes takes before the first message. `SPPERF_RUNTIME=current` uses tokio's current-thread runtime, anything else two worker
//! threads.

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use rustix::process::{Resource, getrlimit, setrlimit};
use sp_proto::{Event, Message, Pair, Pull, Push, Rep, Req, ReqContext};
use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What the command line asks for.
#[derive(Clone, Debug)]
struct Job {
    mode: String,
    transport: String,
    size: usize,
    warmup: Duration,
    measure: Duration,
    /// Set in the child: where to connect.
    peer: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next();
    let usage = "usage: spperf thr|lat|rr|fan:PEERS ipc|tcp SIZE [WARMUP_MS [MEASURE_MS]]";
    let (mode, transport) = next().zip(next()).context(usage)?;
    let size: usize = next().context(usage)?.parse().context(usage)?;
    ensure!(size >= 8, "SIZE is at least 8: every message holds its number");
    let mut milliseconds = |default: &str| -> anyhow::Result<Duration> {
        Ok(Duration::from_millis(
            next().unwrap_or(default.to_owned()).parse().context(usage)?,
        ))
    };
    let (warmup, measure) = (milliseconds("150")?, milliseconds("700")?);
    let job = Job {
        mode,
        transport,
        size,
        warmup,
        measure,
        peer: next(),
    };
    let current = std::env::var("SPPERF_RUNTIME").is_ok_and(|runtime| runtime == "current");
    let runtime = if current {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?
    };
    runtime.block_on(async {
        // In a task, as in a server: the main thread of a multi-thread runtime is none of its workers.
        let mut task = JoinSet::new();
        task.spawn(async move {
            if job.peer.is_some() {
                play(job).await
            } else {
                measure_job(job).await
            }
        });
        task.join_next().await.context("no task")??
    })
}

/// The child: sends without end, or sends everything back.
async fn play(job: Job) -> anyhow::Result<()> {
    let peer = job.peer.unwrap_or_default();
    match job.mode.as_str() {
        "thr" => {
            let push = Push::new();
            push.dial(&peer).await?;
            let mut messages = Numbered::new(job.size);
            loop {
                push.send(messages.next()).await?;
            }
        }
        mode if fan_of(mode).is_some() => {
            raise_descriptor_limit()?;
            let mut pulls = JoinSet::new();
            for _ in 0..fan_of(mode).unwrap_or_default() {
                let pull = Pull::new();
                pull.dial(&peer).await?;
                pulls.spawn(async move {
                    loop {
                        let message = pull.recv().await?;
                        ensure!(
                            message.len() == job.size,
                            "a message of {} bytes came",
                            message.len()
                        );
                    }
                });
            }
            pulls.join_next().await.context("no peers")??
        }
        "lat" => {
            let pair = Pair::new();
            pair.dial(&peer).await?;
            loop {
                pair.send(pair.recv().await?).await?;
            }
        }
        _ => {
            let rep = Rep::new();
            rep.dial(&peer).await?;
            loop {
                let request = rep.recv().await?;
                let body = request.body().clone();
                request.reply(body).await?;
            }
        }
    }
}

/// The parent.
async fn measure_job(job: Job) -> anyhow::Result<()> {
    let address = match job.transport.as_str() {
        "tcp" => "tcp://127.0.0.1:0".to_owned(),
        "ipc" => format!(
            "ipc://{}/spperf.{}.ipc",
            std::env::temp_dir().display(),
            std::process::id()
        ),
        other => bail!("unknown transport {other:?}: expected ipc or tcp"),
    };
    match job.mode.as_str() {
        "thr" => {
            let pull = Pull::new();
            let at = pull.listen(&address).await?;
            let child = Peer::start(&job, &at.address)?;
            throughput(&job, &pull, &child).await?;
            drop(child);
            pull.close().await;
        }
        "lat" => {
            let pair = Pair::new();
            let at = pair.listen(&address).await?;
            let child = Peer::start(&job, &at.address)?;
            round_trips(&job, &child, &mut Asker::Pair(&pair)).await?;
            drop(child);
            pair.close().await;
        }
        "rr" => {
            let req = Req::new();
            let at = req.listen(&address).await?;
            let child = Peer::start(&job, &at.address)?;
            round_trips(&job, &child, &mut Asker::Req(req.context())).await?;
            drop(child);
            req.close().await;
        }
        mode if fan_of(mode).is_some() => fan(&job, &address, fan_of(mode).unwrap_or_default()).await?,
        other => bail!("unknown mode {other:?}: expected thr, lat, rr or fan:PEERS"),
    }
    Ok(())
}

async fn throughput(job: &Job, pull: &Pull, child: &Peer) -> anyhow::Result<()> {
    let step = match job.size {
        16_384.. => 1,
        1024.. => 16,
        _ => 64,
    };
    let mut expected = 0;
    receive(pull, &mut expected, 1, job.size).await?;
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        receive(pull, &mut expected, step, job.size).await?;
    }
    let (parent, peer, begun, first) = (cpu("self"), child.cpu(), Instant::now(), expected);
    while begun.elapsed() < job.measure {
        receive(pull, &mut expected, step, job.size).await?;
    }
    let count = expected - first;
    let elapsed = begun.elapsed();
    report(
        job,
        count,
        elapsed,
        cpu("self") - parent,
        child.cpu() - peer,
        &mut [],
    );
    Ok(())
}

/// How many peers `fan:PEERS` names.
fn fan_of(mode: &str) -> Option<usize> {
    mode.strip_prefix("fan:")?.parse().ok()
}

async fn fan(job: &Job, address: &str, peers: usize) -> anyhow::Result<()> {
    raise_descriptor_limit()?;
    let push = Push::new();
    let mut events = push.events();
    let at = push.listen(address).await?;
    let before = resident()?;
    let child = Peer::start(job, &at.address)?;
    let mut connected = 0;
    while connected < peers {
        if let Event::PipeAdded(_) = events.recv().await.context("the socket closed")? {
            connected += 1;
        }
    }
    let idle_pipe = resident()?.saturating_sub(before) / peers as u64;
    let mut messages = Numbered::new(job.size);
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        send_some(&push, &mut messages).await?;
    }
    let (parent, peer, begun, first) = (cpu("self"), child.cpu(), Instant::now(), messages.next);
    while begun.elapsed() < job.measure {
        send_some(&push, &mut messages).await?;
    }
    let (seconds, n) = (begun.elapsed().as_secs_f64(), (messages.next - first) as f64);
    println!(
        "{{\"mode\":\"{}\",\"tr\":\"{}\",\"size\":{},\"n\":{n},\"sec\":{seconds:.4},\"rate\":{:.1},\
         \"cpu_parent_ns\":{:.1},\"cpu_child_ns\":{:.1},\"idle_pipe_bytes\":{idle_pipe}}}",
        job.mode,
        job.transport,
        job.size,
        n / seconds,
        (cpu("self") - parent) as f64 / n,
        (child.cpu() - peer) as f64 / n,
    );
    drop(child);
    push.close().await;
    Ok(())
}

async fn send_some(push: &Push, messages: &mut Numbered) -> anyhow::Result<()> {
    for _ in 0..64 {
        push.send(messages.next()).await?;
    }
    Ok(())
}

/// As many descriptors as the system allows.
fn raise_descriptor_limit() -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// The resident memory of this process, in bytes.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("no VmRSS")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kilobytes * 1024)
}

async fn receive(pull: &Pull, expected: &mut u64, count: u64, size: usize) -> anyhow::Result<()> {
    for _ in 0..count {
        check(&pull.recv().await?, *expected, size)?;
        *expected += 1;
    }
    Ok(())
}

/// Who sends a message and waits for it to come back.
enum Asker<'a> {
    Pair(&'a Pair),
    Req(ReqContext),
}

impl Asker<'_> {
    async fn round_trip(&mut self, messages: &mut Numbered) -> anyhow::Result<()> {
        let (number, message) = (messages.next, messages.next());
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
        check(&back, number, messages.size)
    }
}

async fn round_trips(job: &Job, child: &Peer, asker: &mut Asker<'_>) -> anyhow::Result<()> {
    let mut messages = Numbered::new(job.size);
    let begun = Instant::now();
    while begun.elapsed() < job.warmup {
        asker.round_trip(&mut messages).await?;
    }
    let mut times = Vec::with_capacity(1 << 20);
    let (parent, peer, begun) = (cpu("self"), child.cpu(), Instant::now());
    let mut last = begun;
    while last - begun < job.measure && times.len() < times.capacity() {
        asker.round_trip(&mut messages).await?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    let elapsed = last - begun;
    report(
        job,
        times.len() as u64,
        elapsed,
        cpu("self") - parent,
        child.cpu() - peer,
        &mut times,
    );
    Ok(())
}

fn check(message: &[u8], expected: u64, size: usize) -> anyhow::Result<()> {
    ensure!(
        message.len() == size,
        "a message of {} bytes came, expected {size}",
        message.len()
    );
    let number = u64::from_ne_bytes(message[..8].try_into()?);
    ensure!(number == expected, "message {number} came, expected {expected}");
    Ok(())
}

fn report(job: &Job, count: u64, elapsed: Duration, parent: u64, child: u64, times: &mut [Duration]) {
    times.sort_unstable();
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |part: f64| {
        times
            .get((times.len() as f64 * part) as usize)
            .copied()
            .map_or(0.0, microseconds)
    };
    let (seconds, n) = (elapsed.as_secs_f64(), count as f64);
    let mean = if times.is_empty() {
        0.0
    } else {
        microseconds(elapsed) / n
    };
    println!(
        "{{\"mode\":\"{}\",\"tr\":\"{}\",\"size\":{},\"n\":{count},\"sec\":{seconds:.4},\"rate\":{:.1},\
         \"cpu_parent_ns\":{:.1},\"cpu_child_ns\":{:.1},\"mean_us\":{mean:.3},\"p50_us\":{:.3},\"p99_us\":{:.3}}}",
        job.mode,
        job.transport,
        job.size,
        n / seconds,
        parent as f64 / n,
        child as f64 / n,
        at(0.5),
        at(0.99),
    );
}

/// Messages that begin with their number. The buffers of large ones are used again once they are sent.
struct Numbered {
    size: usize,
    next: u64,
    sent: VecDeque<Bytes>,
}

impl Numbered {
    /// Below this, a new buffer costs less than keeping track of old ones.
    const LARGE: usize = 8 * 1024;

    fn new(size: usize) -> Self {
        Self {
            size,
            next: 0,
            sent: VecDeque::new(),
        }
    }

    fn next(&mut self) -> Message {
        let number = self.next.to_ne_bytes();
        self.next += 1;
        if self.size < Self::LARGE {
            let mut message = Vec::with_capacity(self.size);
            message.extend_from_slice(&number);
            message.resize(self.size, 0);
            return message.into();
        }
        let used = self.sent.pop_front().map(Bytes::try_into_mut);
        let mut message = match used {
            Some(Ok(message)) => message,
            Some(Err(in_use)) => {
                self.sent.push_front(in_use);
                BytesMut::zeroed(self.size)
            }
            None => BytesMut::zeroed(self.size),
        };
        message[..8].copy_from_slice(&number);
        let message = message.freeze();
        self.sent.push_back(message.clone());
        message.into()
    }
}

/// The child process; ends with this.
struct Peer(Child);

impl Peer {
    fn start(job: &Job, address: &str) -> anyhow::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args([
                &job.mode,
                &job.transport,
                &job.size.to_string(),
                "0",
                "0",
                address,
            ])
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    fn cpu(&self) -> u64 {
        cpu(&self.0.id().to_string())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The processor time of all threads of a process so far, in nanoseconds; 0 where the system does not tell.
fn cpu(process: &str) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return 0;
    };
    let time = |thread: std::fs::DirEntry| -> Option<u64> {
        std::fs::read_to_string(thread.path().join("schedstat"))
            .ok()?
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    threads.flatten().filter_map(time).sum()
}
