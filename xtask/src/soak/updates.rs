//! Updates in a row under load, by REST, by exchanging the plugin's folder and by laying new files over the old;
//! now and then one that does not start and must change nothing. No rule stops, and what was sent is what was taken;
//! the longest pause is reported.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::time::{Duration, sleep};

use super::home::Package;
use super::wait::until;
use super::world::{Wiring, World};
use super::{Figure, Plan};

/// Every so many updates are preceded by one that is of no use.
const USELESS: u32 = 5;

/// Between two looks at the rules.
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn play(world: &World, plan: &Plan) -> Result<Vec<Figure>> {
    let steady = world.home.package("steady");
    let mut changing = world.home.package("changing");
    for package in [&steady, &changing] {
        world.home.drop_in(package)?;
        world.running(&package.name, None).await?;
        world.speaks(package).await?;
    }
    let wirings = [
        ("in", &steady, None, &changing),
        ("out", &changing, None, &steady),
        ("call", &steady, Some(&changing), &steady),
        ("whole", &changing, Some(&changing), &changing),
    ];
    let mut rules = Vec::new();
    for (what, from, through, to) in wirings {
        let rule = world.home.name(what);
        world.rule(&rule, &Wiring { from, through, to }).await?;
        rules.push(rule);
    }
    world.flowing(&rules).await?;
    let started = starts(world, &rules).await?;

    tokio::select! {
        done = update(world, &mut changing, plan.rounds) => done?,
        stopped = stop_of(world, &rules) => return stopped,
    }
    world.flowing(&rules).await?;
    ensure!(
        starts(world, &rules).await? == started,
        "a rule was started again"
    );

    world.records().quiet()?;
    let mut figures = Vec::new();
    let (mut taken, mut doubled, mut pause) = (0, 0, Duration::ZERO);
    for rule in &rules {
        let verdict = until("what was sent was taken", async || {
            let verdict = world.records().verdict(rule)?;
            verdict.complete(rule)?;
            ensure!(verdict.ended > 0, "{rule}: no source has ended");
            // Each run of a source was asked to end, so each has told how many it has sent.
            let runs = verdict.first.len();
            ensure!(
                verdict.ended >= runs,
                "{rule}: {runs} runs of its source, {} ended in order",
                verdict.ended
            );
            Ok(verdict)
        })
        .await?;
        taken += verdict.taken;
        doubled += verdict.doubled;
        pause = pause.max(verdict.longest_pause);
        let name = match rule.strip_prefix(world.home.prefix()) {
            Some("in") => "pause_sink",
            Some("out") => "pause_source",
            Some("call") => "pause_function",
            _ => "pause_whole",
        };
        figures.push(Figure::time(name, verdict.longest_pause));
    }
    figures.extend([
        Figure::time("longest_pause", pause),
        Figure::count("tuples", taken, "tuples"),
        Figure::count("taken_twice", doubled, "tuples"),
    ]);
    Ok(figures)
}

/// Makes version after version of the plugin and waits for each to run.
async fn update(world: &World, package: &mut Package, rounds: u32) -> Result<()> {
    for round in 0..rounds {
        let pid = world.running(&package.name, None).await?;
        package.version += 1;
        if round % USELESS == USELESS - 1 {
            let useless = Package {
                useless: true,
                ..package.clone()
            };
            let refused = refuse(world, &useless, pid, round % 2 == 0).await;
            refused.with_context(|| format!("useless update to {}", package.version))?;
            package.version += 1;
        }
        let how = match round % 3 {
            0 => {
                world.put(package).await?;
                "by REST"
            }
            1 => {
                world.home.exchange(package)?;
                "by exchange of the folder"
            }
            _ => {
                world.home.lay_over(package)?;
                "by new files over the old"
            }
        };
        let version = package.version.to_string();
        let path = format!("/plugins/portables/{}", package.name);
        let done = until("the new version runs", async || {
            let manifest = world.get(&path).await?;
            ensure!(
                manifest["version"] == version.as_str(),
                "the version is {}; {}",
                manifest["version"],
                world.plugin(&package.name).await?
            );
            Ok(())
        });
        done.await.with_context(|| format!("update to {version} {how}"))?;
        let running = world.running(&package.name, Some(pid)).await;
        running.with_context(|| format!("update to {version} {how}"))?;
        world.speaks(package).await?;
    }
    Ok(())
}

/// Offers a version whose process ends at once: the old one goes on, and the plugin says why.
async fn refuse(world: &World, useless: &Package, pid: u64, by_rest: bool) -> Result<()> {
    if by_rest {
        let taken = world.put(useless).await;
        ensure!(taken.is_err(), "it was taken");
    } else {
        world.home.lay_over(useless)?;
    }
    until("the plugin says that it has refused the update", async || {
        let status = world.plugin(&useless.name).await?;
        ensure!(
            status.state == "running" && status.pid == Some(pid) && (by_rest || !status.note.is_empty()),
            "it is {status}; the old process is {pid}"
        );
        Ok(())
    })
    .await
}

/// Completes when a rule is not running, with its status.
async fn stop_of<T>(world: &World, rules: &[String]) -> Result<T> {
    loop {
        let all = world.get("/rules/status/all").await?;
        if let Some(rule) = rules
            .iter()
            .find(|rule| all[rule.as_str()]["status"] != "running")
        {
            let status = world.get(&format!("/rules/{rule}/status")).await?;
            bail!("{rule} has stopped: {}; {status}", all[rule.as_str()]);
        }
        sleep(LOOK).await;
    }
}

/// When the rules were started and stopped the last time.
async fn starts(world: &World, rules: &[String]) -> Result<Vec<[Value; 2]>> {
    let mut starts = Vec::new();
    for rule in rules {
        let mut status = world.get(&format!("/rules/{rule}/status")).await?;
        starts.push([
            status["lastStartTimestamp"].take(),
            status["lastStopTimestamp"].take(),
        ]);
    }
    Ok(starts)
}
