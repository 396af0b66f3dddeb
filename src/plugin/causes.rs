//! Owns how an error and what it comes from are put into words. Pure.

use std::error::Error;

/// The error and what it comes from, in one line: `sp-proto` keeps the system's word to the source.
pub(super) fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
