//! `cargo figures`: measures, and makes the tables of docs/benchmarks.md. Every peer runs in the same minutes
//! as what it is compared to, in turn; only ratios mean something on another machine.

mod cells;
mod peers;
mod plugins;
pub(crate) mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::workspace_folder;
use cells::{CELLS, Cell, FAN};
use peers::{Missing, Peer};
use report::{Measured, Row};

/// Measures, with every peer in the same run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The sockets of sp-proto against raw sockets and other libraries, and together with those that speak SP.
    Sp(Sp),
    /// Tuples and calls through real plugins, beside what the raw means can do.
    Plugins(plugins::Arguments),
}

#[derive(clap::Args)]
struct Sp {
    /// Rounds per cell; the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each run measures, in milliseconds.
    #[arg(long, default_value_t = 300)]
    ms: u64,
    /// One line of JSON per row instead of a table.
    #[arg(long)]
    json: bool,
    /// Put the table into docs/benchmarks.md as well.
    #[arg(long, conflicts_with = "only")]
    write: bool,
    /// Only the cells whose name contains this, such as `ipc.64`.
    only: Option<String>,
}

/// Measures what is asked for.
///
/// # Errors
/// What is ours cannot be built or run, or no cell has that name. A missing peer is no error: it is named.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.what {
        What::Sp(arguments) => sp(arguments)?,
        What::Plugins(arguments) => plugins::run(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn sp(arguments: &Sp) -> Result<()> {
    let wanted = |cell: &&Cell| {
        let name = cell.name();
        arguments.only.as_ref().is_none_or(|part| name.contains(part))
    };
    let cells: Vec<_> = CELLS.iter().filter(wanted).collect();
    let fans: Vec<_> = FAN.iter().filter(wanted).collect();
    ensure!(!(cells.is_empty() && fans.is_empty()), "no cell has such a name");

    let root = workspace_folder()?;
    let (peers, mut missing) = peers::prepare(&root)?;
    for (peer, reason) in &missing {
        eprintln!("not measured: {peer}: {reason}");
    }
    let mut rows = Vec::new();
    for cell in cells {
        let takes_part = |peer: &&Peer| peer.floor_of.is_none() && peer.does(cell);
        let all: Vec<_> = peers.iter().filter(takes_part).collect();
        let measured = show(arguments, measure(arguments, cell, &all, &mut missing)?)?;
        let floors = floors(arguments, cell, &peers, &measured, &mut missing)?;
        rows.extend(measured);
        rows.extend(show(arguments, floors)?);
    }
    for cell in fans {
        rows.extend(show(arguments, fan(arguments, cell, &peers)?)?);
    }
    if arguments.write {
        let page = root.join("docs/benchmarks.md");
        let text =
            std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
        let table = report::table(&rows, &missing, arguments.rounds);
        std::fs::write(&page, report::replace(&text, "sp", &table)?)
            .with_context(|| format!("cannot write {}", page.display()))?;
    }
    Ok(())
}

fn show(arguments: &Sp, rows: Vec<Row>) -> Result<Vec<Row>> {
    for row in &rows {
        if arguments.json {
            println!("{}", row.json());
        } else {
            println!("{}", row.line());
        }
    }
    Ok(rows)
}

/// A peer that fails so often in one cell is left out of it: each time may be one until it is ended.
const PATIENCE: usize = 2;

/// What is left without sp-proto, for the peers that have missed a target in this cell: in rounds of their own,
/// together with those peers and with what these are measured by.
fn floors(
    arguments: &Sp,
    cell: &Cell,
    peers: &[Peer],
    rows: &[Row],
    missing: &mut Vec<Missing>,
) -> Result<Vec<Row>> {
    let missed: Vec<_> = rows.iter().filter(|row| row.has_missed()).collect();
    let takes_part = |peer: &&Peer| {
        let concerns = |row: &&&Row| match &peer.floor_of {
            Some(ours) => row.is_of(ours),
            None => row.is_of(&peer.name) || row.has_missed_beside(&peer.name),
        };
        missed.iter().any(|row| concerns(&row)) && peer.does(cell)
    };
    let all: Vec<_> = peers.iter().filter(takes_part).collect();
    if all.iter().all(|peer| peer.floor_of.is_none()) {
        return Ok(Vec::new());
    }
    let mut rows = measure(arguments, cell, &all, missing)?;
    rows.retain(Row::is_floor);
    Ok(rows)
}

/// These peers in one cell, in turn, each round beginning with another one.
fn measure(arguments: &Sp, cell: &Cell, peers: &[&Peer], missing: &mut Vec<Missing>) -> Result<Vec<Row>> {
    let mut measured: Vec<_> = peers.iter().map(|peer| (*peer, Measured::default())).collect();
    let count = measured.len();
    for round in 0..arguments.rounds {
        for turn in 0..count {
            let (peer, results) = &mut measured[(round + turn) % count];
            if results.failures >= PATIENCE {
                continue;
            }
            match peer.run(cell.mode, cell, arguments.ms) {
                Ok(result) => results.add(&result),
                Err(error) if peer.ours => return Err(error),
                // A peer that fails is shown, not hidden.
                Err(error) => {
                    eprintln!("{} {}: {error:#}", cell.name(), peer.name);
                    results.failures += 1;
                }
            }
        }
    }
    for (peer, results) in &mut measured {
        if results.is_empty() {
            missing.push((
                format!("{} in {}", peer.name, cell.name()),
                "it failed".to_owned(),
            ));
        } else {
            results.syscalls = peer.syscalls(cell, arguments.ms);
        }
    }
    Ok(report::rows(cell, &measured))
}

/// One of our sockets with a thousand peers against the same with one.
fn fan(arguments: &Sp, cell: &Cell, peers: &[Peer]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for peer in peers.iter().filter(|peer| peer.ours) {
        let (mut one, mut thousand) = (Measured::default(), Measured::default());
        for _ in 0..arguments.rounds {
            one.add(&peer.run("fan:1", cell, arguments.ms)?);
            thousand.add(&peer.run("fan:1000", cell, arguments.ms)?);
        }
        rows.push(report::fan_row(cell, peer, &one, &thousand));
    }
    Ok(rows)
}

/// Where what is built for the measurements lies.
fn folder() -> Result<PathBuf> {
    let target = crate::command::output(crate::command::cargo().args([
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--offline",
    ]))?;
    let metadata: serde_json::Value = serde_json::from_str(&target)?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo names no target folder")?;
    let folder = PathBuf::from(target).join("figures");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
