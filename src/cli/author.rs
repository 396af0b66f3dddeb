//! Owns the commands of `mangrove plugin` that need no running host: what authors of plugins do.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::table::printable;
use super::terminal::Terminal;
use crate::check::{self, Line, Mark};
use crate::config::{Config, Overrides};

/// What authors do.
#[derive(Debug, PartialEq, Eq, clap::Subcommand)]
pub(super) enum Command {
    /// Try out a plugin: everything that the contract asks of it, line by line
    Check {
        /// The plugin's folder
        folder: PathBuf,
        /// Only the behaviours with this in their names
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
    },
}

pub(super) async fn run(command: Command, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
    match command {
        Command::Check { folder, only } => check(&folder, &only, terminal).await,
    }
}

/// The settings of a host that only the environment has configured.
fn settings(home: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(home, &Overrides::default())?)
}

async fn check(folder: &Path, only: &str, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
    let nowhere = tempfile::tempdir()?;
    let settings = settings(nowhere.path())?.portable;
    let mut counts = [0; 3];
    let told = |line: Line| -> anyhow::Result<()> {
        if let Some(count) = counts.get_mut(line.result as usize) {
            *count += 1;
        }
        let shown = match terminal.json {
            true => serde_json::to_string(&line)?,
            false => shown(&line),
        };
        writeln!(terminal.output, "{shown}")?;
        Ok(terminal.output.flush()?)
    };
    check::run(folder, &settings, only, told).await?;
    let [ok, failed, skipped] = counts;
    if !terminal.json {
        writeln!(terminal.output, "{ok} ok, {failed} failed, {skipped} skipped")?;
    }
    match (ok, failed) {
        (0, 0) => bail!("nothing was tried: no behaviour has {only:?} in its name, or all were skipped"),
        (_, 0) => Ok(()),
        (_, failed) => bail!("{failed} behaviours are not as they should be"),
    }
}

fn shown(line: &Line) -> String {
    let (mark, reason) = match line.result {
        Mark::Ok => ("ok", String::new()),
        Mark::Failed => ("FAILED", format!(": {}", line.reason)),
        Mark::Skipped => ("skipped", format!(": {}", line.reason)),
    };
    printable(&format!("{mark:<8} {:<16} {}{reason}", line.name, line.about))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_mark_its_name_and_its_reason() {
        let line = |result, reason: &str| {
            shown(&Line {
                name: "drain",
                about: "sends everything",
                result,
                reason: reason.to_owned(),
            })
        };
        let lines = [
            line(Mark::Ok, ""),
            line(Mark::Failed, "the source \"a\" sent batch 3\u{1b} after batch 1"),
            line(Mark::Skipped, "it has no source"),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        ok       drain            sends everything
        FAILED   drain            sends everything: the source "a" sent batch 3� after batch 1
        skipped  drain            sends everything: it has no source
        "#);
    }
}
