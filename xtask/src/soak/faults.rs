//! Faults under load: two plugins are killed, stopped for a moment or for long, exit, write garbage over connections
//! of their own and into those that are in use, in an order that the seed decides; a third one acknowledges what it has
//! not taken, and what was sent to the others; a stranger writes garbage as well. The host goes on, its rules run in the
//! end, nothing that it has accepted is lost, and it uses no more than before.
//!
//! Another plugin, which no fault hits, is the other end of every rule:
//!
//! ```text
//! steady source ──▶ faulty sink         all that was sent has to arrive
//! faulty source ──▶ steady sink         no gap in what arrives
//! steady source ──▶ faulty function ──▶ steady sink      calls may fail; it has to flow in the end
//! steady source ──▶ lying sink          its acknowledgements mean nothing; it has to flow in the end
//! ```
//!
//! Each time it is awaited that garbage was written, lies were told and strangers refused: a fault that hits nothing
//! shows nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::home::{Contract, Package};
use super::processes::{is_alive, used_by};
use super::wait::{PATIENCE, until};
use super::world::{Wiring, World, control};
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

/// What strangers say that they are.
const PAIR: u8 = 0x10;
const REQUESTER: u8 = 0x30;
const PUSHER: u8 = 0x50;
const PULLER: u8 = 0x51;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Stop,
    LongStop,
    Exit,
    /// Over new connections.
    Garbage,
    /// Over those that are in use; then it exits.
    Spew,
    Lie,
    Stranger,
}

/// What is played, in an order of its own each time until nothing is left of it.
const FAULTS: [Fault; 7] = [
    Fault::Kill,
    Fault::Stop,
    Fault::Exit,
    Fault::Garbage,
    Fault::Spew,
    Fault::Lie,
    Fault::Stranger,
];

pub(super) async fn play(world: &World, plan: &Plan) -> Result<Vec<Figure>> {
    let mut random = Rng::with_seed(plan.seed);
    let steady = world.home.package("steady");
    let faulty = [world.home.package("faulty1"), world.home.package("faulty2")];
    let liar = world.home.package("liar");
    let plugins: Vec<&Package> = faulty.iter().chain([&liar, &steady]).collect();
    for package in &plugins {
        world.home.drop_in(package)?;
        world.running(&package.name, None).await?;
        world.speaks(package).await?;
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
        lossless.extend([into, out]);
        flowing.push(call);
    }
    let lie = rule(&liar, "in");
    let wiring = Wiring {
        from: &steady,
        through: None,
        to: &liar,
    };
    world.rule(&lie, &wiring).await?;
    flowing.push(lie);
    let all: Vec<String> = lossless.iter().chain(&flowing).cloned().collect();
    world.flowing(&all).await?;
    let host = world.pid()?;
    let before = used_by(host)?;

    let warm = (plan.rounds / 5).max(1);
    let (mut warmed_up, mut strangers) = (before, 0);
    let mut deck = Vec::new();
    for round in 0..plan.rounds {
        if round == warm {
            world.flowing(&all).await?;
            warmed_up = used_by(host)?;
        }
        if deck.is_empty() {
            deck.extend(FAULTS);
            random.shuffle(&mut deck);
        }
        let fault = match random.u8(..LONG) {
            0 => Fault::LongStop,
            _ => deck.pop().context("no fault")?,
        };
        let package = match fault {
            Fault::Lie => &liar,
            _ => random.choice(&faulty).context("no plugin")?,
        };
        let struck = async {
            if let Fault::Stranger = fault {
                strangers += intrude(world, package, &plugins, &mut random).await?;
                return Ok(());
            }
            strike(world, fault, package, &mut random).await
        };
        struck
            .await
            .with_context(|| format!("fault {round}: {fault:?} of {}", package.name))?;
    }
    world.flowing(&all).await?;
    for package in &plugins {
        world.speaks(package).await?;
    }
    let refused = refused(world, &plugins).await?;
    ensure!(
        refused >= strangers,
        "of {strangers} strangers the host has counted {refused}"
    );
    let written = Written::count(world)?;
    if written.refused > 0 {
        let why = "pidfd_getfd is refused on this machine";
        testkit::skip("what plugins write to the host's sockets", why);
    }
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
        Figure::count("garbage", written.new + written.live, "connections"),
        Figure::count("lies", written.lies, "connections"),
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

/// To how many of the host's sockets the plugins have written what they should not have.
#[derive(Debug, Default)]
struct Written {
    new: u64,
    live: u64,
    lies: u64,
    /// How often a plugin was not let at its own connections, so that it could write nothing.
    refused: u64,
}

impl Written {
    /// Those of the contract that is played.
    fn count(world: &World) -> Result<Self> {
        let mut written = Self::default();
        let own = world.home.run();
        for (how, path) in world.records().garbage()? {
            if how == "refused" {
                written.refused += 1;
                continue;
            }
            let is_own = path.starts_with(&own);
            ensure!(
                is_own == (world.home.contract == Contract::Own),
                "a plugin was connected with {}",
                path.display()
            );
            match how.as_str() {
                "new" => written.new += 1,
                "live" => written.live += 1,
                _ => written.lies += 1,
            }
        }
        Ok(written)
    }
}

/// Does it, and waits until it is done.
async fn strike(world: &World, fault: Fault, package: &Package, random: &mut Rng) -> Result<()> {
    let before = Written::count(world)?;
    // The host may not have seen yet that the last one has ended.
    let old = until("the plugin runs", async || {
        let pid = world.running(&package.name, None).await?;
        ensure!(is_alive(pid), "process {pid} has ended");
        Ok(pid)
    })
    .await?;
    let pid = i32::try_from(old).ok().and_then(Pid::from_raw);
    let pid = pid.context("the plugin's process has no id")?;
    let send = |signal| kill_process(pid, signal).context("cannot signal the plugin");
    match fault {
        Fault::Kill => send(Signal::KILL)?,
        Fault::Exit => send(Signal::USR1)?,
        Fault::Garbage => send(Signal::USR2)?,
        Fault::Spew => send(Signal::HUP)?,
        Fault::Lie => send(Signal::ALARM)?,
        Fault::Stop | Fault::LongStop => {
            send(Signal::STOP)?;
            let length = match fault {
                Fault::LongStop => random.u64(STOPPED_LONG),
                _ => random.u64(1..=STOPPED),
            };
            sleep(Duration::from_millis(length)).await;
            // The host may have had enough of it meanwhile.
            if let Err(error) = kill_process(pid, Signal::CONT)
                && error != Errno::SRCH
            {
                return Err(error).context("cannot signal the plugin");
            }
        }
        Fault::Stranger => {}
    }
    if let Fault::Garbage | Fault::Spew | Fault::Lie = fault {
        until("something was written", async || {
            let now = Written::count(world)?;
            let more = match fault {
                Fault::Garbage => now.new > before.new,
                Fault::Spew => now.live > before.live,
                _ => now.lies > before.lies,
            };
            ensure!(
                more || now.refused > before.refused,
                "{before:?}, and {now:?} after it"
            );
            Ok(())
        })
        .await?;
    }
    if let Fault::Kill | Fault::Exit | Fault::Spew = fault {
        // Else the next one might hit a process that is none any more.
        until("the process has ended", async || {
            ensure!(!is_alive(old), "process {old} still runs");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// How many strangers the host has counted at all plugins.
async fn refused(world: &World, plugins: &[&Package]) -> Result<u64> {
    let mut refused = 0;
    for package in plugins {
        refused += world.plugin(&package.name).await?.refused_peers;
    }
    Ok(refused)
}

/// Connects with the sockets of the plugin, or with all of our own contract, as a process that the host has not started:
/// it has to hang up, and to count at least one. Says how many it has to have counted.
async fn intrude(world: &World, package: &Package, plugins: &[&Package], random: &mut Rng) -> Result<u64> {
    let before = refused(world, plugins).await?;
    let (paths, protocols) = match world.home.contract {
        Contract::EKuiper => {
            let function = format!("/tmp/func_{}_function.ipc", package.name);
            (vec![control(package), function.into()], &[REQUESTER][..])
        }
        // Nothing says what listens where.
        Contract::Own => (world.own_sockets()?, &[PAIR, PUSHER, PULLER][..]),
    };
    for path in &paths {
        for protocol in protocols {
            let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(256).collect();
            let greeting = [0, b'S', b'P', 0, 0, *protocol, 0, 0];
            talk(path, &noise).await?;
            talk(path, &[&greeting[..], &noise].concat()).await?;
        }
    }
    until("the host has counted a stranger", async || {
        let now = refused(world, plugins).await?;
        ensure!(now > before, "it counts {now}, as before, of {paths:?}");
        Ok(())
    })
    .await?;
    Ok(1)
}

/// The host has to hang up.
async fn talk(path: &Path, bytes: &[u8]) -> Result<()> {
    let Ok(mut stream) = UnixStream::connect(path).await else {
        return Ok(()); // it listens only while something is in use
    };
    // It may hang up before it has read all of it, and what it did not read makes the end an error.
    let _written = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    ensure!(
        ended.is_ok(),
        "the host keeps a stranger's connection to {}",
        path.display()
    );
    Ok(())
}
