//! One line of processes as a table: what was before, what happens, what it decides, and how it is then.

mod health;

use super::*;
use mangrove_protocol::control::{Meta, UseAs};
use std::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_secs(10);
const COMMAND: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(3);

/// A life with a clock that is moved by hand.
struct World {
    life: Lifecycle<u32>,
    now: Instant,
    request: u32,
}

fn manifest(fields: &str) -> Arc<Manifest> {
    let json = format!(r#"{{"version":"2","language":"go","executable":"x",{fields}}}"#);
    Arc::new(Manifest::parse(&"car".parse().unwrap(), json.as_bytes()).unwrap())
}

fn start() -> Event<u32> {
    let manifest = manifest(r#""sources":["src"],"sinks":["snk"],"functions":["fun"]"#);
    Event::Start(
        manifest,
        Limits {
            start: START,
            command: COMMAND,
            grace: GRACE,
        },
    )
}

fn symbol(name: &str) -> Symbol {
    let use_as = match name {
        "src" => UseAs::Source {
            data_source: String::new(),
        },
        "snk" => UseAs::Sink,
        _ => UseAs::Function,
    };
    Symbol {
        name: name.parse().unwrap(),
        meta: Meta::default(),
        use_as,
        config: Default::default(),
    }
}

fn begin(name: &str) -> Action<u32> {
    begin_on(1, name)
}

fn begin_on(pipe: u32, name: &str) -> Action<u32> {
    Action::Send(pipe, Command::Start(symbol(name)))
}

fn end(name: &str) -> Action<u32> {
    end_on(1, name)
}

fn end_on(pipe: u32, name: &str) -> Action<u32> {
    Action::Send(pipe, Command::Stop(symbol(name)))
}

const A: UseId = UseId(1);
const B: UseId = UseId(2);

impl World {
    fn new(limit: u32) -> Self {
        let backoff = Backoff::new(SECOND, 60 * SECOND, limit);
        Self {
            life: Lifecycle::new(backoff, 7),
            now: Instant::now(),
            request: 0,
        }
    }

    fn starting() -> Self {
        let mut world = Self::new(3);
        assert_eq!(world.on(start()), [Action::Spawn]);
        world
    }

    fn running() -> Self {
        let mut world = Self::starting();
        assert_eq!(world.hears(1, Request::Handshake), []);
        world
    }

    /// Running, with the symbol open as `A`.
    fn with(name: &str) -> Self {
        let mut world = Self::running();
        assert_eq!(world.on(Event::Open(A, symbol(name))), [begin(name)]);
        assert_eq!(world.hears(1, Request::Done), [Action::Started(A)]);
        world
    }

    fn on(&mut self, event: Event<u32>) -> Vec<Action<u32>> {
        self.life.handle(event, self.now)
    }

    fn hears(&mut self, pipe: u32, request: Request) -> Vec<Action<u32>> {
        self.request += 1;
        self.on(Event::Message(pipe, self.request, request))
    }

    /// Moves the clock to the next deadline.
    fn ticks(&mut self) -> Vec<Action<u32>> {
        self.now = self.life.deadline().expect("something is due");
        self.on(Event::Tick)
    }

    fn state(&self) -> State {
        self.life.status().0
    }

    fn reason(&self) -> String {
        self.life.status().1
    }
}

fn exited() -> Event<u32> {
    Event::Exited("exit code 3".to_owned())
}

#[test]
fn every_phase_and_what_moves_it() {
    use Action::{Kill, Spawn, Terminate};
    let stopped = || World::new(3);
    let stopping = || {
        let mut world = World::running();
        world.on(Event::Stop("removed".to_owned()));
        world
    };
    let waiting = || {
        let mut world = World::starting();
        world.on(exited());
        world
    };
    let failed = || {
        let mut world = World::new(1);
        world.on(start());
        world.on(exited());
        world
    };
    let stop = || Event::Stop("removed".to_owned());
    let tick = Event::Tick;
    type Row = (&'static str, World, Event<u32>, Vec<Action<u32>>, State);
    let table: Vec<Row> = vec![
        ("stopped, start", stopped(), start(), vec![Spawn], State::Starting),
        ("stopped, stop", stopped(), stop(), vec![], State::Stopped),
        ("stopped, stray exit", stopped(), exited(), vec![], State::Stopped),
        (
            "starting, start again",
            World::starting(),
            start(),
            vec![Terminate],
            State::Starting,
        ),
        (
            "starting, message",
            World::starting(),
            Event::Message(1, 1, Request::Handshake),
            vec![],
            State::Running,
        ),
        (
            "starting, no spawn",
            World::starting(),
            Event::SpawnFailed("x".into()),
            vec![],
            State::Restarting,
        ),
        (
            "starting, exit",
            World::starting(),
            exited(),
            vec![],
            State::Restarting,
        ),
        (
            "starting, stop",
            World::starting(),
            stop(),
            vec![Terminate],
            State::Stopped,
        ),
        (
            "starting, early tick",
            World::starting(),
            tick.clone(),
            vec![],
            State::Starting,
        ),
        (
            "running, start again",
            World::running(),
            start(),
            vec![Terminate],
            State::Starting,
        ),
        (
            "running, keep-alive",
            World::running(),
            Event::Message(1, 9, Request::Handshake),
            vec![],
            State::Running,
        ),
        (
            "running, exit",
            World::running(),
            exited(),
            vec![],
            State::Restarting,
        ),
        (
            "running, stop",
            World::running(),
            stop(),
            vec![Terminate],
            State::Stopped,
        ),
        (
            "running, control gone",
            World::running(),
            Event::Gone(1),
            vec![],
            State::Unhealthy,
        ),
        (
            "running, another gone",
            World::running(),
            Event::Gone(9),
            vec![],
            State::Running,
        ),
        (
            "waiting, early tick",
            waiting(),
            tick.clone(),
            vec![],
            State::Restarting,
        ),
        ("waiting, start", waiting(), start(), vec![Spawn], State::Starting),
        ("waiting, stop", waiting(), stop(), vec![], State::Stopped),
        (
            "waiting, stray message",
            waiting(),
            Event::Message(1, 9, Request::Handshake),
            vec![],
            State::Restarting,
        ),
        ("stopping, exit", stopping(), exited(), vec![], State::Stopped),
        ("stopping, early tick", stopping(), tick, vec![], State::Stopped),
        ("stopping, start", stopping(), start(), vec![], State::Starting),
        (
            "stopping, stray message",
            stopping(),
            Event::Message(1, 9, Request::Handshake),
            vec![],
            State::Stopped,
        ),
        ("failed, start", failed(), start(), vec![Spawn], State::Starting),
        ("failed, stop", failed(), stop(), vec![], State::Stopped),
    ];
    for (what, mut world, event, actions, state) in table {
        assert_eq!(world.on(event), actions, "{what}");
        assert_eq!(world.state(), state, "{what}");
    }
    let mut world = stopping();
    assert_eq!(world.ticks(), [Kill]);
    assert_eq!(
        world.life.deadline(),
        None,
        "there is nothing harder than SIGKILL"
    );
    let mut world = stopping();
    world.on(start());
    assert_eq!(world.on(exited()), [Spawn], "wanted again while it was ending");
}

#[test]
fn without_a_handshake_it_is_ended_and_tried_again_until_it_is_given_up() {
    let mut world = World::starting();
    for failure in 1..=3 {
        assert_eq!(world.ticks(), [Action::Terminate]);
        assert_eq!(world.state(), State::Restarting);
        world.on(exited());
        assert!(
            world.reason().starts_with("no handshake within 10s; "),
            "{}",
            world.reason()
        );
        if failure < 3 {
            assert!(
                world.reason().contains(&format!("failure {failure} of 3")),
                "{}",
                world.reason()
            );
            assert_eq!(world.ticks(), [Action::Spawn]);
        }
    }
    assert_eq!((world.state(), world.life.restarts()), (State::Failed, 2));
    assert!(
        world.reason().ends_with("given up after failure 3"),
        "{}",
        world.reason()
    );
    assert_eq!(world.life.deadline(), None);
}

#[test]
fn a_plugin_that_starts_slowly_and_dies_was_not_stable() {
    let mut world = World::new(1);
    world.on(start());
    world.now += 3600 * SECOND;
    world.on(exited());
    assert_eq!(world.state(), State::Failed);
}

#[test]
fn a_lost_control_connection_that_does_not_come_back_costs_the_process() {
    let mut world = World::running();
    world.on(Event::Gone(1));
    world.hears(2, Request::Handshake);
    assert_eq!(world.state(), State::Running);
    world.on(Event::Gone(2));
    assert_eq!(world.ticks(), [Action::Terminate]);
    world.on(exited());
    assert!(
        world.reason().contains("control connection was lost"),
        "{}",
        world.reason()
    );
}

#[test]
fn commands_go_out_one_at_a_time_in_the_order_of_their_uses() {
    let mut world = World::running();
    assert_eq!(world.on(Event::Open(A, symbol("src"))), [begin("src")]);
    assert_eq!(world.on(Event::Open(B, symbol("snk"))), []);
    assert_eq!(world.hears(1, Request::Done), [Action::Started(A), begin("snk")]);
    assert_eq!(world.hears(1, Request::Done), [Action::Started(B)]);
    assert_eq!(world.on(Event::Close(A)), [end("src")]);
    assert_eq!(world.hears(1, Request::Done), [Action::Closed(A)]);
    assert_eq!(world.life.uses().len(), 1);
}

#[test]
fn a_command_that_crossed_a_keep_alive_is_sent_again() {
    let mut world = World::running();
    world.on(Event::Open(A, symbol("src")));
    assert_eq!(world.hears(1, Request::Handshake), [begin("src")]);
    assert_eq!(world.hears(1, Request::Handshake), [begin("src")]);
    assert_eq!(world.hears(1, Request::Done), [Action::Started(A)]);
}

#[test]
fn a_repeated_message_is_no_answer() {
    let mut world = World::running();
    world.on(Event::Open(A, symbol("src")));
    let repeated = world.request;
    assert_eq!(world.on(Event::Message(1, repeated, Request::Done)), []);
    assert_eq!(world.hears(1, Request::Done), [Action::Started(A)]);
}

#[test]
fn a_refused_start_is_told_and_forgotten() {
    let mut world = World::running();
    world.on(Event::Open(A, symbol("src")));
    let refusal = Refusal::Plugin("no such topic".to_owned());
    assert_eq!(
        world.hears(1, Request::Failed("no such topic".to_owned())),
        [Action::Refused(A, refusal)]
    );
    assert_eq!(world.life.uses().len(), 0);
}

#[test]
fn what_was_given_up_is_stopped_when_the_plugin_speaks_again() {
    let mut world = World::running();
    world.on(Event::Open(A, symbol("src")));
    assert_eq!(world.ticks(), [Action::Refused(A, Refusal::TimedOut(COMMAND))]);
    assert_eq!(world.state(), State::Unhealthy);
    assert_eq!(
        world.reason(),
        r#"it has not answered the command start source "src""#
    );
    // Meanwhile another one waits.
    assert_eq!(world.on(Event::Open(B, symbol("snk"))), []);
    // The late answer: nobody's, but the source may run.
    assert_eq!(world.hears(1, Request::Done), [end("src")]);
    assert_eq!(world.state(), State::Running);
    assert_eq!(world.hears(1, Request::Done), [Action::Closed(A), begin("snk")]);
}

#[test]
fn a_function_that_was_given_up_is_not_stopped_because_functions_never_are() {
    let mut world = World::running();
    world.on(Event::Open(A, symbol("fun")));
    assert_eq!(world.ticks(), [Action::Refused(A, Refusal::TimedOut(COMMAND))]);
    assert_eq!(world.hears(1, Request::Done), []);
    assert_eq!(world.life.uses().len(), 0);
}

#[test]
fn a_new_process_gets_everything_that_was_open_and_nothing_else() {
    let mut world = World::with("src");
    world.on(Event::Open(B, symbol("snk")));
    // The sink's first start was under way: its opener hears of the end at once.
    let actions = world.on(exited());
    assert!(
        matches!(
            actions[..],
            [Action::Refused(B, Refusal::Down(State::Restarting, _))]
        ),
        "{actions:?}"
    );
    assert_eq!(world.ticks(), [Action::Spawn]);
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "src")]);
    assert_eq!(world.hears(2, Request::Done), [Action::Started(A)]);
    assert_eq!(world.on(Event::Close(A)), [end_on(2, "src")]);
}

#[test]
fn a_use_that_cannot_be_started_again_ends() {
    let mut world = World::with("src");
    world.on(exited());
    world.ticks();
    world.hears(2, Request::Handshake);
    let refusal = Refusal::Plugin("the port is taken".to_owned());
    assert_eq!(
        world.hears(2, Request::Failed("the port is taken".to_owned())),
        [Action::Ended(A, refusal)]
    );
}

#[test]
fn closing_while_the_start_is_under_way_stops_it_after_the_answer() {
    let mut world = World::running();
    world.on(Event::Open(A, symbol("src")));
    assert_eq!(world.on(Event::Close(A)), []);
    assert_eq!(world.hears(1, Request::Done), [Action::Started(A), end("src")]);
    assert_eq!(
        world.hears(1, Request::Failed("not found".to_owned())),
        [Action::Closed(A)]
    );
}

#[test]
fn closing_what_does_not_run_needs_no_command() {
    let mut world = World::with("src");
    world.on(exited());
    assert_eq!(world.on(Event::Close(A)), [Action::Closed(A)]);
    assert_eq!(world.on(Event::Close(A)), [Action::Closed(A)], "twice is once");
}

#[test]
fn what_is_closing_is_closed_by_the_end_of_the_process() {
    let mut world = World::with("src");
    assert_eq!(world.on(Event::Close(A)), [end("src")]);
    assert_eq!(world.on(exited()), [Action::Closed(A)]);
}

#[test]
fn an_unanswered_stop_counts_as_stopped() {
    let mut world = World::with("src");
    world.on(Event::Close(A));
    assert_eq!(world.ticks(), [Action::Closed(A)]);
    assert_eq!(world.state(), State::Unhealthy);
}

#[test]
fn a_start_whose_connection_broke_is_sent_again_or_ends_with_the_process() {
    let mut world = World::running();
    world.on(Event::Open(A, symbol("src")));
    assert_eq!(world.on(Event::Gone(1)), []);
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "src")]);
    assert_eq!(world.hears(3, Request::Handshake), [], "the answer may yet come");
    assert_eq!(world.on(Event::Gone(2)), [begin_on(3, "src")]);
    world.on(Event::Gone(3));
    let actions = world.on(exited());
    assert!(
        matches!(
            actions[..],
            [Action::Refused(A, Refusal::Down(State::Restarting, _))]
        ),
        "{actions:?}"
    );
}

#[test]
fn a_process_that_dies_while_it_is_told_to_start_again_costs_no_use() {
    let mut world = World::with("src");
    world.on(exited());
    world.ticks();
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "src")]);
    // The connection goes before the process.
    assert_eq!(world.on(Event::Gone(2)), []);
    assert_eq!(world.on(exited()), []);
    world.ticks();
    assert_eq!(world.hears(3, Request::Handshake), [begin_on(3, "src")]);
}

#[test]
fn closing_survives_a_broken_connection() {
    let mut world = World::running();
    world.on(Event::Open(A, symbol("src")));
    world.on(Event::Close(A));
    assert_eq!(world.on(Event::Gone(1)), []);
    assert_eq!(
        world.hears(2, Request::Handshake),
        [end_on(2, "src")],
        "it may run"
    );
    assert_eq!(world.on(Event::Gone(2)), [Action::Closed(A)]);
    assert_eq!(world.life.uses().len(), 0);
}

#[test]
fn whoever_comes_while_it_starts_or_waits_is_served_and_otherwise_told() {
    let mut world = World::starting();
    assert_eq!(world.on(Event::Open(A, symbol("src"))), []);
    assert_eq!(world.hears(1, Request::Handshake), [begin("src")]);
    world.hears(1, Request::Done);
    world.on(exited());
    assert_eq!(world.on(Event::Open(B, symbol("snk"))), []);
    assert_eq!(world.ticks(), [Action::Spawn]);
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "src")]);
    assert_eq!(
        world.hears(2, Request::Done),
        [Action::Started(A), begin_on(2, "snk")]
    );
    world.on(Event::Stop("removed".to_owned()));
    let down = |reason: &str| Refusal::Down(State::Stopped, reason.to_owned());
    assert_eq!(
        world.on(Event::Open(UseId(3), symbol("src"))),
        [Action::Refused(UseId(3), down("removed; ending"))]
    );
    assert_eq!(world.on(exited()), [Action::Refused(B, down("removed"))]);
}

#[test]
fn open_uses_survive_a_removal_and_a_new_version_that_defines_them() {
    let mut world = World::with("src");
    world.on(Event::Open(B, symbol("snk")));
    world.hears(1, Request::Done);
    world.on(Event::Stop("removed".to_owned()));
    world.on(exited());
    assert!(world.life.is_down());
    assert_eq!(world.life.uses().len(), 2);
    let limits = Limits {
        start: START,
        command: COMMAND,
        grace: GRACE,
    };
    let actions = world.on(Event::Start(manifest(r#""sources":["src"]"#), limits));
    let gone = Refusal::Undefined(r#"version 2 no longer defines "snk""#.to_owned());
    assert_eq!(actions, [Action::Ended(B, gone), Action::Spawn]);
    assert_eq!(world.hears(2, Request::Handshake), [begin_on(2, "src")]);
}
