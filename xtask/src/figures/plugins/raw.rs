//! What the raw means can do: JSON and nothing else, sockets and nothing else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::command::output;

/// A tuple as the plugin makes it.
const TUPLE: &str = concat!(
    r#"{"n":1234567,"at":1700000000000000,"text":"The quick brown fox jumps over the lazy dog, again and again, "#,
    r#"until the dog is tired of it, and the fox too, and both lie down in the sun."}"#
);

/// Tuples that one thread parses and writes in a second.
pub(super) fn parse_and_write(window: Duration) -> f64 {
    let (start, mut tuples, mut text) = (Instant::now(), 0_u32, Vec::new());
    while start.elapsed() < window {
        for _ in 0..1000 {
            text.clear();
            let tuple: Option<Map<String, Value>> = serde_json::from_str(TUPLE).ok();
            // Into memory, which cannot fail.
            let _written = serde_json::to_writer(&mut text, std::hint::black_box(&tuple));
            std::hint::black_box(&text);
        }
        tuples += 1000;
    }
    f64::from(tuples) / start.elapsed().as_secs_f64()
}

/// What a bare Python loop parses and writes, calls in a second.
pub(super) fn python_loop(root: &Path, window: Duration) -> Result<f64> {
    let mut python = Command::new("python3");
    python.arg(root.join("xtask/plugins/gauge-python/loop.py"));
    let said = output(python.arg(window.as_secs_f64().to_string()))?;
    said.trim()
        .parse()
        .with_context(|| format!("the loop printed {said:?}"))
}

/// A message of a call's length to another thread and back over a pair of blocking sockets, in microseconds.
pub(super) fn round_trip(window: Duration) -> Result<f64> {
    const MESSAGE: [u8; 128] = [b'x'; 128];
    let (mut ours, mut theirs) = UnixStream::pair()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut message = MESSAGE;
            while theirs.read_exact(&mut message).is_ok() && theirs.write_all(&message).is_ok() {}
        });
        let (start, mut trips, mut message) = (Instant::now(), 0_u32, MESSAGE);
        while start.elapsed() < window {
            ours.write_all(&message)?;
            ours.read_exact(&mut message)?;
            trips += 1;
        }
        let micros = start.elapsed().as_secs_f64() * 1e6 / f64::from(trips.max(1));
        drop(ours);
        Ok(micros)
    })
}
