//! Surveyor and respondent.

use super::*;

fn surveyor() -> End<Surveyor> {
    End::new(Surveyor::new(RECV, 0))
}

fn respondent() -> End<Rep> {
    End::new(Rep::new(Protocol::Respondent, newest(1), DEFAULT_TTL))
}

fn ask(end: &mut End<Surveyor>, context: ContextId, body: &'static str) {
    end.pattern
        .send(&mut end.pipes, context, body.into(), SECOND, end.now);
}

fn recv(end: &mut End<Surveyor>, context: ContextId) -> Responses {
    end.pattern.recv(&mut end.pipes, context, end.now)
}

fn response(body: &'static str) -> Responses {
    Responses::Response(body.into())
}

#[test]
fn everybody_is_asked_and_every_response_in_time_is_given() {
    let mut surveyor = surveyor();
    let mut respondents = [respondent(), respondent(), respondent()];
    let wires = respondents.each_mut().map(|end| connect(&mut surveyor, end));
    let context = surveyor.pattern.open();
    ask(&mut surveyor, context, "?");
    assert_eq!(recv(&mut surveyor, context), Responses::Waiting);
    for (end, wire) in respondents.iter_mut().zip(wires).take(2) {
        assert_eq!(carry((&mut surveyor, wire.left), (end, wire.right)), 1);
        let (origin, body) = end.pattern.recv().unwrap();
        assert_eq!(&body[..], b"?");
        end.pattern.reply(&mut end.pipes, &origin, "!".into()).unwrap();
        assert_eq!(carry((end, wire.right), (&mut surveyor, wire.left)), 1);
    }
    assert_eq!(surveyor.pattern.pop_ready(), Some(context));
    assert_eq!(recv(&mut surveyor, context), response("!"));
    assert_eq!(recv(&mut surveyor, context), response("!"));
    assert_eq!(recv(&mut surveyor, context), Responses::Waiting);
}

#[test]
fn the_end_is_told_once_and_late_responses_are_dropped() {
    let mut end = surveyor();
    let pipe = end.join().unwrap();
    let context = end.pattern.open();
    assert_eq!(recv(&mut end, context), Responses::Idle);
    ask(&mut end, context, "?");
    end.handle(pipe, vec![request(0, b"in time"), request(0, b"never received")])
        .unwrap();
    assert_eq!(end.pattern.deadline(context), Some(end.now + SECOND));
    end.now += SECOND - Duration::from_millis(1);
    assert_eq!(recv(&mut end, context), response("in time"));
    end.now += Duration::from_millis(1);
    assert_eq!(recv(&mut end, context), Responses::Ended);
    assert_eq!(end.pipes.drops.unread, 1);
    assert_eq!(recv(&mut end, context), Responses::Idle);
    end.handle(pipe, vec![request(0, b"late")]).unwrap();
    assert_eq!(end.pipes.drops.unexpected, 1);
    assert_eq!(recv(&mut end, context), Responses::Idle);
}

#[test]
fn a_new_survey_ends_the_one_before_and_contexts_do_not_meddle() {
    let mut end = surveyor();
    let pipe = end.join().unwrap();
    let (a, b) = (end.pattern.open(), end.pattern.open());
    ask(&mut end, a, "old");
    ask(&mut end, b, "other");
    ask(&mut end, a, "new");
    assert_eq!(
        end.flush(pipe),
        [request(0, b"old"), request(1, b"other"), request(2, b"new")]
    );
    end.handle(
        pipe,
        vec![
            request(0, b"to old"),
            request(2, b"to new"),
            request(1, b"to other"),
        ],
    )
    .unwrap();
    assert_eq!(recv(&mut end, a), response("to new"));
    assert_eq!(recv(&mut end, a), Responses::Waiting);
    assert_eq!(end.pipes.drops.unread, 0);
    end.handle(pipe, vec![request(2, b"unread"), request(2, b"unread")])
        .unwrap();
    end.pattern.close(&mut end.pipes, a);
    assert_eq!(recv(&mut end, b), response("to other"));
    end.handle(pipe, vec![request(2, b"to a closed one")]).unwrap();
    assert_eq!((end.pipes.drops.unexpected, end.pipes.drops.unread), (2, 2));
}

#[test]
fn responses_are_bounded_and_surveys_wait_for_nobody() {
    let mut end = surveyor();
    let pipe = end.join().unwrap();
    let context = end.pattern.open();
    for _ in 0..SEND.messages + 3 {
        assert!(end.pattern.can_send());
        ask(&mut end, context, "?");
    }
    assert_eq!(end.flush(pipe).len(), SEND.messages);
    assert_eq!(end.pipes.drops.slow_peer, 3);
    let id = SEND.messages as u32 + 2;
    end.handle(pipe, vec![request(id, b"!"); RECV.messages + 5])
        .unwrap();
    assert_eq!(end.pipes.drops.slow_reader, 5);
    let given = std::iter::from_fn(|| (recv(&mut end, context) == response("!")).then_some(()));
    assert_eq!(given.count(), RECV.messages);
}

#[test]
fn a_survey_without_an_end_goes_on() {
    let mut end = surveyor();
    let pipe = end.join().unwrap();
    let context = end.pattern.open();
    end.pattern
        .send(&mut end.pipes, context, "?".into(), Duration::MAX, end.now);
    end.now += 1_000_000 * SECOND;
    assert_eq!(end.pattern.deadline(context), None);
    end.handle(pipe, vec![request(0, b"!")]).unwrap();
    assert_eq!(recv(&mut end, context), response("!"));
}

#[test]
fn garbage_is_dropped_and_ids_that_are_outstanding_are_passed_over() {
    let mut end = End::new(Surveyor::new(RECV, u32::MAX));
    let pipe = end.join().unwrap();
    let (a, b) = (end.pattern.open(), end.pattern.open());
    ask(&mut end, a, "a");
    ask(&mut end, b, "b");
    assert_eq!(end.flush(pipe), [request(u32::MAX, b"a"), request(0, b"b")]);
    end.handle(pipe, vec![Bytes::from_static(b"abc"), Bytes::new()])
        .unwrap();
    assert_eq!(end.pipes.drops.unexpected, 2);
    assert_eq!(end.pattern.pop_ready(), None);
}

#[test]
fn a_respondent_keeps_its_ttl_and_counts_what_it_drops() {
    let mut end = End::new(Rep::new(Protocol::Respondent, newest(1), 2));
    let pipe = end.join().unwrap();
    let hops = |hops: usize| {
        [vec![0; 4 * (hops - 1)], request(1, b"?").to_vec()]
            .concat()
            .into()
    };
    end.handle(pipe, vec![hops(2), hops(1), hops(3)]).unwrap();
    assert_eq!(end.pipes.drops.too_many_hops, 1);
    assert_eq!(end.pipes.drops.superseded, 1);
    assert_eq!(std::iter::from_fn(|| end.pattern.recv()).count(), 1);
}
