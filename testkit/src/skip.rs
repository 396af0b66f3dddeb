//! Owns the record of what this machine could not test. Nothing is skipped in silence: each skip names the
//! test and the reason, on standard error and, when `cargo verify` runs the tests, in a file that it counts.

use std::fs::OpenOptions;
use std::io::Write;

/// The environment variable that names the file to which each skip is appended, one line each.
pub const SKIPS_FILE: &str = "TESTKIT_SKIPS";

/// Records that the current test cannot run `what`, and why.
///
/// # Panics
/// When the file of [`SKIPS_FILE`] cannot be written: a skip must not get lost.
pub fn skip(what: &str, why: &str) {
    let thread = std::thread::current();
    let test = thread.name().filter(|name| *name != "main");
    let line = match test {
        Some(test) => format!("{test}: {what}: {why}"),
        None => format!("{what}: {why}"),
    };
    eprintln!("skipped: {line}");
    if let Some(path) = std::env::var_os(SKIPS_FILE) {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            // One write, so that lines of concurrent test processes stay whole.
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
            .unwrap_or_else(|error| panic!("cannot record a skip in {}: {error}", path.display()));
    }
}
