//! Owns how much of a peer's bytes an error message repeats.

/// The most characters of foreign text that an error carries.
const EXCERPT_CHARS: usize = 120;

/// The start of `bytes` as text, for an error message: bounded, and never broken inside a character.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    // A character takes four bytes at most: no need to look at a whole 16 MiB message.
    let head = bytes.get(..EXCERPT_CHARS * 4).unwrap_or(bytes);
    let text = String::from_utf8_lossy(head);
    let mut excerpt: String = text.chars().take(EXCERPT_CHARS).collect();
    if excerpt.len() < bytes.len() {
        excerpt.push('…');
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_is_repeated_whole_and_long_text_is_cut() {
        assert_eq!(excerpt(b"nope"), "nope");
        let long = "ä".repeat(1000);
        assert_eq!(excerpt(long.as_bytes()).chars().count(), EXCERPT_CHARS + 1);
    }
}
