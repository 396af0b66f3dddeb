//! Swaps against a world of pretended processes, which start, answer, refuse, hang and die in any order.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use mangrove_protocol::control::{Command, Meta, Request, Symbol, UseAs};
use proptest::prelude::*;

use super::super::{Refusal, State};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const NAMES: [&str; 3] = ["src", "snk", "fun"];

/// The symbol with the number of its kind.
fn symbol(kind: usize) -> Symbol {
    let use_as = match kind % 3 {
        0 => UseAs::Source {
            data_source: String::new(),
        },
        1 => UseAs::Sink,
        _ => UseAs::Function,
    };
    Symbol {
        name: NAMES[kind % 3].parse().unwrap(),
        meta: Meta::default(),
        use_as,
        config: Default::default(),
    }
}

fn manifest(version: u32, fields: &str) -> Arc<Manifest> {
    let json = format!(r#"{{"version":"{version}","language":"go","executable":"x",{fields}}}"#);
    Arc::new(Manifest::parse(&"car".parse().unwrap(), json.as_bytes()).unwrap())
}

fn limits() -> Limits {
    Limits {
        start: 10 * SECOND,
        command: 5 * SECOND,
        grace: 3 * SECOND,
    }
}

/// A process as the SDKs are: one command at a time, and only what it was told.
#[derive(Debug, Default)]
struct Process {
    pipe: u32,
    connected: bool,
    commands: VecDeque<Command>,
    runs: BTreeSet<UseId>,
    ending: bool,
    dead: bool,
}

struct World {
    life: Generations<u32>,
    now: Instant,
    processes: BTreeMap<Generation, Process>,
    pipes: u32,
    requests: u32,
    /// Holds, dials and turns that were asked for.
    pending: VecDeque<Happening<u32>>,
    held: BTreeSet<UseId>,
    /// What the users have, as far as they were told, with its kind.
    opening: BTreeMap<UseId, usize>,
    open: BTreeMap<UseId, usize>,
    closing: BTreeSet<UseId>,
    ended: Vec<(UseId, Refusal)>,
    settled: BTreeMap<Ticket, Result<(), String>>,
    uses: u64,
    tickets: u64,
}

impl World {
    fn new() -> Self {
        Self {
            life: Generations::new(Backoff::new(SECOND, 60 * SECOND, u32::MAX), 7),
            now: Instant::now(),
            processes: BTreeMap::new(),
            pipes: 0,
            requests: 0,
            pending: VecDeque::new(),
            held: BTreeSet::new(),
            opening: BTreeMap::new(),
            open: BTreeMap::new(),
            closing: BTreeSet::new(),
            ended: Vec::new(),
            settled: BTreeMap::new(),
            uses: 0,
            tickets: 0,
        }
    }

    /// Version 1 runs, with a source, a sink and a function open.
    fn running() -> Self {
        let mut world = Self::new();
        world.start();
        world.settle();
        (0..3).for_each(|kind| world.opens(kind));
        world.settle();
        assert_eq!(world.open.len(), 3);
        world
    }

    fn on(&mut self, happening: Happening<u32>) {
        for deed in self.life.handle(happening, self.now) {
            self.carry_out(deed);
        }
        self.check();
    }

    fn start(&mut self) -> Ticket {
        self.start_with(r#""sources":["src"],"sinks":["snk"],"functions":["fun"]"#)
    }

    fn start_with(&mut self, fields: &str) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let version = u32::try_from(self.tickets).unwrap();
        self.on(Happening::Start(ticket, manifest(version, fields), limits()));
        ticket
    }

    fn opens(&mut self, kind: usize) {
        // One address, one use: as the rules do it.
        let taken = self.open.values().chain(self.opening.values());
        if taken.into_iter().any(|other| other % 3 == kind % 3) {
            return;
        }
        self.uses += 1;
        let id = UseId(self.uses);
        self.opening.insert(id, kind);
        self.on(Happening::Open(id, symbol(kind)));
    }

    fn closes(&mut self) {
        let id = self
            .open
            .iter()
            .find(|(id, kind)| **kind % 3 != 2 && !self.closing.contains(id));
        if let Some(id) = id.map(|(id, _)| *id) {
            self.closing.insert(id);
            self.on(Happening::Close(id));
        }
    }

    fn carry_out(&mut self, deed: Deed<u32>) {
        match deed {
            Deed::Spawn(id, _) => {
                self.pipes += 1;
                let process = Process {
                    pipe: self.pipes,
                    ..Process::default()
                };
                assert!(
                    self.processes.insert(id, process).is_none(),
                    "{id:?} has a process"
                );
            }
            Deed::Terminate(id) => self.process(id, |process| process.ending = true),
            Deed::Kill(id) => self.process(id, |process| process.dead = true),
            Deed::Send(id, pipe, command) => self.process(id, |process| {
                assert_eq!(process.pipe, pipe);
                process.commands.push_back(command);
            }),
            Deed::Started(id, _) => {
                self.held.remove(&id);
                if let Some(kind) = self.opening.remove(&id) {
                    self.open.insert(id, kind);
                }
            }
            Deed::Refused(id, _) => assert!(self.opening.remove(&id).is_some(), "{id:?} was not opening"),
            Deed::Ended(id, refusal) => {
                assert!(self.open.remove(&id).is_some(), "{id:?} was not open");
                self.held.remove(&id);
                // Who has closed it does not mind how it ends.
                if !self.closing.remove(&id) {
                    self.ended.push((id, refusal));
                }
            }
            Deed::Closed(id) => {
                self.held.remove(&id);
                self.open.remove(&id);
                self.closing.remove(&id);
            }
            Deed::Hold(id) => {
                self.held.insert(id);
                self.pending.push_back(Happening::Held(id));
            }
            Deed::Dial(id, _) => self.pending.push_back(Happening::Dialed(id, Ok(()))),
            Deed::Release(id) => {
                self.held.remove(&id);
            }
            Deed::Turn(id, to) => self.pending.push_back(Happening::Turned(id, to)),
            Deed::Settled(ticket, outcome) => {
                assert!(
                    self.settled.insert(ticket, outcome).is_none(),
                    "{ticket:?} settled twice"
                );
            }
            Deed::Over(id) => assert!(!self.processes.contains_key(&id), "{id:?} has a process"),
            Deed::Detach(_) => panic!("nothing is attached"),
        }
    }

    fn process(&mut self, id: Generation, change: impl FnOnce(&mut Process)) {
        change(self.processes.get_mut(&id).expect("there is such a process"));
    }

    fn current(&self) -> &Process {
        &self.processes[&self.life.current()]
    }

    /// What must hold at any moment.
    fn check(&self) {
        for (id, _) in self.open.iter().filter(|(_, kind)| **kind % 3 == 1) {
            let alive = self.processes.values().filter(|process| !process.dead);
            let at = alive.filter(|process| process.runs.contains(id)).count();
            assert!(at <= 1, "the sink {id:?} runs {at} times");
        }
    }

    fn hears(&mut self, id: Generation, request: Request) {
        self.requests += 1;
        let pipe = self.processes[&id].pipe;
        let event = Event::Message(pipe, self.requests, request);
        self.on(Happening::Of(id, event));
    }

    /// The process does the next thing that it has to. `ok`: gladly.
    fn acts(&mut self, id: Generation, ok: bool) -> bool {
        let Some(process) = self.processes.get_mut(&id) else {
            return false;
        };
        if process.dead || process.ending {
            self.dies(id);
            return true;
        }
        if !process.connected {
            process.connected = true;
            self.hears(id, Request::Handshake);
            return true;
        }
        let Some(command) = process.commands.pop_front() else {
            return false;
        };
        let id_of = |symbol: &Symbol| {
            let all = self.open.iter().chain(&self.opening);
            let mut of_kind = all.filter(|(_, kind)| NAMES[**kind % 3] == symbol.name.as_str());
            of_kind.next().map(|(id, _)| *id)
        };
        let request = match &command {
            Command::Start(_) if !ok => Request::Failed("no".to_owned()),
            Command::Start(symbol) => {
                let started = id_of(symbol);
                let process = self.processes.get_mut(&id).unwrap();
                process.runs.extend(started);
                Request::Done
            }
            Command::Stop(symbol) => {
                let stopped = id_of(symbol);
                let process = self.processes.get_mut(&id).unwrap();
                process.runs.retain(|run| Some(*run) != stopped);
                Request::Done
            }
        };
        self.hears(id, request);
        true
    }

    fn dies(&mut self, id: Generation) {
        if self.processes.remove(&id).is_some() {
            self.on(Happening::Of(id, Event::Exited("exit code 3".to_owned())));
        }
    }

    /// The control connection breaks; the process will make another one.
    fn disconnects(&mut self, id: Generation) {
        self.pipes += 1;
        let pipe = self.pipes;
        let Some(process) = self.processes.get_mut(&id).filter(|process| process.connected) else {
            return;
        };
        let gone = std::mem::replace(&mut process.pipe, pipe);
        process.connected = false;
        process.commands.clear();
        self.on(Happening::Of(id, Event::Gone(gone)));
    }

    fn completes(&mut self) -> bool {
        match self.pending.pop_front() {
            Some(happening) => {
                self.on(happening);
                true
            }
            None => false,
        }
    }

    /// Moves the clock to the next deadline.
    fn ticks(&mut self) -> bool {
        match self.life.deadline() {
            Some(deadline) => {
                self.now = self.now.max(deadline);
                self.on(Happening::Tick);
                true
            }
            None => false,
        }
    }

    /// Everybody does what is expected, until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let ids: Vec<_> = self.processes.keys().copied().collect();
            if ids.into_iter().any(|id| self.acts(id, true)) || self.completes() || self.ticks() {
                continue;
            }
            return;
        }
        panic!("it never comes to rest");
    }

    /// Everything that is open runs in the current process, and in no other.
    fn assert_whole(&self) {
        assert_eq!(self.processes.len(), 1, "{:?}", self.processes);
        let open: BTreeSet<UseId> = self.open.keys().copied().collect();
        assert_eq!(self.current().runs, open);
        assert_eq!(self.life.uses(), open.len());
        assert!(self.held.is_empty(), "{:?} are held", self.held);
        assert!(self.opening.is_empty() && self.closing.is_empty());
        assert_eq!(self.life.standing().state, State::Running);
    }

    /// The new one's process, which has just been spawned.
    fn newest(&self) -> Generation {
        *self.processes.keys().next_back().unwrap()
    }
}

#[test]
fn a_new_version_takes_over_symbol_by_symbol() {
    let mut world = World::running();
    let old = world.life.current();
    let ticket = world.start();
    assert_eq!(world.settled.get(&ticket), None, "nothing has moved yet");
    assert_eq!(world.life.current(), old);
    world.settle();
    assert_eq!(world.settled[&ticket], Ok(()));
    assert_ne!(world.life.current(), old);
    assert_eq!(world.life.standing().version.as_deref(), Some("2"));
    assert!(world.ended.is_empty());
    world.assert_whole();
}

#[test]
fn a_new_version_that_does_not_start_changes_nothing() {
    let mut world = World::running();
    let old = world.life.current();
    let ticket = world.start();
    world.dies(world.newest());
    assert_eq!(
        world.settled[&ticket],
        Err("it ended before its handshake: exit code 3".to_owned())
    );
    world.assert_whole();
    assert_eq!(world.life.current(), old);
    assert_eq!(
        world.life.standing().note,
        "version 2 was not taken: it ended before its handshake: exit code 3"
    );
    world.start();
    world.settle();
    assert_eq!(world.life.standing().note, "");
}

#[test]
fn one_refused_symbol_brings_all_of_them_back() {
    for refused_name in NAMES {
        let mut world = World::running();
        let old = world.life.current();
        let ticket = world.start();
        let new = world.newest();
        world.acts(new, true);
        let mut starts = 0;
        while world.settled.is_empty() || !world.settled.contains_key(&ticket) {
            let command = world
                .processes
                .get(&new)
                .and_then(|process| process.commands.front());
            let refused = match command {
                Some(Command::Start(symbol)) => {
                    starts += 1;
                    symbol.name.as_str() == refused_name
                }
                _ => false,
            };
            assert!(
                world.acts(new, !refused) || world.acts(old, true) || world.completes(),
                "nothing happens"
            );
        }
        assert!(starts > 0);
        assert_eq!(world.settled[&ticket], Err("no".to_owned()));
        world.settle();
        assert_eq!(world.life.current(), old);
        assert!(world.ended.is_empty());
        world.assert_whole();
    }
}

#[test]
fn a_process_that_hangs_in_the_middle_is_killed_before_anything_runs_twice() {
    for hanging in [Side::Old, Side::New] {
        let mut world = World::running();
        let old = world.life.current();
        let ticket = world.start();
        let new = world.newest();
        let (hanging, lively) = if hanging == Side::Old {
            (old, new)
        } else {
            (new, old)
        };
        world.acts(new, true);
        while world.acts(lively, true) || world.completes() {}
        assert!(world.ticks(), "the command times out");
        assert!(world.processes[&hanging].dead);
        world.settle();
        assert_eq!(world.settled[&ticket].is_ok(), hanging == old);
        assert_eq!(world.life.current(), lively);
        assert!(world.ended.is_empty());
        world.assert_whole();
    }
}

#[test]
fn what_the_new_version_does_not_have_ends_when_it_takes_over() {
    let mut world = World::running();
    world.start_with(r#""sources":["src"]"#);
    assert!(world.ended.is_empty());
    world.settle();
    assert_eq!(world.ended.len(), 2);
    world.assert_whole();
}

#[test]
fn a_later_start_supersedes_an_earlier_one() {
    let mut world = World::running();
    let (second, third) = (world.start(), world.start());
    assert_eq!(world.settled[&second], Err("version 3 came instead".to_owned()));
    // Its symbols move already: the next one waits for the end of that, and the one after it comes instead.
    world.acts(world.newest(), true);
    let (fourth, fifth) = (world.start(), world.start());
    assert_eq!(world.settled[&fourth], Err("version 5 came instead".to_owned()));
    world.settle();
    assert_eq!(
        (&world.settled[&third], &world.settled[&fifth]),
        (&Ok(()), &Ok(()))
    );
    assert_eq!(world.life.standing().version.as_deref(), Some("5"));
    world.assert_whole();
}

#[test]
fn stopping_during_a_swap_ends_both_and_keeps_the_uses() {
    let mut world = World::running();
    let ticket = world.start();
    world.acts(world.newest(), true);
    world.on(Happening::Stop("removed".to_owned()));
    assert_eq!(world.settled[&ticket], Err("removed".to_owned()));
    world.settle();
    assert!(world.processes.is_empty() && world.life.is_down());
    assert_eq!(world.life.uses(), 3);
    world.start();
    world.settle();
    world.assert_whole();
}

#[test]
fn processes_that_do_not_end_are_not_collected() {
    let mut world = World::running();
    for _ in 0..20 {
        world.start();
        // Nobody acts on SIGTERM, but everything else goes its way.
        while !world.settled.contains_key(&Ticket(world.tickets)) {
            let willing = world.processes.iter().filter(|(_, process)| !process.ending);
            let ids: Vec<_> = willing.map(|(id, _)| *id).collect();
            assert!(ids.into_iter().any(|id| world.acts(id, true)) || world.completes());
        }
    }
    let alive = world.processes.values().filter(|process| !process.dead).count();
    assert_eq!(alive, RETIRING + 1);
}

proptest! {
    /// Whatever fails, and whenever: no use is lost that nobody refused, no sink runs twice, every start is
    /// answered, and in the end everything runs in one process.
    #[test]
    fn nothing_is_lost_whatever_happens(steps in proptest::collection::vec((0u8..20, 0usize..3), 1..150)) {
        let mut world = World::running();
        let mut refusals = 0;
        for (step, which) in steps {
            let ids: Vec<_> = world.processes.keys().copied().collect();
            let id = ids.get(which % ids.len().max(1)).copied();
            match (step, id) {
                (0 | 1, _) => {
                    world.start();
                }
                (2, Some(id)) => world.dies(id),
                (3, Some(id)) => {
                    refusals += usize::from(world.acts(id, false));
                }
                (4, _) => {
                    world.ticks();
                }
                (5, _) => world.opens(which),
                (6, _) => world.closes(),
                (7, _) if which == 0 => world.on(Happening::Stop("stopped".to_owned())),
                (8, Some(id)) => world.disconnects(id),
                (9..=11, _) => {
                    world.completes();
                }
                (_, Some(id)) => {
                    world.acts(id, true);
                }
                _ => {}
            }
        }
        let last = world.start();
        world.settle();
        prop_assert_eq!(&world.settled[&last], &Ok(()));
        prop_assert_eq!(world.settled.len() as u64, world.tickets);
        prop_assert!(world.ended.len() <= refusals, "{:?} ended after {} refusals", world.ended, refusals);
        world.assert_whole();
    }
}
