//! Pub and sub.

use super::*;
use proptest::prelude::*;

fn sub(overflow: Overflow) -> End<Sub> {
    End::new(Sub::new(RECV, overflow))
}

fn all(end: &mut End<Sub>, context: ContextId) -> Vec<Bytes> {
    std::iter::from_fn(|| end.pattern.recv(context).map(Message::into_bytes)).collect()
}

fn texts(texts: &[&'static str]) -> Vec<Bytes> {
    texts.iter().copied().map(Bytes::from).collect()
}

#[test]
fn a_subscriber_gets_what_begins_with_its_topics() {
    let (mut publisher, mut end) = (End::new(Pub::default()), sub(Overflow::DropOldest));
    let wire = connect(&mut publisher, &mut end);
    assert!(end.pattern.subscribe(Sub::MAIN, "ab".into()));
    assert!(end.pattern.subscribe(Sub::MAIN, "b".into()));
    assert!(
        !end.pattern.subscribe(Sub::MAIN, "b".into()),
        "there it is already"
    );
    for text in ["abc", "a", "ab"] {
        publisher.pattern.send(&mut publisher.pipes, text.into());
    }
    assert_eq!(carry((&mut publisher, wire.left), (&mut end, wire.right)), 3);
    assert_eq!(all(&mut end, Sub::MAIN), ["abc", "ab"]);
    assert_eq!(end.pipes.drops.not_subscribed, 1);
    assert!(end.pattern.unsubscribe(&mut end.pipes, Sub::MAIN, b"ab"));
    assert!(!end.pattern.unsubscribe(&mut end.pipes, Sub::MAIN, b"ab"));
    end.handle(wire.right, texts(&["abc", "b"])).unwrap();
    assert_eq!(all(&mut end, Sub::MAIN), ["b"]);
}

#[test]
fn without_a_subscription_nothing_comes_and_with_an_empty_one_everything() {
    let mut end = sub(Overflow::DropOldest);
    let pipe = end.join().unwrap();
    end.handle(pipe, texts(&["x", ""])).unwrap();
    assert!(!end.pattern.can_recv());
    end.pattern.subscribe(Sub::MAIN, Bytes::new());
    end.handle(pipe, texts(&["x", ""])).unwrap();
    assert_eq!(all(&mut end, Sub::MAIN), ["x", ""]);
}

#[test]
fn what_is_queued_and_no_longer_wanted_is_dropped_and_counted() {
    let mut end = sub(Overflow::DropOldest);
    let pipe = end.join().unwrap();
    end.pattern.subscribe(Sub::MAIN, "a".into());
    end.pattern.subscribe(Sub::MAIN, "ab".into());
    end.handle(pipe, texts(&["a1", "ab1"])).unwrap();
    end.pattern.unsubscribe(&mut end.pipes, Sub::MAIN, b"a");
    assert_eq!(all(&mut end, Sub::MAIN), ["ab1"]);
    let context = end.pattern.open();
    end.pattern.subscribe(context, "".into());
    end.handle(pipe, texts(&["x", "y"])).unwrap();
    assert_eq!(end.pipes.drops.unread, 1);
    end.pattern.close(&mut end.pipes, context);
    assert_eq!(end.pipes.drops.unread, 3);
}

#[test]
fn each_context_has_its_own_topics_and_queue() {
    let mut end = sub(Overflow::DropOldest);
    let pipe = end.join().unwrap();
    let (a, b) = (end.pattern.open(), end.pattern.open());
    end.pattern.subscribe(a, "a".into());
    end.pattern.subscribe(b, Bytes::new());
    end.handle(pipe, texts(&["a", "b"])).unwrap();
    assert_eq!(
        [end.pattern.pop_ready(), end.pattern.pop_ready()],
        [Some(b), Some(a)]
    );
    assert!(!end.pattern.can_recv(), "the main context has no subscription");
    assert_eq!(all(&mut end, a), ["a"]);
    assert_eq!(all(&mut end, b), ["a", "b"]);
    end.pattern.close(&mut end.pipes, b);
    end.handle(pipe, texts(&["b"])).unwrap();
    assert_eq!(end.pipes.drops.not_subscribed, 1);
    assert!(all(&mut end, b).is_empty());
}

#[test]
fn a_slow_reader_loses_the_oldest_or_the_newest_and_holds_up_nobody() {
    for (overflow, kept) in [(Overflow::DropOldest, 4..12), (Overflow::DropNewest, 0..8)] {
        let mut end = sub(overflow);
        let pipe = end.join().unwrap();
        end.pattern.subscribe(Sub::MAIN, Bytes::new());
        end.handle(pipe, numbered(0..12)).unwrap();
        assert!(end.pattern.may_read(pipe));
        assert_eq!(all(&mut end, Sub::MAIN), numbered(kept));
        assert_eq!(end.pipes.drops.slow_reader, 4);
    }
}

#[test]
fn bytes_are_bounded_too_and_one_message_always_fits() {
    let limits = RecvLimits {
        messages: 100,
        bytes: 1000,
    };
    let mut end = End::new(Sub::new(limits, Overflow::DropOldest));
    let pipe = end.join().unwrap();
    end.pattern.subscribe(Sub::MAIN, Bytes::new());
    let sizes = |end: &mut End<Sub>| all(end, Sub::MAIN).iter().map(Bytes::len).collect::<Vec<_>>();
    end.handle(pipe, [600, 300, 200].map(|size| vec![0; size].into()).into())
        .unwrap();
    assert_eq!(sizes(&mut end), [300, 200]);
    end.handle(pipe, [600, 5000].map(|size| vec![0; size].into()).into())
        .unwrap();
    assert_eq!(sizes(&mut end), [5000]);
}

#[test]
fn a_slow_subscriber_misses_messages_and_the_others_do_not() {
    let mut end = End::new(Pub::default());
    assert_eq!(
        end.pattern.send(&mut end.pipes, "to nobody".into()),
        None,
        "never an error"
    );
    let (slow, quick) = (end.join().unwrap(), end.join().unwrap());
    for number in 0..10 {
        assert!(end.pattern.can_send());
        end.pattern.send(&mut end.pipes, vec![number].into());
        assert_eq!(end.flush(quick), [vec![number]]);
    }
    assert_eq!(end.flush(slow), numbered(0..4));
    assert_eq!(end.pipes.drops.slow_peer, 6);
    end.pattern.send(&mut end.pipes, "again".into());
    assert_eq!(end.flush(slow), ["again"]);
    end.leave(slow);
    assert_eq!(end.pattern.send(&mut end.pipes, "x".into()), Some(quick));
}

#[test]
fn nobody_can_send_to_a_publisher() {
    let mut end = End::new(Pub::default());
    let pipe = end.join().unwrap();
    end.handle(pipe, numbered(0..3)).unwrap();
    assert_eq!(end.pipes.drops.unexpected, 3);
}

/// Short texts of two letters, so that prefixes are common.
fn word() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b')], 0..4)
}

proptest! {
    #[test]
    fn the_topics_match_as_a_plain_list_of_prefixes_does(
        changes in proptest::collection::vec((any::<bool>(), word()), 0..20),
        messages in proptest::collection::vec(word(), 0..8),
    ) {
        let mut end = sub(Overflow::DropNewest);
        let pipe = end.join().unwrap();
        let mut list: Vec<Vec<u8>> = Vec::new();
        for (subscribe, topic) in changes {
            let known = list.contains(&topic);
            list.retain(|other| *other != topic);
            if subscribe {
                prop_assert_eq!(end.pattern.subscribe(Sub::MAIN, topic.clone().into()), !known);
                list.push(topic);
            } else {
                prop_assert_eq!(end.pattern.unsubscribe(&mut end.pipes, Sub::MAIN, &topic), known);
            }
        }
        let expected: Vec<_> = messages
            .iter()
            .filter(|message| list.iter().any(|topic| message.starts_with(topic)))
            .cloned()
            .collect();
        end.handle(pipe, messages.into_iter().map(Bytes::from).collect()).unwrap();
        prop_assert_eq!(all(&mut end, Sub::MAIN), expected);
    }
}
