//! A plugin with one fault, or none: the test's own program, started again by the kit. It speaks the contract by
//! itself, so that it can break any part of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sp_proto::{Event, Pair, Pull, Push, SocketOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The manifest's variable that names the fault.
pub(crate) const FAULT: &str = "CHECK_FAULT";

/// Not a test, but the plugin, when the kit starts it.
#[test]
fn be_a_plugin() {
    let Ok(address) = std::env::var("MANGROVE_CONTROL") else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let status = runtime.unwrap().block_on(run(&address));
    // At once: what else the runner of tests would do is not the plugin's.
    std::process::exit(status);
}

fn options() -> SocketOptions {
    SocketOptions {
        recv_max_size: 40 << 20,
        send_queue: 4,
        recv_queue: 4,
        ..Default::default()
    }
}

/// What all parts of the plugin share.
struct Shared {
    control: Pair,
    fault: String,
    batch: AtomicUsize,
    next: AtomicU64,
    asked: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
    /// Whether its sinks take no notice of what comes any more.
    deaf: AtomicBool,
    /// Slow calls that are under way.
    slow: watch::Sender<usize>,
}

impl Shared {
    fn has(&self, fault: &str) -> bool {
        self.fault == fault
    }

    async fn say(&self, message: Value) {
        let _ = self.control.send(message.to_string().into_bytes()).await;
    }

    async fn answer(&self, id: &Value, outcome: Result<Value, &str>) {
        self.say(match outcome {
            Ok(value) => json!({"type": "answer", "id": id, "value": value}),
            Err(error) => json!({"type": "answer", "id": id, "error": error}),
        })
        .await;
    }

    async fn ask(&self, mut request: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.asked.lock().unwrap().insert(id, sender);
        request["id"] = id.into();
        self.say(request).await;
        answer.await.unwrap_or_default()
    }
}

/// A symbol that runs.
struct Use {
    kind: String,
    stop: CancellationToken,
    /// The last batch that was sent or acknowledged; the task is gone when the sender is.
    seq: watch::Receiver<u64>,
}

async fn run(address: &str) -> i32 {
    let control = Pair::with_options(options());
    let mut events = control.events();
    control.dial(address).await.unwrap();
    let shared = Arc::new(Shared {
        control: control.clone(),
        fault: std::env::var(FAULT).unwrap_or_default(),
        batch: AtomicUsize::new(1),
        next: AtomicU64::new(1),
        asked: Mutex::default(),
        deaf: AtomicBool::new(false),
        slow: watch::channel(0).0,
    });
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    if shared.has("leaves a child") {
        drop(std::process::Command::new("sleep").arg("300").spawn().unwrap());
    }
    let mut uses: HashMap<u64, Use> = HashMap::new();
    let (mut tasks, mut symbols) = (JoinSet::new(), JoinSet::new());
    let mut leaks = Vec::new();
    loop {
        let message = tokio::select! {
            message = control.recv() => message.unwrap(),
            _ = terminate.recv() => {
                if shared.has("ignores SIGTERM") {
                    continue;
                }
                break;
            }
            event = events.recv() => {
                match event.unwrap() {
                    Event::PipeAdded(_) => shared.say(hello(&shared)).await,
                    Event::PipeRemoved { .. } if shared.has("does not reconnect") => return 0,
                    Event::PipeRemoved { .. } if shared.has("goes on without the host") => {}
                    Event::PipeRemoved { .. } => {
                        uses.clear();
                        symbols.shutdown().await;
                        symbols = JoinSet::new();
                    }
                    _ => {}
                }
                continue;
            }
        };
        let Ok(message) = serde_json::from_slice::<Value>(message.as_bytes()) else {
            if shared.has("exits on garbage") {
                return 2;
            }
            continue;
        };
        let (id, number) = (message["id"].clone(), message["use"].as_u64());
        match message["type"].as_str() {
            Some("welcome") => {
                let batch = message["limits"]["batch"].as_u64().unwrap_or(1);
                shared.batch.store(batch as usize, Ordering::Relaxed);
            }
            Some("refused") => {
                return if shared.has("is content to be refused") {
                    0
                } else {
                    1
                };
            }
            Some("ping") if id.is_u64() => {
                if shared.has("answers pings late") && uses.values().any(|one| one.kind == "function") {
                    let mut slow = shared.slow.subscribe();
                    let _ = slow.wait_for(|slow| *slow > 0).await;
                    let _ = slow.wait_for(|slow| *slow == 0).await;
                    // Its result goes another way.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                shared.answer(&id, Ok(Value::Null)).await;
            }
            Some("start") if id.is_u64() => {
                if shared.has("keeps files open") {
                    leaks.push(std::fs::File::open("/dev/null").unwrap());
                }
                let (Some(number), true) = (number, message["symbol"].is_string()) else {
                    shared.answer(&id, Err("start needs a use and a symbol")).await;
                    continue;
                };
                match start(&shared, &mut symbols, &message).await {
                    Ok((stop, seq)) => {
                        let kind = message["kind"].as_str().unwrap_or_default().to_owned();
                        uses.insert(number, Use { kind, stop, seq });
                        shared.answer(&id, Ok(Value::Null)).await;
                    }
                    Err(error) => shared.answer(&id, Err(&error)).await,
                }
            }
            Some("stop") if id.is_u64() => {
                let Some(ending) = number.and_then(|number| uses.remove(&number)) else {
                    shared.answer(&id, Err("there is no such use")).await;
                    continue;
                };
                if shared.has("does not answer stop") && ending.kind == "function" {
                    continue;
                }
                let shared = Arc::clone(&shared);
                tasks.spawn(async move { stop(&shared, ending, &id, message["seq"].as_u64()).await });
            }
            Some("validate") if id.is_u64() => {
                let args = message["args"].as_array().map_or(0, Vec::len);
                let echo = message["symbol"] == "echo";
                let fine = !echo || args == 1 || shared.has("accepts all arguments");
                let outcome = if fine {
                    Ok(Value::Null)
                } else {
                    Err("echo takes 1 argument")
                };
                let id = match id.as_u64() {
                    Some(id) if shared.has("answers another request") => (id + 1000).into(),
                    _ => id,
                };
                shared.answer(&id, outcome).await;
                if shared.has("answers twice") {
                    shared.answer(&id, outcome_again(fine)).await;
                }
            }
            Some("answer") => {
                let asked = id
                    .as_u64()
                    .and_then(|id| shared.asked.lock().unwrap().remove(&id));
                if let Some(asked) = asked {
                    let _ = asked.send(message["value"].clone());
                }
            }
            Some("shutdown") if shared.has("ignores shutdown") => {}
            Some("shutdown") => break,
            Some(_) if id.is_u64() && shared.has("does what it does not know") => {
                shared.answer(&id, Ok(Value::Null)).await;
            }
            Some(_) if id.is_u64() => shared.answer(&id, Err("unknown type")).await,
            _ => {}
        }
    }
    for ending in uses.into_values() {
        ending.stop.cancel();
    }
    while symbols.join_next().await.is_some() {}
    control.close().await;
    if shared.has("ends with another status") {
        3
    } else {
        0
    }
}

fn outcome_again(fine: bool) -> Result<Value, &'static str> {
    if fine { Ok(Value::Null) } else { Err("once more") }
}

fn hello(shared: &Shared) -> Value {
    let token = match shared.has("has another token") {
        true => "0".to_owned(),
        false => std::env::var("MANGROVE_TOKEN").unwrap(),
    };
    let version = if shared.has("speaks a later version only") {
        2
    } else {
        1
    };
    let sinks = if shared.has("lacks a symbol") {
        json!([])
    } else {
        json!(["keep"])
    };
    let total = match shared.has("hides that it works on groups") {
        true => json!("total"),
        false => json!({"name": "total", "aggregate": true}),
    };
    json!({
        "type": "hello", "versions": [version], "token": token, "plugin": std::env::var("MANGROVE_PLUGIN").unwrap(),
        "sdk": "faulty/1", "encodings": ["json"],
        "symbols": {"sources": ["counter"], "sinks": sinks, "functions": ["echo", "slow", "fail", total, "tally"]}
    })
}

type Started = (CancellationToken, watch::Receiver<u64>);

async fn start(shared: &Arc<Shared>, symbols: &mut JoinSet<()>, message: &Value) -> Result<Started, String> {
    let symbol = message["symbol"].as_str().unwrap_or_default().to_owned();
    let known = ["counter", "keep", "echo", "slow", "fail", "total", "tally"];
    if !known.contains(&symbol.as_str()) {
        return if shared.has("starts anything") {
            Ok((CancellationToken::new(), watch::channel(0).1))
        } else {
            Err(format!("there is no {symbol}"))
        };
    }
    let config = &message["config"];
    if !config["broken"].is_null() && !shared.has("takes any configuration") {
        return Err("it is broken".to_owned());
    }
    let address = message["address"].as_str().unwrap_or_default().to_owned();
    let (sender, seq) = watch::channel(0);
    let token = CancellationToken::new();
    let (shared, stop, message) = (Arc::clone(shared), token.clone(), message.clone());
    match message["kind"].as_str() {
        Some("source") => {
            let push = Push::with_options(options());
            push.dial(&address).await.map_err(|error| error.to_string())?;
            symbols.spawn(async move { source(&shared, push, &message, stop, sender).await });
        }
        Some("sink") => {
            let pull = Pull::with_options(options());
            pull.dial(&address).await.map_err(|error| error.to_string())?;
            symbols.spawn(async move { sink(&shared, pull, &message, stop, sender).await });
        }
        _ => {
            let pair = Pair::with_options(options());
            pair.dial(&address).await.map_err(|error| error.to_string())?;
            let number = message["use"].clone();
            symbols.spawn(async move { function(&shared, pair, symbol, number, stop, sender).await });
        }
    }
    Ok((token, seq))
}

async fn stop(shared: &Shared, mut ending: Use, id: &Value, behind: Option<u64>) {
    if ending.kind == "sink" && !shared.has("answers stop too early") {
        let behind = behind.unwrap_or_default();
        let _ = ending.seq.wait_for(|seq| *seq >= behind).await;
        let deaf = shared.has("stops all uses at once");
        shared.deaf.store(deaf, Ordering::Relaxed);
    }
    ending.stop.cancel();
    while ending.seq.changed().await.is_ok() {}
    let seq = *ending.seq.borrow();
    let value = match ending.kind.as_str() {
        "source" if shared.has("forgets its last batch") => json!({"seq": seq.saturating_sub(1)}),
        "source" => json!({ "seq": seq }),
        _ => Value::Null,
    };
    shared.answer(id, Ok(value)).await;
}

async fn source(
    shared: &Shared,
    push: Push,
    message: &Value,
    stop: CancellationToken,
    seq: watch::Sender<u64>,
) {
    let config = &message["config"];
    let begin = match shared.has("begins anew") {
        true => 0,
        false => message["offset"].as_u64().unwrap_or(0),
    };
    let (mut n, mut last, mut lost) = (begin, 0, false);
    let mut hoard = Vec::new();
    let count = config["count"].as_u64().unwrap_or(u64::MAX);
    let pad = usize::try_from(config["size"].as_u64().unwrap_or(200)).unwrap();
    let pad = "x".repeat(match shared.has("cuts long tuples") {
        true => pad.min(1000),
        false => pad,
    });
    while !stop.is_cancelled() && n < count {
        let size = match shared.has("sends too many at once") {
            true => shared.batch.load(Ordering::Relaxed) + 1,
            false => 8,
        };
        let mut tuples = Vec::new();
        let fails = config["fails"].as_u64().filter(|at| *at == n + 1);
        while fails.is_none() && tuples.len() < size && n < count && config["fails"] != json!(n + 1) {
            n += 1;
            tuples.push(json!({"n": n, "pad": pad}));
        }
        last += if shared.has("skips a number") && last == 2 {
            2
        } else {
            1
        };
        let batch = match fails {
            Some(_) => {
                n += 1;
                json!({"seq": last, "error": "told to fail"})
            }
            None if shared.has("gives meta for one") => json!({"seq": last, "tuples": tuples, "meta": [{}]}),
            None => json!({"seq": last, "tuples": tuples, "offset": n}),
        };
        let bytes = batch.to_string().into_bytes();
        if shared.has("loses tuples when the host is slow") {
            // With a pause for the socket's own task.
            lost = push.try_send(bytes).is_err();
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else if shared.has("queues without end") {
            hoard.push(bytes.clone());
            hoard.push(bytes.repeat(48));
            tokio::task::yield_now().await;
            if hoard.len() < 8 {
                let _ = push.send(bytes).await;
            } else {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        } else if push.send(bytes).await.is_err() {
            return;
        }
        seq.send_replace(last);
    }
    if lost {
        // So that it shows.
        last += 1;
        let batch = json!({"seq": last, "tuples": [{"n": n + 1}], "offset": n + 1});
        let _ = push.send(batch.to_string().into_bytes()).await;
        seq.send_replace(last);
    }
    if n >= count && !shared.has("never ends") {
        last += 1;
        let _ = push
            .send(json!({"seq": last, "end": true}).to_string().into_bytes())
            .await;
        seq.send_replace(last);
    }
    stop.cancelled().await;
    push.close().await;
}

async fn sink(
    shared: &Shared,
    pull: Pull,
    message: &Value,
    stop: CancellationToken,
    seq: watch::Sender<u64>,
) {
    let number = &message["use"];
    let ack = message["ack"] == true || shared.has("acknowledges unasked");
    let mut taken = 0u64;
    loop {
        let message = tokio::select! {
            message = pull.recv() => message.unwrap(),
            () = stop.cancelled() => break,
        };
        let batch: Value = match serde_json::from_slice(message.as_bytes()) {
            Ok(batch) => batch,
            Err(_) if shared.has("ends on garbage data") => std::process::exit(2),
            Err(_) => continue,
        };
        let (Some(last), Some(results)) = (batch["seq"].as_u64(), batch["results"].as_array()) else {
            continue;
        };
        if shared.deaf.load(Ordering::Relaxed) {
            continue;
        }
        taken += results.len() as u64;
        if !shared.has("keeps nothing") {
            let request = match shared.has("asks for nothing") {
                true => json!({"type": "put", "use": number, "key": "taken", "value": taken}),
                false => json!({"type": "add", "use": number, "key": "taken", "by": results.len()}),
            };
            shared.ask(request).await;
        }
        if shared.has("gives up in a flood") && taken > 50_000 {
            std::future::pending::<()>().await;
        }
        if shared.has("is choked by long messages") && message.len() > 1 << 20 {
            std::process::exit(1);
        }
        let bad = |result: &&Value| result.to_string().contains("no such luck");
        let at = results.iter().position(|result| bad(&result));
        let index = at.map(|at| {
            if shared.has("names another result") {
                at + 1
            } else {
                at
            }
        });
        let errors: Vec<Value> = index.iter().map(|at| json!([at, "told to fail"])).collect();
        let acked = match last {
            2 if shared.has("acknowledges what was not sent") => 90,
            3 if shared.has("acknowledges backwards") => 1,
            last => last,
        };
        if ack && !(shared.has("does not acknowledge") && last == 5) {
            let mut note = json!({"type": "ack", "use": number, "seq": acked});
            if !errors.is_empty() {
                note["errors"] = errors.into();
            }
            shared.say(note).await;
        }
        seq.send_replace(last);
        if shared.has("answers stop too early") {
            // However fast it is otherwise.
            stop.cancelled().await;
            break;
        }
    }
    pull.close().await;
}

async fn function(
    shared: &Arc<Shared>,
    pair: Pair,
    symbol: String,
    number: Value,
    stop: CancellationToken,
    _seq: watch::Sender<u64>,
) {
    let mut calls = JoinSet::new();
    let mut gone = false;
    loop {
        let message = tokio::select! {
            message = pair.recv() => message.unwrap(),
            () = stop.cancelled() => break,
        };
        let batch: Value = match serde_json::from_slice(message.as_bytes()) {
            Ok(batch) => batch,
            Err(_) if shared.has("ends on garbage data") => std::process::exit(2),
            Err(_) => continue,
        };
        if batch["cancel"].is_array() && shared.has("stops after a cancellation") {
            gone = true;
        }
        let rule = &batch["context"]["ruleId"];
        for call in batch["calls"].as_array().into_iter().flatten() {
            let (Some(id), Some(args)) = (call[0].as_u64(), call[1].as_array()) else {
                continue;
            };
            if gone || !rule.is_string() {
                continue;
            }
            let id = match symbol.as_str() {
                "echo" if shared.has("answers another call") => id + 1000,
                _ => id,
            };
            let (shared, pair, symbol) = (Arc::clone(shared), pair.clone(), symbol.clone());
            let (args, number, rule) = (args.clone(), number.clone(), rule.clone());
            let serial = is_serial(&symbol);
            let work = async move {
                let outcome = call_of(&shared, &symbol, &args, &number, &rule).await;
                let message = match outcome {
                    Ok(value) => json!({"results": [[id, value]]}),
                    Err(error) => json!({"errors": [[id, error]]}),
                };
                let loses =
                    shared.has("loses a call") || shared.has("loses a call of total") && symbol == "total";
                if loses && id == 500 {
                    return;
                }
                let message = message.to_string().into_bytes();
                if shared.has("gives two results") {
                    let _ = pair.send(message.clone()).await;
                }
                let _ = pair.send(message).await;
            };
            match serial {
                true => work.await,
                false => drop(calls.spawn(work)),
            }
        }
    }
    while calls.join_next().await.is_some() {}
    pair.close().await;
}

/// Whether calls are worked off one after the other: always but for slow ones, and even these with a fault.
fn is_serial(symbol: &str) -> bool {
    symbol != "slow" || std::env::var(FAULT).is_ok_and(|fault| fault == "holds up fast calls")
}

async fn call_of(
    shared: &Shared,
    symbol: &str,
    args: &[Value],
    number: &Value,
    rule: &Value,
) -> Result<Value, String> {
    let first = args.first().cloned().unwrap_or_default();
    match symbol {
        "echo" if shared.has("returns something else") => Ok(json!(42)),
        "echo" if shared.has("is choked by long messages") && first.to_string().len() > 1 << 20 => {
            Err("too long".to_owned())
        }
        "echo" if shared.has("knows ASCII only") => match first.to_string().is_ascii() {
            true => Ok(first),
            false => Ok(json!("?")),
        },
        "echo" => Ok(first),
        "slow" => {
            shared.slow.send_modify(|slow| *slow += 1);
            static ROOM: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);
            // A few at a time, with this fault.
            let is_late = shared.has("makes calls whose time is up");
            let room = if is_late { Some(ROOM.acquire().await) } else { None };
            tokio::time::sleep(Duration::from_millis(first.as_u64().unwrap_or(0))).await;
            drop(room);
            shared.slow.send_modify(|slow| *slow -= 1);
            Ok(args.get(1).cloned().unwrap_or_default())
        }
        "fail" if first == "panic" && shared.has("dies of a panic") => std::process::exit(101),
        "fail" if shared.has("hides errors") => Ok(Value::Null),
        "fail" => Err(first.as_str().unwrap_or("panicked").to_owned()),
        "total" => {
            let numbers = first.as_array().into_iter().flatten().filter_map(Value::as_f64);
            Ok(json!(numbers.sum::<f64>()))
        }
        _ if shared.has("counts by itself") => {
            static COUNTS: Mutex<Vec<Value>> = Mutex::new(Vec::new());
            let mut counts = COUNTS.lock().unwrap();
            counts.push(first.clone());
            Ok(counts.iter().filter(|key| **key == first).count().into())
        }
        _ if shared.has("asks for a state of nobody") => {
            let request = json!({"type": "add", "use": number, "key": first, "by": 1});
            Ok(shared.ask(request).await)
        }
        _ => Ok(shared
            .ask(json!({"type": "add", "use": number, "rule": rule, "key": first, "by": 1}))
            .await),
    }
}
