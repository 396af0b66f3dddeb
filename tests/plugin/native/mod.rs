//! Our own contract: a process that only sleeps, with a scripted peer in the test on its sockets.

mod attach;
mod functions;
mod session;
mod sinks;
mod sources;
mod update;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use mangrove::plugin::{Function, Sink, Source};
use mangrove_protocol::Object;
use mangrove_protocol::native::control::{Ack, Answer, Start, Stop, ToHost, ToPlugin};
use mangrove_protocol::native::function::{FunctionContext, ToFunction};
use mangrove_protocol::native::opening::{FunctionSymbol, Hello, Symbols};
use mangrove_protocol::native::sink::SinkBatch;
use mangrove_protocol::native::source::SourceWriter;
use serde_json::{Value, json};
use sp_proto::{Pair, Pull, Push, SocketOptions, TlsOptions};
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
        Self::over(scene, environment, &TlsOptions::default()).await
    }

    async fn over(scene: &Scene, environment: &BTreeMap<String, String>, tls: &TlsOptions) -> Self {
        let options = SocketOptions {
            tls: tls.clone(),
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
        .map(|tuple| {
            tuple.message.clone().into_object().unwrap()["n"]
                .as_u64()
                .unwrap()
        })
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
