//! Our own contract: a process that only sleeps, with a scripted peer in the test on its sockets.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use mangrove::plugin::{CallError, ChannelError, Function, Sink, Source, State};
use mangrove_protocol::native::address::resolve;
use mangrove_protocol::native::control::{
    Ack, Answer, Level, Log, Metric, MetricKind, Role, Start, StateOperation, StateRequest, Stop, ToHost,
    ToPlugin,
};
use mangrove_protocol::native::function::{FunctionContext, ResultWriter, ToFunction};
use mangrove_protocol::native::opening::{FunctionSymbol, Hello, Symbols};
use mangrove_protocol::native::sink::SinkBatch;
use mangrove_protocol::native::source::{SourceWriter, encode_end, encode_error};
use mangrove_protocol::{Object, address};
use serde_json::{Value, json};
use sp_proto::{Pair, Pull, Push, SocketOptions};
use testkit::within;

use crate::home::{Home, Host, SLEEP, meta, unique};

/// The plugin's end of a control channel.
struct Peer {
    control: Pair,
    token: String,
    plugin: String,
    symbols: Symbols,
}

impl Peer {
    /// Dials for the process that runs now.
    async fn dial(scene: &Scene, old: Option<u32>) -> Self {
        let pid = scene
            .host
            .until("a process", &scene.name, |status| {
                status.pid.is_some() && status.pid != old
            })
            .await
            .pid
            .unwrap();
        Self::dial_for(scene, pid).await
    }

    async fn dial_for(scene: &Scene, pid: u32) -> Self {
        let environment = within("the process's own program", async {
            loop {
                let environment = environment(pid);
                if environment.contains_key("MANGROVE_TOKEN") {
                    return environment;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        Self::with(scene, &environment).await
    }

    async fn with(scene: &Scene, environment: &BTreeMap<String, String>) -> Self {
        let options = SocketOptions {
            reconnect_min: Duration::from_millis(5),
            reconnect_max: Duration::from_millis(20),
            recv_max_size: 64 << 20,
            ..SocketOptions::default()
        };
        let control = Pair::with_options(options);
        control.dial(&environment["MANGROVE_CONTROL"]).await.unwrap();
        Self {
            control,
            token: environment["MANGROVE_TOKEN"].clone(),
            plugin: environment["MANGROVE_PLUGIN"].clone(),
            symbols: scene.symbols(),
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            versions: vec![1],
            token: self.token.clone(),
            plugin: self.plugin.parse().unwrap(),
            sdk: "test/1".to_owned(),
            symbols: self.symbols.clone(),
            encodings: vec!["json".to_owned()],
        }
    }

    async fn say(&self, message: ToHost) {
        self.say_raw(message.encode()).await;
    }

    async fn say_raw(&self, message: Vec<u8>) {
        within("room on the control channel", self.control.send(message))
            .await
            .unwrap();
    }

    async fn hear(&self) -> ToPlugin {
        let message = within("a message of the host", self.control.recv())
            .await
            .unwrap();
        ToPlugin::decode(&message).unwrap()
    }

    /// Says hello, and hears that it is welcome.
    async fn open(self) -> Self {
        self.say(ToHost::Hello(self.hello())).await;
        match self.hear().await {
            ToPlugin::Welcome(welcome) => {
                assert_eq!((welcome.version, welcome.encoding.as_str()), (1, "json"));
            }
            other => panic!("expected a welcome, not {other:?}"),
        }
        self
    }

    async fn start(&self) -> (u64, Start) {
        match self.hear().await {
            ToPlugin::Start(id, start) => (id, *start),
            other => panic!("expected a start, not {other:?}"),
        }
    }

    async fn stop(&self) -> (u64, Stop) {
        match self.hear().await {
            ToPlugin::Stop(id, stop) => (id, stop),
            other => panic!("expected a stop, not {other:?}"),
        }
    }

    async fn answer(&self, id: u64, outcome: Result<Value, &str>) {
        let outcome = outcome.map_err(str::to_owned);
        self.say(ToHost::Answer(Answer { id, outcome })).await;
    }

    /// Makes a request and hears its answer.
    async fn ask(&self, request: ToHost) -> Result<Value, String> {
        self.say(request).await;
        match self.hear().await {
            ToPlugin::Answer(answer) => answer.outcome,
            other => panic!("expected an answer, not {other:?}"),
        }
    }

    /// Carries out the start of a source.
    async fn start_source(&self) -> (Start, Push) {
        let (id, start) = self.start().await;
        let push = Push::new();
        push.dial(&start.address).await.unwrap();
        self.answer(id, Ok(Value::Null)).await;
        (start, push)
    }

    async fn start_sink(&self) -> (Start, Pull) {
        let (id, start) = self.start().await;
        let pull = Pull::new();
        pull.dial(&start.address).await.unwrap();
        self.answer(id, Ok(Value::Null)).await;
        (start, pull)
    }

    async fn start_function(&self) -> (Start, Pair) {
        let (id, start) = self.start().await;
        let pair = Pair::new();
        pair.dial(&start.address).await.unwrap();
        self.answer(id, Ok(Value::Null)).await;
        (start, pair)
    }

    async fn ack(&self, number: u64, seq: u64, errors: Vec<(u32, String)>) {
        self.say(ToHost::Ack(Ack { number, seq, errors })).await;
    }
}

fn environment(pid: u32) -> BTreeMap<String, String> {
    // Gone already, or not the program yet: without what is looked for.
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let text = String::from_utf8_lossy(&environment).into_owned();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

struct Scene {
    host: Host,
    name: String,
    source: String,
    sink: String,
    function: String,
    rule: String,
    home: Home,
}

async fn scene(adjust: impl FnOnce(&mut Home)) -> Scene {
    let mut home = Home::new();
    home.settings.contract = "both".to_owned();
    adjust(&mut home);
    let name = unique("hnt");
    let (source, sink, function, rule) = (unique("nsrc"), unique("nsnk"), unique("nfn"), unique("nr"));
    let fields = format!(r#""sources":["{source}"],"sinks":["{sink}"],"functions":["{function}"]"#);
    home.add(&name, "rust", &fields, SLEEP);
    let host = home.start().await;
    Scene {
        host,
        name,
        source,
        sink,
        function,
        rule,
        home,
    }
}

impl Scene {
    fn symbols(&self) -> Symbols {
        Symbols {
            sources: vec![self.source.parse().unwrap()],
            sinks: vec![self.sink.parse().unwrap()],
            functions: vec![FunctionSymbol {
                name: self.function.parse().unwrap(),
                aggregate: true,
            }],
        }
    }

    async fn peer(&self) -> Peer {
        let peer = Peer::dial(self, None).await.open().await;
        self.host.running(&self.name).await;
        peer
    }

    async fn open_source(&self, peer: &Peer) -> (Source, Start, Push) {
        let opening = self
            .host
            .plugins
            .open_source(&self.source, meta(&self.rule), "topic", Object::new());
        let (source, (start, push)) = within("the source to open", async {
            tokio::join!(opening, peer.start_source())
        })
        .await;
        (source.unwrap(), start, push)
    }

    async fn open_sink(&self, peer: &Peer, ack: bool) -> (Sink, Start, Pull) {
        let opening = self
            .host
            .plugins
            .open_sink(&self.sink, meta(&self.rule), Object::new(), ack);
        let (sink, (start, pull)) = within("the sink to open", async {
            tokio::join!(opening, peer.start_sink())
        })
        .await;
        (sink.unwrap(), start, pull)
    }

    async fn open_function(&self, peer: &Peer) -> (Function, Start, Pair) {
        let opening = self.host.plugins.function(&self.function, &self.rule);
        let (function, (start, pair)) = within("the function to open", async {
            tokio::join!(opening, peer.start_function())
        })
        .await;
        (function.unwrap(), start, pair)
    }

    fn write_next_version(&self) {
        let (name, fields) = (&self.name, self.symbols());
        let manifest = format!(
            r#"{{"version":"2.0","language":"rust","executable":"run","sources":["{}"],"sinks":["{}"],"functions":["{}"]}}"#,
            fields.sources[0], fields.sinks[0], fields.functions[0].name
        );
        let path = self.home.plugin_folder(name).join(format!("{name}.json"));
        std::fs::write(path, manifest).unwrap();
    }

    async fn kill(&self) -> u32 {
        let pid = self.host.status(&self.name).pid.unwrap();
        let process = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        pid
    }
}

fn batch(seq: u64, numbers: std::ops::Range<u64>, offset: Option<u64>) -> Vec<u8> {
    let mut writer = SourceWriter::default();
    for n in numbers {
        writer.push(&json!({ "n": n }), None).unwrap();
    }
    writer.finish(seq, offset.map(|offset| json!(offset)).as_ref())
}

async fn numbers(source: &mut Source) -> Vec<u64> {
    let batch = within("tuples", source.recv_batch(1000)).await.unwrap().unwrap();
    batch
        .iter()
        .map(|tuple| tuple.message["n"].as_u64().unwrap())
        .collect()
}

fn results(texts: &[&'static str]) -> Vec<Bytes> {
    texts
        .iter()
        .map(|text| Bytes::from_static(text.as_bytes()))
        .collect()
}

async fn taken(pull: &Pull) -> (u64, Vec<Value>) {
    let message = within("results", pull.recv()).await.unwrap();
    let batch = SinkBatch::<Value>::decode(&message).unwrap();
    (batch.seq, batch.results)
}

#[tokio::test]
async fn a_hello_is_welcome_and_tuples_reach_whoever_receives() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, start, push) = scene.open_source(&peer).await;
    assert_eq!(start.symbol.as_str(), scene.source);
    match &start.role {
        Role::Source {
            place,
            data_source,
            offset,
            ..
        } => {
            assert_eq!(
                (place.rule_id.as_str(), data_source.as_str()),
                (scene.rule.as_str(), "topic")
            );
            assert_eq!(offset, &None);
        }
        other => panic!("expected a source, not {other:?}"),
    }
    push.send(batch(1, 0..3, None)).await.unwrap();
    assert_eq!(numbers(&mut source).await, [0, 1, 2]);
    push.send(encode_error(2, "no route")).await.unwrap();
    let error = within("its error", source.recv()).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, ChannelError::Plugin(text) if text == "no route"),
        "{error}"
    );
    // It breaks the contract, and goes on.
    push.send(batch(7, 0..1, None)).await.unwrap();
    let error = within("its fault", source.recv()).await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "it broke the contract: batch 7 came where batch 3 was expected"
    );
    push.send("nonsense").await.unwrap();
    assert!(matches!(
        within("its garbage", source.recv()).await.unwrap(),
        Err(ChannelError::Garbage(_))
    ));
    push.send(batch(8, 5..6, None)).await.unwrap();
    assert_eq!(numbers(&mut source).await, [5]);
    push.send(encode_end(9, Some("eof"))).await.unwrap();
    let end = within("its end", source.recv()).await.unwrap().unwrap_err();
    assert_eq!(end.to_string(), "eof");
    assert!(within("nothing more", source.recv()).await.is_none());
    assert!(source.has_ended_by_itself());
    scene.host.shutdown().await;
}

#[tokio::test]
async fn what_a_source_has_sent_before_it_stops_is_read() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, start, push) = scene.open_source(&peer).await;
    push.send(batch(1, 0..2, None)).await.unwrap();
    source.stop();
    let stopping = async {
        let (id, stop) = peer.stop().await;
        assert_eq!(stop.number, start.number);
        push.send(batch(2, 2..4, None)).await.unwrap();
        peer.answer(id, Ok(json!({ "seq": 2 }))).await;
    };
    let reading = async {
        let mut read = Vec::new();
        while let Some(batch) = source.recv_batch(1000).await {
            read.extend(
                batch
                    .unwrap()
                    .into_iter()
                    .map(|tuple| tuple.message["n"].as_u64().unwrap()),
            );
        }
        read
    };
    let (read, ()) = within("the end", async { tokio::join!(reading, stopping) }).await;
    assert_eq!(read, [0, 1, 2, 3]);
    within("the source to close", source.close()).await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_committed_offset_comes_back_with_the_next_start() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, start, push) = scene.open_source(&peer).await;
    push.send(batch(1, 0..2, Some(2))).await.unwrap();
    push.send(batch(2, 2..4, Some(4))).await.unwrap();
    let mut tuples = Vec::new();
    while tuples.len() < 4 {
        tuples.extend(within("tuples", source.recv_batch(10)).await.unwrap().unwrap());
    }
    let offsets: Vec<_> = tuples.iter().map(|tuple| tuple.offset.clone()).collect();
    assert_eq!(offsets, [None, Some(json!(2)), None, Some(json!(4))]);
    source.commit(&json!(2)).await.unwrap();
    match peer.hear().await {
        ToPlugin::Commit(commit) => assert_eq!((commit.number, commit.seq), (start.number, 1)),
        other => panic!("expected a commit, not {other:?}"),
    }
    // The next process goes on there.
    let old = scene.kill().await;
    drop((push, peer));
    let peer = Peer::dial(&scene, Some(old)).await.open().await;
    let (start, push) = peer.start_source().await;
    assert!(matches!(start.role, Role::Source { offset: Some(offset), .. } if offset == json!(2)));
    push.send(batch(1, 2..5, None)).await.unwrap();
    within("tuples of the next process", async {
        loop {
            // News of the process that has ended come first.
            match source.recv_batch(10).await.unwrap() {
                Ok(tuples) => break assert_eq!(tuples[0].message["n"], 2),
                Err(error) => assert!(
                    matches!(error, ChannelError::Down { .. } | ChannelError::Closed { .. }),
                    "{error}"
                ),
            }
        }
    })
    .await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn results_are_acknowledged_together_and_failures_are_told() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut sink, start, pull) = scene.open_sink(&peer, true).await;
    assert!(matches!(start.role, Role::Sink { ack: true, .. }));
    let settled = sink.put(results(&["[1]", "[2]", "[3]"])).await;
    assert_eq!((settled.delivered, sink.outstanding()), (0, 3));
    assert_eq!(taken(&pull).await, (1, vec![json!([1]), json!([2]), json!([3])]));
    sink.put(results(&["[4]"])).await;
    assert_eq!(taken(&pull).await, (2, vec![json!([4])]));
    peer.ack(start.number, 1, vec![(1, "disk full".to_owned())]).await;
    let settled = within("the first batch", sink.settle()).await;
    assert_eq!(
        (settled.delivered, settled.failed.len(), sink.outstanding()),
        (2, 1, 1)
    );
    assert_eq!(settled.failed[0].to_string(), "disk full");
    peer.ack(start.number, 2, Vec::new()).await;
    assert_eq!(within("the second batch", sink.settle()).await.delivered, 1);
    assert_eq!(within("nothing", sink.settle()).await.delivered, 0);
    let status = scene.host.status(&scene.name);
    assert_eq!(status.symbols.sinks[&scene.sink].last_error, "disk full");
    scene.host.shutdown().await;
}

#[tokio::test]
async fn what_was_not_acknowledged_goes_to_the_next_process() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut sink, start, pull) = scene.open_sink(&peer, true).await;
    sink.put(results(&["1", "2"])).await;
    taken(&pull).await;
    peer.ack(start.number, 1, Vec::new()).await;
    assert_eq!(within("the first batch", sink.settle()).await.delivered, 2);
    sink.put(results(&["3", "4"])).await;
    taken(&pull).await;
    let old = scene.kill().await;
    drop((pull, peer));
    let working = async {
        let settled = sink.put(results(&["5"])).await;
        assert_eq!(settled.delivered, 0);
        let mut delivered = 0;
        while delivered < 3 {
            let settled = sink.settle().await;
            assert!(settled.failed.is_empty(), "{settled:?}");
            delivered += settled.delivered;
        }
    };
    let speaking = async {
        let peer = Peer::dial(&scene, Some(old)).await.open().await;
        let (start, pull) = peer.start_sink().await;
        let mut got = Vec::new();
        while got.len() < 3 {
            let (seq, results) = taken(&pull).await;
            got.extend(results);
            peer.ack(start.number, seq, Vec::new()).await;
        }
        assert_eq!(got, [json!(3), json!(4), json!(5)]);
        peer
    };
    within("everything to be acknowledged", async {
        tokio::join!(working, speaking)
    })
    .await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn put_waits_when_the_window_is_full() {
    let scene = scene(|home| home.settings.ack_window = 2).await;
    let peer = scene.peer().await;
    let (mut sink, start, pull) = scene.open_sink(&peer, true).await;
    let mut putting = tokio::task::JoinSet::new();
    putting.spawn(async move {
        let mut settled = 0;
        for _ in 0..100 {
            settled += sink.put(vec![Bytes::from_static(b"1")]).await.delivered;
            assert!(sink.outstanding() <= 2);
        }
        while sink.outstanding() > 0 {
            settled += sink.settle().await.delivered;
        }
        settled
    });
    let mut got = 0;
    while got < 100 {
        let (seq, results) = taken(&pull).await;
        got += results.len();
        peer.ack(start.number, seq, Vec::new()).await;
    }
    let settled = within("everything to settle", putting.join_next()).await;
    assert_eq!(settled.unwrap().unwrap(), 100);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_sink_is_told_its_last_batch_when_it_stops() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut sink, start, pull) = scene.open_sink(&peer, false).await;
    let settled = sink.put(results(&["1", "2"])).await;
    assert_eq!((settled.delivered, sink.outstanding()), (2, 0));
    let stopping = async {
        let (id, stop) = peer.stop().await;
        assert_eq!((stop.number, stop.seq), (start.number, Some(1)));
        assert_eq!(taken(&pull).await.0, 1);
        peer.answer(id, Ok(Value::Null)).await;
    };
    within("the sink to close", async {
        tokio::join!(sink.close(), stopping)
    })
    .await;
    scene.host.shutdown().await;
}

fn context(rule: &str) -> FunctionContext {
    FunctionContext {
        rule_id: rule.parse().unwrap(),
        op_id: "op".parse().unwrap(),
        instance_id: 0,
        func_id: 0,
    }
}

async fn calls(pair: &Pair) -> Vec<(u64, Vec<Value>)> {
    let message = within("a call", pair.recv()).await.unwrap();
    match ToFunction::decode(&message).unwrap() {
        ToFunction::Calls { calls, timeout, .. } => {
            assert!(timeout > 0);
            calls
        }
        ToFunction::Cancel(ids) => panic!("expected calls, not the end of {ids:?}"),
    }
}

#[tokio::test]
async fn calls_are_under_way_together_and_answered_in_any_order() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (function, _, pair) = scene.open_function(&peer).await;
    assert!(within("the answer", function.is_aggregate()).await.unwrap());
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..100u64 {
        let (function, context) = (function.clone(), context(&format!("r{}", n % 3)));
        asking.spawn(async move { (n, function.exec(vec![json!(n)], context).await) });
    }
    let mut got = Vec::new();
    while got.len() < 100 {
        got.extend(calls(&pair).await);
    }
    let mut writer = ResultWriter::default();
    for (id, args) in got.iter().rev() {
        match args[0].as_u64().unwrap() {
            7 => writer.push_error(*id, "seven"),
            n => writer.push(*id, &json!(n * 2)).unwrap(),
        }
    }
    pair.send(writer.finish()).await.unwrap();
    while let Some(asked) = within("an answer", asking.join_next()).await {
        match asked.unwrap() {
            (7, outcome) => assert!(matches!(outcome, Err(CallError::Plugin(text)) if text == "seven")),
            (n, outcome) => assert_eq!(outcome.unwrap(), Some(json!(n * 2))),
        }
    }
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_slow_call_holds_nobody_and_is_cancelled_in_the_end() {
    let scene = scene(|home| home.settings.call_timeout = Duration::from_millis(300)).await;
    let peer = scene.peer().await;
    let (function, _, pair) = scene.open_function(&peer).await;
    let slow = function.exec(vec![json!("slow")], context("r1"));
    let playing = async {
        let slow = calls(&pair).await;
        let quick = function.exec(vec![json!("quick")], context("r2"));
        let answering = async {
            let (id, _) = calls(&pair).await.remove(0);
            let mut writer = ResultWriter::default();
            writer.push(id, &json!("done")).unwrap();
            pair.send(writer.finish()).await.unwrap();
        };
        let (quick, ()) = tokio::join!(quick, answering);
        assert_eq!(quick.unwrap(), Some(json!("done")));
        let message = within("its end", pair.recv()).await.unwrap();
        assert_eq!(
            ToFunction::<Value>::decode(&message).unwrap(),
            ToFunction::Cancel(vec![slow[0].0])
        );
    };
    let (slow, ()) = within("both", async { tokio::join!(slow, playing) }).await;
    assert!(matches!(slow, Err(CallError::TimedOut { .. })), "{slow:?}");
    assert_eq!(scene.host.status(&scene.name).status, State::Running);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn arguments_are_validated_over_the_control_channel() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (function, ..) = scene.open_function(&peer).await;
    let answering = async {
        match peer.hear().await {
            ToPlugin::Validate(id, request) => {
                assert_eq!(
                    (request.symbol.as_str(), request.args),
                    (scene.function.as_str(), vec![json!(1)])
                );
                peer.answer(id, Err("takes a text")).await;
            }
            other => panic!("expected a question, not {other:?}"),
        }
    };
    let (outcome, ()) = within("the answer", async {
        tokio::join!(function.validate(vec![json!(1)]), answering)
    })
    .await;
    assert!(matches!(outcome, Err(CallError::Plugin(text)) if text == "takes a text"));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn calls_that_break_off_say_so_and_later_ones_go_to_the_next_process() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (function, _, pair) = scene.open_function(&peer).await;
    let breaking = async {
        calls(&pair).await;
        let old = scene.kill().await;
        drop((pair, peer));
        old
    };
    let call = function.exec(vec![json!(1)], context("r"));
    let (broken, old) = within("the end", async { tokio::join!(call, breaking) }).await;
    assert!(
        matches!(broken, Err(CallError::Disconnected { .. })),
        "{broken:?}"
    );
    let speaking = async {
        let peer = Peer::dial(&scene, Some(old)).await.open().await;
        let (_, pair) = peer.start_function().await;
        let (id, _) = calls(&pair).await.remove(0);
        let mut writer = ResultWriter::default();
        writer.push(id, &json!("again")).unwrap();
        pair.send(writer.finish()).await.unwrap();
        (peer, pair)
    };
    let call = function.exec(vec![json!(2)], context("r"));
    let (outcome, _peer) = within("the next process", async { tokio::join!(call, speaking) }).await;
    assert_eq!(outcome.unwrap(), Some(json!("again")));
    scene.host.shutdown().await;
}

fn state(number: u64, rule: Option<&str>, key: &str, operation: StateOperation) -> ToHost {
    ToHost::State(
        1,
        StateRequest {
            number,
            rule: rule.map(|rule| rule.parse().unwrap()),
            key: key.to_owned(),
            operation,
        },
    )
}

#[tokio::test]
async fn state_survives_the_process_and_belongs_to_one_rule() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (_function, start, _pair) = scene.open_function(&peer).await;
    let use_of = start.number;
    let put = StateOperation::Put(json!({"a": 1}));
    assert_eq!(
        peer.ask(state(use_of, Some("r1"), "k", put)).await,
        Ok(Value::Null)
    );
    let add = || StateOperation::Add(2.into());
    assert_eq!(
        peer.ask(state(use_of, Some("r1"), "n", add())).await,
        Ok(json!(2))
    );
    assert_eq!(
        peer.ask(state(use_of, Some("r1"), "n", add())).await,
        Ok(json!(4))
    );
    assert_eq!(
        peer.ask(state(use_of, Some("r2"), "n", StateOperation::Get))
            .await,
        Ok(Value::Null)
    );
    let error = peer.ask(state(use_of, Some("r1"), "k", add())).await.unwrap_err();
    assert!(error.contains("expected a number"), "{error}");
    let error = peer
        .ask(state(use_of, None, "k", StateOperation::Get))
        .await
        .unwrap_err();
    assert_eq!(error, "a function has to say for which \"rule\"");
    let error = peer
        .ask(state(99, None, "k", StateOperation::Get))
        .await
        .unwrap_err();
    assert_eq!(error, "there is no use 99");
    let old = scene.kill().await;
    drop(peer);
    let peer = Peer::dial(&scene, Some(old)).await.open().await;
    let (start, _pair) = peer.start_function().await;
    let found = peer
        .ask(state(start.number, Some("r1"), "k", StateOperation::Get))
        .await;
    assert_eq!(found, Ok(json!({"a": 1})));
    assert_eq!(
        peer.ask(state(start.number, Some("r1"), "k", StateOperation::Delete))
            .await,
        Ok(Value::Null)
    );
    let found = peer
        .ask(state(start.number, Some("r1"), "k", StateOperation::Get))
        .await;
    assert_eq!(found, Ok(Value::Null));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn logs_and_figures_are_kept() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (_sink, start, _pull) = scene.open_sink(&peer, false).await;
    for (kind, value) in [(MetricKind::Counter, 2.0), (MetricKind::Counter, 3.0)] {
        let (number, name) = (start.number, "lines".to_owned());
        peer.say(ToHost::Metric(Metric {
            number,
            name,
            kind,
            value,
        }))
        .await;
    }
    peer.say(ToHost::Log(Log {
        level: Level::Warn,
        message: "hot".to_owned(),
        number: Some(start.number),
        fields: Object::from_iter([("degrees".to_owned(), json!(80))]),
    }))
    .await;
    let line = format!("warn: {}: hot degrees=80", scene.sink);
    scene
        .host
        .heard("the log", &scene.name, |text| text == line)
        .await;
    let status = scene.host.status(&scene.name);
    assert_eq!(status.symbols.sinks[&scene.sink].metrics["lines"], 5.0);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let scene = scene(|_| ()).await;
    let peer = Peer::dial(&scene, None).await;
    let mut hello = peer.hello();
    hello.token = "0".repeat(32);
    peer.say(ToHost::Hello(hello)).await;
    match peer.hear().await {
        ToPlugin::Refused(refused) => {
            assert!(refused.reason.contains("MANGROVE_TOKEN"), "{}", refused.reason);
            assert_eq!(refused.versions, [1]);
        }
        other => panic!("expected to be refused, not {other:?}"),
    }
    let written = scene.host.plugins.output(&scene.name).unwrap();
    assert!(
        written.iter().all(|line| !line.text.contains(&peer.token)),
        "{written:?}"
    );
    assert_eq!(scene.host.status(&scene.name).status, State::Starting);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_that_comes_back_is_started_again() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, first, push) = scene.open_source(&peer).await;
    push.send(batch(1, 0..1, None)).await.unwrap();
    assert_eq!(numbers(&mut source).await, [0]);
    let pid = scene.host.status(&scene.name).pid.unwrap();
    drop((push, peer));
    let peer = Peer::dial_for(&scene, pid).await.open().await;
    let (again, push) = peer.start_source().await;
    assert_ne!(first.number, again.number);
    push.send(batch(1, 1..2, None)).await.unwrap();
    assert_eq!(numbers(&mut source).await, [1]);
    assert_eq!(scene.host.status(&scene.name).restarts, 0);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn garbage_is_counted_and_too_much_of_it_closes_the_connection() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let mut events = peer.control.events();
    for _ in 0..9 {
        peer.say_raw(b"nonsense".to_vec()).await;
    }
    // Something that is understood begins the count anew; what is unknown is answered, or passed over.
    peer.say_raw(br#"{"type":"dance"}"#.to_vec()).await;
    peer.say_raw(br#"{"type":"dance","id":5}"#.to_vec()).await;
    match peer.hear().await {
        ToPlugin::Answer(answer) => assert!(answer.outcome.unwrap_err().contains("\"dance\"")),
        other => panic!("expected an answer, not {other:?}"),
    }
    for _ in 0..10 {
        peer.say_raw(br#"{"type":"answer","id":99}"#.to_vec()).await;
    }
    within("the connection to close", async {
        while !matches!(events.recv().await, Some(sp_proto::Event::PipeRemoved { .. })) {}
    })
    .await;
    let written = scene.host.plugins.output(&scene.name).unwrap();
    assert!(
        written
            .iter()
            .any(|line| line.text.contains("answers the request 99")),
        "{written:?}"
    );
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_that_does_not_answer_a_ping_is_unhealthy_until_it_does() {
    let scene = scene(|home| home.settings.ping_interval = Duration::from_millis(50)).await;
    let peer = scene.peer().await;
    let ping = match peer.hear().await {
        ToPlugin::Ping(id) => id,
        other => panic!("expected a ping, not {other:?}"),
    };
    let status = scene
        .host
        .until("it to be missed", &scene.name, |status| {
            status.status == State::Unhealthy
        })
        .await;
    assert!(
        status.err_msg.contains("not answered a ping"),
        "{}",
        status.err_msg
    );
    peer.answer(ping, Ok(Value::Null)).await;
    scene.host.running(&scene.name).await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn it_is_asked_to_end_before_it_is_told_to() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let pid = scene.host.status(&scene.name).pid.unwrap();
    let ending = async {
        match peer.hear().await {
            ToPlugin::Shutdown(shutdown) => assert!(shutdown.timeout > 0),
            other => panic!("expected the end, not {other:?}"),
        }
        assert!(!environment(pid).is_empty(), "it is still there");
        scene.kill().await;
    };
    let stopping = scene.host.plugins.stop(&scene.name);
    let (stopped, ()) = within("it to stop", async { tokio::join!(stopping, ending) }).await;
    stopped.unwrap();
    scene.host.shutdown().await;
    drop(scene.home);
}

/// What the process of a plugin's next version has been given.
async fn next_environment(name: &str, old: Option<u32>) -> BTreeMap<String, String> {
    // The next process is not shown before it has taken over: it is found by what it was given.
    within("the next process", async {
        loop {
            let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
                let environment = environment(pid);
                let is_it = environment
                    .get("MANGROVE_PLUGIN")
                    .is_some_and(|plugin| plugin == name)
                    && Some(pid) != old
                    && std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() == "sleep";
                is_it.then_some(environment)
            });
            if let Some(environment) = found {
                return environment;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn an_update_moves_every_symbol_and_loses_nothing() {
    let scene = scene(|_| ()).await;
    let peer = scene.peer().await;
    let (mut source, _, push) = scene.open_source(&peer).await;
    let (mut sink, _, pull) = scene.open_sink(&peer, true).await;
    let (function, _, _pair) = scene.open_function(&peer).await;
    let old = scene.host.status(&scene.name).pid;
    sink.put(results(&["1"])).await;
    taken(&pull).await;
    push.send(batch(1, 0..1, None)).await.unwrap();
    let name = &scene.name;
    scene.write_next_version();
    let next = next_environment(name, old).await;
    let new = Peer::with(&scene, &next).await.open().await;
    // The source overlaps.
    let (_, new_push) = new.start_source().await;
    let (id, _) = peer.stop().await;
    push.send(batch(2, 1..2, None)).await.unwrap();
    peer.answer(id, Ok(json!({"seq": 2}))).await;
    new_push.send(batch(1, 2..3, None)).await.unwrap();
    // The sink does not.
    let (id, stop) = peer.stop().await;
    assert_eq!(stop.seq, Some(1));
    peer.ack(stop.number, 1, Vec::new()).await;
    peer.answer(id, Ok(Value::Null)).await;
    let (_, new_pull) = new.start_sink().await;
    let (_, new_pair) = new.start_function().await;
    scene
        .host
        .until("the new version", name, |status| {
            status.version == "2.0" && status.pid != old
        })
        .await;
    let mut read = Vec::new();
    while read.len() < 3 {
        read.extend(numbers(&mut source).await);
    }
    read.sort_unstable();
    assert_eq!(read, [0, 1, 2]);
    let settled = within("the old one's acknowledgement", sink.settle()).await;
    assert_eq!(settled.delivered, 1);
    sink.put(results(&["2"])).await;
    assert_eq!(taken(&new_pull).await, (1, vec![json!(2)]));
    let call = function.exec(vec![json!(1)], context("r"));
    let answering = async {
        let (id, _) = calls(&new_pair).await.remove(0);
        let mut writer = ResultWriter::default();
        writer.push(id, &json!(2)).unwrap();
        new_pair.send(writer.finish()).await.unwrap();
    };
    let (outcome, ()) = within("a call", async { tokio::join!(call, answering) }).await;
    assert_eq!(outcome.unwrap(), Some(json!(2)));
    scene.host.shutdown().await;
}

/// Speaks for a process that the author has started, twice: it may go and come back.
async fn attaches(scene: &Scene, scheme: &str) {
    scene
        .host
        .until("a process", &scene.name, |status| status.pid.is_some())
        .await;
    let variables = within("it to wait", scene.host.plugins.attach(&scene.name))
        .await
        .unwrap();
    let environment: BTreeMap<String, String> = variables.into_iter().collect();
    assert!(
        environment["MANGROVE_CONTROL"].starts_with(scheme),
        "{environment:?}"
    );
    for _ in 0..2 {
        let peer = Peer::with(scene, &environment).await.open().await;
        let status = scene.host.running(&scene.name).await;
        assert!(status.attached);
        let opening = scene
            .host
            .plugins
            .open_source(&scene.source, meta(&scene.rule), "", Object::new());
        let speaking = async {
            let (id, start) = peer.start().await;
            let push = Push::new();
            push.dial(&resolve(&start.address, &environment["MANGROVE_CONTROL"]))
                .await
                .unwrap();
            peer.answer(id, Ok(Value::Null)).await;
            push.send(batch(1, 0..1, None)).await.unwrap();
            push
        };
        let (source, _push) = within("the source", async { tokio::join!(opening, speaking) }).await;
        let mut source = source.unwrap();
        assert_eq!(numbers(&mut source).await, [0]);
        let stopping = async {
            let (id, _) = peer.stop().await;
            peer.answer(id, Ok(json!({"seq": 1}))).await;
        };
        within("its end", async { tokio::join!(source.close(), stopping) }).await;
        drop(peer);
        scene
            .host
            .until("it to be gone", &scene.name, |status| {
                status.status == State::Starting
            })
            .await;
    }
}

#[tokio::test]
async fn a_process_that_the_author_starts_is_told_where_to_dial() {
    let scene = scene(|_| ()).await;
    attaches(&scene, "ipc://").await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_process_on_another_machine_needs_the_token() {
    let scene = scene(|home| home.settings.remote = "tcp://127.0.0.1:0".to_owned()).await;
    attaches(&scene, "tcp://127.0.0.1:").await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_new_version_may_speak_our_own_contract_where_the_old_one_did_not() {
    let scene = scene(|_| ()).await;
    let mut old = crate::peer::Peer::control(&scene.name).await;
    scene.host.running(&scene.name).await;
    let plugins = &scene.host.plugins;
    let data = address::data(&scene.rule.parse().unwrap(), &"op".parse().unwrap(), 0).unwrap();
    let opening = plugins.open_sink(&scene.sink, meta(&scene.rule), Object::new(), false);
    let speaking = async {
        old.command().await;
        let pull = Pull::new();
        pull.listen(&data).await.unwrap();
        old.say("ok").await;
        pull
    };
    let (sink, pull) = within("the sink", async { tokio::join!(opening, speaking) }).await;
    let mut sink = sink.unwrap();
    assert_eq!(sink.put(results(&["1"])).await.delivered, 1);
    assert_eq!(&*within("a result", pull.recv()).await.unwrap(), b"1");
    let opening = plugins.function(&scene.function, &scene.rule);
    let speaking = async {
        old.command().await;
        let peer = crate::peer::Peer::function(&scene.function).await;
        old.say("ok").await;
        peer
    };
    let (function, _old_function) = within("the function", async { tokio::join!(opening, speaking) }).await;
    let function = function.unwrap();

    let pid = scene.host.status(&scene.name).pid;
    scene.write_next_version();
    let next = next_environment(&scene.name, pid).await;
    let new = Peer::with(&scene, &next).await.open().await;
    old.command().await;
    pull.close().await;
    old.say("ok").await;
    let (_, new_pull) = new.start_sink().await;
    let (_, pair) = new.start_function().await;
    scene
        .host
        .until("the new version", &scene.name, |status| status.version == "2.0")
        .await;
    assert_eq!(sink.put(results(&["2"])).await.delivered, 1);
    assert_eq!(taken(&new_pull).await, (1, vec![json!(2)]));
    let call = function.exec(vec![json!(1)], context("r"));
    let answering = async {
        let (id, _) = calls(&pair).await.remove(0);
        let mut writer = ResultWriter::default();
        writer.push(id, &json!(2)).unwrap();
        pair.send(writer.finish()).await.unwrap();
    };
    let (outcome, ()) = within("a call", async { tokio::join!(call, answering) }).await;
    assert_eq!(outcome.unwrap(), Some(json!(2)));
    scene.host.shutdown().await;
}
