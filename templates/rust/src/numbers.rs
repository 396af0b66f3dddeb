//! A source that counts, and goes on where it was when it is started again.

use std::time::Duration;

use mangrove_sdk::{Context, Output, Result, Source, Tuple};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Between two numbers, in milliseconds.
    interval: u64,
    /// How many; 0: without end.
    count: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: 1000, count: 0 }
    }
}

#[derive(Serialize)]
struct Number {
    n: u64,
}

pub struct Numbers {
    settings: Settings,
    last: u64,
}

impl Source for Numbers {
    type Config = Settings;

    async fn open(_data_source: String, settings: Settings, context: &Context) -> Result<Self> {
        let last = context.offset()?.unwrap_or(0);
        Ok(Self { settings, last })
    }

    async fn run(self, output: Output, context: Context) -> Result {
        let interval = Duration::from_millis(self.settings.interval);
        let mut n = self.last;
        while self.settings.count == 0 || n < self.settings.count {
            if !interval.is_zero() && context.until_cancelled(tokio::time::sleep(interval)).await.is_none() {
                break;
            }
            if context.is_cancelled() {
                break;
            }
            n += 1;
            output.send(Tuple::new(&Number { n })?.with_offset(&n)?).await?;
        }
        Ok(())
    }
}
