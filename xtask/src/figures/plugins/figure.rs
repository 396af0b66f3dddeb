//! Owns what has come of one cell, and how it is shown.

use serde_json::{Value, json};

use crate::figures::report::{median, thousands};

/// What is wanted of a figure.
pub(super) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    Nothing,
}

/// What has come of one cell.
pub(super) struct Figure {
    pub(super) cell: String,
    pub(super) values: Vec<f64>,
    pub(super) unit: &'static str,
    pub(super) wanted: Wanted,
    /// What each of them cost the processors, in all processes together, in microseconds.
    pub(super) cpu: Option<f64>,
    pub(super) beside: Option<Beside>,
}

/// What a figure stands beside.
pub(super) struct Beside {
    name: &'static str,
    /// What is said of the ratio.
    words: &'static str,
    /// Of the median to the median.
    ratio: f64,
    /// Of each window to one of the other's, lowest and highest; not known where only one was measured.
    spread: Option<[f64; 2]>,
}

pub(super) const HEAD: &str = "| cell | figure | CPU | wanted | beside |\n|---|---|---|---|---|\n";

impl Figure {
    pub(super) fn new(cell: &str, values: Vec<f64>, unit: &'static str) -> Self {
        Self {
            cell: cell.to_owned(),
            values,
            unit,
            wanted: Wanted::Nothing,
            cpu: None,
            beside: None,
        }
    }

    pub(super) fn wanted(self, wanted: Wanted) -> Self {
        Self { wanted, ..self }
    }

    /// Beside what `others` are the values of.
    pub(super) fn beside(self, name: &'static str, words: &'static str, others: &[f64]) -> Self {
        let ratio = self.median() / median(others);
        let ratios: Vec<f64> = self
            .values
            .iter()
            .zip(others)
            .map(|(ours, other)| ours / other)
            .collect();
        Self {
            beside: Some(Beside {
                name,
                words,
                ratio,
                spread: (ratios.len() > 1).then(|| spread(&ratios)),
            }),
            ..self
        }
    }

    /// A part of what was measured.
    pub(super) fn part(self, name: &'static str, words: &'static str, ratio: f64) -> Self {
        Self {
            beside: Some(Beside {
                name,
                words,
                ratio,
                spread: None,
            }),
            ..self
        }
    }

    pub(super) fn median(&self) -> f64 {
        median(&self.values)
    }

    fn is_met(&self) -> bool {
        match self.wanted {
            Wanted::AtLeast(least) => self.median() >= least,
            Wanted::AtMost(most) => self.median() <= most,
            Wanted::Nothing => true,
        }
    }

    pub(super) fn json(&self) -> Value {
        let wanted = match self.wanted {
            Wanted::AtLeast(wanted) | Wanted::AtMost(wanted) => Some(round(wanted)),
            Wanted::Nothing => None,
        };
        let ratio: serde_json::Map<_, _> = self
            .beside
            .iter()
            .map(|beside| (beside.name.to_owned(), json!(round(beside.ratio))))
            .collect();
        let ratio_spread = self.beside.as_ref().and_then(|beside| beside.spread);
        json!({
            "cell": self.cell, "rate": round(self.median()), "unit": self.unit, "spread": spread(&self.values).map(round),
            "cpu_us": self.cpu.map(round), "ratio": ratio,
            "ratio_spread": ratio_spread.map(|spread| spread.map(round)), "wanted": wanted, "met": self.is_met(),
        })
    }

    pub(super) fn line(&self) -> String {
        let shown = |value: f64| match value {
            value if value >= 1000.0 => thousands(value),
            value if value >= 100.0 => format!("{value:.0}"),
            value if value >= 10.0 => format!("{value:.1}"),
            value => format!("{value:.2}"),
        };
        let [low, high] = spread(&self.values);
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
        let beside = self.beside.as_ref().map_or_else(String::new, |beside| {
            let (ratio, words) = (beside.ratio, beside.words);
            match beside.spread {
                Some([low, high]) => format!("{ratio:.2} ({low:.2}–{high:.2}) {words}"),
                None => format!("{ratio:.2} {words}"),
            }
        });
        let cpu = self.cpu.map_or_else(String::new, |cpu| format!("{cpu:.2} µs"));
        let value = shown(self.median());
        format!(
            "| {} | {value}{spread} {} | {cpu} | {wanted} | {beside} |\n",
            self.cell, self.unit
        )
    }
}

fn spread(values: &[f64]) -> [f64; 2] {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    [low, values.iter().copied().fold(0.0, f64::max)]
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
