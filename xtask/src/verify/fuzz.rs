//! Runs every fuzz target for a few seconds, as `cargo fuzz run --sanitizer none` would: with the stable
//! compiler, and coverage that guides the fuzzer from the committed corpus. What it finds on the way is not
//! kept; the tests replay the corpus itself. The fuzzer is C++, so there must be a compiler for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use testkit::foreign::find_program;

use super::report::Outcome;
use super::{Checkout, output, run_logged};

const MANIFEST: &str = "fuzz/Cargo.toml";

/// How long each target runs.
const SECONDS: u32 = 5;

/// Counters, tables and comparisons, the way libFuzzer reads them.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Limits of one input: a decoder that needs more time or memory has a fault.
const LIMITS: &[&str] = &["-timeout=10", "-rss_limit_mb=1024"];

pub(super) fn check(checkout: &Checkout) -> Result<Outcome> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if find_program(&compiler).is_none() && !Path::new(&compiler).is_file() {
        // They shall compile all the same.
        let mut command = checkout.cargo(["check", "--manifest-path", MANIFEST, "--no-default-features"]);
        command.arg("--target-dir").arg(testkit::target_folder());
        return Ok(match checkout.tool("fuzz-targets", &mut command)? {
            Outcome::Passed => Outcome::Skipped(format!(
                "there is no C++ compiler `{compiler}` to build the fuzzer"
            )),
            other => other,
        });
    }
    let host = host(&output(&mut checkout.cargo(["-vV"]))?)?;
    let folder = testkit::target_folder().join("fuzz");
    // With a target of its own, what only runs at build time is built without coverage.
    let mut build = checkout.cargo([
        "build",
        "--locked",
        "--manifest-path",
        MANIFEST,
        "--target",
        &host,
    ]);
    build.arg("--target-dir").arg(&folder).env("RUSTFLAGS", COVERAGE);
    let built = checkout.tool("fuzz-build", &mut build)?;
    if built != Outcome::Passed {
        return Ok(built);
    }
    let mut found = Vec::new();
    for target in targets(&checkout.root.join("fuzz/fuzz_targets"))? {
        let program = folder.join(&host).join("debug").join(&target);
        found.extend(run(checkout, &folder, &target, &program)?);
    }
    Ok(if found.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Failed(found.join("\n"))
    })
}

/// Runs one target and says what it found.
fn run(checkout: &Checkout, folder: &Path, target: &str, program: &Path) -> Result<Option<String>> {
    // New inputs go to the first folder; those after it are only read.
    let scratch = folder.join("corpus").join(target);
    let faults = folder.join("faults");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).with_context(|| format!("cannot empty {}", scratch.display()))?;
    }
    for folder in [&scratch, &faults] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut command = Command::new(program);
    command
        .args([
            format!("-max_total_time={SECONDS}"),
            "-print_final_stats=1".to_owned(),
        ])
        .args(LIMITS)
        .arg(format!("-artifact_prefix={}/{target}-", faults.display()))
        .arg(&scratch)
        .arg(checkout.root.join("fuzz/corpus").join(target));
    let log = checkout.logs.join(format!("fuzz-{target}.log"));
    let passed = run_logged(&mut command, &log)?;
    let text = std::fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    if !passed {
        return Ok(Some(fault(&text, target, program, &log)));
    }
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units: "))
        .unwrap_or("?");
    println!("    {target}: {} inputs", count.trim());
    Ok(None)
}

/// What a failed run says: how the target failed, on which input, and how to see that again.
fn fault(log: &str, target: &str, program: &Path, file: &Path) -> String {
    let why = log
        .lines()
        .skip_while(|line| !line.contains("panicked at"))
        .take(6);
    let why = why.collect::<Vec<_>>().join("\n");
    let input = log
        .lines()
        .find_map(|line| line.split_once("Test unit written to "));
    let Some((_, input)) = input else {
        return format!(
            "the fuzz target `{target}` failed without an input; see {}\n{why}",
            file.display()
        );
    };
    format!(
        "the fuzz target `{target}` fails on {input}\n{why}\nreplay it with `{} {input}` or `cargo fuzz run {target} \
         {input}`; once that is mended, keep the input in fuzz/corpus/{target}",
        program.display(),
    )
}

fn targets(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = PathBuf::from(entry?.file_name());
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// The host's target triple, from what `cargo -vV` prints.
fn host(version: &str) -> Result<String> {
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`cargo -vV` names no host")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_its_input_and_how_to_replay_it() {
        let log = "INFO: seed corpus\nthread '<unnamed>' panicked at src/lib.rs:7:1:\nleft != right\n\
                   artifact_prefix='/t/frames-'; Test unit written to /t/frames-crash-1\nBase64: AA==\n";
        let text = fault(log, "frames", Path::new("/t/frames"), Path::new("/t/log"));
        assert!(text.contains("`frames` fails on /t/frames-crash-1"), "{text}");
        assert!(text.contains("left != right"), "{text}");
        assert!(text.contains("`/t/frames /t/frames-crash-1`"), "{text}");
        let text = fault("killed", "frames", Path::new("/t/frames"), Path::new("/t/log"));
        assert!(text.contains("without an input; see /t/log"), "{text}");
    }

    #[test]
    fn the_host_is_read_from_cargo() {
        let version = "cargo 1.95.0\nrelease: 1.95.0\nhost: x86_64-unknown-linux-gnu\nos: x\n";
        assert_eq!(host(version).unwrap(), "x86_64-unknown-linux-gnu");
        assert!(host("cargo 1.95.0").is_err());
    }
}
