//! Owns places in an SQL text and what is said about a wrong one.

use std::fmt;

/// A place in an SQL text: line and column from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
}

impl Position {
    pub(super) const START: Self = Self { line: 1, column: 1 };

    pub(super) fn error(self, message: impl fmt::Display) -> SqlError {
        SqlError {
            line: self.line,
            column: self.column,
            message: message.to_string(),
        }
    }
}

/// An SQL text that cannot be understood, or that asks for what is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at line {line}, column {column}: {message}")]
pub struct SqlError {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What was found and what was expected there.
    pub message: String,
}

/// How many characters of something foreign an error message shows.
const SHOWN: usize = 48;

/// Something foreign, cut to a length that suits an error message.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{}…", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}

/// The one of `names` that `name` was probably meant to be, ready to be appended to an error message.
pub(super) fn suggestion<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    // A name this long is no slip of the finger, and comparing it would only cost time.
    const LONGEST: usize = 64;
    let length = name.chars().count();
    if length > LONGEST {
        return String::new();
    }
    let allowed = if length <= 3 { 1 } else { 2 };
    names
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| {
            (
                distance(&name.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!("; did you mean {candidate}?"))
        .unwrap_or_default()
}

/// How many characters must be added, removed or changed to come from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let names = ["temperature", "humidity", "id"];
        assert_eq!(suggestion("temprature", names), "; did you mean temperature?");
        assert_eq!(suggestion("Humidity", names), "; did you mean humidity?");
        assert_eq!(suggestion("ID", names), "; did you mean id?");
        assert_eq!(suggestion("pressure", names), "");
        assert_eq!(suggestion(&"x".repeat(100_000), names), "");
    }

    #[test]
    fn what_is_foreign_is_cut_at_a_character() {
        assert_eq!(Shown("short").to_string(), "short");
        assert_eq!(Shown(&"ä".repeat(50)).to_string(), format!("{}…", "ä".repeat(48)));
    }
}
