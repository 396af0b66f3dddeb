//! `cargo figures plugins`: the way of tuples and calls through real plugins and a real host, as they ship, beside what
//! the raw means can do in the same minutes.

mod raw;
mod scene;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::report::{self, median, thousands};
use crate::workspace_folder;
use scene::{Programs, Scene, Source};

/// What is measured, and how.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Windows per cell; the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each window is, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    ms: u64,
    /// One line of JSON per cell instead of a table.
    #[arg(long)]
    json: bool,
    /// Put the table into docs/benchmarks.md as well.
    #[arg(long, conflicts_with = "only")]
    write: bool,
    /// Only the cells whose name contains this, such as `calls`.
    only: Option<String>,
}

/// What is wanted of a figure.
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    Nothing,
}

/// What has come of one cell.
struct Figure {
    cell: String,
    values: Vec<f64>,
    unit: &'static str,
    wanted: Wanted,
    /// What it stands beside, and whether that is what `wanted` is about.
    beside: Option<(&'static str, f64)>,
}

/// Measures what is asked for.
///
/// # Errors
/// What is ours cannot be built or run, or no cell has that name.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace_folder()?;
    let programs = Programs::build(&root)?;
    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    let mut figures = Vec::new();
    let cells = [
        "tuples.rust",
        "tuples.python",
        "calls.rust",
        "calls.rust.single",
        "calls.python",
    ];
    let more = ["latency.10k", "memory.1", "memory.10", "memory.100"];
    let wanted = |cell: &&&str| {
        arguments
            .only
            .as_ref()
            .is_none_or(|only| cell.contains(only.as_str()))
    };
    for cell in cells.iter().chain(&more).filter(wanted) {
        for figure in runtime.block_on(measure(arguments, &programs, cell))? {
            if arguments.json {
                println!("{}", figure.json());
            } else {
                print!("{}", figure.line());
            }
            figures.push(figure);
        }
    }
    ensure!(!figures.is_empty(), "no cell has such a name");
    if arguments.write {
        let page = root.join("docs/benchmarks.md");
        let text =
            std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
        let lines: String = figures.iter().map(Figure::line).collect();
        let table = format!(
            "Median of {} windows of {} ms, lowest and highest in brackets.\n\n\
             | cell | figure | wanted | beside |\n|---|---|---|---|\n{lines}",
            arguments.rounds, arguments.ms
        );
        std::fs::write(&page, report::replace(&text, "plugins", &table)?)
            .with_context(|| format!("cannot write {}", page.display()))?;
    }
    Ok(())
}

/// A sink that forgets.
fn nop() -> Value {
    json!({ "nop": {} })
}

async fn measure(arguments: &Arguments, programs: &Programs, cell: &str) -> Result<Vec<Figure>> {
    let window = Duration::from_millis(arguments.ms);
    let flood = Source {
        symbol: "gauge0_flood",
        rate: 0,
    };
    let rates = async |source: &Source<'_>, select: &str, action: &Value, node: &str, python: bool| {
        let scene = Scene::start(programs, 1, python).await?;
        scene.rule("r", source, select, action).await?;
        let rates = rates(&scene, node, arguments.rounds, window).await?;
        scene.end("r").await?;
        scene.stop().await?;
        anyhow::Ok(rates)
    };
    let figure = |values, unit, wanted, beside| Figure {
        cell: cell.to_owned(),
        values,
        unit,
        wanted,
        beside,
    };
    Ok(match cell {
        "tuples.rust" => {
            let sink = json!({ "gauge0_swallow": {} });
            let values = rates(&flood, "*", &sink, "sink_gauge0_swallow_0_0", false).await?;
            let raw = raw::parse_and_write(window);
            let beside = Some(("of what one core parses and writes", median(&values) / raw));
            vec![figure(values, "tuples/s", Wanted::AtLeast(600_000.0), beside)]
        }
        "tuples.python" => {
            let source = Source {
                symbol: "gaugepy_flood",
                rate: 0,
            };
            let values = rates(&source, "*", &nop(), "sink_nop_0_0", true).await?;
            vec![figure(values, "tuples/s", Wanted::AtLeast(120_000.0), None)]
        }
        "calls.rust" => {
            let values = rates(&flood, "gauge0_same(n) AS n", &nop(), "sink_nop_0_0", false).await?;
            vec![figure(values, "calls/s", Wanted::AtLeast(400_000.0), None)]
        }
        "calls.python" => {
            let values = rates(&flood, "gaugepy_same(n) AS n", &nop(), "sink_nop_0_0", true).await?;
            let bare = raw::python_loop(&workspace_folder()?, window)?;
            let ratio = median(&values) / bare;
            let mut figure = figure(values, "calls/s", Wanted::Nothing, None);
            figure.wanted = Wanted::AtLeast(bare / 1.5);
            figure.beside = Some(("of a bare loop", ratio));
            vec![figure]
        }
        "calls.rust.single" => {
            let scene = Scene::start(programs, 1, false).await?;
            let slow = Source { rate: 1000, ..flood };
            scene.rule("r", &slow, "gauge0_same(n) AS n", &nop()).await?;
            let mut values = Vec::new();
            for _ in 0..arguments.rounds * 20 {
                tokio::time::sleep(window / 20).await;
                let micros = scene.figure("r", "op_project_0_process_latency_us").await?;
                values.push(u32::try_from(micros).map_or(f64::INFINITY, f64::from));
            }
            scene.end("r").await?;
            scene.stop().await?;
            let raw = raw::round_trip(window).context("no round trip of raw sockets")?;
            let ratio = median(&values) / raw;
            let mut figure = figure(values, "µs", Wanted::AtMost(2.0 * raw), None);
            figure.beside = Some(("× a raw round trip", ratio));
            vec![figure]
        }
        "latency.10k" => latency(arguments, programs).await?,
        _ => {
            let plugins = cell.rsplit_once('.').and_then(|(_, count)| count.parse().ok());
            memory(programs, cell, plugins.context("a cell without a count")?, window).await?
        }
    })
}

/// How many records leave the node in a second, in each of so many windows.
async fn rates(scene: &Scene, node: &str, rounds: usize, window: Duration) -> Result<Vec<f64>> {
    let name = format!("{node}_records_out_total");
    // What is there at the beginning is not what comes in the long run.
    tokio::time::sleep(window).await;
    let mut values = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let (start, before) = (Instant::now(), scene.figure("r", &name).await?);
        tokio::time::sleep(window).await;
        let records = scene.figure("r", &name).await?.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
        values.push(records as f64 / start.elapsed().as_secs_f64());
    }
    let exceptions = scene.figure("r", &format!("{node}_exceptions_total")).await?;
    ensure!(exceptions == 0, "{exceptions} exceptions at {node}");
    Ok(values)
}

async fn latency(arguments: &Arguments, programs: &Programs) -> Result<Vec<Figure>> {
    let scene = Scene::start(programs, 1, false).await?;
    let ages = scene.home.join("ages.json");
    let source = Source {
        symbol: "gauge0_flood",
        rate: 10_000,
    };
    let sink = json!({ "gauge0_swallow": { "path": ages } });
    scene.rule("r", &source, "*", &sink).await?;
    let windows = u32::try_from(arguments.rounds).unwrap_or(u32::MAX);
    tokio::time::sleep(Duration::from_millis(arguments.ms) * windows).await;
    scene.end("r").await?;
    scene.stop().await?;
    let text =
        std::fs::read(&ages).with_context(|| format!("the sink has not written {}", ages.display()))?;
    let ages: Vec<f64> = serde_json::from_slice(&text)?;
    ensure!(!ages.is_empty(), "nothing came to the sink");
    let at = |part: usize| ages[(ages.len() * part / 1000).min(ages.len() - 1)];
    let figure = |name: &str, value| Figure {
        cell: format!("latency.10k.{name}"),
        values: vec![value],
        unit: "µs",
        wanted: Wanted::Nothing,
        beside: None,
    };
    Ok(vec![figure("p50", at(500)), figure("p99", at(990))])
}

async fn memory(programs: &Programs, cell: &str, plugins: usize, window: Duration) -> Result<Vec<Figure>> {
    let scene = Scene::start(programs, plugins, false).await?;
    tokio::time::sleep(window).await;
    let (bytes, before) = scene.usage()?;
    let idle = window * 10;
    tokio::time::sleep(idle).await;
    let (_, after) = scene.usage()?;
    scene.stop().await?;
    let figure = |cell: String, value, unit| Figure {
        cell,
        values: vec![value],
        unit,
        wanted: Wanted::Nothing,
        beside: None,
    };
    #[expect(clippy::cast_precision_loss, reason = "the memory of one process")]
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    let busy = (after - before).as_secs_f64() / idle.as_secs_f64() * 100.0;
    Ok(vec![
        figure(cell.to_owned(), mebibytes, "MiB resident"),
        figure(format!("{cell}.idle"), busy, "% of a processor"),
    ])
}

impl Figure {
    fn is_met(&self) -> bool {
        match self.wanted {
            Wanted::AtLeast(least) => median(&self.values) >= least,
            Wanted::AtMost(most) => median(&self.values) <= most,
            Wanted::Nothing => true,
        }
    }

    fn spread(&self) -> [f64; 2] {
        let low = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        [low, self.values.iter().copied().fold(0.0, f64::max)]
    }

    fn json(&self) -> Value {
        let wanted = match self.wanted {
            Wanted::AtLeast(wanted) | Wanted::AtMost(wanted) => Some(wanted.round()),
            Wanted::Nothing => None,
        };
        let ratio: serde_json::Map<_, _> = self
            .beside
            .iter()
            .map(|(name, ratio)| ((*name).to_owned(), json!(ratio)))
            .collect();
        json!({
            "cell": format!("plugins.{}", self.cell), "rate": median(&self.values), "unit": self.unit,
            "spread": self.spread(), "ratio": ratio, "wanted": wanted, "met": self.is_met(),
        })
    }

    fn line(&self) -> String {
        let shown = |value: f64| match value {
            value if value >= 1000.0 => thousands(value),
            value => format!("{value:.1}"),
        };
        let [low, high] = self.spread();
        let spread = match self.values.len() {
            1 => String::new(),
            _ => format!(" ({}–{})", shown(low), shown(high)),
        };
        let mark = if self.is_met() { "" } else { " **not reached**" };
        let wanted = match self.wanted {
            Wanted::AtLeast(wanted) => format!("at least {}{mark}", shown(wanted)),
            Wanted::AtMost(wanted) => format!("at most {}{mark}", shown(wanted)),
            Wanted::Nothing => String::new(),
        };
        let beside = self
            .beside
            .map_or_else(String::new, |(name, ratio)| format!("{ratio:.2} {name}"));
        let value = shown(median(&self.values));
        format!(
            "| {} | {value}{spread} {} | {wanted} | {beside} |\n",
            self.cell, self.unit
        )
    }
}
