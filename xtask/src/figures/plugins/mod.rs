//! `cargo figures plugins`: the way of tuples and calls through real plugins and a real host, as they ship, beside what
//! the raw means, and eKuiper's own host, can do in the same minutes.

mod figure;
mod kuiperd;
mod processes;
mod raw;
mod scene;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::report::{self, median};
use crate::workspace_folder;
use figure::{Figure, HEAD, Wanted};
use scene::{Kind, Plugin, Programs, Scene, Source};

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
    #[arg(long, conflicts_with_all = ["only", "short"])]
    write: bool,
    /// One short window per cell, of programs as they are built for development: that everything runs, not how fast.
    #[arg(long)]
    short: bool,
    /// Only the cells whose name contains this, such as `calls`.
    only: Option<String>,
}

/// Everything that can be measured, in the order of the table.
const CELLS: &[&str] = &[
    "tuples.rust",
    "tuples.python",
    "calls.rust",
    "calls.rust.single",
    "calls.python",
    "latency.10k",
    "memory.1",
    "memory.10",
    "memory.100",
    "ekuiper.tuples",
    "ekuiper.calls",
    "ekuiper.tuples.python",
    "ekuiper.calls.python",
];

/// What a short run leaves out: a hundred processes, and what is not ours.
const LONG: &[&str] = &["memory.10", "memory.100"];

/// Messages of the objects that the plugins make, one by one.
const FLOOD: Source<'_> = Source {
    symbol: "gauge0_flood",
    rate: 0,
};

const OURS: Kind<'_> = Kind::Ours("contract: both");
const FOREIGN: Kind<'_> = Kind::Ours("contract: ekuiper");
/// Nobody is asked whether it is there while this measures.
const UNASKED: Kind<'_> = Kind::Ours("pingInterval: 3600000");

/// Measures what is asked for.
///
/// # Errors
/// What is ours cannot be built or run, or no cell has that name. A missing peer is no error: it is named.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace_folder()?;
    let only = arguments.only.as_deref().unwrap_or_default();
    let cells = CELLS.iter().filter(|cell| cell.contains(only));
    let cells: Vec<_> = cells
        .filter(|cell| !(arguments.short && LONG.contains(cell)))
        .collect();
    ensure!(!cells.is_empty(), "no cell has such a name");
    let bench = Bench {
        programs: Programs::build(&root, !arguments.short)?,
        rounds: if arguments.short {
            1
        } else {
            arguments.rounds.max(1)
        },
        window: Duration::from_millis(if arguments.short { 200 } else { arguments.ms }),
    };
    if let Err(reason) = &bench.programs.peer {
        eprintln!("not measured: kuiperd: {reason}");
    }
    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    if !arguments.json {
        print!("{HEAD}");
    }
    let mut lines = String::new();
    for cell in cells {
        let figures = runtime
            .block_on(bench.measure(cell))
            .with_context(|| (*cell).to_owned())?;
        for mut figure in figures {
            if arguments.short {
                figure.wanted = Wanted::Nothing;
            }
            if arguments.json {
                println!("{}", figure.json());
            } else {
                print!("{}", figure.line());
            }
            lines += &figure.line();
        }
    }
    if arguments.write {
        let page = root.join("docs/benchmarks.md");
        let text =
            std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
        let missing = match &bench.programs.peer {
            Ok(_) => String::new(),
            Err(reason) => format!("\nNot measured: kuiperd ({reason}).\n"),
        };
        let table = format!(
            "Median of {} windows of {} ms, lowest and highest in brackets. CPU is that of all processes together, \
             per tuple or call.\n\n{HEAD}{lines}{missing}",
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

/// A rule, and what it runs with.
struct Rule<'a> {
    plugins: Vec<Plugin<'a>>,
    source: Source<'a>,
    select: &'a str,
    sink: Value,
}

/// How fast a rule was.
struct Pace {
    rates: Vec<f64>,
    /// Microseconds of all processes per record, and of Python's alone.
    cpu: f64,
    python: f64,
    /// The part of them that got lost.
    lost: f64,
}

impl Pace {
    fn figure(self, cell: &str, unit: &'static str) -> Figure {
        let mut figure = Figure::new(cell, self.rates, unit);
        figure.cpu = Some(self.cpu);
        match self.lost > 0.0 {
            true => figure.part("lost", "of all tuples were dropped", self.lost),
            false => figure,
        }
    }
}

struct Bench {
    programs: Programs,
    rounds: usize,
    window: Duration,
}

impl Bench {
    async fn measure(&self, cell: &str) -> Result<Vec<Figure>> {
        let root = workspace_folder()?;
        let rust = |select, sink| Rule {
            plugins: vec![Plugin::Rust(0)],
            source: FLOOD,
            select,
            sink,
        };
        let swallow = || json!({ "gauge0_swallow": {} });
        Ok(match cell {
            "tuples.rust" => {
                let raw = || raw::parse_and_write(&self.programs, self.window);
                let rule = rust("*", swallow());
                let figure = self.figure(cell, "tuples/s", OURS, &rule);
                let (figure, raws) = self.between(raw, figure).await?;
                let figure = figure.beside("raw", "of what a thread parses and writes", &raws);
                vec![figure.wanted(Wanted::AtLeast(600_000.0))]
            }
            "tuples.python" => {
                let rule = Rule {
                    plugins: vec![Plugin::Python],
                    source: Source {
                        symbol: "gaugepy_flood",
                        ..FLOOD
                    },
                    select: "*",
                    sink: nop(),
                };
                let raw = || raw::python_loop(&root, "tuples", self.window);
                let figure = self.figure(cell, "tuples/s", OURS, &rule);
                let (figure, raws) = self.between(raw, figure).await?;
                let figure = figure.beside("raw", "of a bare Python loop", &raws);
                vec![figure.wanted(Wanted::AtLeast(120_000.0))]
            }
            "calls.rust" => {
                let rule = rust("gauge0_same(n) AS n", nop());
                let figure = self.figure(cell, "calls/s", OURS, &rule).await?;
                vec![figure.wanted(Wanted::AtLeast(400_000.0))]
            }
            "calls.python" => {
                let rule = Rule {
                    plugins: vec![Plugin::Rust(0), Plugin::Python],
                    ..rust("gaugepy_same(n) AS n", nop())
                };
                let raw = || raw::python_loop(&root, "calls", self.window);
                let (pace, raws) = self.between(raw, self.pace(OURS, &rule)).await?;
                // The loop does nothing else, so that is what each of its calls costs it.
                let each = 1e6 / median(&raws);
                let plugin = Figure::new("calls.python plugin", vec![pace.python], "µs of the plugin's CPU");
                let plugin = plugin.beside("raw", "× the bare Python loop's", &[each]);
                let figure = pace.figure(cell, "calls/s");
                let figure = figure.beside("raw", "of a bare Python loop", &raws);
                vec![
                    figure.wanted(Wanted::AtLeast(1e6 / each / 1.5)),
                    plugin.wanted(Wanted::AtMost(1.5 * each)),
                ]
            }
            "calls.rust.single" => {
                // In a process that nothing else wakes, as the other end of the raw socket.
                let rule = Rule {
                    plugins: vec![Plugin::Rust(0), Plugin::Rust(1)],
                    ..rust("gauge1_same(n) AS n", nop())
                };
                vec![self.single(cell, rule).await?]
            }
            "latency.10k" => self.latency().await?,
            "ekuiper.tuples" => {
                self.beside_kuiperd(cell, "tuples/s", |_| rust("*", swallow()))
                    .await?
            }
            "ekuiper.calls" => {
                let rule = |_| rust("gauge0_same(n) AS n", nop());
                self.beside_kuiperd(cell, "calls/s", rule).await?
            }
            "ekuiper.tuples.python" => {
                let rule = |plugin| published(plugin, "*");
                self.beside_kuiperd(cell, "tuples/s", rule).await?
            }
            "ekuiper.calls.python" => {
                let rule = |plugin| published(plugin, "slug(topic) AS s");
                self.beside_kuiperd(cell, "calls/s", rule).await?
            }
            _ => {
                let plugins = cell.rsplit_once('.').and_then(|(_, count)| count.parse().ok());
                self.memory(cell, plugins.context("a cell without a count")?)
                    .await?
            }
        })
    }

    /// What `measured` brings, with what `raw` brings before and after it, in as many windows.
    async fn between<T>(
        &self,
        raw: impl Fn() -> Result<f64>,
        measured: impl Future<Output = Result<T>>,
    ) -> Result<(T, Vec<f64>)> {
        let before = self.rounds / 2;
        let mut raws = Vec::with_capacity(self.rounds);
        for _ in 0..before {
            raws.push(raw()?);
        }
        let measured = measured.await?;
        for _ in before..self.rounds {
            raws.push(raw()?);
        }
        Ok((measured, raws))
    }

    /// How many records come to the sink of a rule in a second.
    async fn figure(
        &self,
        cell: &str,
        unit: &'static str,
        kind: Kind<'_>,
        rule: &Rule<'_>,
    ) -> Result<Figure> {
        Ok(self.pace(kind, rule).await?.figure(cell, unit))
    }

    async fn pace(&self, kind: Kind<'_>, rule: &Rule<'_>) -> Result<Pace> {
        let scene = Scene::start(&self.programs, kind, &rule.plugins).await?;
        scene.rule("r", &rule.source, rule.select, &rule.sink).await?;
        // What is there at the beginning is not what comes in the long run.
        tokio::time::sleep(self.window).await;
        let records = async || scene.figure("r", "sink_", "_records_out_total").await;
        let (first, before) = (records().await?, scene.usage()?);
        let mut rates = Vec::with_capacity(self.rounds);
        for _ in 0..self.rounds {
            let (start, begun) = (Instant::now(), records().await?);
            tokio::time::sleep(self.window).await;
            let done = records().await?.saturating_sub(begun);
            rates.push(count(done) / start.elapsed().as_secs_f64());
        }
        let all = records().await?;
        let done = all.saturating_sub(first);
        let after = scene.usage()?;
        ensure!(done > 0, "nothing comes to the sink");
        let mut lost = 0;
        for node in ["source_", "op_", "sink_"] {
            lost += scene.figure("r", node, "_exceptions_total").await?;
        }
        // eKuiper's host drops what it is too slow for, and counts it as an exception.
        ensure!(
            lost == 0 || matches!(kind, Kind::Ekuiper(_)),
            "{lost} exceptions in the rule"
        );
        scene.end("r").await?;
        scene.stop().await?;
        let each = |used: Duration| used.as_secs_f64() * 1e6 / count(done);
        Ok(Pace {
            rates,
            cpu: each(after.all.saturating_sub(before.all)),
            python: each(after.python.saturating_sub(before.python)),
            lost: count(lost) / count(lost + all),
        })
    }

    /// The very same plugin on our host, by eKuiper's contract, and on eKuiper's own.
    async fn beside_kuiperd<'a>(
        &'a self,
        cell: &str,
        unit: &'static str,
        rule: impl Fn(Plugin<'a>) -> Rule<'a>,
    ) -> Result<Vec<Figure>> {
        let Ok(peer) = &self.programs.peer else {
            return Ok(Vec::new());
        };
        let rule = rule(Plugin::Published(&peer.python));
        let ours = self.figure(cell, unit, FOREIGN, &rule).await?;
        let theirs = format!("{cell} kuiperd");
        let theirs = self.figure(&theirs, unit, Kind::Ekuiper(peer), &rule).await?;
        let ours = ours.beside("ekuiper", "× kuiperd", &theirs.values);
        Ok(vec![ours.wanted(Wanted::AtLeast(theirs.median())), theirs])
    }

    /// How long a rule waits for a call that is alone.
    async fn single(&self, cell: &str, rule: Rule<'_>) -> Result<Figure> {
        let raw = || raw::round_trip(&self.programs, self.window);
        let (values, raws) = self.between(raw, self.waits(rule)).await?;
        let figure = Figure::new(cell, values, "µs").beside("raw", "× a raw pair socket", &raws);
        Ok(figure.wanted(Wanted::AtMost(2.0 * median(&raws))))
    }

    /// In microseconds, a median for each window.
    async fn waits(&self, rule: Rule<'_>) -> Result<Vec<f64>> {
        const SAMPLES: usize = 20;
        let scene = Scene::start(&self.programs, OURS, &rule.plugins).await?;
        let source = Source {
            rate: 1000,
            ..rule.source
        };
        scene.rule("r", &source, rule.select, &rule.sink).await?;
        let mut values = Vec::new();
        for _ in 0..self.rounds {
            let mut samples = Vec::with_capacity(SAMPLES);
            for _ in 0..SAMPLES {
                tokio::time::sleep(self.window / 20).await;
                samples.push(count(scene.figure("r", "op_", "_process_latency_us").await?));
            }
            values.push(median(&samples));
        }
        scene.end("r").await?;
        scene.stop().await?;
        Ok(values)
    }

    async fn latency(&self) -> Result<Vec<Figure>> {
        let scene = Scene::start(&self.programs, OURS, &[Plugin::Rust(0)]).await?;
        let ages = scene.home.join("ages.json");
        let source = Source {
            rate: 10_000,
            ..FLOOD
        };
        let sink = json!({ "gauge0_swallow": { "path": ages } });
        scene.rule("r", &source, "*", &sink).await?;
        let windows = u32::try_from(self.rounds).unwrap_or(u32::MAX);
        tokio::time::sleep(self.window * windows).await;
        scene.end("r").await?;
        scene.stop().await?;
        let text =
            std::fs::read(&ages).with_context(|| format!("the sink has not written {}", ages.display()))?;
        let ages: Vec<f64> = serde_json::from_slice(&text)?;
        ensure!(!ages.is_empty(), "nothing came to the sink");
        let at = |part: usize| ages[(ages.len() * part / 1000).min(ages.len() - 1)];
        let figure = |name: &str, value| Figure::new(&format!("latency.10k.{name}"), vec![value], "µs");
        Ok(vec![figure("p50", at(500)), figure("p99", at(990))])
    }

    /// What plugins cost that have nothing to do: with the probes, each of which is due once meanwhile, and between them.
    async fn memory(&self, cell: &str, plugins: usize) -> Result<Vec<Figure>> {
        let plugins: Vec<_> = (0..plugins).map(Plugin::Rust).collect();
        let (memory, idle) = self.idle(OURS, &plugins).await?;
        let (_, between) = self.idle(UNASKED, &plugins).await?;
        let busy = |name: &str, busy| Figure::new(&format!("{cell}.{name}"), vec![busy], "% of a processor");
        Ok(vec![
            Figure::new(cell, vec![count(memory) / count(1 << 20)], "MiB resident"),
            busy("idle", idle),
            busy("between probes", between),
        ])
    }

    /// The host's memory, and how busy it and the plugins keep a processor, in percent.
    async fn idle(&self, kind: Kind<'_>, plugins: &[Plugin<'_>]) -> Result<(u64, f64)> {
        let scene = Scene::start(&self.programs, kind, plugins).await?;
        // Until nobody is busy with the start any more, nor are threads that helped with it about to end.
        tokio::time::sleep(self.window * 12).await;
        let (memory, before, since) = (scene.usage()?.memory, scene.exact_time()?, Instant::now());
        tokio::time::sleep(self.window * 10).await;
        let used = scene.exact_time()?.saturating_sub(before);
        let busy = used.as_secs_f64() / since.elapsed().as_secs_f64() * 100.0;
        scene.stop().await?;
        Ok((memory, busy))
    }
}

/// `pysam` of the examples as source and function.
fn published<'a>(plugin: Plugin<'a>, select: &'a str) -> Rule<'a> {
    Rule {
        plugins: vec![plugin],
        source: Source {
            symbol: "pycount",
            ..FLOOD
        },
        select,
        sink: nop(),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "what some seconds bring, or the memory of a process"
)]
fn count(count: u64) -> f64 {
    count as f64
}
