//! Owns which fields of a message a plan looks at, so that whoever has the message as text need not read the others.

use std::collections::HashMap;

/// The fields of a message that a plan looks at, each with its place: that of a column in a row.
#[derive(Debug)]
pub(super) struct Columns {
    /// By place.
    names: Vec<String>,
    /// The same in order, with their places.
    sorted: Vec<(String, usize)>,
}

impl Columns {
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn name(&self, place: usize) -> &str {
        &self.names[place]
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        let found = self
            .sorted
            .binary_search_by(|(known, _)| known.as_str().cmp(name));
        found.ok().map(|index| self.sorted[index].1)
    }
}

/// Columns that a plan is found to look at, one after the other.
#[derive(Debug, Default)]
pub(super) struct ColumnsFound {
    names: Vec<String>,
    places: HashMap<String, usize>,
}

impl ColumnsFound {
    /// The place of a column.
    pub(super) fn add(&mut self, name: &str) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.names.len();
        self.names.push(name.to_owned());
        self.places.insert(name.to_owned(), place);
        place
    }

    pub(super) fn name(&self, place: usize) -> &str {
        &self.names[place]
    }

    /// All that there are.
    pub(super) fn finish(self) -> Columns {
        let mut sorted: Vec<_> = self.places.into_iter().collect();
        sorted.sort_unstable();
        Columns {
            names: self.names,
            sorted,
        }
    }
}
