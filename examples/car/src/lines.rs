//! Owns the cutting of bytes into lines, with a bound on what one line may hold. Pure: bytes in, lines out.

/// Cuts bytes into lines. What is longer than the limit is reported once and skipped to its end.
#[derive(Debug)]
pub(crate) struct Lines {
    limit: usize,
    /// The line that has begun, at most `limit` bytes.
    partial: Vec<u8>,
    /// The line that has begun is too long: the rest of it is skipped.
    skipping: bool,
    /// The number of the last line that was returned, from 1.
    number: u64,
}

/// One line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Text(Vec<u8>),
    TooLong,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            partial: Vec::new(),
            skipping: false,
            number: 0,
        }
    }

    /// The next line out of `bytes`, which shrink by what was used. `None`: they are used up.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Option<Line> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.take(bytes);
            *bytes = &[];
            return None;
        };
        let (line, rest) = bytes.split_at(end);
        self.take(line);
        *bytes = rest.get(1..).unwrap_or_default();
        Some(self.finish())
    }

    /// The line that has begun, when nothing more will come to complete it.
    pub(crate) fn last(&mut self) -> Option<Line> {
        (self.skipping || !self.partial.is_empty()).then(|| self.finish())
    }

    /// Forgets the line that has begun and counts from 1 again.
    pub(crate) fn restart(&mut self) {
        *self = Self::new(self.limit);
    }

    /// The number of the line that was returned last, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.skipping || self.partial.len() + bytes.len() > self.limit {
            self.skipping = true;
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn finish(&mut self) -> Line {
        self.number += 1;
        let mut text = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.skipping) {
            return Line::TooLong;
        }
        if text.last() == Some(&b'\r') {
            text.pop();
        }
        Line::Text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(lines: &mut Lines, mut bytes: &[u8]) -> Vec<Line> {
        std::iter::from_fn(|| lines.next(&mut bytes)).collect()
    }

    fn text(text: &str) -> Line {
        Line::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_lines() {
        let bytes = b"one\ntwo\r\n\nfour is far too long\nfive\nsix";
        let whole = cut(&mut Lines::new(8), bytes);
        assert_eq!(
            whole,
            [text("one"), text("two"), text(""), Line::TooLong, text("five")]
        );
        for size in 1..bytes.len() {
            let mut lines = Lines::new(8);
            let pieces: Vec<Line> = bytes
                .chunks(size)
                .flat_map(|piece| cut(&mut lines, piece))
                .collect();
            assert_eq!(pieces, whole, "in pieces of {size}");
            assert_eq!(lines.last(), Some(text("six")));
            assert_eq!((lines.number(), lines.last()), (6, None));
        }
    }

    #[test]
    fn a_line_without_an_end_holds_no_more_than_the_limit() {
        let mut lines = Lines::new(8);
        for _ in 0..1000 {
            assert_eq!(cut(&mut lines, b"xxxxx"), []);
            assert!(lines.partial.capacity() <= 16);
        }
        assert_eq!(lines.last(), Some(Line::TooLong));
    }
}
