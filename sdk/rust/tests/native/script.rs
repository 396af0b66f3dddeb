//! A host that does what a test says, message by message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mangrove_protocol::Object;
use mangrove_protocol::native::control::{Place, Role, Start, Stop, ToHost, ToPlugin};
use mangrove_protocol::native::opening::{Hello, Limits, Welcome};
use mangrove_sdk::{Options, Plugin, RunError, Value, testing};
use sp_proto::{Message, Pair, Pull, Push};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::symbols;

/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const TOKEN: &str = "a secret";

static ADDRESSES: AtomicU64 = AtomicU64::new(0);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {LIMIT:?}"),
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        message: 1024 * 1024,
        batch: 8,
    }
}

pub(crate) fn address() -> String {
    format!("inproc://native-{}", ADDRESSES.fetch_add(1, Ordering::Relaxed))
}

pub(crate) struct Host {
    pub(crate) control: Pair,
    pub(crate) address: String,
    plugin: JoinSet<Result<(), RunError>>,
    pub(crate) stop: CancellationToken,
    requests: u64,
}

impl Host {
    /// Starts the plugin of [`symbols`] and takes its hello, without an answer.
    pub(crate) async fn silent(options: Options) -> (Self, Hello) {
        let control = Pair::new();
        let address = address();
        control.listen(&address).await.unwrap();
        let stop = CancellationToken::new();
        let mut plugin = JoinSet::new();
        let (control_address, stopped) = (address.clone(), stop.clone());
        let symbols: Plugin = symbols::plugin().options(options);
        plugin.spawn(async move { testing::run_at(symbols, &control_address, TOKEN, stopped).await });
        let mut host = Self {
            control,
            address,
            plugin,
            stop,
            requests: 0,
        };
        let hello = host.hello().await;
        (host, hello)
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let (host, _) = Self::silent(options).await;
        host.welcome().await;
        host
    }

    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn hello(&mut self) -> Hello {
        match self.next().await {
            ToHost::Hello(hello) => hello,
            other => panic!("no hello: {other:?}"),
        }
    }

    pub(crate) async fn welcome(&self) {
        let welcome = Welcome {
            version: 1,
            host: "script".to_owned(),
            instance: 0,
            encoding: "json".to_owned(),
            limits: limits(),
            ping_interval: 1000,
        };
        self.send(ToPlugin::Welcome(welcome)).await;
    }

    pub(crate) async fn send(&self, message: ToPlugin) {
        self.send_bytes(message.encode()).await;
    }

    pub(crate) async fn send_bytes(&self, message: impl Into<Message>) {
        soon("sending", self.control.send(message)).await.unwrap();
    }

    /// The next message, log lines left out.
    pub(crate) async fn next(&self) -> ToHost {
        loop {
            let message = soon("a message of the plugin", self.control.recv())
                .await
                .unwrap();
            match ToHost::decode(&message).unwrap() {
                ToHost::Log(_) => {}
                message => return message,
            }
        }
    }

    /// The answer to a request; nothing else may come before it.
    pub(crate) async fn request(&mut self, request: impl FnOnce(u64) -> ToPlugin) -> Result<Value, String> {
        self.requests += 1;
        let id = self.requests;
        self.send(request(id)).await;
        match self.next().await {
            ToHost::Answer(answer) if answer.id == id => answer.outcome,
            other => panic!("no answer to {id}: {other:?}"),
        }
    }

    pub(crate) async fn start_symbol(
        &mut self,
        number: u64,
        symbol: &str,
        role: Role,
        address: &str,
    ) -> Result<Value, String> {
        let start = Start {
            number,
            symbol: symbol.parse().unwrap(),
            role,
            address: address.to_owned(),
        };
        self.request(|id| ToPlugin::Start(id, Box::new(start))).await
    }

    pub(crate) async fn source(&mut self, number: u64, symbol: &str, config: Value) -> Pull {
        let (pull, address) = (Pull::new(), address());
        pull.listen(&address).await.unwrap();
        let role = source_role(config);
        self.start_symbol(number, symbol, role, &address).await.unwrap();
        pull
    }

    pub(crate) async fn sink(&mut self, number: u64, symbol: &str, ack: bool) -> Push {
        let (push, address) = (Push::new(), address());
        push.listen(&address).await.unwrap();
        let role = Role::Sink {
            place: place(),
            config: Object::new(),
            ack,
        };
        self.start_symbol(number, symbol, role, &address).await.unwrap();
        push
    }

    pub(crate) async fn function(&mut self, number: u64, symbol: &str) -> Pair {
        let (pair, address) = (Pair::new(), address());
        pair.listen(&address).await.unwrap();
        self.start_symbol(number, symbol, Role::Function, &address)
            .await
            .unwrap();
        pair
    }

    pub(crate) async fn stop_symbol(&mut self, number: u64, seq: Option<u64>) -> Result<Value, String> {
        let timeout = LIMIT.as_millis() as u64;
        let stop = Stop { number, timeout, seq };
        self.request(|id| ToPlugin::Stop(id, stop)).await
    }

    /// How the plugin has ended.
    pub(crate) async fn end(&mut self) -> Result<(), RunError> {
        soon("the plugin's end", self.plugin.join_next())
            .await
            .unwrap()
            .unwrap()
    }

    /// Stops the plugin as a signal does.
    pub(crate) async fn shut_down(mut self) {
        self.stop.cancel();
        self.end().await.unwrap();
    }
}

pub(crate) fn place() -> Place {
    Place {
        rule_id: "rule1".parse().unwrap(),
        op_id: "op1".parse().unwrap(),
        instance_id: 2,
    }
}

pub(crate) fn source_role(config: Value) -> Role {
    Role::Source {
        place: place(),
        data_source: "topic".to_owned(),
        config: config.as_object().unwrap().clone(),
        offset: None,
    }
}
