//! Owns the commands of `mangrove plugin` that need no running host: what authors of plugins do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::run::{self, RunArgs};
use super::table::printable;
use super::terminal::Terminal;
use crate::author::{self, Language, Made, Packed, Project};
use crate::check::{self, Line, Mark, Wish};
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
        /// How many seconds the plugin may take over anything
        #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
        patience: u64,
    },
    /// Make a new plugin: a source, a sink and a function, with a test
    New {
        /// Its name; its folder is named so
        name: String,
        /// In which language
        #[arg(long, value_enum)]
        language: Language,
        /// Where its folder is made
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
        /// The folder of the language's SDK, if this program does not lie in a checkout that has it
        #[arg(long, value_name = "DIR")]
        sdk: Option<PathBuf>,
    },
    /// Run a plugin that is being written in a host of its own, and follow what is saved, until Ctrl-C
    Run(RunArgs),
    /// Make the package of a plugin, which a host installs
    Pack {
        /// The plugin's folder
        folder: PathBuf,
        /// The package, instead of NAME.zip here
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

pub(super) async fn run(command: Command, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
    match command {
        Command::New {
            name,
            language,
            dir,
            sdk,
        } => {
            let project = Project {
                name: &name,
                language,
                parent: &dir,
                sdk: sdk.as_deref(),
            };
            new(&project, terminal)
        }
        Command::Run(args) => run::run(args, terminal).await,
        Command::Pack { folder, output } => pack(&folder, output.as_deref(), terminal).await,
        Command::Check {
            folder,
            only,
            patience,
        } => {
            let patience = Duration::from_secs(patience);
            check(
                &folder,
                Wish {
                    only: &only,
                    patience,
                },
                terminal,
            )
            .await
        }
    }
}

/// The settings of a host that only the environment has configured.
fn settings(home: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(home, &Overrides::default())?)
}

fn new(project: &Project<'_>, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
    let Made { folder, build } = author::create(project)?;
    if terminal.json {
        writeln!(terminal.output, "{}", json!({ "folder": folder }))?;
        return Ok(());
    }
    writeln!(terminal.output, "{} is made. Next:\n", folder.display())?;
    let next = [format!("cd {}", folder.display())];
    let then = ["mangrove plugin check .", "mangrove plugin run ."].map(str::to_owned);
    for line in next.into_iter().chain(build).chain(then) {
        writeln!(terminal.output, "  {line}")?;
    }
    Ok(())
}

async fn pack(folder: &Path, output: Option<&Path>, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
    let nowhere = tempfile::tempdir()?;
    let packed = author::pack(folder, output, &settings(nowhere.path())?.portable).await?;
    let shown = match terminal.json {
        true => {
            let Packed {
                path,
                files,
                len,
                sum,
            } = &packed;
            json!({"file": path, "files": files, "bytes": len, "sha256": sum.to_string()}).to_string()
        }
        false => printable(&packed.to_string()),
    };
    writeln!(terminal.output, "{shown}")?;
    Ok(())
}

async fn check(folder: &Path, wish: Wish<'_>, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
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
    check::run(folder, &settings, wish, told).await?;
    let [ok, failed, skipped] = counts;
    if !terminal.json {
        writeln!(terminal.output, "{ok} ok, {failed} failed, {skipped} skipped")?;
    }
    match (ok, failed) {
        (0, 0) => bail!(
            "nothing was tried: no behaviour has {:?} in its name, or all were skipped",
            wish.only
        ),
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
