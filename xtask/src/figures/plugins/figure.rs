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
    /// What it stands beside: its name, what is said of the ratio, and the ratio.
    pub(super) beside: Option<(&'static str, &'static str, f64)>,
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

    pub(super) fn beside(self, name: &'static str, words: &'static str, ratio: f64) -> Self {
        Self {
            beside: Some((name, words, ratio)),
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

    fn spread(&self) -> [f64; 2] {
        let low = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        [low, self.values.iter().copied().fold(0.0, f64::max)]
    }

    pub(super) fn json(&self) -> Value {
        let wanted = match self.wanted {
            Wanted::AtLeast(wanted) | Wanted::AtMost(wanted) => Some(round(wanted)),
            Wanted::Nothing => None,
        };
        let ratio: serde_json::Map<_, _> = self
            .beside
            .iter()
            .map(|(name, _, ratio)| ((*name).to_owned(), json!(round(*ratio))))
            .collect();
        json!({
            "cell": self.cell, "rate": round(self.median()), "unit": self.unit, "spread": self.spread().map(round),
            "cpu_us": self.cpu.map(round), "ratio": ratio, "wanted": wanted, "met": self.is_met(),
        })
    }

    pub(super) fn line(&self) -> String {
        let shown = |value: f64| match value {
            value if value >= 1000.0 => thousands(value),
            value if value >= 100.0 => format!("{value:.0}"),
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
            .map_or_else(String::new, |(_, words, ratio)| format!("{ratio:.2} {words}"));
        let cpu = self.cpu.map_or_else(String::new, |cpu| format!("{cpu:.2} µs"));
        let value = shown(self.median());
        format!(
            "| {} | {value}{spread} {} | {cpu} | {wanted} | {beside} |\n",
            self.cell, self.unit
        )
    }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
