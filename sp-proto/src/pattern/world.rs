//! A simulated world: the ends of a conversation without sockets, tasks or time, and what the patterns must
//! do in it.

use super::end::{End, RECV, SEND, newest};
use super::*;
use crate::Message;
use crate::wire::{DEFAULT_TTL, FINAL};
use std::time::Duration;

mod bus;
mod pair1;
mod pubsub;
mod raw;
mod stats;
mod survey;

const SECOND: Duration = Duration::from_secs(1);

/// A connection between two ends.
#[derive(Clone, Copy)]
struct Wire {
    left: Key,
    right: Key,
}

fn connect(left: &mut End<impl Pattern>, right: &mut End<impl Pattern>) -> Wire {
    assert_eq!(left.pattern.protocol().peer(), right.pattern.protocol());
    Wire {
        left: left.join().unwrap(),
        right: right.join().unwrap(),
    }
}

/// Moves what is queued at `from` to `to`, and says how many messages that were.
fn carry(from: (&mut End<impl Pattern>, Key), to: (&mut End<impl Pattern>, Key)) -> usize {
    let frames = from.0.flush(from.1);
    let count = frames.len();
    to.0.handle(to.1, frames).unwrap();
    count
}

fn numbered(numbers: std::ops::Range<u8>) -> Vec<Bytes> {
    numbers.map(|number| Bytes::from(vec![number])).collect()
}

fn request(id: u32, body: &'static [u8]) -> Bytes {
    [&(id | FINAL).to_be_bytes()[..], body].concat().into()
}

mod push {
    use super::*;

    fn send(end: &mut End<Push>, number: u8) -> Option<Key> {
        end.pattern.send(&mut end.pipes, vec![number].into()).ok()
    }

    #[test]
    fn deals_out_in_turn_and_passes_over_full_pipes() {
        let mut end = End::new(Push::default());
        let (a, b) = (end.join().unwrap(), end.join().unwrap());
        for number in 0..8 {
            assert_eq!(send(&mut end, number), Some(if number % 2 == 0 { a } else { b }));
        }
        assert_eq!(send(&mut end, 8), None, "both are full");
        assert!(!end.pattern.can_send());
        assert_eq!(end.flush(b), [vec![1_u8], vec![3], vec![5], vec![7]]);
        for number in 10..14 {
            assert_eq!(send(&mut end, number), Some(b), "only b has room");
        }
        assert_eq!(end.flush(a), [vec![0_u8], vec![2], vec![4], vec![6]]);
        assert_eq!(send(&mut end, 14), Some(a));
    }

    #[test]
    fn a_pipe_that_is_gone_gets_nothing_more() {
        let mut end = End::new(Push::default());
        let (a, b) = (end.join().unwrap(), end.join().unwrap());
        end.leave(a);
        assert_eq!(send(&mut end, 0), Some(b));
        assert_eq!(send(&mut end, 1), Some(b));
        end.leave(b);
        assert_eq!(send(&mut end, 2), None);
        let again = end.join().unwrap();
        assert!([a.slot, b.slot].contains(&again.slot), "slots are used again");
        assert_eq!(send(&mut end, 3), Some(again));
        assert!(
            end.flush(a).is_empty() && end.flush(b).is_empty(),
            "old keys find nothing"
        );
        assert_eq!(end.flush(again), [vec![3_u8]]);
    }

    #[test]
    fn a_direct_write_is_granted_once_and_again_when_traffic_is_light() {
        let mut end = End::new(Push::default());
        let a = end.join().unwrap();
        send(&mut end, 0);
        let mut batch = end
            .pipes
            .begin_direct(a)
            .expect("an idle pipe may be written at once");
        assert!(end.pipes.begin(a).is_none(), "one writer at a time");
        assert!(end.signalled().is_empty());
        batch.advance(9);
        end.pipes.end(a, batch);
        send(&mut end, 1);
        assert!(
            end.pipes.begin_direct(a).is_none(),
            "the next one is left to the driver"
        );
        assert_eq!(end.signalled(), [a]);
        assert_eq!(end.flush(a), [vec![1_u8]]);
        end.pipes.note_flush(a, 1);
        send(&mut end, 2);
        assert!(end.pipes.begin_direct(a).is_some());
    }

    #[test]
    fn what_is_left_of_a_write_goes_first() {
        let mut end = End::new(Push::default());
        let a = end.join().unwrap();
        send(&mut end, 0);
        let mut batch = end.pipes.begin(a).unwrap();
        batch.advance(5);
        send(&mut end, 1);
        end.pipes.end(a, batch);
        let mut rest = end.pipes.begin(a).unwrap();
        assert_eq!(rest.messages(), 1);
        rest.advance(4);
        assert!(rest.is_empty());
        end.pipes.end(a, rest);
        assert_eq!(end.flush(a), [vec![1_u8]]);
    }
}

mod pull {
    use super::*;

    fn recv(end: &mut End<Pull>) -> Option<u8> {
        end.pattern.recv(&mut end.pipes).map(|message| message[0])
    }

    fn all(end: &mut End<Pull>) -> Vec<u8> {
        std::iter::from_fn(|| recv(end)).collect()
    }

    #[test]
    fn takes_from_its_pipes_in_turn() {
        let mut end = End::new(Pull::new(RECV));
        let (a, b) = (end.join().unwrap(), end.join().unwrap());
        end.handle(a, numbered(0..5)).unwrap();
        end.handle(b, numbered(10..12)).unwrap();
        assert_eq!(all(&mut end), [0, 10, 1, 11, 2, 3, 4]);
        assert!(!end.pattern.can_recv());
    }

    #[test]
    fn a_full_lane_is_not_read_until_it_is_half_empty() {
        let mut end = End::new(Pull::new(RECV));
        let (a, b) = (end.join().unwrap(), end.join().unwrap());
        end.handle(a, numbered(0..8)).unwrap();
        assert!(!end.pattern.may_read(a));
        assert!(end.pattern.may_read(b), "each pipe has its own bound");
        for number in 0..3 {
            assert_eq!(recv(&mut end), Some(number));
            assert!(end.signalled().is_empty());
        }
        assert_eq!(recv(&mut end), Some(3));
        assert_eq!(end.signalled(), [a]);
        assert!(end.pattern.may_read(a));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut end = End::new(Pull::new(RecvLimits {
            messages: 100,
            bytes: 1000,
        }));
        let a = end.join().unwrap();
        end.handle(a, vec![vec![0; 600].into()]).unwrap();
        assert!(end.pattern.may_read(a));
        end.handle(a, vec![vec![0; 600].into()]).unwrap();
        assert!(!end.pattern.may_read(a));
    }

    #[test]
    fn messages_outlive_their_pipe_and_still_count() {
        let mut end = End::new(Pull::new(RECV));
        let a = end.join().unwrap();
        end.handle(a, numbered(0..8)).unwrap();
        end.leave(a);
        let b = end.join().unwrap();
        assert!(
            !end.pattern.may_read(b),
            "a peer that comes back again and again fills nothing"
        );
        assert_eq!(
            (0..4).map_while(|_| recv(&mut end)).collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
        assert_eq!(end.signalled(), [b]);
        end.handle(b, numbered(20..22)).unwrap();
        assert_eq!(all(&mut end), [4, 5, 6, 7, 20, 21]);
    }
}

mod pair {
    use super::*;

    #[test]
    fn has_one_peer_at_a_time() {
        let mut end = End::new(Pair::new(Version::V0, RECV));
        let first = end.join().unwrap();
        assert_eq!(end.join(), Err(Refusal::SecondPeer));
        assert!(end.pattern.send(&mut end.pipes, "x".into()).is_ok());
        end.leave(first);
        assert!(!end.pattern.can_send());
        assert_eq!(
            end.pattern.send(&mut end.pipes, "y".into()),
            Err("y".into()),
            "the message comes back"
        );
        let second = end.join().unwrap();
        assert_eq!(end.pattern.send(&mut end.pipes, "z".into()), Ok(second));
        assert_eq!(end.flush(second), ["z"]);
    }

    #[test]
    fn a_full_peer_takes_nothing_until_it_is_flushed() {
        let mut end = End::new(Pair::new(Version::V0, RECV));
        let peer = end.join().unwrap();
        for _ in 0..SEND.messages {
            assert!(end.pattern.send(&mut end.pipes, "x".into()).is_ok());
        }
        assert!(end.pattern.send(&mut end.pipes, "x".into()).is_err());
        assert_eq!(end.flush(peer).len(), SEND.messages);
        assert!(end.pattern.send(&mut end.pipes, "x".into()).is_ok());
    }
}

mod rep {
    use super::*;

    fn recv(end: &mut End<Rep>) -> Option<(Origin, Message)> {
        end.pattern.recv()
    }

    #[test]
    fn a_month_of_keep_alives_leaves_the_newest_only() {
        let mut end = End::new(Rep::new(Protocol::Rep, newest(1), DEFAULT_TTL));
        let (a, b) = (end.join().unwrap(), end.join().unwrap());
        // Everything that the pattern and its pipes hold, but for the counters.
        let state = |end: &mut End<Rep>| {
            let drops = std::mem::take(&mut end.pipes.drops);
            (format!("{:?} {:?}", end.pattern, end.pipes), drops.superseded)
        };
        end.handle(a, vec![request(0, b"handshake")]).unwrap();
        let first = state(&mut end);
        assert_eq!(first.1, 0);
        for _ in 0..3 {
            end.handle(a, vec![request(0, b"handshake")]).unwrap();
            // From the same state the same request leads to the same state: so 518 million of them, one every five
            // milliseconds for a month, leave what the first one left.
            assert_eq!(state(&mut end), (first.0.clone(), 1));
        }
        for id in 0..1000 {
            end.handle(a, vec![request(id, b"handshake")]).unwrap();
        }
        end.handle(b, vec![request(7, b"other")]).unwrap();
        let (origin, body) = recv(&mut end).unwrap();
        assert_eq!(&body[..], b"handshake");
        assert_eq!(
            end.pattern.reply(&mut end.pipes, &origin, "ok".into()).ok(),
            Some(a)
        );
        assert_eq!(end.flush(a), [request(999, b"ok")]);
        assert_eq!(&recv(&mut end).unwrap().1[..], b"other");
        assert!(recv(&mut end).is_none());
    }

    #[test]
    fn a_larger_backlog_keeps_the_newest_of_them() {
        let mut end = End::new(Rep::new(Protocol::Rep, newest(3), DEFAULT_TTL));
        let a = end.join().unwrap();
        end.handle(
            a,
            (0..5)
                .map(|id| request(id, &[b'0', b'1', b'2', b'3', b'4'][id as usize..]))
                .collect(),
        )
        .unwrap();
        let bodies: Vec<_> = std::iter::from_fn(|| recv(&mut end))
            .map(|(_, body)| body.into_bytes())
            .collect();
        assert_eq!(bodies, ["234", "34", "4"]);
    }

    #[test]
    fn large_requests_push_older_ones_out_and_the_newest_is_kept_whatever_its_length() {
        let backlog = RecvLimits {
            messages: 9,
            bytes: 5,
        };
        let mut end = End::new(Rep::new(Protocol::Rep, backlog, DEFAULT_TTL));
        let a = end.join().unwrap();
        let mut left = |asked: &[&'static [u8]]| {
            let frames = asked.iter().map(|body| request(1, body)).collect();
            end.handle(a, frames).unwrap();
            let before = std::mem::take(&mut end.pipes.drops.superseded);
            let bodies: Vec<_> = std::iter::from_fn(|| recv(&mut end))
                .map(|(_, body)| body.into_bytes())
                .collect();
            (bodies, before)
        };
        assert_eq!(left(&[b"123", b"45"]), (vec!["123".into(), "45".into()], 0));
        assert_eq!(left(&[b"123", b"45", b"6"]), (vec!["45".into(), "6".into()], 1));
        assert_eq!(left(&[b"1", b"2", b"34567890"]), (vec!["34567890".into()], 2));
        assert_eq!(left(&[b"34567890", b"1"]), (vec!["1".into()], 1));
    }

    #[test]
    fn a_reply_carries_its_backtrace_home() {
        let mut end = End::new(Rep::new(Protocol::Rep, newest(1), DEFAULT_TTL));
        let a = end.join().unwrap();
        let asked = [&7_u32.to_be_bytes()[..], &request(1, b"?")].concat();
        end.handle(a, vec![asked.into()]).unwrap();
        let (origin, _) = recv(&mut end).unwrap();
        end.pattern.reply(&mut end.pipes, &origin, "!".into()).unwrap();
        assert_eq!(
            end.flush(a),
            [[&7_u32.to_be_bytes()[..], &request(1, b"!")].concat()]
        );
    }

    #[test]
    fn a_reply_to_a_pipe_that_is_gone_comes_back() {
        let mut end = End::new(Rep::new(Protocol::Rep, newest(1), DEFAULT_TTL));
        let a = end.join().unwrap();
        end.handle(a, vec![request(1, b"?")]).unwrap();
        let (origin, _) = recv(&mut end).unwrap();
        end.handle(a, vec![request(2, b"?")]).unwrap();
        end.leave(a);
        assert!(recv(&mut end).is_none(), "nobody is left to answer to");
        let again = end.join().unwrap();
        assert_eq!(again.slot, a.slot);
        let result = end.pattern.reply(&mut end.pipes, &origin, "!".into());
        assert!(matches!(result, Err(Unsent::Gone(message)) if message == "!".into()));
        assert!(end.flush(again).is_empty());
    }

    #[test]
    fn a_malformed_request_ends_its_pipe_and_a_deep_one_does_not() {
        let mut end = End::new(Rep::new(Protocol::Rep, newest(9), DEFAULT_TTL));
        let a = end.join().unwrap();
        let deep = [[0; 4 * DEFAULT_TTL as usize].as_slice(), &request(1, b"")].concat();
        assert_eq!(end.handle(a, vec![deep.into(), request(2, b"good")]), Ok(()));
        let result = end.handle(a, vec![request(3, b"good"), Bytes::from_static(b"abc")]);
        assert_eq!(result, Err(Violation::Backtrace(BacktraceError::Unterminated)));
        assert_eq!(
            std::iter::from_fn(|| recv(&mut end)).count(),
            2,
            "what came before is good"
        );
    }

    #[test]
    fn a_requester_that_reads_no_replies_is_held_back() {
        let mut end = End::new(Rep::new(Protocol::Rep, newest(1), DEFAULT_TTL));
        let a = end.join().unwrap();
        let ask = |end: &mut End<Rep>, id| {
            end.handle(a, vec![request(id, b"?")]).unwrap();
            let (origin, _) = recv(end).unwrap();
            end.pattern.reply(&mut end.pipes, &origin, "!".into())
        };
        for id in 0..SEND.messages {
            assert!(ask(&mut end, id as u32).is_ok());
        }
        assert!(matches!(ask(&mut end, 99), Err(Unsent::Full(_))));
    }
}

mod req {
    use super::*;

    fn end() -> End<Req> {
        End::new(Req::new(Some(60 * SECOND), 0))
    }

    fn send(end: &mut End<Req>, context: ContextId, body: &'static str) -> Result<Key, Message> {
        end.pattern.send(&mut end.pipes, context, body.into(), end.now)
    }

    fn recv(end: &mut End<Req>, context: ContextId) -> Progress {
        end.pattern.recv(context)
    }

    /// What the timer does now, and until when it then sleeps.
    fn timeout(end: &mut End<Req>) -> Option<Instant> {
        end.pattern.handle_timeout(&mut end.pipes, end.now)
    }

    fn reply(end: &mut End<Req>, context: ContextId) -> Option<Bytes> {
        match recv(end, context) {
            Progress::Reply(message) => Some(message.into_bytes()),
            Progress::Idle | Progress::Waiting => None,
        }
    }

    #[test]
    fn each_context_gets_its_own_reply() {
        let mut end = end();
        let pipe = end.join().unwrap();
        let (a, b) = (end.pattern.open(), end.pattern.open());
        send(&mut end, a, "a").unwrap();
        send(&mut end, b, "b").unwrap();
        assert_eq!(end.flush(pipe), [request(0, b"a"), request(1, b"b")]);
        end.handle(pipe, vec![request(1, b"to b"), request(0, b"to a")])
            .unwrap();
        assert_eq!(end.pattern.pop_ready(), Some(a));
        assert_eq!(end.pattern.pop_ready(), Some(b));
        assert_eq!(reply(&mut end, a).unwrap(), "to a");
        assert_eq!(reply(&mut end, b).unwrap(), "to b");
        assert!(
            matches!(recv(&mut end, a), Progress::Idle),
            "a reply is given once"
        );
    }

    #[test]
    fn a_new_request_cancels_the_one_before() {
        let mut end = end();
        let pipe = end.join().unwrap();
        let a = end.pattern.open();
        send(&mut end, a, "old").unwrap();
        send(&mut end, a, "new").unwrap();
        end.handle(pipe, vec![request(0, b"late")]).unwrap();
        assert!(matches!(recv(&mut end, a), Progress::Waiting));
        end.handle(pipe, vec![request(1, b"right")]).unwrap();
        assert_eq!(reply(&mut end, a).unwrap(), "right");
    }

    #[test]
    fn an_unread_reply_is_forgotten_by_the_next_request() {
        let mut end = end();
        let pipe = end.join().unwrap();
        let a = end.pattern.open();
        send(&mut end, a, "old").unwrap();
        end.handle(pipe, vec![request(0, b"unread")]).unwrap();
        send(&mut end, a, "new").unwrap();
        assert_eq!(end.pipes.drops.unread, 1);
        assert!(matches!(recv(&mut end, a), Progress::Waiting));
    }

    #[test]
    fn an_unanswered_request_is_sent_again_when_it_is_time() {
        let mut end = end();
        let pipe = end.join().unwrap();
        let a = end.pattern.open();
        send(&mut end, a, "?").unwrap();
        assert_eq!(end.flush(pipe).len(), 1);
        assert_eq!(
            end.pattern.pop_ready(),
            Some(ContextId::TIMER),
            "now there is a time"
        );
        let due = end.now + 60 * SECOND;
        end.now = due - SECOND;
        assert_eq!(timeout(&mut end), Some(due));
        assert!(end.flush(pipe).is_empty());
        end.now = due;
        assert_eq!(timeout(&mut end), Some(due + 60 * SECOND));
        assert_eq!(end.flush(pipe), [request(0, b"?")], "under the same id");
        assert_eq!(end.pattern.pop_ready(), None, "the timer already knows");
        end.handle(pipe, vec![request(0, b"!"), request(0, b"twice")])
            .unwrap();
        assert_eq!(reply(&mut end, a).unwrap(), "!");
    }

    #[test]
    fn each_request_has_a_time_of_its_own() {
        let mut end = end();
        let pipe = end.join().unwrap();
        let (a, b) = (end.pattern.open(), end.pattern.open());
        let start = end.now;
        send(&mut end, a, "a").unwrap();
        end.now = start + 10 * SECOND;
        send(&mut end, b, "b").unwrap();
        assert_eq!(end.flush(pipe).len(), 2);
        end.now = start + 65 * SECOND;
        assert_eq!(timeout(&mut end), Some(start + 70 * SECOND));
        assert_eq!(end.flush(pipe), [request(0, b"a")]);
        end.handle(pipe, vec![request(1, b"to b")]).unwrap();
        end.now = start + 70 * SECOND;
        assert_eq!(timeout(&mut end), Some(start + 125 * SECOND));
        assert!(end.flush(pipe).is_empty(), "b has its reply");
        end.pattern.cancel(&mut end.pipes, a);
        assert_eq!(timeout(&mut end), None);
        send(&mut end, a, "again").unwrap();
        assert!(std::iter::from_fn(|| end.pattern.pop_ready()).any(|ready| ready == ContextId::TIMER));
        assert_eq!(timeout(&mut end), Some(start + 130 * SECOND));
    }

    #[test]
    fn what_is_due_goes_out_in_its_order_once_there_is_room() {
        let mut end = end();
        let pipe = end.join().unwrap();
        let contexts = [(); SEND.messages].map(|()| end.pattern.open());
        for context in contexts {
            send(&mut end, context, "?").unwrap();
        }
        end.now += 61 * SECOND;
        assert_eq!(timeout(&mut end), None, "the pipe is full of their first copies");
        assert!(end.pattern.pop_ready().is_some());
        let twice = (0..2 * SEND.messages as u32).map(|at| request(at % SEND.messages as u32, b"?"));
        assert_eq!(end.flush(pipe), twice.collect::<Vec<_>>());
        assert_eq!(end.pattern.pop_ready(), Some(ContextId::TIMER));
        assert_eq!(timeout(&mut end), Some(end.now + 60 * SECOND));
    }

    #[test]
    fn a_request_moves_on_when_its_pipe_goes_away() {
        let mut end = end();
        let (first, second) = (end.join().unwrap(), end.join().unwrap());
        let a = end.pattern.open();
        assert_eq!(send(&mut end, a, "?"), Ok(first));
        end.leave(first);
        assert_eq!(end.flush(second), [request(0, b"?")]);
        end.leave(second);
        assert!(matches!(recv(&mut end, a), Progress::Waiting));
        let third = end.join().unwrap();
        assert_eq!(
            end.flush(third),
            [request(0, b"?")],
            "sent as soon as there is a pipe again"
        );
        end.handle(third, vec![request(0, b"!")]).unwrap();
        assert_eq!(reply(&mut end, a).unwrap(), "!");
    }

    #[test]
    fn a_cancelled_request_is_not_sent_again() {
        let mut end = end();
        let first = end.join().unwrap();
        let (a, b) = (end.pattern.open(), end.pattern.open());
        send(&mut end, a, "a").unwrap();
        send(&mut end, b, "b").unwrap();
        end.leave(first);
        end.pattern.cancel(&mut end.pipes, a);
        end.pattern.close(&mut end.pipes, b);
        let second = end.join().unwrap();
        assert!(end.flush(second).is_empty());
        assert!(matches!(recv(&mut end, a), Progress::Idle));
        assert!(end.pattern.can_send());
    }

    #[test]
    fn without_a_pipe_the_request_comes_back() {
        let mut end = end();
        let a = end.pattern.open();
        assert_eq!(send(&mut end, a, "?"), Err("?".into()));
        assert!(matches!(recv(&mut end, a), Progress::Idle));
    }

    #[test]
    fn garbage_is_dropped_and_ids_that_are_waited_for_are_passed_over() {
        let mut end = End::new(Req::new(None, u32::MAX));
        let pipe = end.join().unwrap();
        let (a, b) = (end.pattern.open(), end.pattern.open());
        send(&mut end, a, "a").unwrap();
        send(&mut end, b, "b").unwrap();
        assert_eq!(end.flush(pipe), [request(u32::MAX, b"a"), request(0, b"b")]);
        end.handle(
            pipe,
            vec![Bytes::from_static(b"abc"), Bytes::new(), request(5, b"x")],
        )
        .unwrap();
        assert!(matches!(recv(&mut end, a), Progress::Waiting));
        assert_eq!(end.pattern.pop_ready(), None, "no resend time, no timer to start");
        assert!(!end.pattern.needs_timer());
    }
}
