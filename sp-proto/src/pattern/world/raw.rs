//! Raw sockets, and what a device does with them.

use super::*;
use crate::RawMessage;
use proptest::prelude::*;

const SALT: u32 = 0x7fff_ffff;

fn raw(protocol: Protocol) -> End<Raw> {
    End::new(Raw::new(protocol, DEFAULT_TTL, RECV, SALT))
}

/// Forwards everything, as a device does.
fn forward(from: &mut End<Raw>, to: &mut End<Raw>) {
    while let Some(message) = from.pattern.recv(&mut from.pipes) {
        to.pattern
            .send(&mut to.pipes, &message.header, message.body)
            .unwrap();
    }
}

fn send(end: &mut End<Raw>, header: &[u8]) -> Result<Option<Key>, NotSent> {
    end.pattern
        .send(&mut end.pipes, &Bytes::copy_from_slice(header), "x".into())
        .map_err(|(reason, message)| {
            assert_eq!(message, "x".into(), "the message comes back");
            reason
        })
}

#[test]
fn requests_pass_through_a_row_of_devices_up_to_the_ttl_and_replies_come_home() {
    for devices in 0..9_u8 {
        let mut req = End::new(Req::new(None, 0));
        let mut rep = End::new(Rep::new(Protocol::Rep, newest(1), DEFAULT_TTL));
        let mut row: Vec<_> = (0..devices)
            .map(|_| (raw(Protocol::Rep), raw(Protocol::Req)))
            .collect();
        let first = req.join().unwrap();
        let last = rep.join().unwrap();
        let keys: Vec<_> = row
            .iter_mut()
            .map(|(front, back)| (front.join().unwrap(), back.join().unwrap()))
            .collect();
        let context = req.pattern.open();
        req.pattern
            .send(&mut req.pipes, context, "?".into(), req.now)
            .unwrap();

        let mut frames = req.flush(first);
        for ((front, back), (front_key, back_key)) in row.iter_mut().zip(&keys) {
            front.handle(*front_key, frames).unwrap();
            forward(front, back);
            frames = back.flush(*back_key);
        }
        rep.handle(last, frames).unwrap();
        let Some((origin, body)) = rep.pattern.recv() else {
            assert_eq!(devices, 8, "one word too many");
            assert_eq!(rep.pipes.drops.too_many_hops, 1);
            continue;
        };
        assert!(devices < 8);
        assert_eq!(&body[..], b"?");
        rep.pattern.reply(&mut rep.pipes, &origin, "!".into()).unwrap();

        frames = rep.flush(last);
        for ((front, back), (front_key, back_key)) in row.iter_mut().zip(&keys).rev() {
            back.handle(*back_key, frames).unwrap();
            forward(back, front);
            frames = front.flush(*front_key);
        }
        assert_eq!(frames, [request(0, b"!")]);
        req.handle(first, frames).unwrap();
        let Progress::Reply(reply) = req.pattern.recv(context) else {
            panic!("no reply")
        };
        assert_eq!(&reply[..], b"!");
    }
}

#[test]
fn a_pair1_in_a_circle_comes_to_rest() {
    let mut end = raw(Protocol::Pair1);
    let peer = end.join().unwrap();
    let mut frames = vec![Bytes::from_static(b"\0\0\0\x01round")];
    let mut rounds = 0;
    while !frames.is_empty() {
        end.handle(peer, frames).unwrap();
        while let Some(message) = end.pattern.recv(&mut end.pipes) {
            end.pattern
                .send(&mut end.pipes, &message.header, message.body)
                .unwrap();
            rounds += 1;
        }
        frames = end.flush(peer);
    }
    assert_eq!(rounds, DEFAULT_TTL);
    assert_eq!(end.pipes.drops.too_many_hops, 1);
    assert_eq!(send(&mut end, &[0, 0, 0, 255]), Ok(None), "there is no hop 256");
    assert_eq!(end.pipes.drops.too_many_hops, 2);
}

#[test]
fn a_bus_reflector_sends_to_all_but_the_sender() {
    let mut end = raw(Protocol::Bus);
    let keys = [end.join().unwrap(), end.join().unwrap(), end.join().unwrap()];
    end.handle(keys[1], vec!["hello".into()]).unwrap();
    let message = end.pattern.recv(&mut end.pipes).unwrap();
    end.pattern
        .send(&mut end.pipes, &message.header, message.body)
        .unwrap();
    assert_eq!(
        keys.map(|key| end.flush(key)),
        [vec!["hello"], vec![], vec!["hello"]]
    );
    send(&mut end, &[]).unwrap();
    assert_eq!(
        keys.map(|key| end.flush(key).len()),
        [1, 1, 1],
        "without a header it is our own"
    );
}

#[test]
fn a_sub_takes_everything_and_holds_its_publisher_back() {
    let mut end = raw(Protocol::Sub);
    let pipe = end.join().unwrap();
    end.handle(pipe, numbered(0..8)).unwrap();
    assert!(!end.pattern.may_read(pipe));
    assert_eq!(end.pattern.recv(&mut end.pipes).unwrap().body[..], [0]);
    assert_eq!(send(&mut end, &[]), Err(NotSent::ReceiveOnly));
}

#[test]
fn a_reply_for_a_requester_that_is_gone_or_slow_is_dropped_and_counted() {
    let mut end = raw(Protocol::Rep);
    let (slow, gone) = (end.join().unwrap(), end.join().unwrap());
    let mut header = |key: Key| {
        end.handle(key, vec![request(1, b"?")]).unwrap();
        end.pattern.recv(&mut end.pipes).unwrap().header
    };
    let (to_slow, to_gone) = (header(slow), header(gone));
    assert_ne!(to_slow, to_gone);
    for _ in 0..SEND.messages {
        assert_eq!(send(&mut end, &to_slow), Ok(Some(slow)));
    }
    assert_eq!(send(&mut end, &to_slow), Ok(None));
    assert_eq!(end.pipes.drops.slow_peer, 1);
    end.leave(gone);
    let again = end.join().unwrap();
    assert_eq!(again.slot, gone.slot);
    assert_eq!(send(&mut end, &to_gone), Ok(None));
    assert_eq!(end.pipes.drops.peer_gone, 1);
    assert!(end.flush(again).is_empty());
}

#[test]
fn headers_of_another_protocol_are_refused() {
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect::<Vec<_>>()
    };
    let cases: [(Protocol, &[u32]); 10] = [
        (Protocol::Pair0, &[1]),
        (Protocol::Push, &[1]),
        (Protocol::Pub, &[1]),
        (Protocol::Pair1, &[]),
        (Protocol::Pair1, &[256]),
        (Protocol::Pair1, &[1, 1]),
        (Protocol::Req, &[1]),
        (Protocol::Surveyor, &[FINAL, 1]),
        (Protocol::Rep, &[FINAL]),
        (Protocol::Bus, &[1, 1]),
    ];
    for (protocol, header) in cases {
        let mut end = raw(protocol);
        let pipe = end.join().unwrap();
        assert_eq!(
            send(&mut end, &words(header)),
            Err(NotSent::Header),
            "{protocol} {header:?}"
        );
        assert!(end.flush(pipe).is_empty());
        assert!(end.pattern.can_send());
    }
}

#[test]
fn a_pair_has_one_peer_and_push_takes_turns() {
    for protocol in [Protocol::Pair0, Protocol::Pair1] {
        let mut end = raw(protocol);
        let first = end.join().unwrap();
        assert_eq!(end.join(), Err(Refusal::SecondPeer));
        end.leave(first);
        end.join().unwrap();
    }
    let mut end = raw(Protocol::Push);
    assert_eq!(send(&mut end, &[]), Err(NotSent::Full));
    let (a, b) = (end.join().unwrap(), end.join().unwrap());
    for key in [a, b, a, b] {
        assert_eq!(send(&mut end, &[]), Ok(Some(key)));
    }
}

proptest! {
    #[test]
    fn any_bytes_pass_as_they_came_or_are_dropped(
        frame in proptest::collection::vec(prop_oneof![3 => Just(0_u8), 1 => Just(0x80), 1 => any::<u8>()], 0..60),
        protocol in proptest::sample::select(&Protocol::ALL[..]),
    ) {
        let mut end = raw(protocol);
        let pipe = end.join().unwrap();
        let result = end.handle(pipe, vec![frame.clone().into()]);
        if let Some(RawMessage { header, body }) = end.pattern.recv(&mut end.pipes) {
            prop_assert!(result.is_ok());
            // The word of the pipe is ours, all else is the peer's.
            let theirs = match protocol {
                Protocol::Rep | Protocol::Respondent | Protocol::Bus => header.slice(4..),
                _ => header.clone(),
            };
            prop_assert_eq!([&theirs[..], &body[..]].concat(), frame);
            if receives(protocol.peer()) {
                let sent = end.pattern.send(&mut end.pipes, &header, body);
                prop_assert!(sent.is_ok(), "what was received can be sent back: {:?}", sent);
            }
        }
    }
}
