//! `cargo figures`: measures, and makes the tables of docs/benchmarks.md. Every peer runs in the same minutes
//! as what it is compared to, in turn; only ratios mean something on another machine.

mod cells;
mod peers;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::workspace_folder;
use cells::{CELLS, Cell, FAN};
use peers::Peer;
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
}

#[derive(clap::Args)]
struct Sp {
    /// Rounds per cell; the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each run measures, in milliseconds.
    #[arg(long, default_value_t = 400)]
    ms: u64,
    /// One line of JSON per row instead of a table.
    #[arg(long)]
    json: bool,
    /// Put the table into docs/benchmarks.md as well.
    #[arg(long)]
    write: bool,
    /// Only the cells whose name contains this, such as `ipc.64`.
    only: Option<String>,
}

/// Measures what is asked for.
///
/// # Errors
/// Nothing can be built or run. A missing peer is no error: it is named.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let What::Sp(arguments) = &arguments.what;
    sp(arguments)?;
    Ok(ExitCode::SUCCESS)
}

fn sp(arguments: &Sp) -> Result<()> {
    let root = workspace_folder()?;
    let (peers, missing) = peers::prepare(&root)?;
    for (peer, reason) in &missing {
        eprintln!("not measured: {peer}: {reason}");
    }
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|part| name.contains(part));
    let mut rows = Vec::new();
    for cell in CELLS.iter().filter(|cell| wanted(&cell.name())) {
        rows.extend(show(arguments, measure(arguments, cell, &peers)?)?);
    }
    for cell in FAN.iter().filter(|cell| wanted(&cell.name())) {
        let ours: Vec<_> = peers.iter().filter(|peer| peer.ours).collect();
        rows.extend(show(arguments, fan(arguments, cell, &ours)?)?);
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

/// All peers of one cell, in turn, each round beginning with another one.
fn measure(arguments: &Sp, cell: &Cell, peers: &[Peer]) -> Result<Vec<Row>> {
    let mut measured: Vec<_> = peers
        .iter()
        .filter(|peer| peer.does(cell))
        .map(|peer| (peer, Measured::default()))
        .collect();
    let count = measured.len();
    for round in 0..arguments.rounds {
        for turn in 0..count {
            let (peer, results) = &mut measured[(round + turn) % count];
            match peer.run(cell.mode, cell, arguments.ms) {
                Ok(result) => results.add(&result),
                // A peer that fails is shown, not hidden.
                Err(error) => eprintln!("{} {}: {error:#}", cell.name(), peer.name),
            }
        }
    }
    for (peer, results) in &mut measured {
        results.syscalls = peer.syscalls(cell, arguments.ms);
    }
    Ok(report::rows(cell, &measured))
}

/// One socket with a thousand peers against the same with one.
fn fan(arguments: &Sp, cell: &Cell, ours: &[&Peer]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for peer in ours {
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
