//! A plugin's folder comes and goes while a rule uses it: how long from the last file event to its first tuple,
//! and to the end of its process. Of that belong to us what is neither the settle time nor what the same program
//! takes when nobody watches folders: that is measured here too, by the same contract, with the harness in the host's place.

use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sp_proto::Pair;
use tokio::process::Command;
use tokio::time::timeout;

use super::home::Package;
use super::processes::MARK;
use super::wait::{PATIENCE, until};
use super::world::{Wiring, World};
use super::{Figure, Plan, median};

/// `portable.settle`, as by default.
const SETTLE: Duration = Duration::from_millis(500);

/// What of it should be ours at most, milliseconds.
const OURS: f64 = 50.0;

/// What the host answers to a hello.
const WELCOME: &str = r#"{"type":"welcome","version":1,"encoding":"json","pingInterval":10000}"#;

pub(super) async fn play(world: &World, plan: &Plan) -> Result<Vec<Figure>> {
    let steady = world.home.package("steady");
    let dropped = world.home.package("dropped");
    for package in [&steady, &dropped] {
        world.home.drop_in(package)?;
        world.running(&package.name, None).await?;
    }
    let rule = world.home.name("out");
    let wiring = Wiring {
        from: &dropped,
        through: None,
        to: &steady,
    };
    world.rule(&rule, &wiring).await?;
    world.flowing(std::slice::from_ref(&rule)).await?;

    let (mut alone_starts, mut alone_ends) = (Vec::new(), Vec::new());
    let (mut firsts, mut ends) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let (start, end) = alone(world, &world.home.package("alone")).await?;
        alone_starts.push(milliseconds(start));
        alone_ends.push(milliseconds(end));
        let moved = move_out_and_in(world, &dropped, &rule).await;
        let (end, first) = moved.with_context(|| format!("round {round}"))?;
        ends.push(milliseconds(end));
        firsts.push(milliseconds(first));
    }
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (alone_start, alone_end) = (median(alone_starts), median(alone_ends));
    let (slowest_first, slowest_end) = (most(&firsts), most(&ends));
    let (first, end) = (median(firsts), median(ends));
    let settle = milliseconds(SETTLE);
    let time = Figure::signed_time;
    Ok(vec![
        time("settle", settle),
        time("first_tuple", first),
        time("first_tuple.slowest", slowest_first),
        time("first_tuple.program", alone_start),
        time("first_tuple.ours", first - settle - alone_start).at_most(OURS),
        time("first_tuple.ours.slowest", slowest_first - settle - alone_start).at_most(OURS),
        time("removed", end),
        time("removed.slowest", slowest_end),
        time("removed.program", alone_end),
        time("removed.ours", end - settle - alone_end).at_most(OURS),
        time("removed.ours.slowest", slowest_end - settle - alone_end).at_most(OURS),
    ])
}

/// From the folder's end to that of the process, and from its return to the first tuple.
async fn move_out_and_in(world: &World, package: &Package, rule: &str) -> Result<(Duration, Duration)> {
    let pid = world.running(&package.name, None).await?;
    let before = world.records().verdict(rule)?;
    let since = Instant::now();
    world.home.take_out(&package.name)?;
    world.gone(&package.name, pid).await?;
    let end = since.elapsed();
    until("the rule has noticed", async || {
        let status = world.get(&format!("/rules/{rule}/status")).await?;
        ensure!(status["status"] != "running", "{status}");
        parked(&status, package)
    })
    .await?;

    world.home.drop_in(package)?;
    let dropped = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let first = until("the first tuple arrives", async || {
        let now = world.records().verdict(rule)?;
        let fresh = now.first.iter().find(|(run, _)| !before.first.contains_key(*run));
        let Some((_, at)) = fresh else {
            anyhow::bail!(
                "{}; {}",
                world.plugin(&package.name).await?,
                world.get(&format!("/rules/{rule}/status")).await?
            );
        };
        Ok(Duration::from_micros(*at))
    })
    .await?;
    world.flowing(&[rule.to_owned()]).await?;
    Ok((end, first.saturating_sub(dropped)))
}

/// A rule whose plugin is gone waits for it, and says so.
fn parked(status: &Value, package: &Package) -> Result<()> {
    let text = status.to_string();
    ensure!(
        status["status"] == "waiting" && text.contains(&package.name),
        "the rule should wait for the plugin {}: {text}",
        package.name
    );
    Ok(())
}

/// How long the plugin's program takes from its start until it says hello, and from SIGTERM to its end. It finds the
/// same contract as with the host.
async fn alone(world: &World, package: &Package) -> Result<(Duration, Duration)> {
    let folder = world.home.prepare(package)?;
    // There it is known that the path is not too long.
    let address = format!("ipc://{}", world.home.run().join("alone.ipc").display());
    let host = Pair::new();
    host.listen(&address).await?;
    let since = Instant::now();
    let mut child = Command::new(folder.join("run"))
        .arg(r#"{"sendTimeout":1000}"#)
        .env("CHAOS_NAME", &package.name)
        .env("CHAOS_FOLDER", world.records().folder())
        .env("MANGROVE_CONTROL", &address)
        .env("MANGROVE_TOKEN", "0")
        .env("MANGROVE_PLUGIN", &package.name)
        .env(MARK, world.home.prefix())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot run the plugin alone")?;
    let hello = timeout(PATIENCE, host.recv()).await;
    let hello = hello.context("the plugin alone does not say hello")??;
    let start = since.elapsed();
    ensure!(
        String::from_utf8_lossy(hello.as_bytes()).contains("hello"),
        "the plugin alone says something else first"
    );
    host.send(WELCOME).await?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let since = Instant::now();
    kill_process(pid.context("the plugin alone has ended")?, Signal::TERM)?;
    let ended = timeout(PATIENCE, child.wait()).await;
    ended.context("the plugin alone does not end")??;
    let end = since.elapsed();
    host.close().await;
    Ok((start, end))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
