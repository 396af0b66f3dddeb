//! Owns the figures of a symbol: counters and gauges that are gathered here and told to the host now and then.
//!
//! A figure that changes a million times a second is told once a second: [`Figures::take_changed`] is what there is to
//! tell. Who asks for it, and when, is the matter of the session with the host.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mangrove_protocol::native::UseNumber;
use mangrove_protocol::native::control::{Metric, MetricKind};
use tokio::sync::Notify;

/// The most figures of one use of a symbol, and the longest name of one, in bytes; what is beyond counts nowhere.
const MAX_FIGURES: usize = 64;
const MAX_NAME_LEN: usize = 64;

/// The figures of a symbol, which the host shows with the plugin: at most 64, each with a name of at most 64 bytes. A host that speaks eKuiper's contract has no place for
/// them: there they are not told.
///
/// ```
/// # use mangrove_sdk::{Context, testing};
/// # let context: Context = testing::context();
/// let received = context.metrics().counter("received_bytes");
/// received.add(1500);
/// context.metrics().gauge("queue").set(3.0);
/// ```
#[derive(Clone, Debug)]
pub struct Metrics {
    figures: Arc<Figures>,
}

/// Something that only grows. Cheap to clone, and to add to.
#[derive(Clone, Debug)]
pub struct Counter {
    cell: Arc<Cell>,
    changes: Arc<Changes>,
}

/// Something that goes up and down. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gauge {
    cell: Arc<Cell>,
    changes: Arc<Changes>,
}

impl Metrics {
    pub(crate) fn new(figures: Arc<Figures>) -> Self {
        Self { figures }
    }

    /// The counter of this name. Keep it where it is added to often.
    pub fn counter(&self, name: &str) -> Counter {
        let (cell, changes) = self.figures.cell(name, MetricKind::Counter);
        Counter { cell, changes }
    }

    /// The gauge of this name.
    pub fn gauge(&self, name: &str) -> Gauge {
        let (cell, changes) = self.figures.cell(name, MetricKind::Gauge);
        Gauge { cell, changes }
    }
}

impl Counter {
    /// Adds `by`.
    pub fn add(&self, by: u64) {
        self.cell.value.fetch_add(by, Ordering::SeqCst);
        self.changes.note(&self.cell);
    }
}

impl Gauge {
    /// Sets it to `value`; what is not finite is left out.
    pub fn set(&self, value: f64) {
        if value.is_finite() {
            self.cell.value.store(value.to_bits(), Ordering::SeqCst);
            self.changes.note(&self.cell);
        }
    }
}

// Sequentially consistent throughout: whoever changes a value before it looks whether that is known must not be
// overlooked by whoever takes note before it reads the value.

/// One figure: what a counter has grown by since it was told, or the bits of a gauge.
#[derive(Debug, Default)]
struct Cell {
    value: AtomicU64,
    is_changed: AtomicBool,
}

/// Tells that there is something to tell.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    any: AtomicBool,
    notify: Notify,
}

impl Changes {
    fn note(&self, cell: &Cell) {
        // Once it is known, nothing but loads is left.
        if !cell.is_changed.load(Ordering::SeqCst) {
            cell.is_changed.store(true, Ordering::SeqCst);
        }
        if !self.any.load(Ordering::SeqCst) && !self.any.swap(true, Ordering::SeqCst) {
            self.notify.notify_one();
        }
    }

    /// Completes at the first change since [`Changes::begin`].
    ///
    /// # Cancel safety
    /// No change is missed.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// What changes from now on is told of again.
    pub(crate) fn begin(&self) {
        self.any.store(false, Ordering::SeqCst);
    }
}

/// The figures of one use.
#[derive(Debug)]
pub(crate) struct Figures {
    number: UseNumber,
    cells: Mutex<BTreeMap<String, (MetricKind, Arc<Cell>)>>,
    changes: Arc<Changes>,
}

impl Figures {
    pub(crate) fn new(number: UseNumber, changes: Arc<Changes>) -> Arc<Self> {
        Arc::new(Self {
            number,
            cells: Mutex::default(),
            changes,
        })
    }

    fn cell(&self, name: &str, kind: MetricKind) -> (Arc<Cell>, Arc<Changes>) {
        let changes = Arc::clone(&self.changes);
        let found = self.find(name, kind);
        // Here, because whoever takes in what is logged may count it with a figure.
        let cell = found.unwrap_or_else(|problem| {
            tracing::warn!(name, "{problem}");
            Arc::default()
        });
        (cell, changes)
    }

    /// The figure, which there is from now on; or why it is not told.
    fn find(&self, name: &str, kind: MetricKind) -> Result<Arc<Cell>, String> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, cell)) = cells.get(name) {
            if *known == kind {
                return Ok(Arc::clone(cell));
            }
            return Err("the figure is both a counter and a gauge; only the first counts".to_owned());
        }
        if cells.len() >= MAX_FIGURES || name.len() > MAX_NAME_LEN {
            return Err(format!(
                "the figure is not told: there are {MAX_FIGURES}, with names of {MAX_NAME_LEN} bytes at most"
            ));
        }
        let cell = Arc::<Cell>::default();
        cells.insert(name.to_owned(), (kind, Arc::clone(&cell)));
        Ok(cell)
    }

    /// What has changed since it was asked for last.
    pub(crate) fn take_changed(&self) -> Vec<Metric> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = cells.iter().filter_map(|(name, (kind, cell))| {
            if !cell.is_changed.swap(false, Ordering::SeqCst) {
                return None;
            }
            let value = match kind {
                MetricKind::Counter => cell.value.swap(0, Ordering::SeqCst) as f64,
                MetricKind::Gauge => f64::from_bits(cell.value.load(Ordering::SeqCst)),
            };
            Some(Metric {
                number: self.number,
                name: name.clone(),
                kind: *kind,
                value,
            })
        });
        changed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_told_once_and_together() {
        let changes = Arc::<Changes>::default();
        let figures = Figures::new(4, Arc::clone(&changes));
        let metrics = Metrics::new(Arc::clone(&figures));
        assert_eq!(figures.take_changed(), []);
        let bytes = metrics.counter("bytes");
        bytes.add(2);
        metrics.counter("bytes").add(3);
        metrics.gauge("depth").set(1.5);
        metrics.gauge("depth").set(f64::INFINITY);
        changes.wait().await;
        changes.begin();
        let told: Vec<_> = figures
            .take_changed()
            .into_iter()
            .map(|metric| (metric.number, metric.name, metric.kind, metric.value))
            .collect();
        assert_eq!(
            told,
            [
                (4, "bytes".to_owned(), MetricKind::Counter, 5.0),
                (4, "depth".to_owned(), MetricKind::Gauge, 1.5)
            ]
        );
        bytes.add(1);
        changes.wait().await;
        assert_eq!(figures.take_changed().len(), 1);
        assert_eq!(figures.take_changed(), []);
    }

    #[test]
    fn a_name_is_one_figure_and_there_are_not_too_many() {
        let figures = Figures::new(1, Arc::default());
        let metrics = Metrics::new(Arc::clone(&figures));
        metrics.counter("a").add(1);
        metrics.gauge("a").set(7.0);
        metrics.counter(&"n".repeat(MAX_NAME_LEN + 1)).add(1);
        for number in 0..2 * MAX_FIGURES {
            metrics.counter(&number.to_string()).add(1);
        }
        let told = figures.take_changed();
        assert_eq!(told.len(), MAX_FIGURES);
        assert!(told.iter().all(|metric| metric.kind == MetricKind::Counter));
    }
}
