//! Faults under load: two plugins are killed, stopped for a moment or for long, exit, write garbage and acknowledge
//! what they have not taken, in an order that the seed decides; a stranger writes garbage as well. The host goes on, its rules run in the end, nothing that it
//! has accepted is lost, and it uses no more than before.
//!
//! A third plugin, which no fault hits, is the other end of every rule:
//!
//! ```text
//! steady source ──▶ faulty sink         all that was sent has to arrive
//! faulty source ──▶ steady sink         no gap in what arrives
//! steady source ──▶ faulty function ──▶ steady sink      calls may fail; it has to flow in the end
//! steady source ──▶ lying sink          its acknowledgements mean nothing; it has to flow in the end
//! ```

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::home::Package;
use super::processes::used_by;
use super::wait::{PATIENCE, until};
use super::world::{Wiring, World};
use super::{Figure, Plan};

/// The longest time that a plugin stays stopped, well within the limit for an acknowledgement.
const STOPPED: u64 = 1500;

/// So long, in milliseconds, that calls and commands are given up, on both sides of the limit at which the process
/// is replaced.
const STOPPED_LONG: std::ops::RangeInclusive<u64> = 5_000..=13_000;

/// One fault in so many is a long stop.
const LONG: u8 = 16;

/// How much more memory the host may have in the end, KiB: what an allocator keeps.
const MORE_MEMORY: u64 = 16 * 1024;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Stop,
    LongStop,
    Exit,
    Garbage,
    Stranger,
}

const FAULTS: &[Fault] = &[
    Fault::Kill,
    Fault::Stop,
    Fault::Exit,
    Fault::Garbage,
    Fault::Stranger,
];

pub(super) async fn play(world: &World, plan: &Plan) -> Result<Vec<Figure>> {
    let mut random = Rng::with_seed(plan.seed);
    let steady = world.home.package("steady");
    let faulty = [world.home.package("faulty1"), world.home.package("faulty2")];
    for package in faulty.iter().chain([&steady]) {
        world.home.drop_in(package)?;
        world.running(&package.name, None).await?;
    }
    let mut lossless = Vec::new();
    let mut flowing = Vec::new();
    for package in &faulty {
        let plain = |from, to| Wiring {
            from,
            through: None,
            to,
        };
        let (into, out, call) = (rule(package, "in"), rule(package, "out"), rule(package, "call"));
        world.rule(&into, &plain(&steady, package)).await?;
        world.rule(&out, &plain(package, &steady)).await?;
        let through = Some(package);
        let wiring = Wiring {
            through,
            ..plain(&steady, &steady)
        };
        world.rule(&call, &wiring).await?;
        let lie = rule(package, "lie");
        world.rule(&lie, &plain(&steady, package)).await?;
        lossless.extend([into, out]);
        flowing.extend([call, lie]);
    }
    let all: Vec<String> = lossless.iter().chain(&flowing).cloned().collect();
    world.flowing(&all).await?;
    let host = world.pid()?;
    let before = used_by(host)?;

    let warm = (plan.rounds / 5).max(1);
    let (mut warmed_up, mut strangers) = (before, 0);
    for round in 0..plan.rounds {
        if round == warm {
            world.flowing(&all).await?;
            warmed_up = used_by(host)?;
        }
        let package = random.choice(&faulty).context("no plugin")?;
        let fault = match random.u8(..LONG) {
            0 => Fault::LongStop,
            _ => *random.choice(FAULTS).context("no fault")?,
        };
        let pid = world.running(&package.name, None).await?;
        strangers += strike(fault, package, pid, &mut random)
            .await
            .with_context(|| format!("fault {round}: {fault:?} of {}", package.name))?;
    }
    world.flowing(&all).await?;
    let mut refused = 0;
    for package in &faulty {
        refused += world.plugin(&package.name).await?.refused_peers;
    }
    ensure!(
        refused >= strangers,
        "of {strangers} strangers the host has counted {refused}"
    );
    ensure!(world.pid()? == host, "the host is another process now");
    let after = until("the host uses no more than before", async || {
        let now = used_by(host)?;
        ensure!(
            now.descriptors <= before.descriptors && now.kibibytes <= warmed_up.kibibytes + MORE_MEMORY,
            "at first {before:?}, after {warm} faults {warmed_up:?}, in the end {now:?}"
        );
        Ok(now)
    })
    .await?;

    world.records().quiet()?;
    let (mut taken, mut doubled) = (0, 0);
    for rule in &lossless {
        let verdict = until("nothing is lost", async || {
            let verdict = world.records().verdict(rule)?;
            verdict.complete(rule)?;
            ensure!(verdict.ended > 0, "{rule}: no source has ended");
            Ok(verdict)
        })
        .await?;
        taken += verdict.taken;
        doubled += verdict.doubled;
    }
    Ok(vec![
        Figure::count("tuples", taken, "tuples"),
        Figure::count("taken_twice", doubled, "tuples"),
        Figure::count("strangers_refused", refused, "connections"),
        Figure::count("descriptors_before", before.descriptors, "files"),
        Figure::count("descriptors_after", after.descriptors, "files"),
        Figure::count("memory_before", before.kibibytes, "KiB"),
        Figure::count("memory_warm", warmed_up.kibibytes, "KiB"),
        Figure::count("memory_after", after.kibibytes, "KiB"),
    ])
}

fn rule(package: &Package, what: &str) -> String {
    format!("{}_{what}", package.name)
}

/// Does it, and says how many strangers the host has to count. The process may have ended by itself meanwhile,
/// from an earlier fault.
async fn strike(fault: Fault, package: &Package, pid: u64, random: &mut Rng) -> Result<u64> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.context("the plugin's process has no id")?;
    let send = |signal| match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(0),
        Err(error) => Err(error).context("cannot signal the plugin"),
    };
    let mut strangers = 0;
    match fault {
        Fault::Kill => send(Signal::KILL),
        Fault::Exit => send(Signal::USR1),
        Fault::Garbage => send(Signal::USR2),
        Fault::Stop | Fault::LongStop => {
            send(Signal::STOP)?;
            let length = match fault {
                Fault::LongStop => random.u64(STOPPED_LONG),
                _ => random.u64(1..=STOPPED),
            };
            sleep(Duration::from_millis(length)).await;
            send(Signal::CONT)
        }
        Fault::Stranger => {
            for name in [
                format!("plugin_{}", package.name),
                format!("func_{}_function", package.name),
            ] {
                strangers += u64::from(intrude(&format!("/tmp/{name}.ipc"), random).await?);
            }
            Ok(strangers)
        }
    }
}

/// Connects as a process that the host has not started, and talks nonsense: the host has to hang up. True when it
/// heard enough to count it as a stranger.
async fn intrude(path: &str, random: &mut Rng) -> Result<bool> {
    let Ok(mut stream) = UnixStream::connect(path).await else {
        return Ok(false); // it listens for a function only while that is in use
    };
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(256).collect();
    let greeting = [0, b'S', b'P', 0, 0, 0x30, 0, 0];
    let greets = random.bool();
    let bytes = if greets {
        [&greeting[..], &noise].concat()
    } else {
        noise
    };
    // It may hang up before it has read all of it, and what it did not read makes the end an error.
    let _written = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    ensure!(ended.is_ok(), "the host keeps a stranger's connection to {path}");
    Ok(greets)
}
