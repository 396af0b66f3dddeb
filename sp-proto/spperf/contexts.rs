//! `ctx:N`: many requests in flight together over one connection, each in a context and a task of its own. The
//! child's part is that of `rr`.

use anyhow::{Context as _, Result};
use sp_proto::{Req, ReqContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::job::Job;
use crate::messages::{Numbered, check};
use crate::process::{Child, Meter};
use crate::report;

pub(crate) async fn measure(job: &Job, count: usize) -> Result<String> {
    let req = Req::new();
    let at = req.listen(&job.address()).await?;
    let child = Child::start(job, &at.address)?;
    let mut first = Asker::new(&req, job.size, 0);
    // The child is there once it has answered.
    first.ask().await?;
    let answered = Arc::new(AtomicU64::new(0));
    let mut askers = JoinSet::new();
    for asker in 0..count as u64 {
        let asker = Asker::new(&req, job.size, (asker + 1) << 40);
        askers.spawn(asker.run(Arc::clone(&answered)));
    }
    wait(job.warmup, &mut askers).await?;
    let (meter, before) = (Meter::start(&child), answered.load(Ordering::Relaxed));
    wait(job.measure, &mut askers).await?;
    let cost = meter.stop(&child, answered.load(Ordering::Relaxed) - before);
    askers.shutdown().await;
    drop(child);
    req.close().await;
    Ok(report::line(job, &cost))
}

/// Waits, unless one of the askers fails before.
async fn wait(time: Duration, askers: &mut JoinSet<Result<()>>) -> Result<()> {
    tokio::select! {
        () = sleep(time) => Ok(()),
        failed = askers.join_next() => failed.context("nobody asks")??,
    }
}

struct Asker {
    context: ReqContext,
    size: usize,
    messages: Numbered,
}

impl Asker {
    /// The numbers of different askers differ, so that no reply can be taken for another one's.
    fn new(req: &Req, size: usize, first: u64) -> Self {
        Self {
            context: req.context(),
            size,
            messages: Numbered::new(size, first),
        }
    }

    async fn run(mut self, answered: Arc<AtomicU64>) -> Result<()> {
        loop {
            self.ask().await?;
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn ask(&mut self) -> Result<()> {
        let number = self.messages.number();
        self.context.send(self.messages.next()).await?;
        check(&self.context.recv().await?, number, self.size)
    }
}
