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
use home::{Contract, Home, Programs};
use world::World;

/// Lets plugins and the host fail, change, come and go under load, and counts what got lost.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Fewer rounds, and the development build: two minutes in all.
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
    /// What it should be at most. Nothing fails when it is more: it depends on the machine.
    limit: Option<f64>,
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
        for contract in case.contracts() {
            println!("==> {case}, {contract}: {} rounds", plan.rounds);
            match play(*case, *contract, &plan, &programs) {
                Ok(figures) => {
                    for figure in figures {
                        println!("{}", figure.line(*case, *contract, arguments.json));
                        rows.push(figure.row(*case, *contract));
                    }
                }
                Err(error) => {
                    failures += 1;
                    println!("    FAILED: {error:#}");
                }
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
    let table = format!(
        "| case | contract | figure | | wanted |\n|---|---|---|---|---|\n{}",
        rows.concat()
    );
    std::fs::write(&page, replace(&text, "soak", &table)?)
        .with_context(|| format!("cannot write {}", page.display()))
}

fn play(case: Case, contract: Contract, plan: &Plan, programs: &Programs) -> Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let home = Home::lay_out(&case.to_string(), contract, case.settings(), programs)?;
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
    /// The contracts whose plugins it is played with.
    fn contracts(self) -> &'static [Contract] {
        match self {
            Self::Faults | Self::Updates | Self::Kills => &[Contract::Own, Contract::EKuiper],
            Self::Drop | Self::Fifty => &[Contract::Own],
        }
    }

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
            (Self::Faults, true) => 14,
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
            limit: None,
        }
    }

    fn time(name: &'static str, value: Duration) -> Self {
        Self::signed_time(name, value.as_secs_f64() * 1000.0)
    }

    /// A difference of times, in milliseconds, may be less than nothing.
    fn signed_time(name: &'static str, value: f64) -> Self {
        Self {
            name,
            value,
            unit: "ms",
            limit: None,
        }
    }

    /// The same figure, which should be `limit` at most.
    fn at_most(self, limit: f64) -> Self {
        Self {
            limit: Some(limit),
            ..self
        }
    }

    /// What was wanted, and when that was not reached, so much.
    fn wanted(&self) -> String {
        match self.limit {
            None => String::new(),
            Some(limit) if self.value <= limit => format!("at most {limit} {}", self.unit),
            Some(limit) => format!("at most {limit} {} **not reached**", self.unit),
        }
    }

    fn row(&self, case: Case, contract: Contract) -> String {
        let Self {
            name, value, unit, ..
        } = self;
        let digits = usize::from(*unit == "ms");
        let wanted = self.wanted();
        format!("| {case} | {contract} | {name} | {value:.digits$} {unit} | {wanted} |\n")
    }

    fn line(&self, case: Case, contract: Contract, json: bool) -> String {
        let Self {
            name, value, unit, ..
        } = self;
        if json {
            format!(r#"{{"cell":"soak.{case}.{contract}.{name}","value":{value:.1},"unit":"{unit}"}}"#)
        } else {
            let line = format!("    {name:<28} {value:>10.1} {unit}  {}", self.wanted());
            line.trim_end().to_owned()
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
            figure.line(Case::Updates, Contract::EKuiper, true),
            r#"{"cell":"soak.updates.ekuiper.longest_pause","value":1.5,"unit":"ms"}"#
        );
        assert_eq!(
            figure.line(Case::Updates, Contract::Own, false),
            "    longest_pause                       1.5 ms"
        );
        assert_eq!(
            figure.row(Case::Updates, Contract::Own),
            "| updates | own | longest_pause | 1.5 ms |  |\n"
        );
    }

    #[test]
    fn a_figure_says_whether_it_is_as_wanted() {
        let figure = |value| Figure::signed_time("ours", value).at_most(50.0).wanted();
        assert_eq!(figure(50.0), "at most 50 ms");
        assert_eq!(figure(50.1), "at most 50 ms **not reached**");
    }

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 4.0]), 4.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
