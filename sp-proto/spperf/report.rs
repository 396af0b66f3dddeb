//! The line of JSON.

use std::time::Duration;

use crate::job::Job;
use crate::process::Cost;

/// The line without times of single round trips.
pub(crate) fn line(job: &Job, cost: &Cost) -> String {
    with_times(job, cost, &mut [])
}

/// The line with what `times`, those of single round trips, come to.
pub(crate) fn with_times(job: &Job, cost: &Cost, times: &mut [Duration]) -> String {
    times.sort_unstable();
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |part: f64| {
        let time = times.get((times.len() as f64 * part) as usize);
        time.copied().map_or(0.0, microseconds)
    };
    let (seconds, messages) = (cost.elapsed.as_secs_f64(), cost.messages as f64);
    let mean = match times {
        [] => 0.0,
        _ => microseconds(cost.elapsed) / messages,
    };
    format!(
        "{{\"mode\":\"{}\",\"tr\":\"{}\",\"size\":{},\"n\":{},\"sec\":{seconds:.4},\"rate\":{:.1},\
         \"cpu_parent_ns\":{:.1},\"cpu_child_ns\":{:.1},\"mean_us\":{mean:.3},\"p50_us\":{:.3},\"p99_us\":{:.3}}}",
        job.mode,
        job.transport,
        job.size,
        cost.messages,
        messages / seconds,
        cost.parent as f64 / messages,
        cost.child as f64 / messages,
        at(0.5),
        at(0.99),
    )
}

/// The line with one more number.
pub(crate) fn with(line: &str, name: &str, value: f64) -> String {
    let line = line.trim_end_matches('}');
    format!("{line},\"{name}\":{value}}}")
}
