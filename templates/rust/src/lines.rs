//! A sink that appends each result to a file, as a line of JSON.

use mangrove_sdk::{Context, Message, Result, Sink};
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

#[derive(Deserialize)]
pub struct Settings {
    path: String,
}

pub struct Lines {
    file: File,
}

impl Sink for Lines {
    type Config = Settings;

    async fn open(settings: Settings, _: &Context) -> Result<Self> {
        let file = File::options().append(true).create(true).open(settings.path).await?;
        Ok(Self { file })
    }

    async fn collect(&mut self, message: Message, _: &Context) -> Result {
        self.file.write_all(message.as_bytes()).await?;
        self.file.write_all(b"\n").await?;
        // The host takes it for safe when this returns.
        Ok(self.file.flush().await?)
    }
}
