//! Owns who answers the calls of one function: the channel to each instance that runs it. The workers put them in,
//! whoever calls picks one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::choice::{self, Load};
use crate::plugin::native::link::Link;

/// The channels of our own contract, one for each instance that runs the function. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct Links(Arc<[Arc<Link>]>);

/// What one channel gets of calls that are made together.
pub(in crate::plugin) type Hand<T> = (Arc<Link>, Vec<T>);

impl Links {
    /// The one that the next call goes to; `None`: none is open.
    pub(in crate::plugin) fn choose(&self) -> Option<&Arc<Link>> {
        if let [link] = &*self.0 {
            return Some(link).filter(|link| link.is_open());
        }
        choice::call(self.loads()).and_then(|index| self.0.get(index))
    }

    /// Deals out calls that are made together, each to the one that is the least busy then. All come back when none is
    /// open.
    pub(in crate::plugin) fn deal<T>(&self, mut calls: Vec<T>) -> Result<Vec<Hand<T>>, Vec<T>> {
        if let [_] | [] = &*self.0 {
            return match self.choose() {
                Some(link) => Ok(vec![(Arc::clone(link), calls)]),
                None => Err(calls),
            };
        }
        let mut hands = Vec::new();
        for (link, share) in self
            .0
            .iter()
            .zip(choice::shares(self.loads().collect(), calls.len()))
        {
            if share > 0 {
                let rest = calls.split_off(share);
                hands.push((Arc::clone(link), std::mem::replace(&mut calls, rest)));
            }
        }
        if calls.is_empty() { Ok(hands) } else { Err(calls) }
    }

    fn loads(&self) -> impl Iterator<Item = Load> {
        self.0.iter().map(|link| Load {
            open: link.is_open(),
            connected: link.is_connected(),
            calls: link.load(),
        })
    }

    /// Whether calls can be put in.
    pub(in crate::plugin) fn are_open(&self) -> bool {
        self.0.iter().any(|link| link.is_open())
    }
}

/// The pool of one function.
#[derive(Debug)]
pub(in crate::plugin) struct Pool {
    slots: Mutex<Slots<Arc<Link>>>,
    served: watch::Sender<Option<Links>>,
}

impl Pool {
    /// Nobody answers yet. Of later ones those up to `most` count.
    pub(super) fn new(most: u32) -> Self {
        Self {
            slots: Mutex::new(Slots {
                most,
                links: BTreeMap::new(),
            }),
            served: watch::Sender::new(None),
        }
    }

    /// Which channels there are; `None`: that of the other contract.
    pub(in crate::plugin) fn subscribe(&self) -> watch::Receiver<Option<Links>> {
        self.served.subscribe()
    }

    /// This instance answers on this channel from now on; without one, on that of the other contract or not at all.
    pub(in crate::plugin) fn serve(&self, instance: u32, link: Option<Arc<Link>>) {
        let mut slots = self.lock();
        match link {
            Some(link) => slots.links.insert(instance, link),
            None => slots.links.remove(&instance),
        };
        self.publish(&slots);
    }

    /// So many instances count from now on.
    pub(super) fn set_most(&self, most: u32) {
        let mut slots = self.lock();
        slots.most = most;
        self.publish(&slots);
    }

    fn publish(&self, slots: &Slots<Arc<Link>>) {
        self.served.send_replace(slots.served().map(Links));
    }

    fn lock(&self) -> MutexGuard<'_, Slots<Arc<Link>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every instance answers on.
#[derive(Debug)]
struct Slots<T> {
    most: u32,
    links: BTreeMap<u32, T>,
}

impl<T: Clone> Slots<T> {
    fn served(&self) -> Option<Arc<[T]>> {
        let links: Arc<[T]> = self
            .links
            .range(..self.most)
            .map(|(_, link)| link.clone())
            .collect();
        (!links.is_empty()).then_some(links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_as_many_instances_answer_as_there_are_to_be() {
        let mut slots = Slots {
            most: 3,
            links: BTreeMap::from([(0, 'a'), (2, 'c')]),
        };
        assert_eq!(slots.served().as_deref(), Some(&['a', 'c'][..]));
        slots.most = 1;
        assert_eq!(slots.served().as_deref(), Some(&['a'][..]));
        // What runs in instance 0 speaks the other contract now.
        slots.links.remove(&0);
        assert_eq!(slots.served(), None);
    }
}
