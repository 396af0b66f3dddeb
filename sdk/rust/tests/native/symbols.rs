//! The symbols that the tests play with.

use std::time::Duration;

use mangrove_sdk::{Context, Function, Message, Object, Output, Plugin, Result, Sink, Source, Tuple, Value};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

pub(crate) fn plugin() -> Plugin {
    Plugin::new("sdk")
        .source::<Range>("range")
        .sink::<Obedient>("obedient")
        .sink::<Gated>("gated")
        .function("do", Do)
        .function("sum", Sum)
}

/// Sends the numbers up to `count`, then does what `then` says.
pub(crate) struct Range {
    config: RangeConfig,
    data_source: String,
}

#[derive(Deserialize)]
pub(crate) struct RangeConfig {
    count: u64,
    #[serde(default)]
    pad: usize,
    then: String,
}

impl Source for Range {
    type Config = RangeConfig;

    async fn open(data_source: String, config: RangeConfig, _: &Context) -> Result<Self> {
        match config.then.as_str() {
            "refuse" => Err("handles are missing".into()),
            "panic in open" => panic!("no wheels"),
            "never open" => std::future::pending().await,
            _ => Ok(Self { config, data_source }),
        }
    }

    async fn run(self, output: Output, context: Context) -> Result {
        let pad = "x".repeat(self.config.pad);
        let first = context.offset::<u64>()?.unwrap_or(0) + 1;
        for n in first..=self.config.count {
            let tuple = Tuple::new(&json!({"n": n, "pad": pad}))?.with_offset(&n)?;
            output.send(tuple).await?;
        }
        match self.config.then.as_str() {
            "end" => Ok(()),
            "fail" => Err("the road ends".into()),
            "panic" => panic!("the wheel fell off"),
            "report" => {
                output.report("a bad record").await?;
                let place = json!({"rule": context.rule_id(), "op": context.op_id(),
                    "instance": context.instance(), "source": self.data_source});
                let tuple = Tuple::new(&json!({"last": true}))?.with_meta(&place)?;
                Ok(output.send(tuple).await?)
            }
            "too long" => {
                let error = output.send_json(&json!({"pad": "x".repeat(2 << 20)})).await;
                Ok(output.report(error.unwrap_err().to_string()).await?)
            }
            "commit" => {
                let safe: u64 = context.committed().await?;
                Ok(output.send_json(&json!({"safe": safe})).await?)
            }
            "wait" => {
                context.cancelled().await;
                Ok(output.send_json(&json!({"last": true})).await?)
            }
            "count" => {
                context.metrics().counter("sent").add(self.config.count);
                context.metrics().gauge("depth").set(0.5);
                context.cancelled().await;
                Ok(())
            }
            _ => std::future::pending().await,
        }
    }
}

/// Does what the results say.
pub(crate) struct Obedient;

impl Sink for Obedient {
    type Config = Object;

    async fn open(_: Object, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    async fn collect(&mut self, message: Message, context: &Context) -> Result {
        match message.json()? {
            Value::String(text) if text == "panic" => panic!("out of hands"),
            Value::String(text) => Err(text.into()),
            _ => {
                context.state().add("taken", 1_u64).await?;
                Ok(())
            }
        }
    }

    async fn close(self, context: &Context) -> Result {
        tracing::info!(rule = context.rule_id(), "closed");
        Ok(())
    }
}

/// What a [`Gated`] sink may take.
pub(crate) static GATE: Semaphore = Semaphore::const_new(0);

/// Takes a result when it is let.
pub(crate) struct Gated;

impl Sink for Gated {
    type Config = Object;

    async fn open(_: Object, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    async fn collect(&mut self, _: Message, _: &Context) -> Result {
        GATE.acquire().await?.forget();
        Ok(())
    }
}

/// Does what its first argument says.
pub(crate) struct Do;

/// How many calls of "hold" run.
pub(crate) static HELD: Semaphore = Semaphore::const_new(0);
/// How many were dropped.
pub(crate) static DROPPED: Semaphore = Semaphore::const_new(0);

/// How many calls of "gate" may end.
pub(crate) static CALLS: Semaphore = Semaphore::const_new(0);

struct Drops;

impl Drop for Drops {
    fn drop(&mut self) {
        DROPPED.add_permits(1);
    }
}

impl Function for Do {
    fn validate(&self, args: &[Value]) -> Result {
        match args.len() {
            0 => Err("do takes an argument".into()),
            13 => panic!("thirteen"),
            _ => Ok(()),
        }
    }

    async fn exec(&self, args: Vec<Value>, context: &Context) -> Result<Value> {
        match args.first().and_then(Value::as_str) {
            Some("panic") => panic!("out of luck"),
            Some("panic later") => {
                tokio::task::yield_now().await;
                panic!("out of luck later")
            }
            Some("fail") => Err("it was told to".into()),
            Some("hold") => {
                let _drops = Drops;
                HELD.add_permits(1);
                std::future::pending().await
            }
            Some("gate") => {
                HELD.add_permits(1);
                CALLS.acquire().await?.forget();
                Ok(json!(args))
            }
            Some("wait") => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(json!(args))
            }
            Some("busy") => {
                let milliseconds = args.get(1).and_then(Value::as_u64).unwrap_or_default();
                std::thread::sleep(Duration::from_millis(milliseconds));
                Ok(Value::Null)
            }
            Some("stop") => {
                HELD.add_permits(1);
                context.cancelled().await;
                Ok("stopped".into())
            }
            Some("where") => Ok(json!([
                context.rule_id(),
                context.op_id(),
                context.instance(),
                context.call_site()
            ])),
            Some("log") => {
                tracing::warn!(size = 3, "careful");
                Ok(Value::Null)
            }
            Some("long") => Ok("x".repeat(2 << 20).into()),
            _ => Ok(json!(args)),
        }
    }
}

/// The sum of a column.
pub(crate) struct Sum;

impl Function for Sum {
    fn is_aggregate(&self) -> bool {
        true
    }

    async fn exec(&self, args: Vec<Value>, _: &Context) -> Result<Value> {
        let column = args
            .first()
            .and_then(Value::as_array)
            .ok_or("sum takes a column")?;
        Ok(column.iter().filter_map(Value::as_i64).sum::<i64>().into())
    }
}
