//! The source `counter_rust`: counts, and goes on where it was.

use std::time::Duration;

use mangrove_sdk::{Context, Output, Result, Source, Tuple};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

pub(crate) struct Counter {
    config: Config,
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// The last number; 0 = there is none.
    count: u64,
    /// Milliseconds from one tuple to the next; 0 = as fast as they are taken.
    interval: u64,
    /// How long the padding of a tuple is, in bytes.
    size: usize,
    /// The number in place of which an error is reported; 0 = none.
    fail_at: u64,
}

#[derive(Serialize)]
struct Meta {
    source: String,
}

#[derive(Serialize)]
struct Count<'a> {
    n: u64,
    pid: u32,
    pad: &'a str,
}

impl Source for Counter {
    type Config = Config;

    async fn open(data_source: String, config: Config, _: &Context) -> Result<Self> {
        let meta = Meta { source: data_source };
        Ok(Self { config, meta })
    }

    async fn run(self, output: Output, context: Context) -> Result {
        let seen: u64 = context.offset()?.unwrap_or(0);
        context
            .until_cancelled(self.count(seen, &output))
            .await
            .unwrap_or(Ok(()))
    }
}

impl Counter {
    async fn count(self, seen: u64, output: &Output) -> Result {
        let Config {
            count,
            interval,
            size,
            fail_at,
        } = self.config;
        let pad = "x".repeat(size);
        let pid = std::process::id();
        let mut ticks = tokio::time::interval(Duration::from_millis(interval.max(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let last = if count == 0 { u64::MAX } else { count };
        for n in seen + 1..=last {
            if interval > 0 {
                ticks.tick().await;
            }
            if n == fail_at {
                output.report(format!("told to fail at {n}")).await?;
                continue;
            }
            let tuple = Tuple::new(&Count { n, pid, pad: &pad })?
                .with_meta(&self.meta)?
                .with_offset(&n)?;
            output.send(tuple).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mangrove_sdk::Result;
    use mangrove_sdk::testing::Host;
    use serde_json::json;

    use crate::plugin;

    #[tokio::test]
    async fn it_counts_to_its_end_with_an_error_on_the_way() -> Result {
        let host = Host::start(plugin()).await?;
        let config = json!({"count": 3, "size": 5, "fail_at": 2});
        let mut counter = host
            .source("counter_rust")
            .config(config)
            .data_source("demo")
            .start()
            .await?;
        let first = counter.tuple().await?;
        let expected = json!({"n": 1, "pid": std::process::id(), "pad": "xxxxx"});
        assert_eq!(json!(first.message()), expected);
        assert_eq!(json!(first.meta()), json!({"source": "demo"}));
        assert_eq!(counter.next().await?, Some(Err("told to fail at 2".to_owned())));
        let last = counter.tuple().await?;
        assert_eq!(
            (&last.message()["n"], last.offset()),
            (&json!(3), Some(&json!(3)))
        );
        assert_eq!(counter.next().await?, None);
        assert_eq!(counter.stop().await?, []);
        host.stop().await
    }

    #[tokio::test]
    async fn it_goes_on_behind_its_offset_and_ends_when_it_is_stopped() -> Result {
        let host = Host::start(plugin()).await?;
        let config = json!({"size": 10});
        let mut counter = host
            .source("counter_rust")
            .config(config)
            .offset(41)
            .start()
            .await?;
        assert_eq!(counter.tuple().await?.message()["n"], 42);
        let rest = counter.stop().await?;
        for (tuple, n) in rest.into_iter().zip(43..) {
            assert_eq!(tuple?.message()["n"], n);
        }
        let refused = host
            .source("counter_rust")
            .config(json!({"count": -1}))
            .start()
            .await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("configuration cannot be read")
        );
        host.stop().await
    }
}
