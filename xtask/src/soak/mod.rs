//! `cargo soak`: lets plugins and the host fail, change, come and go under load, and counts what got lost. Each
//! case has a home folder of its own, `target/soak/<case>`, with the host's log and the plugins' records, which
//! stay for whoever wants to know more.
//!
//! | module | what it owns |
//! |---|---|
//! | `faults`, `updates`, `kills`, `drops`, `fifty` | one case each |
//! | `home` | home folders, the plugins' packages, unique names |
//! | `world` | a running host with its REST API, and the checks of its end |
//! | `records` | what was sent, what was taken, and the verdict. Pure but for reading the files |
//! | `processes` | what `/proc` says |
//! | `wait` | waiting for something, with a limit |

mod drops;
mod faults;
mod fifty;
mod home;
mod kills;
mod processes;
mod records;
mod updates;
mod wait;
mod world;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::figures::report::replace;
use crate::host::last_words;
use home::{Home, Programs};
use world::World;

/// Lets plugins and the host fail, change, come and go under load, and counts what got lost.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Fewer rounds, and the development build: half a minute in all.
    #[arg(long)]
    short: bool,
    /// Figures as one line of JSON each.
    #[arg(long)]
    json: bool,
    /// Repeats the choices of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Instead of the case's own number of rounds.
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// A host that is built already.
    #[arg(long, value_name = "PROGRAM")]
    host: Option<PathBuf>,
    /// Put the figures into docs/benchmarks.md as well.
    #[arg(long, conflicts_with_all = ["case", "short"])]
    write: bool,
    /// Only this one.
    case: Option<Case>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// Plugins are killed, stopped, exit and write garbage.
    Faults,
    /// Plugins are updated, by REST and by their folder.
    Updates,
    /// The host is killed.
    Kills,
    /// A plugin's folder comes and goes; how long until its first tuple.
    Drop,
    /// Fifty plugins come at once.
    Fifty,
}

const CASES: &[Case] = &[Case::Faults, Case::Updates, Case::Kills, Case::Drop, Case::Fifty];

/// How a case is to be played.
struct Plan {
    rounds: u32,
    seed: u64,
}

/// One number that a case has measured.
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
}

/// Plays the cases.
///
/// # Errors
/// Something cannot be built. What a case finds is printed, and is the exit code.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let programs = Programs::build(arguments.short, arguments.host.clone())?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("The seed is {seed}.");
    let (mut rows, mut failures) = (Vec::new(), 0);
    for case in CASES {
        if arguments.case.is_some_and(|only| only != *case) {
            continue;
        }
        let plan = Plan {
            rounds: arguments.rounds.unwrap_or_else(|| case.rounds(arguments.short)),
            seed,
        };
        println!("==> {case}: {} rounds", plan.rounds);
        match play(*case, &plan, &programs) {
            Ok(figures) => {
                for figure in figures {
                    println!("{}", figure.line(*case, arguments.json));
                    rows.push(figure.row(*case));
                }
            }
            Err(error) => {
                failures += 1;
                println!("    FAILED: {error:#}");
            }
        }
    }
    if arguments.write && failures == 0 {
        write(&rows)?;
    }
    Ok(if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn write(rows: &[String]) -> Result<()> {
    let page = crate::workspace_folder()?.join("docs/benchmarks.md");
    let text = std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let table = format!("| case | figure | |\n|---|---|---|\n{}", rows.concat());
    std::fs::write(&page, replace(&text, "soak", &table)?)
        .with_context(|| format!("cannot write {}", page.display()))
}

fn play(case: Case, plan: &Plan, programs: &Programs) -> Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let home = Home::lay_out(&case.to_string(), case.settings(), programs)?;
        let mut world = World::start(home).await?;
        let outcome = match case {
            Case::Faults => faults::play(&world, plan).await,
            Case::Updates => updates::play(&world, plan).await,
            Case::Kills => kills::play(&mut world, plan).await,
            Case::Drop => drops::play(&world, plan).await,
            Case::Fifty => fifty::play(&world, plan).await,
        };
        let log = world.home.log();
        let ended = world.finish().await.context("at the end");
        if outcome.is_err() || ended.is_err() {
            println!("{}", last_words(&log));
        }
        outcome.and_then(|figures| ended.map(|()| figures))
    })
}

impl Case {
    /// Beyond those that all have.
    fn settings(self) -> &'static str {
        match self {
            // A plugin that is stopped for a while is noticed.
            Self::Faults => "  callTimeout: 500\n",
            _ => "",
        }
    }

    fn rounds(self, short: bool) -> u32 {
        match (self, short) {
            (Self::Faults, false) => 200,
            (Self::Faults, true) => 12,
            (Self::Updates, false) => 100,
            (Self::Updates, true) => 6,
            (Self::Kills, false) => 20,
            (Self::Kills, true) => 2,
            (Self::Drop, false) => 20,
            (Self::Drop, true) => 2,
            (Self::Fifty, false) => 5,
            (Self::Fifty, true) => 1,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Faults => "faults",
            Self::Updates => "updates",
            Self::Kills => "kills",
            Self::Drop => "drop",
            Self::Fifty => "fifty",
        })
    }
}

impl Figure {
    fn count(name: &'static str, value: u64, unit: &'static str) -> Self {
        Self {
            name,
            value: value as f64,
            unit,
        }
    }

    fn time(name: &'static str, value: Duration) -> Self {
        Self::signed_time(name, value.as_secs_f64() * 1000.0)
    }

    /// A difference of times, in milliseconds, may be less than nothing.
    fn signed_time(name: &'static str, value: f64) -> Self {
        let unit = "ms";
        Self { name, value, unit }
    }

    fn row(&self, case: Case) -> String {
        let Self { name, value, unit } = self;
        let digits = usize::from(*unit == "ms");
        format!("| {case} | {name} | {value:.digits$} {unit} |\n")
    }

    fn line(&self, case: Case, json: bool) -> String {
        let Self { name, value, unit } = self;
        if json {
            format!(r#"{{"cell":"soak.{case}.{name}","value":{value:.1},"unit":"{unit}"}}"#)
        } else {
            format!("    {name:<28} {value:>10.1} {unit}")
        }
    }
}

/// The one in the middle, of at least one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_text_or_json() {
        let figure = Figure::time("longest_pause", Duration::from_micros(1500));
        assert_eq!(
            figure.line(Case::Updates, true),
            r#"{"cell":"soak.updates.longest_pause","value":1.5,"unit":"ms"}"#
        );
        assert_eq!(
            figure.line(Case::Updates, false),
            "    longest_pause                       1.5 ms"
        );
        assert_eq!(
            figure.row(Case::Updates),
            "| updates | longest_pause | 1.5 ms |\n"
        );
    }

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 4.0]), 4.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
