//! The task of one pipe: writes what is queued and reads what comes, as one future that drives both
//! directions. It leaves reading to receivers while these do it themselves.

use crate::engine::core::{Attached, Core, Plan, Stop};
use crate::engine::intake::{End, Intake};
use crate::engine::reading::PATIENCE;
use crate::engine::vigil::Vigil;
use crate::pattern::{Key, Pattern};
use crate::sync::PollSender;
use crate::transport::Writer;
use crate::wire::Batch;
use bytes::Bytes;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::task::coop;
use tokio::time::Sleep;

/// How much receivers are given in one turn of the task, in bytes.
const TURN: usize = 128 * 1024;

/// Drives the pipe until it ends. The pipe has left its socket when this returns or is dropped.
pub(crate) async fn run<P: Pattern>(mut attached: Attached<P>) {
    let own = attached.intake.take();
    let mut driver = Driver {
        core: &attached.core,
        key: attached.key,
        writer: &attached.writer,
        port: match &*attached.writer {
            Writer::Inproc(sender) => Some(PollSender::new(sender.clone())),
            _ => None,
        },
        keeps: own.is_some(),
        intake: own,
        unwritten: None,
        broken: None,
        patience: None,
        is_patient: false,
        is_usher: false,
        vigil: Vigil::new(),
    };
    let end = poll_fn(|cx| driver.poll(cx)).await;
    let intake = driver.intake;
    let end = match end {
        End::Closed => attached
            .core
            .take_failure(attached.key)
            .map_or(End::Closed, End::from),
        end => end,
    };
    attached.reason = end.to_string();
    attached.is_orderly = matches!(end, End::Closed);
    drop(attached);
    if matches!(end, End::Stopped(Stop::Closed))
        && let Some(intake) = intake
    {
        intake.reader.hang_up().await;
    }
}

struct Driver<'a, P> {
    core: &'a Core<P>,
    key: Key,
    writer: &'a Writer,
    /// The sender of an inproc pipe once more, in the form that can be waited for.
    port: Option<PollSender<Bytes>>,
    /// Is the receiving half this task's alone? Else it has it during a poll at most.
    keeps: bool,
    intake: Option<Box<Intake>>,
    /// Begun, and waiting for the connection to take more.
    unwritten: Option<Batch>,
    broken: Option<Broken>,
    /// Runs while receivers read, to see whether they do. Kept, for it is set again and again.
    patience: Option<Pin<Box<Sleep>>>,
    is_patient: bool,
    /// Is it to look after receivers and senders that were woken?
    is_usher: bool,
    /// Whether this task sleeps when there is nothing to read.
    vigil: Vigil,
}

/// Nothing can be written any more. What came in before is still read, up to the end that the poller is about to
/// report: mostly the peer has closed.
struct Broken {
    error: io::Error,
    /// For an end that does not come. Begins anew with whatever does.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Broken {
    /// Why the pipe ends, when reading has ended like this: a reset that was told to a write looks to a read like an
    /// end in order.
    fn explain(self, end: End) -> End {
        match end {
            End::Closed if self.error.kind() != io::ErrorKind::BrokenPipe => self.error.into(),
            end => end,
        }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        patience.as_mut().poll(cx)
    }
}

impl<P: Pattern> Driver<'_, P> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if std::mem::take(&mut self.is_usher) {
            self.core.usher(self.key);
        }
        let end = self.drive(cx);
        if end.is_pending() {
            self.end_turn(false);
            if self.is_usher {
                let _ = pin!(tokio::task::yield_now()).poll(cx);
            }
        }
        end
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.is_patient && self.poll_patience(cx).is_ready() {
            self.is_patient = false;
            if self.core.is_handed_over(self.key) {
                self.be_patient();
            }
        }
        // Payload bytes that receivers were given in this turn.
        let mut handed_over = 0;
        loop {
            // One unit of tokio's budget per round, so that a flood leaves the other tasks their time.
            let budget = ready!(coop::poll_proceed(cx));
            let (batch, read) = match self.core.plan(self.key, cx, self.intake.is_some()) {
                Plan::Work {
                    batch,
                    read,
                    intake,
                    ushers,
                } => {
                    self.is_usher = ushers;
                    self.intake = self.intake.take().or(intake);
                    (batch, read)
                }
                Plan::Stop(Stop::Closed) if !self.claim() => return Poll::Pending,
                Plan::Stop(stop) => return Poll::Ready(stop.into()),
            };
            let (batch, resumed) = match batch {
                Some(batch) => (Some(batch), false),
                None => (self.unwritten.take(), true),
            };
            let mut progress = false;
            if let Some(batch) = batch {
                match self.poll_write(cx, batch, resumed) {
                    Poll::Ready(Ok(batch)) => {
                        self.core.end_write(self.key, batch, true);
                        progress = true;
                    }
                    // The write is never ended, so no other begins.
                    Poll::Ready(Err(error)) => {
                        self.broken = Some(Broken {
                            error,
                            patience: None,
                        });
                    }
                    Poll::Pending => {}
                }
            }
            if self.broken.is_some() && !self.claim() {
                return Poll::Pending;
            }
            if read && let Some(intake) = &mut self.intake {
                if intake.reader.wants_care() {
                    match intake.reader.take_care() {
                        Ok(()) => {}
                        Err(error) => return Poll::Ready(error.into()),
                    }
                }
                if intake.poll(Some(cx)).is_ready() {
                    progress = true;
                    let bytes = intake.frames.iter().map(Bytes::len).sum::<usize>();
                    handed_over += bytes;
                    self.vigil.received(intake.frames.len(), bytes, Instant::now());
                    self.core.with(|state| state.deliver(self.key, intake));
                    if let Some(end) = intake.end.take() {
                        return Poll::Ready(match self.broken.take() {
                            Some(broken) => broken.explain(end),
                            None => end,
                        });
                    }
                }
            }
            if !progress {
                if let Some(mut broken) = self.broken.take() {
                    let waits = if read {
                        broken.poll_patience(cx).is_pending()
                    } else {
                        // The rest is read once receivers have taken enough, which the pattern tells.
                        broken.patience = None;
                        !self.core.closing.is_cancelled()
                    };
                    if waits {
                        self.broken = Some(broken);
                        return Poll::Pending;
                    }
                    return Poll::Ready(broken.error.into());
                }
                if read && self.is_vigilant() {
                    let _ = pin!(tokio::task::yield_now()).poll(cx);
                }
                return Poll::Pending;
            }
            budget.made_progress();
            if let Some(broken) = &mut self.broken {
                broken.patience = None;
            }
            if handed_over >= TURN && self.broken.is_none() {
                // Receivers first: what has just been read is still in the processor's cache. They read on by
                // themselves if they are awake; else this comes back.
                if !self.end_turn(true) {
                    let _ = pin!(tokio::task::yield_now()).poll(cx);
                } else if !self.is_patient {
                    self.be_patient();
                    let _ = self.poll_patience(cx);
                }
                return Poll::Pending;
            }
        }
    }

    /// Not with a peer of this process: who waits for a task of its own runtime only holds it up. By a clock that
    /// nobody stops, for with a stopped one this would go on for ever.
    fn is_vigilant(&self) -> bool {
        self.port.is_none() && self.vigil.goes_on(Instant::now())
    }

    /// Gives the receiving half out of hand. Says whether receivers are left to read.
    fn end_turn(&mut self, more: bool) -> bool {
        if self.keeps {
            return false;
        }
        let intake = self.intake.take();
        intake.is_some_and(|intake| self.core.end_turn(self.key, intake, more))
    }

    /// Looks after the receiving half once [`PATIENCE`] has passed.
    fn be_patient(&mut self) {
        self.is_patient = true;
        match &mut self.patience {
            Some(patience) => patience.as_mut().reset(tokio::time::Instant::now() + PATIENCE),
            None => self.patience = Some(Box::pin(tokio::time::sleep(PATIENCE))),
        }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.patience {
            Some(patience) => patience.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }

    /// Gets hold of the receiving half for something else than reading. If a receiver has it just now, this task
    /// is woken when it is free.
    fn claim(&mut self) -> bool {
        if self.intake.is_none() {
            self.intake = self.core.lock().claim(self.key, true);
        }
        self.intake.is_some()
    }

    /// Writes all of `batch` and gives it back empty, or keeps it and waits.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut batch: Batch,
        resumed: bool,
    ) -> Poll<io::Result<Batch>> {
        if let Some(port) = &mut self.port {
            loop {
                if batch.is_empty() {
                    return Poll::Ready(Ok(batch));
                }
                match port.poll_reserve(cx) {
                    Poll::Ready(Ok(())) => {
                        let message = batch.pop_message().unwrap_or_default();
                        port.send_item(message).map_err(|_| io::ErrorKind::BrokenPipe)?;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                    Poll::Pending => break,
                }
            }
        } else {
            if !resumed {
                self.writer.try_write(&mut batch)?;
            }
            let written = batch.is_empty() && !self.writer.needs_reader();
            if written || self.poll_rest(cx, &mut batch)?.is_ready() {
                return Poll::Ready(Ok(batch));
            }
        }
        self.unwritten = Some(batch);
        Poll::Pending
    }

    /// Goes on with a write that stopped for lack of room, or that the reader's side does.
    fn poll_rest(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        #[cfg(feature = "tcp")]
        if let Writer::Tcp(_) = self.writer {
            return self.writer.poll_write(cx, batch);
        }
        self.claim();
        match &mut self.intake {
            Some(intake) => intake.reader.poll_write(cx, self.writer, batch),
            None => Poll::Pending,
        }
    }
}
