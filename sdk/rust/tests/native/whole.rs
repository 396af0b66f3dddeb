//! The host that tests of plugins run on.

use mangrove_sdk::testing::{self, Host};
use mangrove_sdk::{Plugin, Result, Value};
use serde_json::json;

use crate::symbols::plugin;

#[tokio::test]
async fn logs_figures_and_states_are_seen() -> Result {
    let host = Host::start(plugin()).await?;
    let run = host.function("do").start().await?;
    assert_eq!(run.call_in("seven", vec![json!("log")]).await?, Value::Null);
    let line = host.logged("careful").await?;
    assert_eq!((line.level, line.symbol.as_deref()), ("warn", Some("do")));
    assert_eq!(json!(line.fields), json!({"size": 3, "rule": "seven"}));
    host.state("obedient", "rule").put("taken", &7).await?;
    let mut sink = host.sink("obedient").start().await?;
    assert_eq!(sink.send(&json!([])).await?, Ok(()));
    assert_eq!(sink.send(&"no").await?, Err("no".to_owned()));
    assert_eq!(host.state("obedient", "rule").get::<u64>("taken").await?, Some(8));
    sink.stop().await?;
    assert_eq!(host.logged("closed").await?.symbol.as_deref(), Some("obedient"));
    let config = json!({"count": 3, "then": "count"});
    let mut source = host.source("range").config(config).start().await?;
    for n in 1..=3 {
        assert_eq!(source.tuple().await?.message()["n"], n);
    }
    source.stop().await?;
    assert_eq!(host.metric("range", "sent"), Some(3.0));
    host.stop().await
}

#[tokio::test]
async fn a_call_whose_future_is_dropped_is_cancelled() -> Result {
    let host = Host::start(plugin()).await?;
    let run = host.function("do").start().await?;
    let waits = run.call(vec![json!("stop")]);
    let other = run.call(vec![json!(1)]);
    tokio::select! {
        result = waits => panic!("{result:?}"),
        result = other => assert_eq!(result?, json!([1])),
    }
    run.stop().await?;
    host.stop().await
}

#[tokio::test]
async fn a_plugin_without_symbols_is_refused() {
    let error = Host::start(Plugin::new("empty")).await.unwrap_err();
    assert!(error.to_string().contains("no symbol"), "{error}");
}

#[tokio::test]
async fn a_context_alone_has_a_state_and_an_offset() -> Result {
    let context = testing::context_at(json!({"page": 3}));
    assert_eq!(context.offset::<Value>()?, Some(json!({"page": 3})));
    assert!(context.offset::<u64>().is_err());
    assert_eq!(context.state().add("n", 2_i64).await?, 2);
    assert_eq!(testing::context().offset::<u64>()?, None);
    Ok(())
}
