//! Data channels whose other end misbehaves.

use std::time::Duration;

use mangrove::plugin::{CallError, ChannelError, Function, Sink, Source};
use mangrove_protocol::control::Command;
use mangrove_protocol::data::{FunctionContext, FunctionReply, SourceMessage};
use mangrove_protocol::{Object, address};
use serde_json::json;
use sp_proto::{Pull, Push, SocketOptions};
use testkit::within;
use tokio::time::timeout;

use crate::home::{Home, Host, SLEEP, meta, unique};
use crate::peer::{Peer, word};

struct Scene {
    host: Host,
    control: Peer,
    name: String,
    source: String,
    sink: String,
    function: String,
    rule: String,
    _home: Home,
}

async fn scene(adjust: impl FnOnce(&mut Home)) -> Scene {
    let mut home = Home::new();
    adjust(&mut home);
    let name = unique("hch");
    let (source, sink, function, rule) = (unique("hsrc"), unique("hsnk"), unique("hfn"), unique("hr"));
    let fields = format!(r#""sources":["{source}"],"sinks":["{sink}"],"functions":["{function}"]"#);
    home.add(&name, "go", &fields, SLEEP);
    let host = home.start().await;
    let control = Peer::control(&name).await;
    Scene {
        host,
        control,
        name,
        source,
        sink,
        function,
        rule,
        _home: home,
    }
}

impl Scene {
    fn address(&self) -> String {
        address::data(&self.rule.parse().unwrap(), &"op".parse().unwrap(), 0).unwrap()
    }

    fn ack_address(&self) -> String {
        address::acknowledgements(&self.rule.parse().unwrap(), &"op".parse().unwrap(), 0).unwrap()
    }

    async fn open_source(&mut self) -> (Source, Push) {
        let plugins = self.host.plugins.clone();
        let (address, meta, name) = (self.address(), meta(&self.rule), self.source.clone());
        let opening = plugins.open_source(&name, meta, "", Object::new());
        let push = Push::new();
        let plugin = async {
            self.control.command().await;
            push.dial(&address).await.unwrap();
            self.control.say("ok").await;
        };
        let (source, ()) = within("the source to open", async { tokio::join!(opening, plugin) }).await;
        (source.unwrap(), push)
    }

    /// As the SDKs do it: listen for data, dial the acknowledgements, then answer.
    async fn open_sink(&mut self, require_ack: bool) -> (Sink, Pull, Push) {
        self.open_sink_at(Pull::new(), require_ack).await
    }

    async fn open_sink_at(&mut self, data: Pull, require_ack: bool) -> (Sink, Pull, Push) {
        let plugins = self.host.plugins.clone();
        let (address, ack_address) = (self.address(), self.ack_address());
        let name = self.sink.clone();
        let opening = plugins.open_sink(&name, meta(&self.rule), Object::new(), require_ack);
        let acks = Push::new();
        let plugin = async {
            self.control.command().await;
            data.listen(&address).await.unwrap();
            acks.dial(&ack_address).await.unwrap();
            self.control.say("ok").await;
        };
        let (sink, ()) = within("the sink to open", async { tokio::join!(opening, plugin) }).await;
        (sink.unwrap(), data, acks)
    }

    async fn open_function(&mut self) -> (Function, Peer) {
        let plugins = self.host.plugins.clone();
        let name = self.function.clone();
        let opening = plugins.function(&name, "r1");
        let plugin = async {
            self.control.command().await;
            let peer = Peer::function(&name).await;
            self.control.say("ok").await;
            peer
        };
        let (function, peer) = within("the function to open", async { tokio::join!(opening, plugin) }).await;
        (function.unwrap(), peer)
    }
}

async fn exec(function: &Function, word: &str) -> Result<Option<serde_json::Value>, CallError> {
    let context = FunctionContext {
        rule_id: "r1".parse().unwrap(),
        op_id: "op".parse().unwrap(),
        instance_id: 0,
        func_id: 0,
    };
    within("the call's end", function.exec(vec![json!(word)], context)).await
}

fn result(word: &str) -> String {
    String::from_utf8(FunctionReply::Result(json!(word)).encode()).unwrap()
}

#[tokio::test]
async fn garbage_from_a_source_is_reported_and_it_goes_on() {
    let mut scene = scene(|_| ()).await;
    let (mut source, push) = scene.open_source().await;
    let good = SourceMessage::Tuple {
        message: Object::new(),
        meta: Object::new(),
    }
    .encode();
    for message in [
        b"\xff\x00nope".to_vec(),
        b"{}".to_vec(),
        br#""{\"error\":\"from go\"}""#.to_vec(),
        good,
    ] {
        push.send(message).await.unwrap();
    }
    let mut next = async || within("the next message", source.recv()).await.unwrap();
    assert!(matches!(next().await, Err(ChannelError::Garbage(_))));
    assert!(matches!(next().await, Err(ChannelError::Garbage(_))));
    assert!(matches!(next().await, Err(ChannelError::Plugin(text)) if text == "from go"));
    next().await.unwrap();
    scene.host.shutdown().await;
    assert!(matches!(
        within("the end", source.recv()).await,
        Some(Err(_)) | None
    ));
}

#[tokio::test]
async fn an_oversized_message_is_refused_with_its_size() {
    let mut scene = scene(|home| home.settings.max_message = 1000).await;
    let (mut source, push) = scene.open_source().await;
    push.send(vec![b'x'; 5000]).await.unwrap();
    let error = within("the news", source.recv()).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, ChannelError::Closed { reason, .. } if reason.contains("5000 bytes")),
        "{error}"
    );
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_source_that_nobody_reads_is_slowed_down() {
    let mut scene = scene(|_| ()).await;
    let (mut source, push) = scene.open_source().await;
    let message = SourceMessage::Error("x".repeat(100_000)).encode();
    let mut sent = 0;
    // The queues of both ends and the system's are finite: sooner or later nothing more is taken.
    while timeout(Duration::from_millis(500), push.send(message.clone()))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < 10_000, "1 GB was taken although nobody reads");
    }
    for _ in 0..sent {
        assert!(matches!(
            within("a message", source.recv()).await,
            Some(Err(ChannelError::Plugin(_)))
        ));
    }
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_late_reply_never_answers_the_next_call() {
    let mut scene = scene(|home| home.settings.call_timeout = Duration::from_secs(1)).await;
    let (function, mut peer) = scene.open_function().await;
    let (first, call) = tokio::join!(exec(&function, "one"), peer.call());
    assert_eq!(word(&call), "one");
    let error = first.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    // While the plugin is still busy, the next call can only wait, and says why it failed.
    let error = exec(&function, "two").await.unwrap_err();
    assert!(error.to_string().contains("still at an earlier call"), "{error}");
    let plugin = async {
        peer.say(&result("one, late")).await;
        let call = peer.call().await;
        assert_eq!(word(&call), "three");
        peer.say(&result("three")).await;
    };
    let (third, ()) = tokio::join!(exec(&function, "three"), plugin);
    assert_eq!(third.unwrap(), Some(json!("three")));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_call_that_crosses_a_keep_alive_is_sent_again() {
    let mut scene = scene(|_| ()).await;
    let (function, mut peer) = scene.open_function().await;
    let plugin = async {
        for _ in 0..3 {
            assert_eq!(word(&peer.call().await), "one");
            peer.say("handshake").await;
        }
        assert_eq!(word(&peer.call().await), "one");
        peer.say(&result("one")).await;
    };
    let (answer, ()) = tokio::join!(exec(&function, "one"), plugin);
    assert_eq!(answer.unwrap(), Some(json!("one")));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_garbled_reply_is_an_error_and_the_next_call_is_fine() {
    let mut scene = scene(|_| ()).await;
    let (function, mut peer) = scene.open_function().await;
    let plugin = async {
        peer.call().await;
        peer.say("{nope").await;
        peer.call().await;
        peer.say(&result("two")).await;
    };
    let calls = async { (exec(&function, "one").await, exec(&function, "two").await) };
    let ((first, second), ()) = tokio::join!(calls, plugin);
    assert!(matches!(first.unwrap_err(), CallError::Garbage(_)));
    assert_eq!(second.unwrap(), Some(json!("two")));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_month_of_keep_alives_leaves_the_next_call_quick() {
    let mut scene = scene(|_| ()).await;
    let (function, mut peer) = scene.open_function().await;
    for _ in 0..2_000 {
        peer.say("handshake").await;
    }
    let plugin = async {
        assert_eq!(word(&peer.call().await), "one");
        peer.say(&result("one")).await;
    };
    let (answer, ()) = tokio::join!(exec(&function, "one"), plugin);
    assert_eq!(answer.unwrap(), Some(json!("one")));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_function_whose_connection_is_gone_is_started_again() {
    let mut scene = scene(|_| ()).await;
    let (function, peer) = scene.open_function().await;
    drop(peer);
    let name = scene.function.clone();
    let plugin = async {
        scene.control.command().await;
        let mut peer = Peer::function(&name).await;
        scene.control.say("ok").await;
        assert_eq!(word(&peer.call().await), "one");
        peer.say(&result("one")).await;
        peer
    };
    let caller = async {
        loop {
            match exec(&function, "one").await {
                // It went out while the connection was breaking.
                Err(CallError::Disconnected { .. }) => {}
                answer => return answer,
            }
        }
    };
    let (answer, _peer) = tokio::join!(caller, plugin);
    assert_eq!(answer.unwrap(), Some(json!("one")));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn calls_of_many_callers_are_answered_one_by_one() {
    let mut scene = scene(|_| ()).await;
    let (function, mut peer) = scene.open_function().await;
    let plugin = async {
        for _ in 0..40 {
            let call = peer.call().await;
            peer.say(&result(word(&call))).await;
        }
    };
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..40 {
        let function = function.clone();
        callers.spawn(async move { (n, exec(&function, &n.to_string()).await) });
    }
    let (answers, ()) = tokio::join!(callers.join_all(), plugin);
    for (n, answer) in answers {
        assert_eq!(answer.unwrap(), Some(json!(n.to_string())));
    }
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_sink_that_never_acknowledges_is_an_error_that_says_so() {
    let mut scene = scene(|home| home.settings.ack_timeout = Duration::from_millis(100)).await;
    let (mut sink, data, _acks) = scene.open_sink(true).await;
    let error = within("the time limit", sink.send("one".into()))
        .await
        .unwrap_err();
    assert!(matches!(error, ChannelError::NotAcknowledged { .. }), "{error}");
    assert!(error.to_string().contains("never acknowledge"), "{error}");
    assert_eq!(
        within("the message", data.recv()).await.unwrap().as_bytes(),
        b"one"
    );
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_late_acknowledgement_is_not_taken_for_the_next_message() {
    let mut scene = scene(|home| home.settings.ack_timeout = Duration::from_secs(1)).await;
    let (mut sink, data, acks) = scene.open_sink(true).await;
    within("the time limit", sink.send("one".into()))
        .await
        .unwrap_err();
    let plugin = async {
        for _ in 0..2 {
            data.recv().await.unwrap();
        }
        acks.send("{}").await.unwrap();
        acks.send(r#"{"error":"two is bad"}"#).await.unwrap();
    };
    let (second, ()) = within("the second message", async {
        tokio::join!(sink.send("two".into()), plugin)
    })
    .await;
    let error = second.unwrap_err();
    assert!(
        matches!(&error, ChannelError::Plugin(text) if text == "two is bad"),
        "{error}"
    );
    // And garbage for the third.
    let plugin = async {
        data.recv().await.unwrap();
        acks.send("ok?").await.unwrap();
    };
    let (third, ()) = within("the third message", async {
        tokio::join!(sink.send("three".into()), plugin)
    })
    .await;
    assert!(matches!(third.unwrap_err(), ChannelError::Garbage(_)));
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_sink_that_takes_nothing_is_an_error_after_the_limit() {
    let mut scene = scene(|home| home.settings.send_timeout = Duration::from_millis(200)).await;
    let (mut sink, data, _acks) = scene.open_sink(false).await;
    data.close().await;
    let error = within("the limit", async {
        loop {
            // The first ones may still fit into the dead connection.
            if let Err(error) = sink.send(vec![0; 100_000].into()).await {
                return error;
            }
        }
    })
    .await;
    assert!(matches!(error, ChannelError::NotTaken { .. }), "{error}");
    assert!(error.to_string().contains(&scene.name), "{error}");
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_slow_sink_holds_the_sender_and_loses_nothing() {
    // Far shorter than the wait below: waiting for room must not count as an error.
    let mut scene = scene(|home| home.settings.send_timeout = Duration::from_millis(1)).await;
    let (mut sink, data, _acks) = scene.open_sink(false).await;
    let body = |n: u32| [&n.to_be_bytes()[..], &[0; 100_000]].concat();
    let mut sent = 0;
    // Until everything on the way is full.
    while let Ok(result) = timeout(Duration::from_millis(100), sink.send(body(sent).into())).await {
        result.unwrap();
        sent += 1;
    }
    for n in 0..sent {
        let message = within("a message", data.recv()).await.unwrap();
        assert_eq!(message[..4], n.to_be_bytes());
    }
    within("room", sink.send(body(sent).into())).await.unwrap();
    scene.host.shutdown().await;
}

#[tokio::test]
async fn a_sink_can_read_what_it_was_sent_before_it_is_told_to_stop() {
    let mut scene = scene(|_| {}).await;
    // It reads little more than what is taken from it.
    let data = Pull::with_options(SocketOptions {
        recv_queue: 1,
        ..SocketOptions::default()
    });
    let (mut sink, data, _acks) = scene.open_sink_at(data, false).await;
    // So little that nothing has to wait in the host.
    const SENT: u32 = 4;
    for n in 0..SENT {
        let body = [&n.to_be_bytes()[..], &[0; 90_000]].concat();
        within("room", sink.send(body.into())).await.unwrap();
    }
    let control = &mut scene.control;
    let plugin = async {
        // Nothing tells that a command does not come.
        let early = timeout(Duration::from_millis(100), control.command()).await;
        assert!(early.is_err(), "{early:?} although there is something to read");
        for n in 0..SENT {
            let message = within("a message", data.recv()).await.unwrap();
            assert_eq!(message[..4], n.to_be_bytes());
        }
        assert!(matches!(control.command().await, Command::Stop(_)));
        control.say("ok").await;
    };
    within("the end of the sink", async {
        tokio::join!(sink.close(), plugin)
    })
    .await;
    scene.host.shutdown().await;
}

#[tokio::test]
async fn acknowledgements_that_nobody_wants_do_not_hold_up_the_plugin() {
    let mut scene = scene(|_| {}).await;
    let (mut sink, data, acks) = scene.open_sink(false).await;
    // More than any buffer on the way holds.
    let ack = ["{}", &" ".repeat(100_000)].concat();
    within("an exchange", async {
        for n in 0..1000_u32 {
            sink.send(n.to_be_bytes().to_vec().into()).await.unwrap();
            data.recv().await.unwrap();
            acks.send(ack.clone()).await.unwrap();
        }
    })
    .await;
    scene.host.shutdown().await;
}
