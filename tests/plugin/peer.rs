//! The plugin's end of the sockets, step by step.

use mangrove_protocol::address;
use mangrove_protocol::control::Command;
use mangrove_protocol::data::FunctionCall;
use sp_proto::{Message, Req, ReqContext, SocketOptions};
use testkit::within;

/// A plugin's end of a turned-around channel.
pub(crate) struct Peer {
    /// Keeps the connection.
    _socket: Req,
    context: ReqContext,
}

impl Peer {
    /// Dials the control channel of `plugin`, as soon as the host listens, and says that it is there.
    pub(crate) async fn control(plugin: &str) -> Self {
        Self::dial(&address::control(&plugin.parse().unwrap()).unwrap()).await
    }

    /// The same for a function.
    pub(crate) async fn function(symbol: &str) -> Self {
        Self::dial(&address::function(&symbol.parse().unwrap()).unwrap()).await
    }

    async fn dial(address: &str) -> Self {
        let options = SocketOptions {
            reconnect_min: std::time::Duration::from_millis(5),
            reconnect_max: std::time::Duration::from_millis(20),
            // Else what was said to one process would be said once more to the next one, a minute later.
            resend_time: None,
            ..SocketOptions::default()
        };
        let socket = Req::with_options(options);
        socket.dial_in_background(address).unwrap();
        let mut peer = Self {
            context: socket.context(),
            _socket: socket,
        };
        peer.say("handshake").await;
        peer
    }

    /// Sends a message; a reply to the one before it will be dropped.
    pub(crate) async fn say(&mut self, text: &str) {
        within("the host to connect", self.context.send(text.to_owned()))
            .await
            .unwrap();
    }

    async fn reply(&mut self) -> Message {
        within("the host's command", self.context.recv()).await.unwrap()
    }

    /// The host's next command.
    pub(crate) async fn command(&mut self) -> Command {
        Command::decode(&self.reply().await).unwrap()
    }

    /// The host's next call.
    pub(crate) async fn call(&mut self) -> FunctionCall {
        FunctionCall::decode(&self.reply().await).unwrap()
    }
}

/// The first argument of a call, as text.
pub(crate) fn word(call: &FunctionCall) -> &str {
    match call {
        FunctionCall::Exec { args, .. } => args[0].as_str().unwrap(),
        other => panic!("expected a call, not {other:?}"),
    }
}
