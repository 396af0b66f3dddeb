//! The source `json`: the items of its conf key in turn, at its interval.

use std::time::Duration;

use mangrove_sdk::{Context, Object, Output, Result, Source, Tuple};
use serde::Deserialize;
use tokio::time::MissedTickBehavior;

pub(crate) struct Json {
    config: Config,
}

#[derive(Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// What to send.
    data: Vec<Object>,
    /// Milliseconds from one item to the next; 0 = as fast as the host takes them.
    interval: u64,
    /// Begin again after the last item.
    r#loop: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: Vec::new(),
            interval: 1000,
            r#loop: true,
        }
    }
}

impl Source for Json {
    type Config = Config;

    async fn open(_data_source: String, config: Config, _: &Context) -> Result<Self> {
        if config.data.is_empty() {
            return Err("\"data\" is empty; expected a list of objects".into());
        }
        Ok(Self { config })
    }

    async fn run(self, output: Output, context: Context) -> Result {
        context
            .until_cancelled(self.send_all(&output))
            .await
            .unwrap_or(Ok(()))
    }
}

impl Json {
    async fn send_all(self, output: &Output) -> Result {
        // The smallest period that a timer takes; without an interval it is never asked.
        let period = Duration::from_millis(self.config.interval.max(1));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for item in &self.config.data {
                if self.config.interval > 0 {
                    ticks.tick().await;
                }
                output.send(Tuple::from(item.clone())).await?;
            }
            if !self.config.r#loop {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mangrove_sdk::testing;
    use serde_json::json;

    fn config(value: serde_json::Value) -> Config {
        serde_json::from_value(value).unwrap()
    }

    #[tokio::test]
    async fn items_come_in_turn_until_it_is_stopped() {
        let context = testing::context();
        let config = config(json!({"data": [{"n": 1}, {"n": 2}], "interval": 0}));
        let source = Json::open(String::new(), config, &context).await.unwrap();
        let (output, mut sent) = testing::output(1);
        let reader = async {
            for expected in [1, 2, 1, 2, 1] {
                assert_eq!(sent.recv().await.unwrap().unwrap().message()["n"], expected);
            }
            context.cancellation().cancel();
        };
        let (result, ()) = tokio::join!(source.run(output, context.clone()), reader);
        result.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_interval_lies_between_items_and_the_last_one_ends_it_without_loop() {
        let context = testing::context();
        let config = config(json!({"data": [{"n": 1}, {"n": 2}, {"n": 3}], "interval": 500, "loop": false}));
        let source = Json::open(String::new(), config, &context).await.unwrap();
        let (output, mut sent) = testing::output(8);
        let start = tokio::time::Instant::now();
        source.run(output, context).await.unwrap();
        assert!(
            start.elapsed() >= Duration::from_millis(1000),
            "{:?}",
            start.elapsed()
        );
        let mut count = 0;
        while sent.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 3);
    }

    #[tokio::test]
    async fn nothing_to_send_is_refused() {
        let error = Json::open(String::new(), Config::default(), &testing::context()).await;
        assert!(error.err().unwrap().to_string().contains("\"data\" is empty"));
    }
}
