//! The functions.

use std::time::Duration;

use mangrove_sdk::{Context, Function, Result, Value};

/// `echo_rust(x)`: its argument.
pub(crate) struct Echo;

impl Function for Echo {
    fn validate(&self, args: &[Value]) -> Result {
        if args.len() == 1 {
            Ok(())
        } else {
            Err("echo takes 1 argument".into())
        }
    }

    async fn exec(&self, mut args: Vec<Value>, _: &Context) -> Result<Value> {
        args.pop().ok_or_else(|| "echo takes 1 argument".into())
    }
}

/// `slow_rust(ms, x)`: `x`, after so many milliseconds.
pub(crate) struct Slow;

impl Function for Slow {
    async fn exec(&self, args: Vec<Value>, _: &Context) -> Result<Value> {
        let Ok([pause, value]) = <[Value; 2]>::try_from(args) else {
            return Err("slow takes 2 arguments".into());
        };
        let pause = pause.as_u64().ok_or("slow takes milliseconds")?;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        Ok(value)
    }
}

/// `fail_rust(text)`: an error with this text; `panic` panics.
pub(crate) struct Fail;

impl Function for Fail {
    async fn exec(&self, args: Vec<Value>, _: &Context) -> Result<Value> {
        let text = args.first().and_then(Value::as_str).ok_or("fail takes a text")?;
        assert_ne!(text, "panic", "it was told to");
        Err(text.into())
    }
}

/// `total_rust(xs)`: the sum of the numbers of its first argument, a whole one if they are.
pub(crate) struct Total;

impl Function for Total {
    fn is_aggregate(&self) -> bool {
        true
    }

    async fn exec(&self, args: Vec<Value>, _: &Context) -> Result<Value> {
        let numbers = args
            .first()
            .and_then(Value::as_array)
            .ok_or("total takes a list")?;
        let whole = numbers
            .iter()
            .try_fold(0_i64, |sum, number| sum.checked_add(number.as_i64()?));
        Ok(match whole {
            Some(sum) => sum.into(),
            None => numbers.iter().filter_map(Value::as_f64).sum::<f64>().into(),
        })
    }
}

/// `tally_rust(key)`: how often it was called with this key in the rule.
pub(crate) struct Tally;

impl Function for Tally {
    async fn exec(&self, args: Vec<Value>, context: &Context) -> Result<Value> {
        let key = args.first().and_then(Value::as_str).ok_or("tally takes a key")?;
        let count: i64 = context.state().add(key, 1).await?;
        Ok(count.into())
    }
}

#[cfg(test)]
mod tests {
    use mangrove_sdk::Result;
    use mangrove_sdk::testing::Host;
    use serde_json::json;

    use crate::plugin;

    #[tokio::test]
    async fn each_does_what_its_name_says() -> Result {
        let host = Host::start(plugin()).await?;
        let cases = [
            ("echo_rust", vec![json!({"a": [1.5]})], Ok(json!({"a": [1.5]}))),
            ("slow_rust", vec![json!(1), json!("x")], Ok(json!("x"))),
            ("fail_rust", vec![json!("no")], Err("no")),
            ("fail_rust", vec![json!("panic")], Err("it was told to")),
            ("total_rust", vec![json!([1, 2])], Ok(json!(3))),
            ("total_rust", vec![json!([1, 2.5])], Ok(json!(3.5))),
            ("total_rust", vec![json!([])], Ok(json!(0))),
        ];
        for (name, args, expected) in cases {
            let function = host.function(name).start().await?;
            match (function.call(args).await, expected) {
                (Ok(result), Ok(expected)) => assert_eq!(result, expected, "{name}"),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{name}: {error}");
                }
                (result, expected) => panic!("{name}: {result:?} is not {expected:?}"),
            }
            function.stop().await?;
        }
        host.stop().await
    }

    #[tokio::test]
    async fn a_slow_call_holds_up_no_other() -> Result {
        let host = Host::start(plugin()).await?;
        let slow = host.function("slow_rust").start().await?;
        // It would not be back before the test's limit.
        let waits = slow.call(vec![json!(3_600_000), json!("late")]);
        let quick = slow.call(vec![json!(0), json!("soon")]);
        tokio::select! {
            result = waits => panic!("{result:?}"),
            result = quick => assert_eq!(result?, "soon"),
        }
        host.stop().await
    }

    #[tokio::test]
    async fn tallies_belong_to_their_rule_and_key() -> Result {
        let host = Host::start(plugin()).await?;
        let tally = host.function("tally_rust").start().await?;
        for (rule, key, count) in [("one", "a", 1), ("one", "a", 2), ("one", "b", 1), ("two", "a", 1)] {
            assert_eq!(
                tally.call_in(rule, vec![json!(key)]).await?,
                count,
                "{rule} {key}"
            );
        }
        assert_eq!(host.state("tally_rust", "one").get::<u64>("a").await?, Some(2));
        host.stop().await
    }

    #[tokio::test]
    async fn echo_checks_its_arguments() -> Result {
        let host = Host::start(plugin()).await?;
        let echo = host.function("echo_rust").start().await?;
        echo.validate(vec![json!("a.b")]).await?;
        let error = echo.validate(vec![]).await.unwrap_err();
        assert_eq!(error.to_string(), "echo takes 1 argument");
        host.stop().await
    }
}
