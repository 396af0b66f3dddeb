//! Owns which calls of a function wait to be sent, which are in the plugin, and what has come of those that were made
//! with them. Pure bookkeeping: `link` asks under its lock. Calls that were made together form a *group*, of which
//! everything is told at once; a call's id is its group's first id and its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use mangrove_protocol::native::function::FunctionContext;
use serde_json::Value;
use tokio::sync::oneshot;

/// Calls that may be in the plugin at the same time.
pub(super) const IN_FLIGHT: usize = 16_384;

/// What has come of a call.
#[derive(Debug, PartialEq)]
pub(in crate::plugin) enum Reply {
    Result(Value),
    Error(String),
    /// The connection broke while it was in the plugin.
    Broken,
    /// It never left.
    NotSent,
    /// Nobody waits for it any more.
    GivenUp,
}

/// The arguments of calls that are made together, as JSON: in one piece of memory, whose owner may be another thread.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    text: Vec<u8>,
    /// Behind each call.
    ends: Vec<usize>,
}

impl Arguments {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Those of one call: an array.
    pub(super) fn at(&self, place: usize) -> &[u8] {
        let end = |place: usize| self.ends.get(place).copied().unwrap_or_default();
        let begin = place.checked_sub(1).map_or(0, end);
        self.text.get(begin..end(place)).unwrap_or(b"[]")
    }
}

impl<'a> FromIterator<&'a [Value]> for Arguments {
    fn from_iter<T: IntoIterator<Item = &'a [Value]>>(calls: T) -> Self {
        let mut arguments = Self::default();
        for args in calls {
            // A tree of JSON values does not fail to be written.
            let _ = serde_json::to_writer(&mut arguments.text, args);
            arguments.ends.push(arguments.text.len());
        }
        arguments
    }
}

#[derive(Debug)]
struct Group {
    context: Arc<FunctionContext>,
    arguments: Arc<Arguments>,
    /// How many of the calls have left, in their order.
    sent: usize,
    replies: Vec<Option<Reply>>,
    /// Calls without a reply.
    open: usize,
    done: oneshot::Sender<Vec<Reply>>,
}

/// Calls that go out.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) context: Arc<FunctionContext>,
    pub(super) arguments: Arc<Arguments>,
    /// Which calls of the group.
    pub(super) places: Range<usize>,
    /// Whether more of the same group wait.
    pub(super) more: bool,
}

#[derive(Debug, Default)]
pub(super) struct Flight {
    /// By their first id.
    groups: BTreeMap<u64, Group>,
    next: u64,
    sent: usize,
    /// Calls that were sent, and that nobody waits for any more.
    cancelled: Vec<u64>,
    is_closed: bool,
}

impl Flight {
    /// Takes calls that are to be made together, and says what their first id is; `None` when it is closed.
    pub(super) fn add(
        &mut self,
        arguments: Arguments,
        context: Arc<FunctionContext>,
        done: oneshot::Sender<Vec<Reply>>,
    ) -> Option<u64> {
        if self.is_closed {
            return None;
        }
        let first = self.next + 1;
        let count = arguments.len();
        self.next += count as u64;
        let group = Group {
            context,
            arguments: Arc::new(arguments),
            sent: 0,
            replies: (0..count).map(|_| None).collect(),
            open: count,
            done,
        };
        self.groups.insert(first, group);
        Some(first)
    }

    /// How many calls may leave.
    pub(super) fn room(&self) -> usize {
        IN_FLIGHT.saturating_sub(self.sent)
    }

    /// Calls of a group that wait, at most so many and as many as there is room for. They count as sent. `None`: there
    /// are none.
    pub(super) fn take(&mut self, first: u64, most: usize) -> Option<Leaving> {
        if self.is_closed {
            return None;
        }
        let most = most.min(self.room());
        let group = self.groups.get_mut(&first)?;
        let places = group.sent..group.replies.len().min(group.sent + most);
        let more = places.end < group.replies.len();
        group.sent = places.end;
        self.sent += places.len();
        (!places.is_empty() || more).then(|| Leaving {
            context: Arc::clone(&group.context),
            arguments: Arc::clone(&group.arguments),
            places,
            more,
        })
    }

    /// Something has come of calls that were sent. What nobody waits for is ignored.
    pub(super) fn settle(&mut self, replies: impl IntoIterator<Item = (u64, Reply)>) {
        let mut replies = replies.into_iter().peekable();
        while let Some((id, _)) = replies.peek() {
            let group = self.groups.range_mut(..=*id).next_back();
            let group = group.map(|(first, group)| (*first..*first + group.sent as u64, group));
            let Some((ids, group)) = group.filter(|(ids, _)| ids.contains(id)) else {
                replies.next();
                continue;
            };
            // Mostly those of a group come together.
            while let Some((id, reply)) = replies.next_if(|(id, _)| ids.contains(id)) {
                let place = usize::try_from(id - ids.start).unwrap_or(usize::MAX);
                if let Some(open @ None) = group.replies.get_mut(place) {
                    *open = Some(reply);
                    group.open -= 1;
                    self.sent -= 1;
                }
            }
            if group.open == 0
                && let Some(group) = self.groups.remove(&ids.start)
            {
                group.tell();
            }
        }
    }

    /// Nobody waits for this group any longer. What has come of its calls until now; the plugin is to be told of those that it
    /// has.
    pub(super) fn give_up(&mut self, first: u64) -> Option<Vec<Reply>> {
        let group = self.groups.remove(&first)?;
        let in_plugin = (first..).zip(&group.replies).take(group.sent);
        let in_plugin = in_plugin.filter(|(_, reply)| reply.is_none()).map(|(id, _)| id);
        let before = self.cancelled.len();
        self.cancelled.extend(in_plugin);
        self.sent -= self.cancelled.len() - before;
        let replies = group.replies.into_iter();
        Some(replies.map(|reply| reply.unwrap_or(Reply::GivenUp)).collect())
    }

    /// The calls that the plugin is to be told of.
    pub(super) fn take_cancelled(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.cancelled)
    }

    /// The connection broke: what was in the plugin is lost. How many calls that is.
    pub(super) fn break_all(&mut self) -> usize {
        let broken = self.sent;
        self.sent = 0;
        self.cancelled.clear();
        self.end_all(|group| (0..group.sent, || Reply::Broken));
        broken
    }

    /// Nothing is sent any more, though answers may still come: what has not left is to be made elsewhere.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.end_all(|group| {
            let unsent = group.sent..group.replies.len();
            (unsent, || Reply::NotSent)
        });
    }

    /// Whether nothing is in the plugin.
    pub(super) fn is_idle(&self) -> bool {
        self.sent == 0
    }

    /// Some calls of every group, of those that have no reply, get this one.
    fn end_all(&mut self, which: impl Fn(&Group) -> (Range<usize>, fn() -> Reply)) {
        let whole = self.groups.extract_if(.., |_, group| {
            let (places, reply) = which(group);
            for open in group.replies.get_mut(places).into_iter().flatten() {
                if open.is_none() {
                    *open = Some(reply());
                    group.open -= 1;
                }
            }
            group.open == 0
        });
        whole.for_each(|(_, group)| group.tell());
    }
}

impl Group {
    /// Once all of its calls have a reply.
    fn tell(self) {
        // Whoever waited may be gone this very moment.
        let _ = self.done.send(self.replies.into_iter().flatten().collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn context() -> Arc<FunctionContext> {
        Arc::new(FunctionContext {
            rule_id: "r".parse().unwrap(),
            op_id: "project".parse().unwrap(),
            instance_id: 0,
            func_id: 0,
        })
    }

    fn add(flight: &mut Flight, calls: usize) -> (u64, oneshot::Receiver<Vec<Reply>>) {
        let (done, told) = oneshot::channel();
        let calls: Vec<Vec<Value>> = (0..calls).map(|n| vec![n.into()]).collect();
        let arguments = calls.iter().map(Vec::as_slice).collect();
        (flight.add(arguments, context(), done).unwrap(), told)
    }

    fn texts(leaving: &Leaving) -> Vec<&str> {
        let texts = leaving.places.clone().map(|place| leaving.arguments.at(place));
        texts.map(|text| std::str::from_utf8(text).unwrap()).collect()
    }

    #[test]
    fn a_group_is_told_when_all_of_it_is_done_in_its_order() {
        let mut flight = Flight::default();
        let (one, mut told) = add(&mut flight, 3);
        let (two, mut other) = add(&mut flight, 1);
        let leaving = flight.take(one, 2).unwrap();
        assert_eq!((leaving.places.clone(), leaving.more), (0..2, true));
        assert_eq!(texts(&leaving), ["[0]", "[1]"]);
        let leaving = flight.take(one, 2).unwrap();
        assert_eq!((leaving.places.clone(), leaving.more), (2..3, false));
        assert_eq!(texts(&leaving), ["[2]"]);
        assert!(flight.take(one, 2).is_none());
        flight.take(two, 2).unwrap();
        let replies = [(3, "c"), (4, "d"), (1, "a"), (1, "twice"), (9, "never made")];
        flight.settle(replies.map(|(id, reply)| (id, Reply::Error(reply.to_owned()))));
        assert!(told.try_recv().is_err());
        assert_eq!(other.try_recv().unwrap(), [Reply::Error("d".to_owned())]);
        flight.settle([(2, Reply::Result(7.into()))]);
        let replies = told.try_recv().unwrap();
        assert_eq!(replies[1], Reply::Result(7.into()));
        assert_eq!(replies[2], Reply::Error("c".to_owned()));
        assert_eq!(flight.room(), IN_FLIGHT);
    }

    #[test]
    fn what_was_given_up_is_told_to_the_plugin_if_it_has_it() {
        let mut flight = Flight::default();
        let (first, _told) = add(&mut flight, 3);
        flight.take(first, 2).unwrap();
        flight.settle([(1, Reply::Result(Value::Null))]);
        let replies = flight.give_up(first).unwrap();
        assert_eq!(
            replies,
            [Reply::Result(Value::Null), Reply::GivenUp, Reply::GivenUp]
        );
        assert_eq!(flight.take_cancelled(), [2]);
        assert!(flight.take(first, 2).is_none() && flight.give_up(first).is_none());
        flight.settle([(2, Reply::Result(Value::Null))]);
        assert_eq!(flight.room(), IN_FLIGHT);
    }

    #[test]
    fn what_was_sent_before_the_end_is_still_answered() {
        let mut flight = Flight::default();
        let (first, mut told) = add(&mut flight, 2);
        flight.take(first, 1).unwrap();
        flight.close();
        assert!(flight.take(first, 1).is_none(), "the other one is made elsewhere");
        assert!(told.try_recv().is_err() && !flight.is_idle());
        flight.settle([(first, Reply::Result(Value::Null))]);
        assert_eq!(
            told.try_recv().unwrap(),
            [Reply::Result(Value::Null), Reply::NotSent]
        );
        assert!(flight.is_idle());
    }

    #[test]
    fn what_has_not_left_can_be_made_elsewhere() {
        let mut flight = Flight::default();
        let (first, mut told) = add(&mut flight, 2);
        flight.take(first, 1).unwrap();
        assert_eq!(flight.break_all(), 1);
        assert!(told.try_recv().is_err(), "the other one can still leave");
        flight.close();
        assert_eq!(told.try_recv().unwrap(), [Reply::Broken, Reply::NotSent]);
        let (done, _) = oneshot::channel();
        assert_eq!(flight.add(Arguments::default(), context(), done), None);
    }

    proptest! {
        /// Whatever happens in whatever order: every group is told once, of every call, and no room is lost.
        #[test]
        fn nothing_is_lost(steps in proptest::collection::vec((0u8..6, 1u64..40), 1..200)) {
            let mut flight = Flight::default();
            let mut groups = Vec::new();
            for (step, number) in steps {
                match step {
                    0 => groups.push((add(&mut flight, number as usize), number as usize, false)),
                    1 => drop(flight.take(number, 3)),
                    2 | 3 => flight.settle([(number, Reply::Result(Value::Null))]),
                    4 => {
                        for ((first, _), calls, is_over) in &mut groups {
                            if *first == number && let Some(replies) = flight.give_up(number) {
                                prop_assert_eq!(replies.len(), *calls);
                                *is_over = true;
                            }
                        }
                    }
                    _ => drop(flight.break_all()),
                }
            }
            flight.close();
            flight.break_all();
            prop_assert!(flight.is_idle() && flight.room() == IN_FLIGHT);
            for ((_, mut told), calls, is_over) in groups {
                let replies = told.try_recv();
                prop_assert_eq!(replies.is_ok(), !is_over);
                prop_assert!(is_over || replies.is_ok_and(|replies| replies.len() == calls));
            }
        }
    }
}
