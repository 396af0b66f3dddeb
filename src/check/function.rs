//! Owns what functions do.

use std::time::Duration;

use mangrove_protocol::name::SymbolName;
use mangrove_protocol::native::opening::Limits;
use serde_json::{Value, json};

use super::behaviour::{Bench, Flaw, Verdict, demand};
use super::channel::{FunctionUse, Outcome};
use super::plan::{CallPlan, FunctionPlan};
use super::session::Session;

/// How many calls are in flight at once, and in how many messages.
const CALLS: usize = 1000;
const MESSAGES: usize = 4;

/// How long a slow call takes at least.
const SLOW: Duration = Duration::from_millis(200);

/// How long is waited for a call that is given up, which is less.
const SHORT: Duration = Duration::from_millis(50);

fn some(bench: &Bench<'_>) -> Verdict {
    demand(!bench.plan.functions.is_empty(), String::new).map_err(|_| Flaw::skipped("it has no function"))
}

/// Whether two values are the same, however numbers are written.
pub(super) fn agree(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| agree(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| agree(value, other)))
        }
        _ => one == other,
    }
}

/// Whether a call came to what the author says.
pub(super) fn check(symbol: &SymbolName, call: &CallPlan, found: &Outcome) -> Verdict {
    let shown = || format!("{symbol}({})", list(&call.args));
    match (found, &call.error) {
        (Ok(value), None) if call.result.is_null() || agree(value, &call.result) => Ok(()),
        (Ok(value), None) => Err(Flaw::failed(format!(
            "{} is {}; expected {}",
            shown(),
            short(value),
            short(&call.result)
        ))),
        (Ok(value), Some(error)) => Err(Flaw::failed(format!(
            "{} is {}; expected an error with {error:?} in it",
            shown(),
            short(value)
        ))),
        (Err(error), Some(part)) if error.contains(part) => Ok(()),
        (Err(error), _) => Err(Flaw::failed(format!("{} failed: {error}", shown()))),
    }
}

fn list(args: &[Value]) -> String {
    args.iter().map(short).collect::<Vec<_>>().join(", ")
}

/// As JSON, cut when it is long.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// Functions whose calls have nothing to do with each other.
fn plain<'a>(bench: &'a Bench<'_>) -> impl Iterator<Item = (&'a SymbolName, &'a FunctionPlan)> {
    bench.plan.functions.iter().filter(|(_, plan)| !plan.state)
}

/// A function and a call of it that soon returns something.
fn quick<'a>(bench: &'a Bench<'_>) -> Option<(&'a SymbolName, &'a CallPlan)> {
    let mut calls = plain(bench).flat_map(|(symbol, plan)| plan.calls.iter().map(move |call| (symbol, call)));
    calls.find(|(_, call)| call.succeeds() && !call.slow)
}

pub(super) async fn calls(bench: &Bench<'_>) -> Verdict {
    some(bench)?;
    let session = bench.open().await?;
    for (symbol, plan) in plain(bench) {
        let mut function = FunctionUse::start(&session, symbol).await?;
        let calls: Vec<&CallPlan> = plan.calls.iter().filter(|call| call.succeeds()).collect();
        if calls.is_empty() {
            // Whatever it makes of it, there is one answer.
            drop(function.call(&session, &[json!(1)]).await?);
        } else {
            let args: Vec<&[Value]> = calls.iter().map(|call| call.args.as_slice()).collect();
            let ids = function.send(&session, &args).await?;
            let found = function.collect(&session, &ids, &[]).await?;
            for (id, call) in ids.iter().zip(calls) {
                match found.get(id) {
                    Some(outcome) => check(symbol, call, outcome)?,
                    None => return Err(Flaw::failed(format!("{symbol} has not answered call {id}"))),
                }
            }
        }
        function.stop(&session).await?;
    }
    Ok(())
}

pub(super) async fn in_flight(bench: &Bench<'_>) -> Verdict {
    some(bench)?;
    let limits = Limits {
        batch: CALLS / MESSAGES,
        ..Limits::default()
    };
    let (session, _) = bench.open_with(limits).await?;
    let mut tried = false;
    for (symbol, plan) in plain(bench) {
        if let Some(call) = plan.calls.iter().find(|call| call.succeeds() && !call.slow) {
            tried = true;
            fly(&session, symbol, call, true).await?;
        }
    }
    match bench.plan.functions.keys().next() {
        // Whatever it makes of them.
        Some(symbol) if !tried => fly(&session, symbol, &CallPlan::default(), false).await,
        _ => Ok(()),
    }
}

/// Makes a call very often at once.
async fn fly(session: &Session, symbol: &SymbolName, call: &CallPlan, is_known: bool) -> Verdict {
    let mut function = FunctionUse::start(session, symbol).await?;
    let mut ids = Vec::with_capacity(CALLS);
    for _ in 0..MESSAGES {
        let calls = vec![call.args.as_slice(); CALLS / MESSAGES];
        ids.extend(function.send(session, &calls).await?);
    }
    let found = function.collect(session, &ids, &[]).await?;
    if is_known {
        found
            .values()
            .try_for_each(|outcome| check(symbol, call, outcome))?;
    }
    function.stop(session).await
}

pub(super) async fn deadlines(bench: &Bench<'_>) -> Verdict {
    let mut calls =
        plain(bench).flat_map(|(symbol, plan)| plan.calls.iter().map(move |call| (symbol, plan, call)));
    let Some((symbol, plan, slow)) = calls.find(|(_, _, call)| call.slow) else {
        return Err(Flaw::skipped("no call in check.json is \"slow\""));
    };
    let session = bench.open().await?;
    let mut function = FunctionUse::start(&session, symbol).await?;
    let slow_ids = function.send(&session, &[&slow.args]).await?;
    let late =
        |symbol: &SymbolName| format!("it answered a call of {symbol} only after a slow one before it");
    let own = plan.calls.iter().find(|call| call.succeeds() && !call.slow);
    if let Some(fast) = own {
        let ids = function.send(&session, &[&fast.args]).await?;
        let first = function.next(&session).await?;
        demand(first.iter().all(|(id, _)| ids.contains(id)), || late(symbol))?;
    } else if let Some((other, fast)) = quick(bench) {
        let mut other_function = FunctionUse::start(&session, other).await?;
        let outcome = other_function.call(&session, &fast.args).await?;
        check(other, fast, &outcome)?;
        demand(!function.has_answered()?, || late(other))?;
    } else {
        return Err(Flaw::skipped("check.json has no call that is fast"));
    }
    let found = function.collect(&session, &slow_ids, &[]).await?;
    found
        .values()
        .try_for_each(|outcome| check(symbol, slow, outcome))?;
    // So many that whoever made one after the other would be at it for longer than is waited for the next call.
    let count = bench.patience.as_millis() / SLOW.as_millis() + 10;
    let count = usize::try_from(count).map_or(CALLS, |count| count.min(CALLS));
    let late = function
        .send_for(&session, &vec![slow.args.as_slice(); count], SHORT)
        .await?;
    let last = own.unwrap_or(slow);
    let ids = function.send(&session, &[&last.args]).await?;
    let what = format!("a result of {symbol}, behind {count} calls whose time was up,");
    let found = session
        .within(what, function.collect(&session, &ids, &late))
        .await??;
    found
        .values()
        .try_for_each(|outcome| check(symbol, last, outcome))
}

pub(super) async fn errors(bench: &Bench<'_>) -> Verdict {
    fail(
        bench,
        |call| call.error.is_some() && !call.panics,
        "no call in check.json has an \"error\"",
    )
    .await
}

pub(super) async fn panics(bench: &Bench<'_>) -> Verdict {
    fail(bench, |call| call.panics, "no call in check.json \"panics\"").await
}

/// Makes each call that fails, and one that does not behind it.
async fn fail(bench: &Bench<'_>, wanted: impl Fn(&CallPlan) -> bool, none: &str) -> Verdict {
    let failing = plain(bench).flat_map(|(symbol, plan)| plan.calls.iter().map(move |call| (symbol, call)));
    let failing: Vec<_> = failing.filter(|(_, call)| wanted(call)).collect();
    if failing.is_empty() {
        return Err(Flaw::skipped(none));
    }
    let session = bench.open().await?;
    for (symbol, call) in failing {
        let mut function = FunctionUse::start(&session, symbol).await?;
        let outcome = function.call(&session, &call.args).await?;
        let expected = CallPlan {
            error: Some(call.error.clone().unwrap_or_default()),
            ..call.clone()
        };
        check(symbol, &expected, &outcome)?;
        session.ping().await?;
        let again = function.call(&session, &call.args).await?;
        check(symbol, &expected, &again)?;
        function.stop(&session).await?;
    }
    if let Some((symbol, call)) = quick(bench) {
        let mut function = FunctionUse::start(&session, symbol).await?;
        check(symbol, call, &function.call(&session, &call.args).await?)?;
    }
    Ok(())
}

pub(super) async fn validate(bench: &Bench<'_>) -> Verdict {
    some(bench)?;
    let (session, hello) = bench.open_with(Limits::default()).await?;
    let mut tried = false;
    for (symbol, plan) in &bench.plan.functions {
        for call in &plan.calls {
            // A group is not known before the rule runs: its columns are names.
            let args: Vec<Value> = match hello.symbols.is_aggregate(symbol) {
                true => call.args.iter().map(|_| json!("column")).collect(),
                false => call.args.clone(),
            };
            let answer = session.validate(symbol, &args).await?;
            let shown = || format!("{symbol}({})", list(&args));
            tried = true;
            match (&call.invalid, answer) {
                (None, answer) => drop(answer.map_err(|error| {
                    Flaw::failed(format!("it refuses the arguments of {}: {error}", shown()))
                })?),
                (Some(part), Err(error)) => demand(error.contains(part), || {
                    format!(
                        "it refuses the arguments of {} with {error:?}; expected {part:?} in it",
                        shown()
                    )
                })?,
                (Some(_), Ok(_)) => {
                    return Err(Flaw::failed(format!("it accepts the arguments of {}", shown())));
                }
            }
        }
    }
    tried
        .then_some(())
        .ok_or_else(|| Flaw::skipped("check.json has no calls"))
}

pub(super) async fn aggregates(bench: &Bench<'_>) -> Verdict {
    let (session, hello) = bench.open_with(Limits::default()).await?;
    for (symbol, plan) in &bench.plan.functions {
        let said = hello.symbols.is_aggregate(symbol);
        demand(plan.aggregate.is_none_or(|expected| said == expected), || {
            let is = if said { "says" } else { "does not say" };
            format!("it {is} that {symbol} works on groups; expected what check.json tells")
        })?;
    }
    let functions = bench.plan.functions.iter();
    let groups: Vec<_> = functions
        .filter(|(symbol, _)| hello.symbols.is_aggregate(symbol))
        .collect();
    if groups.is_empty() {
        return Err(Flaw::skipped("it has no function that works on groups"));
    }
    for (symbol, plan) in groups {
        let mut function = FunctionUse::start(&session, symbol).await?;
        for call in plan.calls.iter().filter(|call| call.succeeds()) {
            demand(call.args.iter().all(Value::is_array), || {
                format!("check.json calls {symbol}, which works on groups, with what is no list")
            })?;
            check(symbol, call, &function.call(&session, &call.args).await?)?;
        }
        function.stop(&session).await?;
    }
    Ok(())
}

pub(super) async fn cancel(bench: &Bench<'_>) -> Verdict {
    some(bench)?;
    let session = bench.open().await?;
    for (symbol, plan) in &bench.plan.functions {
        let mut function = FunctionUse::start(&session, symbol).await?;
        let slow = plan.calls.iter().find(|call| call.slow);
        let call = slow.or_else(|| plan.calls.iter().find(|call| call.succeeds()));
        let args = call.map(|call| call.args.clone()).unwrap_or_default();
        let cancelled = function.send(&session, &[args.as_slice(); 8]).await?;
        function.cancel(&session, &cancelled).await?;
        // One that is answered already, and one that was never made.
        function.cancel(&session, &[1, 1 << 40]).await?;
        let ids = function.send(&session, &[&args]).await?;
        function.collect(&session, &ids, &cancelled).await?;
        function.stop(&session).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_however_they_are_written() {
        assert!(agree(&json!([{"a": 1.0}]), &json!([{"a": 1}])));
        assert!(!agree(&json!([1]), &json!([1, 2])) && !agree(&json!({"a": 1}), &json!({"b": 1})));
        assert!(!agree(&json!("1"), &json!(1)));
    }
}
