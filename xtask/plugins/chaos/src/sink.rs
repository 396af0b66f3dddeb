//! The sink: appends a line for each tuple, `run number microseconds`, before it acknowledges it.

use std::fs::File;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use mangrove_sdk::{Context, Message, Object, Result, Sink, Value};

use crate::folder;

pub(crate) struct Record {
    file: File,
}

impl Sink for Record {
    type Config = Object;

    async fn open(_: Object, context: &Context) -> Result<Self> {
        let taken = folder().join("taken");
        std::fs::create_dir_all(&taken)?;
        let path = taken.join(context.rule_id());
        let file = File::options().append(true).create(true).open(&path)?;
        Ok(Self { file })
    }

    async fn collect(&mut self, message: Message, _: &Context) -> Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        let mut lines = String::new();
        for row in message.rows()? {
            let run = row.get("run").and_then(Value::as_str);
            let (Some(run), Some(n)) = (run, row.get("n").and_then(Value::as_u64)) else {
                return Err(format!("a row without run and n: {row:?}").into());
            };
            lines.push_str(&format!("{run} {n} {now}\n"));
        }
        // One call of the system: whatever ends this process, whole lines stay.
        Ok(self.file.write_all(lines.as_bytes())?)
    }
}
