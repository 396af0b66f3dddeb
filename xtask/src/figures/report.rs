//! From runs to rows, and from rows to lines, JSON and the table of docs/benchmarks.md.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::cells::{Cell, IDLE_PIPE, MIXED};
use super::peers::{Missing, Peer};

/// The results of one peer in one cell.
#[derive(Default)]
pub(super) struct Measured {
    rates: Vec<f64>,
    /// Of both processes, per message, in nanoseconds.
    cpu: Vec<f64>,
    idle_pipe: Vec<f64>,
    /// The part of the messages that did not arrive, where that may be.
    lost: Vec<f64>,
    pub(super) syscalls: Option<f64>,
    /// How many runs gave nothing.
    pub(super) failures: usize,
}

impl Measured {
    pub(super) fn is_empty(&self) -> bool {
        self.rates.is_empty()
    }

    pub(super) fn add(&mut self, result: &Value) {
        let number = |name: &str| result[name].as_f64().unwrap_or_default();
        self.rates.push(number("rate"));
        self.cpu.push(number("cpu_parent_ns") + number("cpu_child_ns"));
        if let Some(bytes) = result["idle_pipe_bytes"].as_f64() {
            self.idle_pipe.push(bytes);
        }
        self.lost.push(number("lost"));
    }

    fn rate(&self) -> f64 {
        median(&self.rates)
    }

    fn spread(&self) -> [f64; 2] {
        let low = self.rates.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.rates.iter().copied().fold(0.0, f64::max);
        [low, high]
    }
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// One peer in one cell.
pub(super) struct Row {
    cell: String,
    peer: String,
    ours: bool,
    /// With another library at one of its ends.
    mixed: bool,
    unit: &'static str,
    rate: f64,
    spread: [f64; 2],
    cpu_ns: f64,
    syscalls: Option<f64>,
    lost: f64,
    /// To every other peer of the cell.
    ratios: Vec<(String, f64)>,
    /// A name, what is wanted, what is there.
    targets: Vec<Target>,
    /// The peer of which this is what is left without sp-proto.
    floor_of: Option<String>,
}

struct Target {
    name: String,
    wanted: f64,
    reached: f64,
    met: bool,
}

pub(super) fn rows(cell: &Cell, measured: &[(&Peer, Measured)]) -> Vec<Row> {
    let measured: Vec<_> = measured
        .iter()
        .filter(|(_, results)| !results.is_empty())
        .collect();
    let row = |(peer, results): &&(&Peer, Measured)| {
        let ratio = |other: &str| {
            let (_, other) = measured.iter().find(|(peer, _)| peer.name == other)?;
            Some(results.rate() / other.rate())
        };
        let ratios = measured
            .iter()
            .filter(|(other, _)| other.name != peer.name)
            .filter_map(|(other, _)| Some((other.name.clone(), ratio(&other.name)?)))
            .collect();
        let ours = peer.ours || peer.floor_of.is_some();
        let cells = cell.targets.iter().copied();
        let targets = cells
            .filter(|_| ours && peer.with.is_none())
            .chain(peer.with.map(|library| (library, MIXED)))
            .filter_map(|(name, wanted)| {
                let reached = ratio(name)?;
                Some(Target {
                    name: name.to_owned(),
                    wanted,
                    reached,
                    met: reached >= wanted,
                })
            })
            .collect();
        Row {
            cell: cell.name(),
            peer: peer.name.clone(),
            ours: peer.ours,
            mixed: peer.with.is_some(),
            unit: cell.unit(),
            rate: results.rate(),
            spread: results.spread(),
            cpu_ns: median(&results.cpu),
            syscalls: results.syscalls,
            lost: median(&results.lost),
            ratios,
            targets,
            floor_of: peer.floor_of.clone(),
        }
    };
    measured.iter().map(row).collect()
}

pub(super) fn fan_row(cell: &Cell, peer: &Peer, one: &Measured, thousand: &Measured) -> Row {
    let reached = thousand.rate() / one.rate();
    let idle = median(&thousand.idle_pipe);
    let mut targets: Vec<_> = cell
        .targets
        .iter()
        .map(|&(name, wanted)| Target {
            name: name.to_owned(),
            wanted,
            reached,
            met: reached >= wanted,
        })
        .collect();
    targets.push(Target {
        name: "bytes per idle pipe".to_owned(),
        wanted: IDLE_PIPE,
        reached: idle,
        met: idle < IDLE_PIPE,
    });
    Row {
        cell: format!("{}.1000", cell.name()),
        peer: peer.name.clone(),
        ours: true,
        mixed: false,
        unit: cell.unit(),
        rate: thousand.rate(),
        spread: thousand.spread(),
        cpu_ns: median(&thousand.cpu),
        syscalls: None,
        lost: 0.0,
        ratios: vec![("one peer".to_owned(), reached)],
        targets,
        floor_of: None,
    }
}

impl Row {
    pub(super) fn is_of(&self, peer: &str) -> bool {
        self.peer == peer
    }

    pub(super) fn is_floor(&self) -> bool {
        self.floor_of.is_some()
    }

    pub(super) fn has_missed(&self) -> bool {
        self.targets.iter().any(|target| !target.met)
    }

    /// Whether it missed what was to be reached in comparison to this peer.
    pub(super) fn has_missed_beside(&self, peer: &str) -> bool {
        self.targets
            .iter()
            .any(|target| !target.met && target.name == peer)
    }

    pub(super) fn json(&self) -> Value {
        let ratio: serde_json::Map<_, _> = self
            .ratios
            .iter()
            .map(|(peer, ratio)| (peer.clone(), json!(round(*ratio))))
            .collect();
        let targets: Vec<_> = self
            .targets
            .iter()
            .map(|target| {
                json!({"against": target.name, "wanted": target.wanted, "reached": round(target.reached),
                       "met": target.met})
            })
            .collect();
        json!({
            "cell": format!("sp.{}.{}", self.cell, self.peer.replace(' ', "-")), "rate": self.rate.round(), "unit": self.unit,
            "spread": self.spread.map(f64::round), "ratio": ratio, "cpu_ns": self.cpu_ns.round(),
            "syscalls": self.syscalls.map(round), "lost": round(self.lost), "targets": targets,
        })
    }

    pub(super) fn line(&self) -> String {
        let [low, high] = self.spread;
        format!(
            "{:<16} {:<13} {:>12} {}{} ({} to {}), {:.2} µs cpu, {} calls  {}",
            self.cell,
            self.peer,
            thousands(self.rate),
            self.unit,
            self.losses(),
            thousands(low),
            thousands(high),
            self.cpu_ns / 1000.0,
            self.calls(),
            self.verdict(),
        )
    }

    fn losses(&self) -> String {
        if self.lost > 0.0 {
            format!(", {:.0} % lost", self.lost * 100.0)
        } else {
            String::new()
        }
    }

    fn table_line(&self) -> String {
        let [low, high] = self.spread;
        let name = if self.ours {
            format!("**{}**", self.peer)
        } else {
            self.peer.clone()
        };
        format!(
            "| {} | {name} | {} ({}–{}) {}{} | {:.2} µs | {} | {} |\n",
            self.cell,
            thousands(self.rate),
            thousands(low),
            thousands(high),
            self.unit,
            self.losses(),
            self.cpu_ns / 1000.0,
            self.calls(),
            self.verdict(),
        )
    }

    fn calls(&self) -> String {
        self.syscalls
            .map_or("?".to_owned(), |calls| format!("{calls:.2}"))
    }

    fn verdict(&self) -> String {
        let each = |target: &Target| {
            let mark = if target.met { "" } else { " **not reached**" };
            if target.wanted > 100.0 {
                return format!(
                    "{} {} of {}{mark}",
                    thousands(target.reached),
                    target.name,
                    thousands(target.wanted)
                );
            }
            format!(
                "{:.2} of {} × {}{mark}",
                target.reached, target.wanted, target.name
            )
        };
        let mut verdicts: Vec<_> = self.targets.iter().map(each).collect();
        let floor_of = |(name, _): &&(String, f64)| self.floor_of.as_ref() == Some(name);
        if let Some((name, ratio)) = self.ratios.iter().find(floor_of) {
            verdicts.push(format!("{ratio:.2} × {name}"));
        }
        verdicts.join("; ")
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// `1234567` as `1,234,567`.
pub(super) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const COLUMNS: &str = "| cell | peer | rate | CPU | calls | reached of wanted |\n|---|---|---|---|---|---|\n";

/// The tables for people.
pub(super) fn table(rows: &[Row], missing: &[Missing], rounds: usize) -> String {
    let lines = |mixed: bool| -> String {
        let rows = rows.iter().filter(|row| row.mixed == mixed);
        rows.map(Row::table_line).collect()
    };
    let mut text = format!(
        "Median of {rounds} rounds, lowest and highest in brackets. CPU and system calls are those of both processes, \
         per message or round trip.\n\n{COLUMNS}{}\n\
         sp-proto with another library, wanted in times the rate of that library with itself; the first of the two \
         sends, or asks.\n\n{COLUMNS}{}",
        lines(false),
        lines(true),
    );
    if !missing.is_empty() {
        let names: Vec<_> = missing
            .iter()
            .map(|(name, reason)| format!("{name} ({reason})"))
            .collect();
        text += &format!("\nNot measured: {}.\n", names.join("; "));
    }
    text
}

/// Puts `table` between the marks of this section.
pub(crate) fn replace(page: &str, section: &str, table: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- figures {section}: begin -->\n"),
        format!("<!-- figures {section}: end -->"),
    );
    let (before, rest) = page
        .split_once(&begin)
        .with_context(|| format!("no line {begin:?}"))?;
    let (_, after) = rest
        .split_once(&end)
        .with_context(|| format!("no line {end:?}"))?;
    Ok(format!("{before}{begin}{table}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = "a\n<!-- figures sp: begin -->\nold\n<!-- figures sp: end -->\nb\n";
        let new = replace(page, "sp", "new\n").unwrap();
        assert_eq!(
            new,
            "a\n<!-- figures sp: begin -->\nnew\n<!-- figures sp: end -->\nb\n"
        );
        assert!(replace(page, "rules", "new\n").is_err());
    }

    #[test]
    fn digits_come_in_threes() {
        let shown = [7.0, 1234.0, 1_234_567.0].map(thousands);
        assert_eq!(shown, ["7", "1,234", "1,234,567"]);
    }
}
