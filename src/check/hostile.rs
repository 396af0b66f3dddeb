//! Owns what is hard on a plugin: strange text, long messages, garbage.

use mangrove_protocol::name::SymbolName;
use serde_json::{Value, json};

use super::behaviour::{Bench, Flaw, Verdict, demand};
use super::channel::{FunctionUse, SourceUse};
use super::function::agree;
use super::plan::placed;
use super::session::Session;
use super::sink::example;
use super::symbols::{start_sink, start_source};

/// Texts that some programs get wrong.
const TEXTS: [&str; 5] = [
    "grüße, 数据, 🌱",
    "\"quotes\" and \\ back\\slashes / \r\n\t",
    "\u{0}\u{1}\u{1f}\u{7f}\u{85}",
    "\u{2028}\u{2029}\u{feff}\u{fffd}\u{fffe}",
    "e\u{301} is not \u{e9}; \u{202e}right to left",
];

/// How long a long text is.
const LARGE: usize = 16 << 20;

/// Ids in garbage that a plugin may answer.
const GARBAGE_IDS: [u64; 4] = [1 << 40, (1 << 40) + 1, (1 << 40) + 2, (1 << 40) + 3];

/// Functions that return their argument.
fn echoes<'a>(bench: &'a Bench<'_>) -> Vec<&'a SymbolName> {
    let functions = bench.plan.functions.iter();
    functions
        .filter(|(_, plan)| plan.echo)
        .map(|(symbol, _)| symbol)
        .collect()
}

fn strange() -> Vec<Value> {
    let object: serde_json::Map<String, Value> = TEXTS
        .iter()
        .map(|text| ((*text).to_owned(), json!(text)))
        .collect();
    TEXTS
        .iter()
        .map(|text| json!(text))
        .chain([Value::Object(object)])
        .collect()
}

pub(super) async fn unicode(bench: &Bench<'_>) -> Verdict {
    let session = bench.open().await?;
    for symbol in echoes(bench) {
        let mut function = FunctionUse::start(&session, symbol).await?;
        for value in strange() {
            let found = function.call(&session, std::slice::from_ref(&value)).await?;
            demand(found.as_ref().is_ok_and(|found| agree(found, &value)), || {
                format!("{symbol} returns {found:?} for {value}; expected the same")
            })?;
        }
        // The same character in two ways of writing it.
        let call = br#"{"context":{"ruleId":"r","opId":"o","instanceId":0,"funcId":0},"timeout":20000,"calls":[[1099511627776,["\ud83c\udf31 \u00e4"]]]}"#;
        function.send_raw(&session, call.to_vec()).await?;
        let found = function.next(&session).await?;
        demand(found == [(GARBAGE_IDS[0], Ok(json!("🌱 ä")))], || {
            format!("{symbol} returns {found:?} for an escaped \"🌱 ä\"; expected the same")
        })?;
        function.stop(&session).await?;
    }
    for (symbol, plan) in &bench.plan.sinks {
        let mut sink = start_sink(&session, symbol, plan).await?;
        let rows = strange().into_iter().map(|value| json!([{ "text": value }]));
        sink.send(&session, &rows.collect::<Vec<_>>()).await?;
        sink.acknowledged(&session).await?;
        sink.stop(&session).await?;
    }
    for (symbol, plan) in &bench.plan.sources {
        let config = placed(&plan.config.clone().unwrap_or_default(), &session.scratch());
        // A source may have an opinion on what it is to read; it is asked with a text that is none of a path.
        let started = SourceUse::start(&session, symbol, config, TEXTS[0], None).await;
        match started {
            Ok(mut source) => drop(source.stop(&session).await?),
            Err(flaw) => session.ping().await.map_err(|_| flaw)?,
        }
    }
    session.ping().await
}

pub(super) async fn large(bench: &Bench<'_>) -> Verdict {
    let (echoes, sinks) = (echoes(bench), &bench.plan.sinks);
    let sources = bench.plan.sources.iter();
    let sources: Vec<_> = sources
        .filter_map(|(symbol, plan)| Some((symbol, plan, plan.large.as_ref()?)))
        .collect();
    if echoes.is_empty() && sinks.is_empty() && sources.is_empty() {
        return Err(Flaw::skipped(
            "it has no sink, and check.json has no function that is an \"echo\" and no source that has a \"large\" tuple",
        ));
    }
    let text = "0123456789abcde\n".repeat(LARGE / 16);
    let session = bench.open().await?;
    for symbol in echoes {
        let mut function = FunctionUse::start(&session, symbol).await?;
        let found = function.call(&session, &[json!(text)]).await?;
        let length = found.as_ref().map(|found| found.as_str().map_or(0, str::len));
        demand(found == Ok(json!(text)), || {
            format!("{symbol} returns {length:?} bytes for a text of {LARGE}; expected the same text")
        })?;
        function.stop(&session).await?;
    }
    for (symbol, plan) in sinks {
        let mut sink = start_sink(&session, symbol, plan).await?;
        sink.send(&session, &[json!([{ "text": text }])]).await?;
        sink.acknowledged(&session).await?;
        sink.send(&session, &example(plan, 0, 1)).await?;
        sink.acknowledged(&session).await?;
        sink.stop(&session).await?;
    }
    for (symbol, plan, config) in sources {
        let config = placed(config, &session.scratch());
        let mut source = SourceUse::start(&session, symbol, config, &plan.data_source, None).await?;
        source.take(&session, 1).await?;
        demand(source.bytes >= LARGE, || {
            let bytes = source.bytes;
            format!("the source {symbol} sends {bytes} bytes where check.json says it sends {LARGE} or more")
        })?;
        source.stop(&session).await?;
    }
    session.ping().await
}

/// What nobody should send on any channel.
fn garbage() -> Vec<Vec<u8>> {
    let mut garbage: Vec<Vec<u8>> = [
        "",
        "nope",
        "null",
        "7",
        "[1,2]",
        "{",
        "{}",
        "\"text\"",
        "{\"seq\":1",
        "\u{feff}{}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    garbage.push(vec![0xff, 0xfe, 0x00, 0x80]);
    garbage.push(vec![b'['; 100_000]);
    garbage.push([b"{\"a\":".repeat(20_000), b"1".to_vec(), b"}".repeat(20_000)].concat());
    garbage
}

async fn annoy(session: &Session, message: Vec<u8>) -> Verdict {
    session.send(message).await?;
    session.ping().await
}

pub(super) async fn garbage_control(bench: &Bench<'_>) -> Verdict {
    let session = bench.open().await?;
    session.ping().await?;
    for message in garbage() {
        annoy(&session, message).await?;
    }
    for text in [
        r#"{"type":7}"#,
        r#"{"type":"start"}"#,
        r#"{"type":"stop","use":-1}"#,
        r#"{"type":"answer","id":424242}"#,
        r#"{"type":"answer"}"#,
        r#"{"type":"commit","use":4}"#,
        r#"{"type":"commit","use":424242,"seq":1}"#,
        r#"{"type":"ping","id":"one"}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"ack","use":1,"seq":1}"#,
    ] {
        annoy(&session, text.as_bytes().to_vec()).await?;
    }
    // With an id, so that an error may come of it.
    for text in [
        r#"{"type":"start"}"#,
        r#"{"type":"start","use":1,"kind":"dance","symbol":"x","address":"ipc:///nowhere"}"#,
        r#"{"type":"start","use":"one","kind":"function","symbol":7,"address":null}"#,
        r#"{"type":"stop","use":424242,"timeout":1000}"#,
        r#"{"type":"validate","symbol":"../x","args":[]}"#,
        r#"{"type":"validate","symbol":"x","args":7}"#,
    ] {
        let id = session.number();
        let message = text.replacen('{', &format!("{{\"id\":{id},"), 1);
        session.request(id, message.into_bytes()).await?;
        session.ping().await?;
    }
    if let Some((symbol, plan)) = bench.plan.sources.iter().next() {
        let mut source = start_source(&session, symbol, plan).await?;
        source.take(&session, 1).await?;
        source.stop(&session).await?;
    }
    session.ping().await
}

pub(super) async fn garbage_data(bench: &Bench<'_>) -> Verdict {
    if bench.plan.functions.is_empty() && bench.plan.sinks.is_empty() {
        return Err(Flaw::skipped("it has neither a function nor a sink"));
    }
    let session = bench.open().await?;
    for (symbol, plan) in &bench.plan.functions {
        let mut function = FunctionUse::start(&session, symbol).await?;
        let args = plan.calls.iter().find(|call| call.succeeds() && !call.slow);
        let args = args.map(|call| call.args.clone()).unwrap_or_default();
        let context = r#""context":{"ruleId":"r","opId":"o","instanceId":0,"funcId":0},"timeout":20000"#;
        let [one, two, three, _] = GARBAGE_IDS;
        let near = [
            format!("{{{context}}}"),
            format!("{{{context},\"calls\":7}}"),
            format!("{{{context},\"calls\":[[{one}]]}}"),
            format!("{{{context},\"calls\":[[\"one\",[]]]}}"),
            format!("{{{context},\"calls\":[[{two},{{}}]]}}"),
            format!("{{\"calls\":[[{three},[1]]]}}"),
            r#"{"cancel":7}"#.to_owned(),
            r#"{"results":[[1,2]]}"#.to_owned(),
        ];
        for message in garbage().into_iter().chain(near.map(String::into_bytes)) {
            function.send_raw(&session, message).await?;
            let ids = function.send(&session, &[&args]).await?;
            function.collect(&session, &ids, &GARBAGE_IDS).await?;
        }
        function.stop(&session).await?;
    }
    for (symbol, plan) in &bench.plan.sinks {
        let mut sink = start_sink(&session, symbol, plan).await?;
        let near = [
            r#"{"seq":"one","results":[]}"#,
            r#"{"results":[{}]}"#,
            r#"{"seq":1,"results":{}}"#,
        ];
        let near = near.map(|text| text.as_bytes().to_vec());
        for (at, message) in garbage().into_iter().chain(near).enumerate() {
            sink.send_raw(&session, message).await?;
            sink.send(&session, &example(plan, at, 1)).await?;
            sink.acknowledged(&session).await?;
        }
        sink.stop(&session).await?;
    }
    session.ping().await
}
