//! What the raw means can do, in programs as they ship: JSON and nothing else, a socket and nothing else.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::scene::Programs;
use crate::command::output;

/// Tuples that one thread parses and writes in a second.
pub(super) fn parse_and_write(programs: &Programs, window: Duration) -> Result<f64> {
    number(Command::new(programs.gauge()).args(["json", &seconds(window)]))
}

/// A message of a call's length to another process and back over a pair socket, as often as `calls.rust.single` calls, in
/// microseconds.
pub(super) fn round_trip(programs: &Programs, window: Duration) -> Result<f64> {
    number(Command::new(programs.gauge()).args(["trip", &seconds(window)]))
}

/// What a bare Python loop parses and writes in a second: `calls` of a function, or `tuples`, which it only writes.
pub(super) fn python_loop(root: &Path, what: &str, window: Duration) -> Result<f64> {
    let program = root.join("xtask/plugins/gauge-python/loop.py");
    number(
        Command::new("python3")
            .arg(program)
            .args([what, &seconds(window)]),
    )
}

fn seconds(window: Duration) -> String {
    window.as_secs_f64().to_string()
}

fn number(command: &mut Command) -> Result<f64> {
    let said = output(command)?;
    said.trim()
        .parse()
        .with_context(|| format!("{command:?} printed {said:?}"))
}
