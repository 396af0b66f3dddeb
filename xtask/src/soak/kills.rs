//! The host is killed, again and again: none of its plugins' processes outlives it, not even one that has left
//! its session; and when it is started again, everything is as it was.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::wait::until;
use super::world::{Wiring, World};
use super::{Figure, Plan, median};

pub(super) async fn play(world: &mut World, plan: &Plan) -> Result<Vec<Figure>> {
    let mut package = world.home.package("parent");
    package.child = true;
    let steady = world.home.package("steady");
    for package in [&package, &steady] {
        world.home.drop_in(package)?;
        world.running(&package.name, None).await?;
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
    let stored = definitions(world, &rules).await?;

    let (mut ends, mut starts) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let killed = async {
            let processes = world.processes()?;
            let has_child = processes
                .iter()
                .any(|process| process.command.starts_with("sleep"));
            ensure!(has_child, "the plugin's child does not run: {processes:?}");
            let since = Instant::now();
            world.kill().await?;
            until("every process of the host has ended", async || {
                let left = world.processes()?;
                ensure!(left.is_empty(), "{left:?}");
                Ok(())
            })
            .await?;
            ends.push(since.elapsed().as_secs_f64() * 1000.0);
            let since = Instant::now();
            world.start_again().await?;
            world.flowing(&rules).await?;
            starts.push(since.elapsed().as_secs_f64() * 1000.0);
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

/// What the store has.
async fn definitions(world: &World, rules: &[String]) -> Result<Vec<Value>> {
    let mut all = vec![world.get("/streams").await?];
    for rule in rules {
        all.push(world.get(&format!("/rules/{rule}")).await?);
        all.push(world.get(&format!("/streams/{rule}")).await?);
    }
    Ok(all)
}
