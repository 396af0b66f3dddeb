//! Fifty plugins come at once, and a broken one among them: all but that one run, started several at a time but
//! never more than the limit; then they go at once.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::home::Package;
use super::wait::until;
use super::world::World;
use super::{Figure, Plan, median};

const PLUGINS: usize = 50;

/// How long each takes to start, so that it can be seen how many do so at the same time.
const DELAY: u32 = 100;

pub(super) async fn play(world: &World, plan: &Plan) -> Result<Vec<Figure>> {
    let packages: Vec<Package> = (0..PLUGINS)
        .map(|n| Package {
            delay: DELAY,
            ..world.home.package(&format!("p{n}"))
        })
        .collect();
    let mut broken = world.home.package("broken");
    broken.broken = true;
    // By default twice as many as there are processors.
    let limit = 2 * std::thread::available_parallelism()?.get();
    let (mut ups, mut downs, mut most) = (Vec::new(), Vec::new(), 0);
    for _ in 0..plan.rounds {
        let since = Instant::now();
        for (n, package) in packages.iter().enumerate() {
            if n == PLUGINS / 2 {
                world.home.drop_in(&broken)?;
            }
            world.home.drop_in(package)?;
        }
        until("all plugins run", async || {
            let alive = programs(world)?;
            let mut waiting = Vec::new();
            for package in &packages {
                match world.plugin(&package.name).await {
                    Ok(status) if status.state == "running" => {}
                    Ok(status) => waiting.push(format!("{}: {status}", package.name)),
                    Err(error) => waiting.push(format!("{}: {error:#}", package.name)),
                }
            }
            // Those that were there before we asked and do not run yet: never more than are starting.
            most = most.max(alive.saturating_sub(PLUGINS - waiting.len()));
            ensure!(
                waiting.is_empty(),
                "{} of {PLUGINS} do not run: {}",
                waiting.len(),
                waiting.join("; ")
            );
            Ok(())
        })
        .await?;
        ups.push(since.elapsed().as_secs_f64() * 1000.0);
        ensure!(most > 1, "no two plugins were starting at once");
        ensure!(
            most <= limit,
            "{most} plugins were starting at once; the limit is {limit}"
        );
        until("the broken plugin is refused", async || {
            let status = world.plugin(&broken.name).await?;
            ensure!(status.state == "refused", "it is {status}");
            Ok(())
        })
        .await?;

        let since = Instant::now();
        for package in packages.iter().chain([&broken]) {
            world.home.take_out(&package.name)?;
        }
        until("all plugins are gone", async || {
            let left = world.get("/plugins/portable").await?;
            let processes = world.processes()?;
            ensure!(left.as_array().is_some_and(Vec::is_empty), "{left}");
            ensure!(processes.len() == 1, "{processes:?}");
            Ok(())
        })
        .await?;
        downs.push(since.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(vec![
        Figure::signed_time("all_run", median(ups)),
        Figure::count("starting_at_once", most as u64, "plugins"),
        Figure::signed_time("all_gone", median(downs)),
    ])
}

/// The plugins' processes, without their guards and the host.
fn programs(world: &World) -> Result<usize> {
    let processes = world.processes()?;
    let plugins = processes.iter().filter(|process| !process.is_guard());
    Ok(plugins.count().saturating_sub(1))
}
