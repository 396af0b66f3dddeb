//! The host is killed, again and again: none of its plugins' processes outlives it, not even one that has left
//! its session; and when it is started again, everything is as it was, and nobody finds a socket where nobody listens,
//! not even that of a plugin whose folder went meanwhile. Every other time it is killed once more while it comes up.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use serde_json::Value;
use tokio::time::sleep;

use super::wait::until;
use super::world::{Wiring, World};
use super::{Figure, Plan, median};

/// Milliseconds in which a host is still bringing up its plugins and rules.
const COMING_UP: u64 = 80;

pub(super) async fn play(world: &mut World, plan: &Plan) -> Result<Vec<Figure>> {
    let mut package = world.home.package("parent");
    package.child = true;
    let steady = world.home.package("steady");
    for package in [&package, &steady] {
        world.home.drop_in(package)?;
        world.running(&package.name, None).await?;
        world.speaks(package).await?;
    }
    let mut rules = Vec::new();
    for (what, from, through, to) in [
        ("in", &steady, None, &package),
        ("whole", &package, Some(&package), &package),
    ] {
        let rule = world.home.name(what);
        world.rule(&rule, &Wiring { from, through, to }).await?;
        rules.push(rule);
    }
    world.flowing(&rules).await?;
    let mut stored = definitions(world, &rules).await?;
    let mut random = Rng::with_seed(plan.seed);

    let (mut ends, mut starts) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let killed = async {
            until("the plugin's child runs", async || {
                let processes = world.processes()?;
                let has_child = processes
                    .iter()
                    .any(|process| process.command.starts_with("sleep"));
                ensure!(has_child, "{processes:?}");
                Ok(())
            })
            .await?;
            // What was answered is stored, however soon after it the host dies.
            let stream = world.home.name(&format!("extra{round}"));
            world.memory_stream(&stream).await?;
            stored.push(stream.into());
            // Gone when the host is there again.
            let leaving = world.home.package(&format!("leaving{round}"));
            world.home.drop_in(&leaving)?;
            world.running(&leaving.name, None).await?;
            let since = Instant::now();
            world.kill().await?;
            until("every process of the host has ended", async || {
                let left = world.processes()?;
                ensure!(left.is_empty(), "{left:?}");
                Ok(())
            })
            .await?;
            ends.push(since.elapsed().as_secs_f64() * 1000.0);
            world.home.take_out(&leaving.name)?;
            if round % 2 == 1 {
                // In the middle of coming up.
                world.start_again().await?;
                sleep(Duration::from_millis(random.u64(..COMING_UP))).await;
                world.kill().await?;
            }
            let since = Instant::now();
            world.start_again().await?;
            world.flowing(&rules).await?;
            starts.push(since.elapsed().as_secs_f64() * 1000.0);
            world.no_stale_socket().await?;
            let now = definitions(world, &rules).await?;
            ensure!(now == stored, "the store had {stored:?} and has {now:?}");
            Ok(())
        };
        killed.await.with_context(|| format!("kill {round}"))?;
    }
    Ok(vec![
        Figure::signed_time("processes_gone", median(ends)),
        Figure::signed_time("rules_flow_again", median(starts)),
    ])
}

/// What the store has: the rules, their streams, and in the end the names of the other streams in their order.
async fn definitions(world: &World, rules: &[String]) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for rule in rules {
        all.push(world.get(&format!("/rules/{rule}")).await?);
        all.push(world.get(&format!("/streams/{rule}")).await?);
    }
    let names = world.get("/streams").await?;
    let mut others: Vec<String> = serde_json::from_value(names)?;
    others.retain(|name| !rules.contains(name));
    // `extra10` comes after `extra9`.
    others.sort_by_key(|name| (name.len(), name.clone()));
    all.extend(others.into_iter().map(Value::from));
    Ok(all)
}
