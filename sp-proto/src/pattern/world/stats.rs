//! What is counted.

use super::*;
use crate::Traffic;

fn traffic(messages: u64, bytes: u64) -> Traffic {
    Traffic { messages, bytes }
}

#[test]
fn traffic_is_counted_by_pipe_and_outlives_it() {
    let mut end = End::new(Pair::new(Version::V1 { ttl: 8 }, RECV));
    let pipe = end.join().unwrap();
    end.pattern.send(&mut end.pipes, "hello".into()).unwrap();
    let frames: Vec<Bytes> = vec!["\0\0\0\x01a".into(), "\0\0\0\x01".into()];
    end.pipes.note_received(pipe, &frames);
    let stats = end.pipes.stats();
    assert_eq!(
        (stats.sent, stats.received),
        (traffic(1, 9), traffic(2, 9)),
        "headers count"
    );
    assert_eq!(stats.pipes.len(), 1);
    assert_eq!(
        (stats.pipes[0].pipe, stats.pipes[0].sent),
        (pipe.id, traffic(1, 9))
    );
    assert_eq!(stats.pipes[0].unsent, 1, "nobody has written it");
    end.leave(pipe);
    let again = end.join().unwrap();
    end.pattern.send(&mut end.pipes, "x".into()).unwrap();
    let stats = end.pipes.stats();
    assert_eq!((stats.sent, stats.received), (traffic(2, 14), traffic(2, 9)));
    assert_eq!(
        (stats.pipes[0].pipe, stats.pipes[0].sent),
        (again.id, traffic(1, 5))
    );
}

#[test]
fn late_replies_and_talkative_pullers_are_counted() {
    let mut req = End::new(Req::new(None, 0));
    let pipe = req.join().unwrap();
    req.handle(pipe, vec![request(9, b"late"), Bytes::from_static(b"abc")])
        .unwrap();
    let context = req.pattern.open();
    req.pattern
        .send(&mut req.pipes, context, "?".into(), req.now)
        .unwrap();
    req.handle(pipe, vec![request(0, b"unread")]).unwrap();
    req.pattern.close(&mut req.pipes, context);
    let dropped = req.pipes.stats().dropped;
    assert_eq!((dropped.unexpected, dropped.unread), (2, 1));
    let mut push = End::new(Push::default());
    let pipe = push.join().unwrap();
    push.handle(pipe, numbered(0..2)).unwrap();
    assert_eq!(push.pipes.stats().dropped.unexpected, 2);
    let mut rep = End::new(Rep::new(Protocol::Rep, newest(1), 1));
    let pipe = rep.join().unwrap();
    rep.handle(pipe, vec![request(1, b""), request(2, b"")]).unwrap();
    assert_eq!(rep.pipes.stats().dropped.superseded, 1);
}
