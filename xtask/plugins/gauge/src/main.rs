//! The plugin of `cargo figures plugins`: symbols that cost next to nothing, so that what is measured is the way
//! between them. `GAUGE_NAME` is the plugin's name, with which its symbols' names begin, so that one program serves as
//! many plugins. With words behind it, it is no plugin but what that is compared to: see `raw`.

mod raw;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mangrove_sdk::{Context, Function, Message, Output, Plugin, Result, Sink, Source, Value};
use serde::{Deserialize, Serialize};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    if let (Some(word), Some(argument)) = (words.next(), words.next())
        && let Some(done) = raw::run(&word, &argument).await
    {
        return done;
    }
    let name = std::env::var("GAUGE_NAME").unwrap_or_else(|_| "gauge".to_owned());
    Plugin::new(&name)
        .source::<Flood>(&format!("{name}_flood"))
        .sink::<Swallow>(&format!("{name}_swallow"))
        .function(&format!("{name}_same"), Same)
        .run()
        .await?;
    Ok(())
}

/// Sends objects of 200 bytes: as fast as it can, or at a rate.
struct Flood {
    rate: u32,
}

#[derive(Deserialize)]
struct FloodConfig {
    /// Tuples per second; 0: as fast as it can.
    #[serde(default)]
    rate: u32,
}

#[derive(Serialize)]
struct Tuple {
    n: u64,
    /// When it was made, in microseconds since 1970.
    at: u64,
    text: &'static str,
}

/// With the fields around it, an object of 200 bytes when `n` has 7 digits.
const TEXT: &str = "The quick brown fox jumps over the lazy dog, again and again, until the dog is tired of it, and \
                    the fox too, and both lie down in the sun.";

impl Source for Flood {
    type Config = FloodConfig;

    async fn open(_: String, config: FloodConfig, _: &Context) -> Result<Self> {
        Ok(Self { rate: config.rate })
    }

    async fn run(self, output: Output, context: Context) -> Result {
        let start = Instant::now();
        let (mut n, mut at) = (0, now());
        while !context.is_cancelled() {
            if self.rate > 0 {
                let due = start + Duration::from_secs(n) / self.rate;
                if Instant::now() < due {
                    tokio::time::sleep_until(due.into()).await;
                }
                at = now();
            }
            n += 1;
            output.send_json(&Tuple { n, at, text: TEXT }).await?;
        }
        Ok(())
    }
}

/// Forgets what it is sent; or notes how old it is, to write that into a file when it is closed.
struct Swallow {
    path: Option<String>,
    ages: Vec<u64>,
}

#[derive(Deserialize)]
struct SwallowConfig {
    /// Where the ages of what it was sent go, microseconds in ascending order, as JSON.
    path: Option<String>,
}

/// The ages that are kept at most.
const AGES: usize = 1_000_000;

impl Sink for Swallow {
    type Config = SwallowConfig;

    async fn open(config: SwallowConfig, _: &Context) -> Result<Self> {
        Ok(Self {
            path: config.path,
            ages: Vec::new(),
        })
    }

    async fn collect(&mut self, message: Message, _: &Context) -> Result {
        if self.path.is_some() && self.ages.len() < AGES {
            let now = now();
            for row in message.rows()? {
                let at = row.get("at").and_then(Value::as_u64).unwrap_or(now);
                self.ages.push(now.saturating_sub(at));
            }
        }
        Ok(())
    }

    async fn close(mut self, _: &Context) -> Result {
        if let Some(path) = self.path {
            self.ages.sort_unstable();
            tokio::fs::write(path, Value::from(self.ages).to_string()).await?;
        }
        Ok(())
    }
}

/// Gives its argument back.
struct Same;

impl Function for Same {
    async fn exec(&self, mut args: Vec<Value>, _: &Context) -> Result<Value> {
        Ok(args.pop().unwrap_or_default())
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
