//! The project's own commands: `cargo verify` runs every check and test, `cargo demo` shows the main job,
//! `cargo figures` measures, `cargo soak` lets plugins and the host fail for a long time.
//! Owns nothing that ships. Everything it makes lies in cargo's target folder.

mod command;
mod demo;
mod figures;
mod host;
mod http;
mod soak;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

/// The project's own commands.
#[derive(Parser)]
#[command(bin_name = "cargo")]
enum Arguments {
    /// Runs every check and test; prepares by itself what they need.
    Verify(verify::Arguments),
    /// Builds the host and the example plugin and runs a rule through them until Ctrl-C.
    Demo(demo::Arguments),
    /// Measures, with every peer in the same run, and makes the tables of docs/benchmarks.md.
    Figures(figures::Arguments),
    /// Lets plugins and the host fail, change, come and go under load, and counts what got lost.
    Soak(soak::Arguments),
}

fn main() -> ExitCode {
    // `cargo demo -- --results 3` and `cargo demo --results 3` mean the same.
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(2).is_some_and(|argument| argument == "--") {
        arguments.remove(2);
    }
    let done = match Arguments::parse_from(arguments) {
        Arguments::Verify(arguments) => verify::run(&arguments),
        Arguments::Demo(arguments) => demo::run(&arguments),
        Arguments::Figures(arguments) => figures::run(&arguments),
        Arguments::Soak(arguments) => soak::run(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The root of the checkout.
fn workspace_folder() -> Result<PathBuf> {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = xtask.parent().context("xtask lies in no workspace")?;
    Ok(root.to_owned())
}
