//! Functions: many calls at once, each with its own end.

use std::collections::HashMap;
use std::time::Duration;

use mangrove_protocol::native::control::{Stop, ToHost, ToPlugin};
use mangrove_protocol::native::function::{CallWriter, FunctionContext, Results, encode_cancel};
use mangrove_sdk::{Options, Value};
use serde_json::json;
use sp_proto::Pair;
use tokio::sync::Mutex;

use crate::script::{Host, limits, soon};
use crate::symbols::{CALLS, DROPPED, HELD};

/// Those that count what runs come one after the other.
static COUNTED: Mutex<()> = Mutex::const_new(());

async fn call(pair: &Pair, timeout: u64, calls: &[(u64, Value)]) {
    let context = FunctionContext {
        rule_id: "rule7".parse().unwrap(),
        op_id: "op2".parse().unwrap(),
        instance_id: 1,
        func_id: 4,
    };
    let mut writer = CallWriter::default();
    for (id, args) in calls {
        writer.push(*id, args.as_array().unwrap());
    }
    soon("calling", pair.send(writer.finish(&context, timeout)))
        .await
        .unwrap();
}

/// The outcomes of so many calls, by id.
async fn outcomes(pair: &Pair, count: usize) -> HashMap<u64, Result<Value, String>> {
    let mut found = HashMap::new();
    while found.len() < count {
        let message = soon("results", pair.recv()).await.unwrap();
        assert!(message.len() <= limits().message);
        let Results { results, errors } = Results::<Value>::decode(&message, limits().batch).unwrap();
        let results = results.into_iter().map(|(id, result)| (id, Ok(result)));
        let errors = errors.into_iter().map(|(id, error)| (id, Err(error)));
        for (id, outcome) in results.chain(errors) {
            assert!(found.insert(id, outcome).is_none(), "{id} was answered twice");
        }
    }
    found
}

async fn one(pair: &Pair, args: Value) -> Result<Value, String> {
    call(pair, 30_000, &[(1, args)]).await;
    outcomes(pair, 1).await.remove(&1).unwrap()
}

#[tokio::test]
async fn each_call_has_its_own_outcome() {
    let mut host = Host::start().await;
    let pair = host.function(6, "do").await;
    assert_eq!(one(&pair, json!([1, "x"])).await, Ok(json!([1, "x"])));
    assert_eq!(
        one(&pair, json!(["where"])).await,
        Ok(json!(["rule7", "op2", 1, 4]))
    );
    assert_eq!(one(&pair, json!(["log"])).await, Ok(Value::Null));
    assert_eq!(
        one(&pair, json!(["fail"])).await,
        Err("it was told to".to_owned())
    );
    assert_eq!(
        one(&pair, json!(["panic"])).await,
        Err("panicked: out of luck".to_owned())
    );
    let later = one(&pair, json!(["panic later"])).await;
    assert_eq!(later, Err("panicked: out of luck later".to_owned()));
    let long = one(&pair, json!(["long"])).await.unwrap_err();
    assert!(long.contains("at most 1048576"), "{long}");
    for garbage in ["nonsense", "{}", "[1]", r#"{"calls":[[1,[]]]}"#] {
        pair.send(garbage).await.unwrap();
    }
    assert_eq!(one(&pair, json!(["ž"])).await, Ok(json!(["ž"])));
    let sum = host.function(7, "sum").await;
    assert_eq!(one(&sum, json!([[1, 2, 3]])).await, Ok(json!(6)));
    assert_eq!(host.stop_symbol(6, None).await, Ok(Value::Null));
    host.shut_down().await;
}

#[tokio::test]
async fn a_thousand_calls_are_in_flight_together() {
    let mut host = Host::start().await;
    let pair = host.function(6, "do").await;
    for first in (0..1000).step_by(8) {
        let word = if first % 16 == 0 { "wait" } else { "now" };
        let calls: Vec<_> = (first..first + 8).map(|id| (id, json!([word, id]))).collect();
        call(&pair, 30_000, &calls).await;
    }
    let outcomes = outcomes(&pair, 1000).await;
    for (id, outcome) in outcomes {
        assert_eq!(outcome.unwrap()[1], id);
    }
    host.shut_down().await;
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_dropped_and_holds_up_nobody() {
    let _alone = COUNTED.lock().await;
    let mut host = Host::start().await;
    let pair = host.function(6, "do").await;
    call(&pair, 600_000, &[(10, json!(["hold"])), (11, json!(["hold"]))]).await;
    soon("the calls", HELD.acquire_many(2)).await.unwrap().forget();
    assert_eq!(one(&pair, json!([7])).await, Ok(json!([7])));
    pair.send(encode_cancel(&[10, 99])).await.unwrap();
    soon("the drop", DROPPED.acquire()).await.unwrap().forget();
    // Its time is up.
    call(&pair, 1, &[(12, json!(["hold"]))]).await;
    let late = outcomes(&pair, 1).await.remove(&12).unwrap();
    assert_eq!(late, Err("it took longer than the host waits".to_owned()));
    soon("the drop", DROPPED.acquire()).await.unwrap().forget();
    soon("the call", HELD.acquire()).await.unwrap().forget();
    host.shut_down().await;
    soon("the last drop", DROPPED.acquire()).await.unwrap().forget();
}

#[tokio::test]
async fn calls_beyond_the_bound_wait_for_their_turn() {
    let _alone = COUNTED.lock().await;
    let options = Options {
        calls: 2,
        ..Options::default()
    };
    let mut host = Host::start_with(options).await;
    let pair = host.function(6, "do").await;
    let calls: Vec<_> = (1..=8).map(|id| (id, json!(["wait", id]))).collect();
    call(&pair, 30_000, &calls).await;
    assert_eq!(outcomes(&pair, 8).await.len(), 8);
    call(&pair, 300, &[(20, json!(["hold"])), (21, json!(["hold"]))]).await;
    call(&pair, 30_000, &[(22, json!(["now"]))]).await;
    // The third begins when the time of the others is up.
    let outcomes = outcomes(&pair, 3).await;
    assert_eq!(outcomes[&22], Ok(json!(["now"])));
    assert!(outcomes[&20].is_err() && outcomes[&21].is_err());
    soon("the drops", DROPPED.acquire_many(2)).await.unwrap().forget();
    soon("the calls", HELD.acquire_many(2)).await.unwrap().forget();
    host.shut_down().await;
}

#[tokio::test]
async fn calls_that_nobody_waits_for_are_not_begun() {
    let mut host = Host::start().await;
    let pair = host.function(6, "do").await;
    let busy = |ids: std::ops::Range<u64>, milliseconds: u64| -> Vec<_> {
        ids.map(|id| (id, json!(["busy", milliseconds]))).collect()
    };
    call(&pair, 200, &busy(1..9, 300)).await;
    let late = outcomes(&pair, 8).await;
    let made = late.iter().filter(|(_, outcome)| outcome.is_ok());
    // None where this machine is busy, too.
    assert!(made.count() <= 1, "{late:?}");
    call(&pair, 30_000, &busy(11..19, 50)).await;
    pair.send(encode_cancel(&[18])).await.unwrap();
    call(&pair, 30_000, &[(19, json!(["now"]))]).await;
    let outcomes = outcomes(&pair, 8).await;
    assert!(
        !outcomes.contains_key(&18) && outcomes.contains_key(&19),
        "{outcomes:?}"
    );
    host.shut_down().await;
}

#[tokio::test]
async fn calls_that_run_are_finished_before_the_function_stops() {
    let _alone = COUNTED.lock().await;
    let options = Options {
        stop_grace: Duration::from_secs(600),
        ..Options::default()
    };
    let mut host = Host::start_with(options).await;
    let pair = host.function(6, "do").await;
    call(&pair, 30_000, &[(1, json!(["gate"])), (2, json!(["gate"]))]).await;
    soon("the calls", HELD.acquire_many(2)).await.unwrap().forget();
    begin_stop(&mut host).await;
    CALLS.add_permits(2);
    let outcomes = outcomes(&pair, 2).await;
    assert_eq!(outcomes[&2], Ok(json!(["gate"])));
    stopped(&host).await;
    host.shut_down().await;
}

#[tokio::test]
async fn calls_whose_turn_is_over_while_it_stops_are_made() {
    let _alone = COUNTED.lock().await;
    let options = Options {
        stop_grace: Duration::from_secs(600),
        calls: 1,
        ..Options::default()
    };
    let mut host = Host::start_with(options).await;
    let pair = host.function(6, "do").await;
    call(&pair, 30_000, &[(1, json!(["gate"])), (2, json!(["now"]))]).await;
    soon("the call", HELD.acquire()).await.unwrap().forget();
    // They stay in the socket for as long as the second waits for the first.
    call(
        &pair,
        30_000,
        &[(3, json!(["busy", 50])), (4, json!(["busy", 50]))],
    )
    .await;
    begin_stop(&mut host).await;
    CALLS.add_permits(1);
    let outcomes = outcomes(&pair, 4).await;
    assert!(outcomes.values().all(Result::is_ok), "{outcomes:?}");
    stopped(&host).await;
    host.shut_down().await;
}

/// Tells the function to stop, and makes sure that it knows.
async fn begin_stop(host: &mut Host) {
    let stop = Stop {
        number: 6,
        timeout: 600_000,
        seq: None,
    };
    host.send(ToPlugin::Stop(50, stop)).await;
    assert_eq!(host.request(ToPlugin::Ping).await, Ok(Value::Null));
}

async fn stopped(host: &Host) {
    match host.next().await {
        ToHost::Answer(answer) => assert_eq!((answer.id, answer.outcome), (50, Ok(Value::Null))),
        other => panic!("{other:?}"),
    }
}
