//! Streams with `SHARED="true"`: one running source for all the rules that read it.
//!
//! The first rule opens the source, the last one to leave closes it. Each rule has a bounded queue of its own;
//! the source waits for the slowest of them, so that no rule misses a message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::End;
use super::flow::{self, Receiver, Sender};
use super::input::{Input, Received};

/// The shared sources that run now, by stream. Owns their tasks.
#[derive(Default)]
pub(crate) struct SharedSources {
    /// Streams keep their slots: there are only as many as a user gave names to.
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    tasks: TaskTracker,
}

/// One stream's source. Locked while it is opened, which may take a plugin's start.
type Slot = tokio::sync::Mutex<Option<Running>>;

struct Running {
    readers: Weak<Readers>,
    task: JoinHandle<()>,
}

/// The rules that read one source. When the last of them lets go, the source is told to stop.
struct Readers {
    /// `None` once the source has ended: whoever comes then has come too late.
    queues: Mutex<Option<Vec<Sender<Received>>>>,
    /// What it means for a rule that the source has nothing more; known when it has.
    end: OnceLock<End>,
    _stop: DropGuard,
}

/// One rule's end of a shared source.
pub(crate) struct Subscription {
    queue: Receiver<Received>,
    readers: Arc<Readers>,
}

impl SharedSources {
    /// Joins the source of `stream`, or opens it with `open` if it does not run. `buffer_length` messages wait
    /// for the rule before the source waits too.
    pub(super) async fn subscribe<E>(
        &self,
        stream: &str,
        buffer_length: usize,
        open: impl Future<Output = Result<Input, E>>,
    ) -> Result<Subscription, E> {
        let slot = self.slot(stream);
        let mut running = slot.lock().await;
        if let Some(source) = running.as_mut() {
            let joined = source
                .readers
                .upgrade()
                .and_then(|readers| subscribe(&readers, buffer_length));
            if let Some(subscription) = joined {
                return Ok(subscription);
            }
            // It has ended, or its last reader has left: what it holds must be closed before it is opened again. It
            // stays here meanwhile, in case that nobody waits for that to the end.
            if let Err(error) = (&mut source.task).await {
                tracing::error!(stream, "the shared source broke: {error}");
            }
            *running = None;
        }
        let input = open.await?;
        let stop = CancellationToken::new();
        let (sender, queue) = flow::channel(buffer_length);
        let readers = Arc::new(Readers {
            queues: Mutex::new(Some(vec![sender])),
            end: OnceLock::new(),
            _stop: stop.clone().drop_guard(),
        });
        let task = self.tasks.spawn(fan_out(input, Arc::downgrade(&readers), stop));
        *running = Some(Running {
            readers: Arc::downgrade(&readers),
            task,
        });
        Ok(Subscription { queue, readers })
    }

    fn slot(&self, stream: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(stream.to_owned()).or_default().clone()
    }

    /// Waits until all sources are closed; their readers must have left.
    pub(crate) async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Subscription {
    /// Cancel safe; `None` when the source has ended.
    pub(super) async fn recv(&mut self) -> Option<Received> {
        self.queue.recv().await
    }

    pub(super) fn end(&self) -> End {
        let broken = || End::Failed("its shared source broke".to_owned());
        self.readers.end.get().cloned().unwrap_or_else(broken)
    }
}

/// `None`: the source has ended.
fn subscribe(readers: &Arc<Readers>, buffer_length: usize) -> Option<Subscription> {
    let (sender, queue) = flow::channel(buffer_length);
    readers.queues().as_mut()?.push(sender);
    Some(Subscription {
        queue,
        readers: readers.clone(),
    })
}

impl Readers {
    fn queues(&self) -> MutexGuard<'_, Option<Vec<Sender<Received>>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fan_out(mut input: Input, readers: Weak<Readers>, stop: CancellationToken) {
    loop {
        let received = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            received = input.recv() => received,
        };
        let Some(received) = received else { break };
        let items = received.as_ref().map_or(1, |batch| batch.tuples.len());
        // Not held while waiting: it is what keeps the source running.
        let queues = readers.upgrade().and_then(|readers| {
            let mut queues = readers.queues();
            let queues = queues.as_mut()?;
            queues.retain(|queue| !queue.is_closed());
            Some(queues.clone())
        });
        for queue in queues.unwrap_or_default() {
            // A rule that left meanwhile wants nothing any more.
            let _left = queue.send(received.clone(), items).await;
        }
    }
    if let Some(readers) = readers.upgrade() {
        readers.end.get_or_init(|| input.end());
        // The readers' queues end with the source.
        *readers.queues() = None;
    }
    input.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{self, memory};
    use mangrove_protocol::{Fields, Object};
    use serde_json::json;

    fn numbers(hub: &Arc<memory::Hub>) -> Result<Input, io::OpenError> {
        let config = json!({"data": [{"n": 1}, {"n": 2}], "interval": 0, "loop": false});
        let config = config.as_object().unwrap().clone();
        io::Source::open("simulator", "", config, hub)
            .unwrap()
            .map(Input::BuiltIn)
    }

    async fn all(mut subscription: Subscription) -> Vec<serde_json::Value> {
        let mut seen = Vec::new();
        while let Some(received) = subscription.recv().await {
            let tuples = received.unwrap().tuples.into_iter();
            seen.extend(tuples.map(|tuple| tuple.message.into_object().unwrap()["n"].clone()));
        }
        seen
    }

    #[tokio::test]
    async fn every_reader_sees_every_message_of_one_source() {
        let (sources, hub) = (SharedSources::default(), Arc::default());
        let topic = |hub: &Arc<memory::Hub>| {
            io::Source::open("memory", "t", Object::new(), hub)
                .unwrap()
                .map(Input::BuiltIn)
        };
        let mut first = sources.subscribe("s", 8, async { topic(&hub) }).await.unwrap();
        let unused = async { Err("the source was opened twice") };
        let mut second = sources.subscribe("s", 8, unused).await.unwrap();
        let config = serde_json::from_value(json!({"topic": "t"})).unwrap();
        hub.publisher(config).unwrap().publish(&Fields::default()).await;
        assert!(first.recv().await.unwrap().is_ok());
        assert!(second.recv().await.unwrap().is_ok());
        drop((first, second));
        sources.closed().await;
    }

    #[tokio::test]
    async fn a_source_that_ends_ends_its_readers_and_is_opened_again_by_the_next() {
        let (sources, hub) = (SharedSources::default(), Arc::default());
        for _ in 0..2 {
            let subscription = sources.subscribe("s", 8, async { numbers(&hub) }).await.unwrap();
            assert_eq!(all(subscription).await, [1, 2]);
        }
        sources.closed().await;
    }

    #[tokio::test]
    async fn the_last_reader_to_leave_stops_the_source() {
        let (sources, hub) = (SharedSources::default(), Arc::default());
        let endless = async {
            let config = json!({"data": {"n": 1}, "interval": 0})
                .as_object()
                .unwrap()
                .clone();
            io::Source::open("simulator", "", config, &hub)
                .unwrap()
                .map(Input::BuiltIn)
        };
        let mut subscription = sources.subscribe("s", 1, endless).await.unwrap();
        assert!(subscription.recv().await.is_some());
        drop(subscription);
        sources.closed().await;
    }
}
