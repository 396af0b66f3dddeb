//! Owns how text reaches a terminal: tables, times, and nothing that a plugin could command the terminal with.

use jiff::Timestamp;

/// A table under construction; cells that are empty show as `-`.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        let head = head.iter().map(|cell| (*cell).to_owned()).collect();
        Self { rows: vec![head] }
    }

    /// A row as long as the head.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown = |cell: String| match printable(&cell) {
            empty if empty.is_empty() => "-".to_owned(),
            cell => cell,
        };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// The lines; the last column is not filled up.
    pub(super) fn render(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// The same without characters that a terminal obeys.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// A time in milliseconds since 1970, in UTC; empty for none.
pub(super) fn time(ms: Option<u64>) -> String {
    let ms = ms.and_then(|ms| i64::try_from(ms).ok());
    let time = ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map(|time| format!("{time:.3}")).unwrap_or_default()
}

/// A time span in seconds, in its two largest units; empty for none.
pub(super) fn span(seconds: Option<u64>) -> String {
    let Some(seconds) = seconds else {
        return String::new();
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "STATE", "REASON"]);
        table.row(["car", "running", ""].map(str::to_owned));
        table.row(["a-long-name", "failed", "exit\ncode 3\u{1b}[2J"].map(str::to_owned));
        insta::assert_snapshot!(table.render(), @r"
        NAME         STATE    REASON
        car          running  -
        a-long-name  failed   exit�code 3�[2J
        ");
    }

    #[test]
    fn times_and_spans_are_short() {
        assert_eq!(time(Some(1_795_359_600_120)), "2026-11-22T15:00:00.120Z");
        assert_eq!(time(None), "");
        for (seconds, text) in [
            (7, "7s"),
            (67, "1m7s"),
            (3 * 3600 + 60, "3h1m"),
            (86400 * 3 + 7200, "3d2h"),
        ] {
            assert_eq!(span(Some(seconds)), text);
        }
    }
}
