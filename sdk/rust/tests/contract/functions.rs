//! Functions, as the host sees them.

use std::time::Duration;

use crate::host::{Host, soon, symbol, unusual};
use mangrove_protocol::address;
use mangrove_protocol::control::{HANDSHAKE, Request, UseAs};
use mangrove_protocol::data::{FunctionCall, FunctionContext, FunctionReply};
use mangrove_sdk::{Context, Function, Options, Result, Value};
use serde_json::json;
use sp_proto::Rep;

struct Sum;

impl Function for Sum {
    fn validate(&self, args: &[Value]) -> Result {
        match args.len() {
            0 => Err("sum takes arguments".into()),
            13 => panic!("thirteen"),
            _ => Ok(()),
        }
    }

    fn is_aggregate(&self) -> bool {
        true
    }

    async fn exec(&self, args: Vec<Value>, context: &Context) -> Result<Value> {
        assert_eq!(context.op_id(), "op2");
        if args.is_empty() {
            return Ok(Value::Null);
        }
        let mut sum = 0;
        for arg in args {
            sum += arg.as_i64().ok_or_else(|| format!("{arg} is no number"))?;
        }
        assert_ne!(sum, 13, "bad luck");
        Ok(json!([
            sum,
            context.rule_id(),
            context.instance(),
            context.call_site()
        ]))
    }
}

/// The function's channel.
struct Channel {
    rep: Rep,
    request: sp_proto::Request,
}

impl Channel {
    async fn start(host: &mut Host, name: &str) -> Self {
        let rep = Rep::new();
        rep.listen(&address::function(&name.parse().unwrap()).unwrap())
            .await
            .unwrap();
        let function = symbol(name, UseAs::Function, json!({}));
        assert_eq!(host.start_symbol(&function).await, Request::Done);
        // It is started once; once more changes nothing.
        assert_eq!(host.start_symbol(&function).await, Request::Done);
        let request = soon("the function's handshake", rep.recv()).await.unwrap();
        assert_eq!(&**request.body(), HANDSHAKE);
        Self { rep, request }
    }

    async fn send(self, call: Vec<u8>) -> (Self, FunctionReply) {
        let Self { rep, mut request } = self;
        loop {
            request.reply(call.clone()).await.unwrap();
            request = soon("the function's answer", rep.recv()).await.unwrap();
            if **request.body() != *HANDSHAKE {
                let reply = FunctionReply::decode(request.body()).unwrap();
                return (Self { rep, request }, reply);
            }
        }
    }

    async fn expect(self, call: FunctionCall, expected: FunctionReply) -> Self {
        let (channel, reply) = self.send(call.encode()).await;
        assert_eq!(reply, expected, "to {call:?}");
        channel
    }
}

fn exec(args: Value) -> FunctionCall {
    FunctionCall::Exec {
        args: args.as_array().unwrap().clone(),
        context: FunctionContext {
            rule_id: "rule7".parse().unwrap(),
            op_id: "op2".parse().unwrap(),
            instance_id: 1,
            func_id: 4,
        },
    }
}

fn failed(text: &str) -> FunctionReply {
    FunctionReply::Error(text.to_owned())
}

#[tokio::test]
async fn calls_are_answered_and_panics_are_errors() {
    let name = unusual("sum");
    let mut host = Host::start("fn", |plugin| plugin.function(&name, Sum)).await;
    let mut channel = Channel::start(&mut host, &name).await;
    for (call, reply) in [
        (FunctionCall::IsAggregate, FunctionReply::Result(json!(true))),
        (
            FunctionCall::Validate(vec![json!("a")]),
            FunctionReply::Result(json!("")),
        ),
        (FunctionCall::Validate(vec![]), failed("sum takes arguments")),
        (
            FunctionCall::Validate(vec![json!(0); 13]),
            failed("panicked: thirteen"),
        ),
        (
            exec(json!([1, 2])),
            FunctionReply::Result(json!([3, "rule7", 1, 4])),
        ),
        (exec(json!([])), FunctionReply::Result(Value::Null)),
        (exec(json!(["x"])), failed("\"x\" is no number")),
    ] {
        channel = channel.expect(call, reply).await;
    }
    let (channel, reply) = channel.send(exec(json!([6, 7])).encode()).await;
    assert!(
        matches!(&reply, FunctionReply::Error(text) if text.contains("bad luck")),
        "{reply:?}"
    );
    let (channel, reply) = channel.send(b"nope".to_vec()).await;
    assert!(matches!(reply, FunctionReply::Error(_)), "{reply:?}");
    channel
        .expect(exec(json!([4])), FunctionReply::Result(json!([4, "rule7", 1, 4])))
        .await;
    host.shut_down().await;
}

#[tokio::test]
async fn an_idle_function_keeps_alive_and_answers_after_it() {
    let name = unusual("idle");
    let options = Options {
        keep_alive: Duration::from_millis(10),
        ..Options::default()
    };
    let mut host = Host::start_with("fnidle", options, |plugin| plugin.function(&name, Sum)).await;
    let mut channel = Channel::start(&mut host, &name).await;
    for _ in 0..20 {
        channel.request = soon("a keep-alive", channel.rep.recv()).await.unwrap();
        assert_eq!(&**channel.request.body(), HANDSHAKE);
    }
    channel
        .expect(FunctionCall::IsAggregate, FunctionReply::Result(json!(true)))
        .await;
    host.shut_down().await;
}
