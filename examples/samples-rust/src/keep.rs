//! The sink `keep_rust`: a line in a file for each result.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use mangrove_sdk::{Context, Message, Result, Sink};
use serde::Deserialize;

pub(crate) struct Keep {
    file: File,
    fail: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Config {
    /// The file; it need not be there.
    path: PathBuf,
    /// What a result must not contain.
    fail: Option<String>,
}

impl Sink for Keep {
    type Config = Config;

    async fn open(config: Config, _: &Context) -> Result<Self> {
        let Config { path, fail } = config;
        let file = File::options().append(true).create(true).open(&path);
        let file = file.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        let fail = fail.filter(|fail| !fail.is_empty());
        Ok(Self { file, fail })
    }

    async fn collect(&mut self, message: Message, _: &Context) -> Result {
        let json = message.as_bytes();
        if let Some(fail) = &self.fail
            && String::from_utf8_lossy(json).contains(fail)
        {
            return Err("told to fail".into());
        }
        // One write: whatever ends the plugin, there are whole lines. It goes to the system's memory, so it is no wait.
        Ok(self.file.write_all(&[json, b"\n"].concat())?)
    }
}

#[cfg(test)]
mod tests {
    use mangrove_sdk::Result;
    use mangrove_sdk::testing::Host;
    use serde_json::json;

    use crate::plugin;

    #[tokio::test]
    async fn what_it_takes_is_in_the_file_and_what_it_is_told_to_refuse_is_not() -> Result {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("kept");
        let host = Host::start(plugin()).await?;
        let config = json!({"path": path, "fail": "bad"});
        let mut keep = host.sink("keep_rust").config(config).start().await?;
        let results = [json!([{"n": 1}]), json!([{"n": "bad"}]), json!({"n": "žluť"})];
        let taken = keep.send_all(&results).await?;
        assert_eq!(taken, [Ok(()), Err("told to fail".to_owned()), Ok(())]);
        assert_eq!(std::fs::read_to_string(&path)?, "[{\"n\":1}]\n{\"n\":\"žluť\"}\n");
        keep.stop().await?;
        let refused = host.sink("keep_rust").start().await.unwrap_err().to_string();
        assert!(refused.contains("missing field `path`"), "{refused}");
        host.stop().await
    }
}
