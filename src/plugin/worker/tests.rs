//! A worker with processes that only sleep; the test speaks for them.

use mangrove_protocol::address;
use mangrove_protocol::control::{Command, Meta, Symbol, UseAs};
use mangrove_protocol::manifest::Manifest;
use sp_proto::{Req, ReqContext};
use tokio::time::timeout;

use super::*;
use crate::plugin::channel::Ends;
use crate::plugin::doorstep::{Doorstep, Listener};
use crate::plugin::native::feed::Inlet;
use crate::store::{Keeper, States};

const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    remote: Remote,
    shutdown: CancellationToken,
    task: JoinSet<()>,
    _keeper: Keeper,
    _home: tempfile::TempDir,
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = timeout(PATIENCE, future).await;
    result.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

async fn scene(test: &str) -> Scene {
    let spawner = Spawner::of_this_test();
    // The address of its control channel is known to the whole machine.
    let plugin = format!("hworker-{test}-{}", std::process::id());
    let settings = Arc::new(Portable {
        peers: "user".to_owned(),
        ..crate::plugin::test_settings()
    });
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("states");
    let (states, keeper) = States::start(&path, Duration::from_secs(1)).await.unwrap();
    let native = Native::prepare(home.path(), states).unwrap();
    let output = Arc::new(Output::new(&plugin, settings.log_lines));
    let instances = Arc::new(Instances::new(output));
    let (worker, remote) = Worker::new(
        plugin.parse().unwrap(),
        settings,
        spawner,
        Arc::new(native),
        Events::default(),
        0,
        instances,
    );
    let shutdown = CancellationToken::new();
    let mut task = JoinSet::new();
    task.spawn(worker.run(shutdown.clone()));
    Scene {
        remote,
        shutdown,
        task,
        _keeper: keeper,
        _home: home,
    }
}

impl Scene {
    fn assignment(&self) -> Box<Assignment> {
        let json = br#"{"version":"1","language":"go","executable":"x","sources":["s"]}"#;
        Box::new(Assignment {
            manifest: Arc::new(Manifest::parse(&self.remote.plugin, json).unwrap()),
            launch: Launch {
                program: "/bin/sleep".into(),
                args: vec!["600".into()],
                folder: std::env::temp_dir(),
                environment: BTreeMap::new(),
                limits: Default::default(),
            },
        })
    }

    async fn until(&self, what: &str, wanted: impl FnMut(&Snapshot) -> bool) -> Snapshot {
        let mut status = self.remote.status.clone();
        within(what, status.wait_for(wanted)).await.unwrap().clone()
    }

    /// Speaks for the process, as the test's own one.
    async fn peer(&self) -> (Req, ReqContext) {
        let socket = Req::new();
        let address = address::control(&self.remote.plugin).unwrap();
        within("the control channel", socket.dial(&address))
            .await
            .unwrap();
        let mut context = socket.context();
        context.send("handshake").await.unwrap();
        (socket, context)
    }

    /// Starts the plugin and shakes hands for it.
    async fn start(&self) -> (Req, ReqContext) {
        let started = self.remote.ask(|reply| Request::Start(self.assignment(), reply));
        let speaking = async {
            self.until("its process", |status| status.pid.is_some()).await;
            self.peer().await
        };
        let (started, peer) = within("the start", async { tokio::join!(started, speaking) }).await;
        assert_eq!(started, Some(Ok(())));
        peer
    }

    async fn end(mut self) {
        self.shutdown.cancel();
        within("the worker's end", self.task.join_next())
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn a_process_that_the_author_starts_is_attached_and_gets_what_is_open() {
    let scene = scene("attach").await;
    let peer = scene.start().await;
    let manifest = scene.assignment().manifest;
    let attached = scene.remote.ask(|reply| Request::Attach(manifest, reply));
    within("our process's end", attached).await.unwrap();
    let variables = scene.remote.attachment.borrow().clone();
    assert_eq!(variables.len(), 3, "what a process of our own contract needs");
    drop(peer);
    let status = scene
        .until("nobody", |status| status.attached && status.pid.is_none())
        .await;
    assert_eq!(
        (status.state, status.reason.as_str()),
        (State::Starting, "waiting for a process that you start")
    );
    // Somebody opens a source before there is anybody to run it.
    let symbol = Symbol {
        name: "s".parse().unwrap(),
        meta: Meta::default(),
        use_as: UseAs::Source {
            data_source: String::new(),
        },
        config: Default::default(),
    };
    let id = scene.remote.users.next_id();
    let nowhere = Doorstep::new(Listener::Pull(sp_proto::Pull::new()), format!("inproc://{id:?}"));
    let ends = Ends::Source(Inlet::new().0, Arc::new(nowhere));
    let opening = scene
        .remote
        .ask(|reply| Request::Open(id, Box::new(symbol), ends, reply));
    let speaking = async {
        let (socket, mut context) = scene.peer().await;
        let command = Command::decode(&context.recv().await.unwrap()).unwrap();
        assert!(matches!(command, Command::Start(_)), "{command:?}");
        context.send("ok").await.unwrap();
        (socket, context)
    };
    let (opened, peer) = within("the source", async { tokio::join!(opening, speaking) }).await;
    assert!(opened.unwrap().is_ok());
    let status = scene
        .until("it to run", |status| status.state == State::Running)
        .await;
    assert_eq!((status.attached, status.pid), (true, Some(std::process::id())));
    // It goes and comes again, and what was open is started again.
    drop(peer);
    scene.until("nobody", |status| status.pid.is_none()).await;
    let (_socket, mut context) = scene.peer().await;
    let command = within("the command", context.recv()).await.unwrap();
    assert!(matches!(Command::decode(&command).unwrap(), Command::Start(_)));
    context.send("ok").await.unwrap();
    // A start ends it: the author's process is disconnected, not killed.
    let started = scene
        .remote
        .ask(|reply| Request::Start(scene.assignment(), reply));
    let speaking = async {
        let ours = |status: &Snapshot| status.pid.is_some_and(|pid| pid != std::process::id());
        scene.until("our process", ours).await;
        scene.peer().await
    };
    let (started, _peer) = within("the start", async { tokio::join!(started, speaking) }).await;
    assert_eq!(started, Some(Ok(())));
    assert!(!scene.remote.status.borrow().attached);
    scene.end().await;
}
