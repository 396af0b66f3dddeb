//! Owns what a command speaks with: somebody at a terminal, or a program.

use std::io::{BufRead, Write};

/// Where the answers go, and where answers of the user come from.
pub(super) struct Terminal<'a> {
    /// Answers are JSON instead of tables.
    pub(super) json: bool,
    pub(super) output: &'a mut dyn Write,
    pub(super) input: &'a mut dyn BufRead,
}
