//! The source: numbers from 1 at a rate, each with the name of this run of it, so that one that got lost on the
//! way shows as a gap. When a run ends in order it notes how many it has sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mangrove_sdk::{Context, Object, Output, Result, Source};
use tokio::time::MissedTickBehavior;

use crate::folder;

pub(crate) struct Numbers {
    pause: Duration,
    run: String,
}

impl Source for Numbers {
    type Config = Object;

    /// `data_source` is the rate, tuples per second.
    async fn open(data_source: String, _: Object, _: &Context) -> Result<Self> {
        let rate: u32 = data_source
            .parse()
            .ok()
            .filter(|rate| *rate > 0)
            .ok_or_else(|| format!("DATASOURCE is {data_source:?}; expected tuples per second"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Self {
            pause: Duration::from_secs(1) / rate,
            run: format!("{:x}.{:x}", std::process::id(), now.as_nanos()),
        })
    }

    async fn run(self, output: Output, context: Context) -> Result {
        let folder = folder();
        let quiet = folder.join("quiet");
        let mut ticks = tokio::time::interval(self.pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sent = 0_u64;
        while context.until_cancelled(ticks.tick()).await.is_some() && !quiet.exists() {
            let mut tuple = Object::new();
            tuple.insert("run".to_owned(), self.run.as_str().into());
            tuple.insert("n".to_owned(), (sent + 1).into());
            output.send(tuple).await?;
            sent += 1;
        }
        let note = folder.join("sent").join(context.rule_id()).join(&self.run);
        std::fs::create_dir_all(note.parent().unwrap_or(folder))?;
        // Moved into place, so that nobody reads half of it.
        let draft = note.with_extension("tmp");
        std::fs::write(&draft, sent.to_string())?;
        std::fs::rename(&draft, &note)?;
        context.cancelled().await;
        Ok(())
    }
}
