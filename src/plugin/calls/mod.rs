//! Owns the channel of one function symbol: one task per symbol, shared by all rules. The roles are turned
//! around, and one call is outstanding at a time; callers queue up in a bounded line. Started and ended by the
//! plugin's worker.

mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use sp_proto::{Message, PipeId};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::doorstep::Doorstep;
use super::instances::{Links, Pool};
use super::native::link::Link;
use super::turn::{self, Turn};
pub(super) use task::Task;

/// Calls that may wait in line.
const LINE: usize = 256;

/// A call on its way to the task.
pub(super) struct Call {
    pub(super) message: Vec<u8>,
    /// Closed when the caller has given up.
    pub(super) reply: oneshot::Sender<Answer>,
}

/// What has come of a call.
pub(super) enum Answer {
    Message(Message),
    /// The connection broke.
    Broken,
    /// It was not sent: the process that runs the function now speaks our own contract.
    Elsewhere,
}

/// What callers and the worker see of the channel.
#[derive(Debug)]
pub(super) struct Standing {
    turn: AtomicU8,
    /// The process whose turn it is; 0: nobody's, or one that the system does not name.
    process: AtomicU32,
    /// A call was given up for lack of an answer, and has not been answered since.
    overdue: AtomicBool,
    /// Tells the worker that one of these has changed.
    changed: Arc<Notify>,
}

const ABSENT: u8 = 0;
const FREE: u8 = 1;
const BUSY: u8 = 2;
const LATE: u8 = 3;

impl Standing {
    fn new(changed: Arc<Notify>) -> Self {
        Self {
            turn: AtomicU8::new(ABSENT),
            process: AtomicU32::new(0),
            overdue: AtomicBool::new(false),
            changed,
        }
    }

    fn note(&self, turn: &Turn<PipeId>, process: u32) {
        let word = match turn.standing() {
            None => ABSENT,
            Some(turn::Standing::Ready(_)) => FREE,
            Some(turn::Standing::Busy(_)) => BUSY,
            Some(turn::Standing::Late(_)) => LATE,
        };
        self.turn.store(word, Ordering::Relaxed);
        let other = self.process.swap(process, Ordering::Relaxed) != process;
        let answered = matches!(word, ABSENT | FREE) && self.overdue.swap(false, Ordering::Relaxed);
        if other || answered {
            self.changed.notify_one();
        }
    }

    /// A caller has waited in vain.
    pub(super) fn note_overdue(&self) {
        if matches!(self.turn.load(Ordering::Relaxed), BUSY | LATE) {
            self.overdue.store(true, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }

    pub(super) fn describe(&self) -> &'static str {
        match self.turn.load(Ordering::Relaxed) {
            ABSENT => "it is not connected",
            LATE => "it is still at an earlier call that was given up",
            _ => "it is connected",
        }
    }
}

/// Where calls are put in. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) standing: Arc<Standing>,
    /// The channels of our own contract, when the processes speak that.
    pub(super) links: watch::Receiver<Option<Links>>,
}

/// The worker's end of a channel.
pub(super) struct Channel {
    line: Line,
    favoured: watch::Sender<Option<u32>>,
    /// Where a process of eKuiper's contract dials; `None` where there can be none.
    doorstep: Option<Arc<Doorstep>>,
    /// The instance whose channel it is, and where it is known.
    instance: u32,
    pool: Arc<Pool>,
    stop: CancellationToken,
}

impl Channel {
    /// That of an instance beside number 0, which can only be of our own contract.
    pub(super) fn beside(instance: u32, pool: Arc<Pool>) -> Self {
        Self {
            line: Line {
                calls: mpsc::channel(1).0,
                standing: Arc::new(Standing::new(Arc::default())),
                links: pool.subscribe(),
            },
            favoured: watch::Sender::new(None),
            doorstep: None,
            instance,
            pool,
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn line(&self) -> Line {
        self.line.clone()
    }

    /// Where a process of eKuiper's contract dials.
    pub(super) fn doorstep(&self) -> Option<Arc<Doorstep>> {
        self.doorstep.clone()
    }

    /// Whether anybody besides the worker can call.
    pub(super) fn is_used(&self) -> bool {
        self.line.calls.strong_count() > 1
    }

    /// Puts calls into this link from now on; without one, into the channel of the other contract.
    pub(super) fn serve(&self, link: Option<Arc<Link>>) {
        self.pool.serve(self.instance, link);
    }

    /// The process whose turn it is.
    pub(super) fn process(&self) -> Option<u32> {
        Some(self.line.standing.process.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Whether a call was given up that has not been answered since.
    pub(super) fn is_overdue(&self) -> bool {
        self.line.standing.overdue.load(Ordering::Relaxed)
    }

    /// Lets this process and its descendants serve, however new the connections of others are; `None`: whoever
    /// has connected last. A call that is under way is answered by whom it was given to.
    pub(super) fn favour(&self, process: Option<u32>) {
        self.favoured.send_replace(process);
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
        self.pool.serve(self.instance, None);
    }
}
