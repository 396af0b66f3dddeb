//! The host's part, played with plain sockets on the real addresses.

use std::time::Duration;

use mangrove_protocol::control::{Command, Meta, Request, Symbol, UseAs};
use mangrove_protocol::name::PluginName;
use mangrove_protocol::{Object, address};
use mangrove_sdk::{Options, Plugin, RunError, Value};
use sp_proto::Rep;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {LIMIT:?}"),
    }
}

/// A name that no other test on this machine uses.
pub(crate) fn unusual(name: &str) -> String {
    format!("sdkt-{name}-{}", std::process::id())
}

/// A host with one plugin, which runs in this process.
pub(crate) struct Host {
    name: PluginName,
    control: Rep,
    /// The plugin's newest request, to be answered with the next command.
    request: Option<sp_proto::Request>,
    plugin: JoinSet<Result<(), RunError>>,
    stop: CancellationToken,
}

impl Host {
    /// Listens, then starts the plugin that `build` makes.
    pub(crate) async fn start(name: &str, build: impl FnOnce(Plugin) -> Plugin) -> Self {
        Self::start_with(name, Options::default(), build).await
    }

    pub(crate) async fn start_with(
        name: &str,
        options: Options,
        build: impl FnOnce(Plugin) -> Plugin,
    ) -> Self {
        let name: PluginName = unusual(name).parse().unwrap();
        let control = listen(&name).await;
        let stop = CancellationToken::new();
        let mut plugin = JoinSet::new();
        let running = build(Plugin::new(name.as_str()).options(options)).run_until(stop.clone());
        plugin.spawn(running);
        Self {
            name,
            control,
            request: None,
            plugin,
            stop,
        }
    }

    /// The plugin's next request.
    pub(crate) async fn request(&mut self) -> &sp_proto::Request {
        let request = soon("a request of the plugin", self.control.recv())
            .await
            .unwrap();
        self.request.insert(request)
    }

    /// The request that `request` has returned, to be answered by hand.
    pub(crate) fn take_request(&mut self) -> sp_proto::Request {
        self.request.take().expect("a request was received")
    }

    /// Sends a command and returns the answer; again when a keep-alive has crossed it.
    pub(crate) async fn send(&mut self, command: &[u8]) -> Request {
        loop {
            if self.request.is_none() {
                self.request().await;
            }
            let request = self.request.take().unwrap();
            if request.reply(command.to_vec()).await.is_err() {
                continue;
            }
            match Request::decode(self.request().await.body()) {
                Request::Handshake => {}
                answer => return answer,
            }
        }
    }

    pub(crate) async fn start_symbol(&mut self, symbol: &Symbol) -> Request {
        self.send(&Command::Start(symbol.clone()).encode()).await
    }

    pub(crate) async fn stop_symbol(&mut self, symbol: &Symbol) -> Request {
        self.send(&Command::Stop(symbol.clone()).encode()).await
    }

    /// The process's end as the plugin sees it: the control channel is gone.
    pub(crate) async fn go_away(&mut self) {
        self.request = None;
        self.control.close().await;
    }

    pub(crate) async fn come_back(&mut self) {
        self.control = listen(&self.name).await;
    }

    /// How the plugin ended by itself.
    pub(crate) async fn end(mut self) -> Result<(), RunError> {
        soon("the plugin's end", self.plugin.join_next())
            .await
            .unwrap()
            .unwrap()
    }

    /// Stops the plugin.
    pub(crate) async fn shut_down(self) {
        self.stop.cancel();
        self.end().await.unwrap();
    }
}

async fn listen(name: &PluginName) -> Rep {
    let control = Rep::new();
    control.listen(&address::control(name).unwrap()).await.unwrap();
    control
}

/// The use of a symbol by a rule that bears its name.
pub(crate) fn symbol(name: &str, use_as: UseAs, config: Value) -> Symbol {
    let config: Object = config.as_object().unwrap().clone();
    let meta = match use_as {
        UseAs::Function => Meta::default(),
        _ => Meta {
            rule_id: Some(unusual(name).parse().unwrap()),
            op_id: Some("op1".parse().unwrap()),
            instance_id: 3,
        },
    };
    Symbol {
        name: name.parse().unwrap(),
        meta,
        use_as,
        config,
    }
}

pub(crate) fn source(name: &str, data_source: &str, config: Value) -> Symbol {
    let data_source = data_source.to_owned();
    symbol(name, UseAs::Source { data_source }, config)
}

/// The address of a symbol's data channel.
pub(crate) fn data_address(symbol: &Symbol) -> String {
    let Meta {
        rule_id,
        op_id,
        instance_id,
    } = &symbol.meta;
    address::data(rule_id.as_ref().unwrap(), op_id.as_ref().unwrap(), *instance_id).unwrap()
}

/// The address of a sink's acknowledgements.
pub(crate) fn ack_address(symbol: &Symbol) -> String {
    let Meta {
        rule_id,
        op_id,
        instance_id,
    } = &symbol.meta;
    address::acknowledgements(rule_id.as_ref().unwrap(), op_id.as_ref().unwrap(), *instance_id).unwrap()
}
