//! How fast the SDK itself is: a source, a function and a sink against the other end of their sockets, in one process.
//!
//! `cargo run --release -p mangrove-sdk --features testing --example throughput`

use std::time::{Duration, Instant};

use mangrove_protocol::native::control::{Place, Role, Start, ToHost, ToPlugin};
use mangrove_protocol::native::function::{CallWriter, FunctionContext};
use mangrove_protocol::native::opening::{Limits, Welcome};
use mangrove_protocol::native::sink::SinkWriter;
use mangrove_sdk::{
    Context, Function, Message, Object, Output, Plugin, Result, Sink, Source, Value, testing,
};
use serde::Serialize;
use sp_proto::{Pair, Pull, Push};
use tokio_util::sync::CancellationToken;

/// About the length of a tuple with its comma, in bytes.
const TUPLE: usize = r#"{"n":1000000,"sensor":"roof","celsius":21.5},"#.len();

const LIMIT: Duration = Duration::from_secs(3);

struct Flood;

#[derive(Serialize)]
struct Reading<'a> {
    n: u64,
    sensor: &'a str,
    celsius: f64,
}

impl Source for Flood {
    type Config = Object;

    async fn open(_: String, _: Object, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    async fn run(self, output: Output, context: Context) -> Result {
        let mut n = 0;
        while !context.is_cancelled() {
            n += 1;
            let reading = Reading {
                n,
                sensor: "roof",
                celsius: 21.5,
            };
            output.send_json(&reading).await?;
        }
        Ok(())
    }
}

struct Take;

impl Sink for Take {
    type Config = Object;

    async fn open(_: Object, _: &Context) -> Result<Self> {
        Ok(Self)
    }

    async fn collect(&mut self, _: Message, _: &Context) -> Result {
        Ok(())
    }
}

struct Same;

impl Function for Same {
    async fn exec(&self, mut args: Vec<Value>, _: &Context) -> Result<Value> {
        Ok(args.pop().unwrap_or_default())
    }
}

/// What this process has used of the processors, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |at: usize| -> f64 {
        let field = fields.split_whitespace().nth(at);
        field.and_then(|field| field.parse().ok()).unwrap_or_default()
    };
    (ticks(11) + ticks(12)) / 100.0
}

fn tell(what: &str, count: f64, begin: Instant, cpu_before: f64) {
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), cpu() - cpu_before);
    println!(
        "{what}: {:.0}/s, {:.0} per second of processor time, both ends together",
        count / seconds,
        count / cpu
    );
}

async fn start(control: &Pair, number: u64, symbol: &str, role: Role, address: &str) -> Result {
    let start = Start {
        number,
        symbol: symbol.parse()?,
        role,
        address: address.to_owned(),
    };
    control
        .send(ToPlugin::Start(number, Box::new(start)).encode())
        .await?;
    loop {
        if let ToHost::Answer(answer) = ToHost::decode(&control.recv().await?)? {
            answer.outcome?;
            return Ok(());
        }
    }
}

#[tokio::main]
async fn main() -> Result {
    let folder = std::env::temp_dir().join(format!("mangrove-throughput-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let address = |name: &str| format!("ipc://{}", folder.join(name).display());
    let control = Pair::new();
    control.listen(&address("control")).await?;
    let plugin = Plugin::new("throughput")
        .source::<Flood>("flood")
        .sink::<Take>("take")
        .function("same", Same);
    let mut tasks = tokio::task::JoinSet::new();
    let control_address = address("control");
    tasks.spawn(async move { testing::run_at(plugin, &control_address, "", CancellationToken::new()).await });
    control.recv().await?;
    let welcome = Welcome {
        version: 1,
        host: String::new(),
        instance: 0,
        encoding: "json".to_owned(),
        limits: Limits::default(),
        ping_interval: 0,
    };
    control.send(ToPlugin::Welcome(welcome).encode()).await?;
    let place = || -> Result<Place> {
        Ok(Place {
            rule_id: "r".parse()?,
            op_id: "o".parse()?,
            instance_id: 0,
        })
    };

    let pull = Pull::new();
    pull.listen(&address("flood")).await?;
    let role = Role::Source {
        place: place()?,
        data_source: String::new(),
        config: Object::new(),
        offset: None,
    };
    start(&control, 1, "flood", role, &address("flood")).await?;
    let (begin, before) = (Instant::now(), cpu());
    let (mut messages, mut tuples) = (0_u64, 0_usize);
    while begin.elapsed() < LIMIT {
        let message = pull.recv().await?;
        messages += 1;
        // Not parsed: this is not about the host.
        tuples += message.len() / TUPLE;
    }
    tell("tuples of a source", tuples as f64, begin, before);
    println!("  {} in a message", tuples / messages.max(1) as usize);
    pull.close().await;
    let stop = mangrove_protocol::native::control::Stop {
        number: 1,
        timeout: 2000,
        seq: None,
    };
    control.send(ToPlugin::Stop(50, stop).encode()).await?;
    control.recv().await?;

    let pair = Pair::new();
    pair.listen(&address("same")).await?;
    start(&control, 2, "same", Role::Function, &address("same")).await?;
    let context = FunctionContext {
        rule_id: "r".parse()?,
        op_id: "o".parse()?,
        instance_id: 0,
        func_id: 0,
    };
    for size in [1000_u64, 10, 1] {
        let (begin, before) = (Instant::now(), cpu());
        let mut calls = 0_u64;
        let mut open = 0;
        let mut writer = CallWriter::default();
        while begin.elapsed() < LIMIT {
            while open < if size == 1 { 1 } else { 8 } {
                for id in 0..size {
                    writer.push(id, &[id.into()]);
                }
                pair.send(writer.finish(&context, 5000)).await?;
                open += 1;
            }
            let mut got = 0;
            while got < size {
                let message = pair.recv().await?;
                got += message.iter().filter(|byte| **byte == b',').count() as u64 / 2 + 1;
            }
            calls += got;
            open -= got / size;
        }
        tell(
            &format!("calls, {size} in a message"),
            calls as f64,
            begin,
            before,
        );
    }

    let push = Push::new();
    push.listen(&address("take")).await?;
    let role = Role::Sink {
        place: place()?,
        config: Object::new(),
        ack: true,
    };
    start(&control, 3, "take", role, &address("take")).await?;
    let (begin, before) = (Instant::now(), cpu());
    let mut seq = 0;
    let mut writer = SinkWriter::default();
    while begin.elapsed() < LIMIT {
        for _ in 0..1000 {
            writer.push(br#"[{"n":1,"sensor":"roof","celsius":21.5}]"#);
        }
        seq += 1;
        push.send(writer.finish(seq)).await?;
        while control.try_recv()?.is_some() {}
    }
    tell("results to a sink", seq as f64 * 1000.0, begin, before);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
