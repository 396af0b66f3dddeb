//! Bus.

use super::*;

fn end() -> End<Bus> {
    End::new(Bus::new(RECV))
}

fn all(end: &mut End<Bus>) -> Vec<Bytes> {
    std::iter::from_fn(|| end.pattern.recv(&mut end.pipes).map(Message::into_bytes)).collect()
}

#[test]
fn every_neighbour_hears_it_and_nobody_further_away() {
    let (mut left, mut middle, mut right) = (end(), end(), end());
    let (to_left, to_right) = (connect(&mut middle, &mut left), connect(&mut middle, &mut right));
    middle.pattern.send(&mut middle.pipes, "from the middle".into());
    left.pattern.send(&mut left.pipes, "from the left".into());
    for _ in 0..3 {
        carry((&mut left, to_left.right), (&mut middle, to_left.left));
        carry((&mut middle, to_left.left), (&mut left, to_left.right));
        carry((&mut middle, to_right.left), (&mut right, to_right.right));
    }
    assert_eq!(all(&mut left), ["from the middle"]);
    assert_eq!(all(&mut middle), ["from the left"]);
    assert_eq!(all(&mut right), ["from the middle"]);
}

#[test]
fn a_slow_neighbour_misses_messages_and_one_that_does_not_receive_is_not_read() {
    let mut end = end();
    let (slow, quick) = (end.join().unwrap(), end.join().unwrap());
    for number in 0..6 {
        end.pattern.send(&mut end.pipes, vec![number].into());
        assert_eq!(end.flush(quick), [vec![number]]);
    }
    assert_eq!(end.flush(slow), numbered(0..4));
    assert_eq!(end.pipes.drops.slow_peer, 2);
    end.handle(slow, numbered(0..8)).unwrap();
    assert!(!end.pattern.may_read(slow) && end.pattern.may_read(quick));
    end.leave(quick);
    assert_eq!(all(&mut end), numbered(0..8));
    assert!(end.pattern.may_read(slow));
}
