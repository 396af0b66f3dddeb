//! Processes that run and do not do what they should, and how it shows.

use super::*;

#[test]
fn a_function_without_a_connection_is_started_again() {
    let mut world = World::with("fun");
    assert_eq!(world.on(Event::Silent(A)), [begin("fun")]);
    assert_eq!(world.hears(1, Request::Done), [Action::Started(A)]);
}

#[test]
fn a_function_that_has_lost_its_connection_is_stopped_and_started_again() {
    let mut world = World::with("fun");
    assert_eq!(world.on(Event::Lost(A, true)), [end("fun")]);
    assert_eq!(world.hears(1, Request::Done), [begin("fun")]);
    assert_eq!(world.hears(1, Request::Done), [Action::Started(A)]);
    // It has been mended: later it is refused like any other.
    world.on(exited());
    world.ticks();
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "fun")]);
    let refusal = Refusal::Plugin("no".to_owned());
    assert_eq!(
        world.hears(2, Request::Failed("no".to_owned())),
        [Action::Ended(A, refusal)]
    );
    assert_eq!(world.state(), State::Running);
}

#[test]
fn a_function_that_cannot_be_connected_again_costs_the_process() {
    let mut world = World::with("fun");
    world.on(Event::Lost(A, true));
    // That it could not even be stopped does not matter.
    assert_eq!(world.hears(1, Request::Failed("busy".to_owned())), [begin("fun")]);
    assert_eq!(
        world.hears(1, Request::Failed("no socket".to_owned())),
        [Action::Kill]
    );
    world.on(exited());
    let reason = world.reason().to_owned();
    assert!(
        reason.contains(r#"the function "fun" has lost its connection: no socket"#),
        "{reason}"
    );
    world.ticks();
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "fun")]);
    // Nor is a process kept that leaves the start unanswered.
    world.hears(2, Request::Done);
    world.on(Event::Lost(A, true));
    world.hears(2, Request::Done);
    assert_eq!(world.ticks(), [Action::Kill]);
}

#[test]
fn a_function_that_was_never_connected_costs_the_process() {
    let mut world = World::with("fun");
    assert_eq!(world.on(Event::Lost(B, false)), [], "nobody uses that one");
    assert_eq!(world.on(Event::Lost(A, false)), [Action::Kill]);
    world.on(exited());
    let reason = world.reason().to_owned();
    assert!(reason.contains("has not connected it"), "{reason}");
}

#[test]
fn a_command_that_stays_unanswered_costs_the_process_in_the_end() {
    let mut world = World::with("src");
    world.on(Event::Close(A));
    assert_eq!(world.ticks(), [Action::Closed(A)]);
    assert_eq!(world.state(), State::Unhealthy);
    assert_eq!(world.ticks(), [Action::Terminate]);
    assert_eq!(world.ticks(), [Action::Kill]);
    world.on(exited());
    assert!(
        world
            .reason()
            .contains(r#"the command stop source "src", and has said nothing for 10s since"#),
        "{}",
        world.reason()
    );
}

#[test]
fn a_symbol_that_ran_before_and_is_not_answered_for_is_stopped_and_started_again() {
    let mut world = World::with("src");
    world.on(exited());
    world.ticks();
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "src")]);
    assert_eq!(world.ticks(), [], "its user hears nothing of it");
    // Late, but it answers: nobody knows to what.
    assert_eq!(world.hears(2, Request::Done), [end_on(2, "src")]);
    assert_eq!(world.hears(2, Request::Done), [begin_on(2, "src")]);
    assert_eq!(world.hears(2, Request::Done), [Action::Started(A)]);
}

#[test]
fn a_process_that_was_stopped_while_it_started_a_symbol_is_asked_once_more() {
    let refused = || Request::Failed("no connection within 5 s".to_owned());
    // Found stopped after the command, or before it.
    let mut world = World::with("fun");
    world.on(exited());
    world.ticks();
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "fun")]);
    world.on(Event::Halted(true));
    world.on(Event::Halted(false));
    assert_eq!(world.hears(2, refused()), [begin_on(2, "fun")]);
    assert_eq!(world.hears(2, Request::Done), [Action::Started(A)]);
    let mut world = World::running();
    world.on(Event::Halted(true));
    assert_eq!(world.on(Event::Open(A, symbol("src"))), [begin("src")]);
    assert_eq!(world.hears(1, refused()), [begin("src")]);
    world.on(Event::Halted(false));
    // Nobody wants it any more: it is not started again.
    world.on(Event::Close(A));
    assert_eq!(world.hears(1, refused()), [end("src")]);
    assert_eq!(world.hears(1, Request::Done), [Action::Closed(A)]);
    // What it says in good health is its word.
    let said = Refusal::Plugin("no connection within 5 s".to_owned());
    assert_eq!(world.on(Event::Open(B, symbol("src"))), [begin("src")]);
    assert_eq!(world.hears(1, refused()), [Action::Refused(B, said)]);
}

#[test]
fn missed_keep_alives_are_told_and_forgiven() {
    let mut world = World::running();
    for _ in 0..2 {
        world.now += 5 * SECOND;
        world.hears(1, Request::Handshake);
    }
    assert_eq!(world.ticks(), []);
    assert_eq!(
        (world.state(), world.reason().as_str()),
        (State::Unhealthy, "it has sent no keep-alive for 15.0s")
    );
    assert_eq!(world.life.deadline(), None, "it is not restarted for that");
    world.hears(1, Request::Handshake);
    assert_eq!(world.state(), State::Running);
}

#[test]
fn what_makes_it_unhealthy_and_well_again() {
    for (ill, well) in [
        (Event::Halted(true), Event::Halted(false)),
        (Event::Late(Some("slug".to_owned())), Event::Late(None)),
        (Event::Gone(1), Event::Message(2, 9, Request::Handshake)),
    ] {
        let mut world = World::running();
        world.on(ill.clone());
        assert_eq!(world.state(), State::Unhealthy, "{ill:?}");
        world.on(well.clone());
        assert_eq!(world.state(), State::Running, "{well:?}");
    }
}

#[test]
fn an_attached_process_is_waited_for_and_never_ended() {
    let mut world = World::with("src");
    assert_eq!(world.on(Event::Attach), [Action::Terminate]);
    assert_eq!(world.on(exited()), []);
    assert_eq!(
        (world.state(), world.reason().as_str()),
        (State::Starting, "waiting for a process that you start")
    );
    assert!(world.life.is_attached() && !world.life.has_process());
    assert_eq!(world.life.deadline(), None, "for as long as it takes");
    // It comes, hangs in a debugger, goes and comes again.
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "src")]);
    assert_eq!(world.ticks(), []);
    assert_eq!(world.state(), State::Unhealthy);
    assert_eq!(world.life.deadline(), None, "it is not ours to restart");
    assert_eq!(world.on(Event::Gone(2)), [Action::Detach]);
    assert_eq!(world.state(), State::Starting);
    assert_eq!(world.hears(3, Request::Handshake), [begin_on(3, "src")]);
    assert_eq!(world.state(), State::Running);
    assert_eq!(world.on(start()), [Action::Detach, Action::Spawn]);
    assert!(!world.life.is_attached());

    let mut world = World::new(3);
    world.on(start());
    world.on(exited());
    assert_eq!(world.on(Event::Attach), []);
    world.hears(1, Request::Handshake);
    assert_eq!(world.on(Event::Stop("enough".to_owned())), [Action::Detach]);
    assert_eq!(
        (world.state(), world.reason().as_str()),
        (State::Stopped, "enough")
    );
}

#[test]
fn what_is_condemned_is_killed_at_once_and_counts_as_failed() {
    let mut world = World::with("src");
    assert_eq!(world.on(Event::Condemn("it hangs".to_owned())), [Action::Kill]);
    assert_eq!(world.life.deadline(), None);
    world.on(exited());
    assert!(
        world.reason().starts_with("it hangs; failure 1 of 3"),
        "{}",
        world.reason()
    );
}

#[test]
fn a_sign_of_life_lets_the_next_command_go_out() {
    let mut world = World::running();
    world.on(Event::Open(A, symbol("src")));
    assert_eq!(world.life.commanded(), Some(A));
    assert_eq!(
        world.on(Event::Heard(1, 90)),
        [],
        "the command is still waited for"
    );
    assert_eq!(world.ticks(), [Action::Refused(A, Refusal::TimedOut(COMMAND))]);
    assert_eq!(world.state(), State::Unhealthy);
    assert_eq!(
        world.on(Event::Heard(2, 91)),
        [],
        "of another connection it says nothing"
    );
    assert_eq!(world.state(), State::Unhealthy);
    // Nobody knows whether it runs, so it is stopped.
    assert_eq!(world.on(Event::Heard(1, 92)), [end("src")]);
    assert_eq!(world.state(), State::Running);
}

#[test]
fn who_does_not_answer_a_ping_is_unhealthy_until_heard() {
    let mut world = World::running();
    world.on(Event::Deaf(SECOND));
    assert_eq!(
        (world.state(), world.reason().as_str()),
        (State::Unhealthy, "it has not answered a ping within 1.0s")
    );
    assert_eq!(world.life.deadline(), None, "that alone is no reason to end it");
    world.on(Event::Heard(1, 90));
    assert_eq!(world.state(), State::Running);
}

#[test]
fn a_process_that_has_begun_anew_gets_everything_again() {
    let mut world = World::with("src");
    world.on(Event::Close(A));
    world.on(Event::Open(B, symbol("snk")));
    assert_eq!(world.on(Event::Gone(1)), [Action::Closed(A)]);
    assert_eq!(world.on(Event::Reset), []);
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "snk")]);
    assert_eq!(world.hears(2, Request::Done), [Action::Started(B)]);
    assert_eq!(world.on(Event::Gone(2)), []);
    assert_eq!(world.on(Event::Reset), []);
    assert_eq!(world.hears(3, Request::Handshake), [begin_on(3, "snk")]);
}
