//! Owns `LIKE`: `%` stands for any characters, `_` for one. Matching needs no backtracking.

/// A pattern, cut at its `%`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    /// What stands between the `%`; never empty.
    parts: Vec<Part>,
}

/// Characters without `%`.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// Without `_`: found by the standard library's linear search.
    Text(String),
    /// With `_`, which is `None`.
    Holes(Vec<Option<char>>),
}

impl Pattern {
    /// A backslash takes the meaning from the `%` or `_` that follows it.
    pub(super) fn new(pattern: &str) -> Self {
        let mut parts = Vec::new();
        let mut part: Vec<Option<char>> = Vec::new();
        let mut characters = pattern.chars().peekable();
        while let Some(c) = characters.next() {
            match c {
                '%' => parts.push(Part::new(std::mem::take(&mut part))),
                '_' => part.push(None),
                '\\' => part.push(
                    characters
                        .next_if(|next| matches!(next, '%' | '_'))
                        .or(Some('\\')),
                ),
                other => part.push(Some(other)),
            }
        }
        parts.push(Part::new(part));
        Self { parts }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = self.parts.as_slice() else {
            return self.parts.iter().all(|only| only.begin(text) == Some(text.len()));
        };
        let Some(begin) = first.begin(text) else {
            return false;
        };
        let mut rest = &text[begin..];
        // The leftmost place is always right: it leaves the most for the parts to come.
        for part in middle {
            let Some(end) = part.find(rest) else {
                return false;
            };
            rest = &rest[end..];
        }
        last.ends(rest)
    }
}

impl Part {
    fn new(characters: Vec<Option<char>>) -> Self {
        match characters.iter().copied().collect::<Option<String>>() {
            Some(text) => Self::Text(text),
            None => Self::Holes(characters),
        }
    }

    /// How many bytes at the beginning of `text` it matches.
    fn begin(&self, text: &str) -> Option<usize> {
        match self {
            Self::Text(part) => text.starts_with(part.as_str()).then_some(part.len()),
            Self::Holes(part) => {
                let mut characters = text.chars();
                let fits = part.iter().all(|wanted| match (wanted, characters.next()) {
                    (Some(wanted), Some(found)) => *wanted == found,
                    (None, Some(_)) => true,
                    (_, None) => false,
                });
                fits.then(|| text.len() - characters.as_str().len())
            }
        }
    }

    /// Where it ends in `text`, at the leftmost place where it matches.
    fn find(&self, text: &str) -> Option<usize> {
        match self {
            Self::Text(part) => text.find(part.as_str()).map(|start| start + part.len()),
            Self::Holes(_) => {
                let mut starts = text.char_indices().map(|(start, _)| start);
                starts.find_map(|start| self.begin(&text[start..]).map(|length| start + length))
            }
        }
    }

    fn ends(&self, text: &str) -> bool {
        match self {
            Self::Text(part) => text.ends_with(part.as_str()),
            Self::Holes(part) => {
                let start = text.char_indices().rev().nth(part.len() - 1);
                start.is_some_and(|(start, _)| self.begin(&text[start..]).is_some())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("%", "line\nbreak", true),
            ("a%", "abc", true),
            ("a%", "bc", false),
            ("%c", "abc", true),
            ("a%c", "ac", true),
            ("a%b%c", "a-b-c", true),
            ("a%b%c", "acb", false),
            ("%ab%ab%", "abab", true),
            ("%ab%ab%", "aba", false),
            ("ab%ba", "aba", false),
            ("_", "ä", true),
            ("_", "", false),
            ("a_c", "abc", true),
            ("a_c", "ac", false),
            ("%_a", "ba", true),
            ("%_a", "a", false),
            ("%a_c%", "xxabcx", true),
            ("%_", "", false),
            (r"100\%", "100%", true),
            (r"100\%", "1000", false),
            (r"a\_c", "abc", false),
            (r"a\c", r"a\c", true),
            ("a.c", "abc", false),
            ("a.*c", "abc", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(
                Pattern::new(pattern).matches(text),
                expected,
                "{text} LIKE {pattern}"
            );
        }
    }

    #[test]
    fn many_wildcards_in_a_long_text_do_not_explode() {
        let text = "a".repeat(20_000);
        assert!(!Pattern::new(&("%a".repeat(5_000) + "%b")).matches(&text));
        assert!(!Pattern::new(&("%a_".repeat(50) + "%b")).matches(&text));
        assert!(Pattern::new(&"%a".repeat(5_000)).matches(&text));
    }

    /// The definition of LIKE, too slow for use.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|start| slow(rest, &text[start..])),
            ['_', rest @ ..] => !text.is_empty() && slow(rest, &text[1..]),
            [c, rest @ ..] => text.first() == Some(c) && slow(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_is_what_the_definition_says(pattern in "[ab%_]{0,8}", text in "[abc]{0,10}") {
            let by_definition = slow(
                &pattern.chars().collect::<Vec<_>>(),
                &text.chars().collect::<Vec<_>>(),
            );
            prop_assert_eq!(Pattern::new(&pattern).matches(&text), by_definition);
        }
    }
}
