//! The child process, and what both cost.

use anyhow::{Context as _, Result};
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::job::Job;

/// The dialing side; ends with this.
pub(crate) struct Child(std::process::Child);

impl Child {
    /// Starts it: this program once more, or the one that the environment names.
    pub(crate) fn start(job: &Job, address: &str) -> Result<Self> {
        let program = match std::env::var_os("SPPERF_PEER") {
            Some(program) => program.into(),
            None => std::env::current_exe()?,
        };
        let mut command = Command::new(&program);
        command
            .args([job.mode.to_string(), job.transport.to_string()])
            .args([job.size.to_string(), "0".to_owned(), "0".to_owned()])
            .arg(address)
            // Its end tells that of the parent.
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let child = command.spawn();
        Ok(Self(
            child.with_context(|| format!("cannot run {}", program.display()))?,
        ))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In the child: ends the process when the parent has ended, however that came.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

/// Measures from its start on.
pub(crate) struct Meter {
    parent: u64,
    child: u64,
    begun: Instant,
}

/// What a number of messages took.
pub(crate) struct Cost {
    pub(crate) messages: u64,
    pub(crate) elapsed: Duration,
    /// Processor time, in nanoseconds.
    pub(crate) parent: u64,
    pub(crate) child: u64,
}

impl Meter {
    pub(crate) fn start(child: &Child) -> Self {
        Self {
            parent: cpu("self"),
            child: cpu(&child.0.id().to_string()),
            begun: Instant::now(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn stop(&self, child: &Child, messages: u64) -> Cost {
        Cost {
            messages,
            elapsed: self.begun.elapsed(),
            parent: cpu("self").saturating_sub(self.parent),
            child: cpu(&child.0.id().to_string()).saturating_sub(self.child),
        }
    }
}

/// The processor time of all threads of a process so far, in nanoseconds; 0 where the system does not tell.
fn cpu(process: &str) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return 0;
    };
    let time = |thread: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    threads.flatten().filter_map(time).sum()
}
