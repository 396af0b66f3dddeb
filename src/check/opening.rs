//! Owns how a control channel is opened, looked after and opened again.

use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::native;
use mangrove_protocol::native::opening::Limits;
use serde_json::json;

use super::behaviour::{Bench, Flaw, Verdict, demand};
use super::channel::FunctionUse;
use super::symbols::{first_source, start_source};

const KINDS: [SymbolKind; 3] = [SymbolKind::Source, SymbolKind::Sink, SymbolKind::Function];

pub(super) async fn hello(bench: &Bench<'_>) -> Verdict {
    let mut session = bench.launch().await?;
    let hello = session.hello().await?;
    let manifest = bench.candidate.manifest();
    demand(
        native::opening::agree(native::VERSIONS, &hello.versions).is_some(),
        || {
            format!(
                "it speaks the versions {:?}; expected one of {:?}",
                hello.versions,
                native::VERSIONS
            )
        },
    )?;
    demand(hello.token == session.token(), || {
        "its token is not the one that it was given".to_owned()
    })?;
    demand(hello.plugin == manifest.name, || {
        format!(
            "it says that it is {:?}; expected {:?}",
            hello.plugin.as_str(),
            manifest.name.as_str()
        )
    })?;
    demand(
        hello.encodings.is_empty() || hello.encodings.iter().any(|word| word == "json"),
        || format!("it writes {:?}; expected json among them", hello.encodings),
    )?;
    for kind in KINDS {
        let mut symbols = manifest.symbols(kind).iter();
        if let Some(missing) = symbols.find(|name| !hello.symbols.contains(kind, name)) {
            return Err(Flaw::failed(format!(
                "it does not name the {kind} {missing} of its manifest"
            )));
        }
    }
    session.welcome(Limits::default()).await?;
    session.ping().await
}

pub(super) async fn refused(bench: &Bench<'_>) -> Verdict {
    let mut session = bench.launch().await?;
    session.hello().await?;
    session
        .refuse("this is a check of what you do when you are refused")
        .await?;
    let end = session.ended("it was refused").await?;
    demand(end.status == Some(1), || {
        format!("it ended with {}; expected exit code 1", end.text)
    })
}

pub(super) async fn later_versions(bench: &Bench<'_>) -> Verdict {
    let mut session = bench.launch().await?;
    session.hello().await?;
    let welcome = json!({
        "type": "welcome", "version": 1, "host": "mangrove/99.0.0", "instance": 0, "encoding": "json",
        "limits": {"message": 33_554_432, "batch": 1024, "later": 1}, "pingInterval": 10_000, "later": {"x": [null]}
    });
    session.send(welcome.to_string().into_bytes()).await?;
    session
        .send(br#"{"type":"later","use":1,"x":{"y":[]}}"#.to_vec())
        .await?;
    let id = session.number();
    let request = json!({"type": "later", "id": id, "x": 1});
    session.request(id, request.to_string().into_bytes()).await?;
    let answer = session.answer(id, "a request of an unknown type").await?;
    demand(answer.is_err(), || {
        "it answers a request of an unknown type without an error".to_owned()
    })?;
    let id = session.number();
    let ping = json!({"later": {}, "type": "ping", "id": id});
    session.request(id, ping.to_string().into_bytes()).await?;
    session
        .answer(id, "a ping with an unknown field")
        .await?
        .map(drop)
        .map_err(Flaw::failed)
}

/// A source that is not read cannot send; a call that takes a while is under way.
pub(super) async fn ping(bench: &Bench<'_>) -> Verdict {
    let session = bench.open().await?;
    session.ping().await?;
    let _source = match first_source(bench) {
        Ok((symbol, plan)) => Some(start_source(&session, symbol, plan).await?),
        Err(_) => None,
    };
    let functions = bench.plan.functions.iter();
    let mut slow = functions.flat_map(|(symbol, plan)| plan.calls.iter().map(move |call| (symbol, call)));
    if let Some((symbol, call)) = slow.find(|(_, call)| call.slow) {
        let mut function = FunctionUse::start(&session, symbol).await?;
        function.send(&session, &[&call.args]).await?;
        session.ping().await?;
        demand(!function.has_answered()?, || {
            format!("it answered a ping only after a call of {symbol}")
        })?;
    }
    for _ in 0..3 {
        session.ping().await?;
    }
    Ok(())
}

pub(super) async fn reconnect(bench: &Bench<'_>) -> Verdict {
    let mut session = bench.open().await?;
    let before = match first_source(bench) {
        Ok((symbol, plan)) => Some(start_source(&session, symbol, plan).await?),
        Err(_) => None,
    };
    session.disconnect().await;
    let hello = session.hello().await?;
    demand(hello.token == session.token(), || {
        "its second hello has another token".to_owned()
    })?;
    session.welcome(Limits::default()).await?;
    session.ping().await?;
    if let Some(mut before) = before {
        before.dropped(&session).await?;
        let (symbol, plan) = first_source(bench)?;
        let mut source = start_source(&session, symbol, plan).await?;
        source.take(&session, 1).await?;
        source.stop(&session).await?;
    }
    for symbol in bench.plan.functions.keys() {
        FunctionUse::start(&session, symbol).await?.stop(&session).await?;
    }
    Ok(())
}
