//! Pair version 1.

use super::*;

fn end(ttl: u8) -> End<Pair> {
    End::new(Pair::new(Version::V1 { ttl }, RECV))
}

fn with_hops(hops: u32, body: &[u8]) -> Bytes {
    [&hops.to_be_bytes()[..], body].concat().into()
}

fn recv(end: &mut End<Pair>) -> Option<Bytes> {
    end.pattern.recv(&mut end.pipes).map(Message::into_bytes)
}

#[test]
fn messages_start_with_one_hop_and_arrive_without() {
    let (mut left, mut right) = (end(8), end(8));
    let wire = connect(&mut left, &mut right);
    left.pattern.send(&mut left.pipes, "hello".into()).unwrap();
    let frames = left.flush(wire.left);
    assert_eq!(frames, [with_hops(1, b"hello")]);
    right.handle(wire.right, frames).unwrap();
    assert_eq!(recv(&mut right).unwrap(), "hello");
    right.pattern.send(&mut right.pipes, "".into()).unwrap();
    assert_eq!(carry((&mut right, wire.right), (&mut left, wire.left)), 1);
    assert_eq!(recv(&mut left).unwrap(), "", "an empty payload is a message");
}

#[test]
fn one_hop_too_many_is_dropped_and_counted() {
    for (ttl, most) in [(8, 8), (1, 1), (0, 1), (255, 255)] {
        let mut end = end(ttl);
        let peer = end.join().unwrap();
        end.handle(peer, vec![with_hops(0, b"0"), with_hops(most, b"most")])
            .unwrap();
        assert_eq!(recv(&mut end).unwrap(), "0", "nng takes a count of 0 as well");
        assert_eq!(recv(&mut end).unwrap(), "most");
        if most < 255 {
            end.handle(peer, vec![with_hops(most + 1, b"more"), with_hops(1, b"next")])
                .unwrap();
            assert_eq!(end.pipes.drops.too_many_hops, 1);
            assert_eq!(recv(&mut end).unwrap(), "next");
        }
        assert_eq!(recv(&mut end), None);
    }
}

#[test]
fn a_message_without_a_hop_count_ends_its_pipe() {
    for bad in [&b""[..], b"abc", &[0, 0, 1, 0], &[0x80, 0, 0, 1, b'x']] {
        let mut end = end(8);
        let peer = end.join().unwrap();
        let frames = vec![
            with_hops(1, b"good"),
            Bytes::copy_from_slice(bad),
            with_hops(1, b"late"),
        ];
        assert_eq!(end.handle(peer, frames), Err(Violation::HopCount));
        assert_eq!(recv(&mut end).unwrap(), "good", "what came before is good");
        assert_eq!(recv(&mut end), None, "and nothing after it");
    }
}
