//! Owns what the instances of one plugin have in common. Each instance is a worker of its own, with its own processes
//! and their supervision; number 0 is the one that everything about the plugin is asked of, the others are known
//! here alone. Mostly there are none: then this is a count of 1 and passes everything through.
//!
//! | | module | what it owns |
//! |---|---|---|
//! | pure | `choice` | which instance something goes to |
//! | pure | `whole` | how the plugin is, when its instances are so and so |
//! | | `pool` | who answers the calls of one function |
//!
//! It tells no worker what to do: that is for `order`. A worker says how it is and which channels
//! it has, and opens the functions that are wanted here.

mod choice;
mod pool;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mangrove_protocol::manifest::Manifest;
use mangrove_protocol::name::SymbolName;
use tokio::sync::watch;

use super::output::Output;
use super::record::Records;
use super::remote::Remote;
use super::status::{Snapshot, State};
use super::users::Rules;
use choice::Candidate;
pub(super) use pool::{Links, Pool};

/// What the workers of one plugin share.
#[derive(Debug)]
pub(super) struct Instances {
    pub(super) rules: Arc<Rules>,
    pub(super) records: Arc<Records>,
    pub(super) output: Arc<Output>,
    standing: Mutex<Standing>,
    /// The functions that every instance is to run.
    functions: watch::Sender<BTreeSet<SymbolName>>,
}

#[derive(Debug)]
struct Standing {
    /// How many instances are to run.
    wanted: u32,
    /// All but number 0; also those that are too many and have not ended yet.
    others: BTreeMap<u32, Remote>,
    /// The sources and sinks in each.
    uses: BTreeMap<u32, usize>,
    snapshots: BTreeMap<u32, Snapshot>,
    /// What was said last of the whole.
    shown: Snapshot,
    /// Why none of them runs any more, nor will by itself.
    given_up: Option<String>,
    pools: BTreeMap<SymbolName, Arc<Pool>>,
}

/// One source or sink that runs in an instance, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    instances: Arc<Instances>,
    instance: u32,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut standing = self.instances.lock();
        if let Some(uses) = standing.uses.get_mut(&self.instance) {
            *uses = uses.saturating_sub(1);
        }
    }
}

impl Instances {
    /// One instance, of which nothing runs yet.
    pub(super) fn new(output: Arc<Output>) -> Self {
        Self {
            rules: Arc::default(),
            records: Arc::default(),
            output,
            standing: Mutex::new(Standing {
                wanted: 1,
                others: BTreeMap::new(),
                uses: BTreeMap::new(),
                snapshots: BTreeMap::new(),
                shown: Snapshot::unstarted(),
                given_up: None,
                pools: BTreeMap::new(),
            }),
            functions: watch::Sender::default(),
        }
    }

    /// How many instances are to run.
    pub(super) fn wanted(&self) -> u32 {
        self.lock().wanted
    }

    /// As many instances as the manifest says are to run from now on.
    pub(super) fn want(&self, manifest: &Manifest) {
        self.want_count(manifest.instances);
        // Not when they have come to it, but before anybody can use what they run.
        self.lock().given_up = None;
        self.functions.send_if_modified(|functions| {
            functions.retain(|name| manifest.functions.contains(name));
            false
        });
    }

    /// So many instances are to run from now on.
    pub(super) fn want_count(&self, wanted: u32) {
        let mut standing = self.lock();
        standing.wanted = wanted;
        standing.pools.values().for_each(|pool| pool.set_most(wanted));
    }

    /// Every instance is to run this function.
    pub(super) fn want_function(&self, symbol: &SymbolName) {
        self.functions
            .send_if_modified(|functions| functions.insert(symbol.clone()));
    }

    /// The functions that every instance is to run.
    pub(super) fn functions(&self) -> watch::Receiver<BTreeSet<SymbolName>> {
        self.functions.subscribe()
    }

    /// Who answers the calls of this function.
    pub(super) fn pool(&self, symbol: &SymbolName) -> Arc<Pool> {
        let mut standing = self.lock();
        let wanted = standing.wanted;
        let pool = standing.pools.entry(symbol.clone());
        Arc::clone(pool.or_insert_with(|| Arc::new(Pool::new(wanted))))
    }

    /// All but number 0, by number.
    pub(super) fn others(&self) -> BTreeMap<u32, Remote> {
        self.lock().others.clone()
    }

    /// The worker of this instance, which `make` makes when there is none.
    pub(super) fn other(&self, instance: u32, make: impl FnOnce() -> Remote) -> Remote {
        let mut standing = self.lock();
        if let Some(known) = standing.others.get(&instance)
            && !known.requests.is_closed()
        {
            return known.clone();
        }
        let made = make();
        standing.others.insert(instance, made.clone());
        standing.snapshots.insert(instance, Snapshot::unstarted());
        made
    }

    /// The worker of this instance has begun; number 0 begins the plugin anew.
    pub(super) fn begin(&self, instance: u32) {
        if instance == 0 {
            let mut standing = self.lock();
            standing.snapshots.insert(0, Snapshot::unstarted());
            standing.shown = Snapshot::unstarted();
            standing.given_up = None;
        }
    }

    /// The worker of this instance has ended.
    pub(super) fn end(&self, instance: u32) {
        let mut standing = self.lock();
        // Another one may have taken its place.
        let ended = standing.others.get(&instance);
        if ended.is_some_and(|remote| remote.requests.is_closed()) {
            standing.others.remove(&instance);
            if instance >= standing.wanted {
                standing.snapshots.remove(&instance);
            }
        }
    }

    /// Notes how an instance is. Returns how the whole is, if that is another state than what was returned last, and
    /// whether it is another answer now whether the plugin was given up.
    pub(super) fn note(&self, instance: u32, snapshot: &Snapshot) -> (Option<Snapshot>, bool) {
        let mut standing = self.lock();
        standing.snapshots.insert(instance, snapshot.clone());
        let whole = whole::whole(standing.wanted, &standing.snapshots);
        let is_failed = |instance| standing.state(instance) == State::Failed;
        let given_up = (0..standing.wanted).all(is_failed).then(|| whole.reason.clone());
        let is_turned = standing.given_up != given_up;
        standing.given_up = given_up;
        let is_news = !whole.is_same_state(&standing.shown);
        standing.shown.clone_from(&whole);
        (is_news.then_some(whole), is_turned)
    }

    /// Why none of the instances runs any more, nor will until somebody starts or updates the plugin.
    pub(super) fn given_up(&self) -> Option<String> {
        self.lock().given_up.clone()
    }

    /// How the whole is, and, when there is more than one, each instance.
    pub(super) fn describe(&self) -> (Snapshot, BTreeMap<u32, Snapshot>) {
        let standing = self.lock();
        let whole = whole::whole(standing.wanted, &standing.snapshots);
        let (wanted, others) = (standing.wanted, &standing.others);
        let mut each = BTreeMap::new();
        if wanted > 1 || !others.is_empty() {
            each.clone_from(&standing.snapshots);
            each.retain(|instance, _| *instance < wanted || others.contains_key(instance));
        }
        (whole, each)
    }

    /// Where the next source or sink is to run: in the instance with the fewest, of those that are best off. It counts
    /// there as long as the returned value and its clones live.
    pub(super) fn seat(self: &Arc<Self>, first: &Remote) -> Remote {
        let mut standing = self.lock();
        let candidates = standing.members().map(|instance| Candidate {
            instance,
            state: standing.state(instance),
            uses: standing.uses.get(&instance).copied().unwrap_or(0),
        });
        let instance = choice::seat(candidates).unwrap_or(0);
        *standing.uses.entry(instance).or_default() += 1;
        let mut remote = standing.others.get(&instance).unwrap_or(first).clone();
        drop(standing);
        remote.seat = Some(Arc::new(Seat {
            instances: Arc::clone(self),
            instance,
        }));
        remote
    }

    /// Whom to ask for a function: number 0, unless it is down and another one is not.
    pub(super) fn desk(&self, first: &Remote) -> Remote {
        let standing = self.lock();
        let fit = standing
            .members()
            .find(|instance| choice::is_fit(standing.state(*instance)));
        let other = fit.and_then(|instance| standing.others.get(&instance));
        other.unwrap_or(first).clone()
    }

    /// How many sources and sinks run in an instance.
    pub(super) fn uses(&self, instance: u32) -> usize {
        self.lock().uses.get(&instance).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// As it was noted: a worker that says how it is may be waiting for this lock.
    fn state(&self, instance: u32) -> State {
        let noted = self.snapshots.get(&instance);
        noted.map_or(State::Stopped, |snapshot| snapshot.state)
    }

    /// The instances that take something new.
    fn members(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.wanted).filter(|instance| *instance == 0 || self.others.contains_key(instance))
    }
}
