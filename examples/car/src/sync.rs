//! The source `sync`: follows a JSON-lines file as it grows.
//!
//! The file may not be there yet, may be cut short (it is read from its start again) and may be replaced by another
//! of the same name (the old one is read to its end first). A file that is cut and grows past the old place between
//! two looks can't be told from one that only grew.

use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mangrove_sdk::{Context, Object, Output, Result, Source, Tuple};
use serde::Deserialize;
use serde_json::json;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::lines::{Line, Lines};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

pub(crate) struct Sync {
    path: PathBuf,
    config: Config,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Config {
    /// The file; without it the stream's `DATASOURCE` says it.
    path: Option<PathBuf>,
    /// Milliseconds between two looks at a file that has ended.
    interval: u64,
    /// The longest line in bytes; longer ones are reported and left out.
    max_line: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: None,
            interval: 200,
            max_line: 1024 * 1024,
        }
    }
}

impl Source for Sync {
    type Config = Config;

    async fn open(data_source: String, config: Config, _: &Context) -> Result<Self> {
        let path = config.path.clone().unwrap_or_else(|| data_source.into());
        if path.as_os_str().is_empty() {
            return Err("no file: expected \"path\" in the conf key or as DATASOURCE".into());
        }
        if path.is_dir() {
            return Err(format!("{} is a folder; expected a file", path.display()).into());
        }
        Ok(Self { path, config })
    }

    async fn run(self, output: Output, context: Context) -> Result {
        context
            .until_cancelled(self.follow(&output))
            .await
            .unwrap_or(Ok(()))
    }
}

/// What has become of the file that was read to its end.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing new, or the name is free at the moment.
    Same,
    /// It is shorter than what was read of it.
    Cut,
    /// Its name belongs to another file.
    Replaced,
}

impl Sync {
    async fn follow(self, output: &Output) -> Result {
        let pause = Duration::from_millis(self.config.interval.max(1));
        let mut lines = Lines::new(self.config.max_line);
        let mut buffer = vec![0; CHUNK];
        loop {
            let mut file = self.wait_for_file(pause).await?;
            loop {
                let len = file.read(&mut buffer).await?;
                let mut bytes = buffer.get(..len).unwrap_or_default();
                while let Some(line) = lines.next(&mut bytes) {
                    self.send(line, lines.number(), output).await?;
                }
                if len > 0 {
                    continue;
                }
                match fate(&mut file, &self.path).await? {
                    Fate::Same => tokio::time::sleep(pause).await,
                    Fate::Cut => {
                        tracing::info!(path = %self.path.display(), "the file was cut: reading it from its start");
                        lines.restart();
                        file.seek(SeekFrom::Start(0)).await?;
                    }
                    Fate::Replaced => {
                        tracing::info!(path = %self.path.display(), "the file was replaced: reading the new one");
                        if let Some(line) = lines.last() {
                            self.send(line, lines.number(), output).await?;
                        }
                        lines.restart();
                        break;
                    }
                }
            }
        }
    }

    async fn wait_for_file(&self, pause: Duration) -> Result<File> {
        loop {
            match File::open(&self.path).await {
                Ok(file) => return Ok(file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => tokio::time::sleep(pause).await,
                Err(error) => return Err(format!("cannot read {}: {error}", self.path.display()).into()),
            }
        }
    }

    async fn send(&self, line: Line, number: u64, output: &Output) -> Result {
        let path = self.path.display();
        let text = match line {
            Line::Text(text) => text,
            Line::TooLong => {
                let limit = self.config.max_line;
                let error = format!("{path}:{number}: the line has more than {limit} bytes");
                return Ok(output.report(error).await?);
            }
        };
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        match serde_json::from_slice::<Object>(&text) {
            Ok(message) => {
                let meta = json!({ "path": path.to_string(), "line": number });
                output.send(Tuple::from(message).with_meta(&meta)?).await?;
            }
            Err(error) => {
                let error = format!("{path}:{number}: expected a JSON object: {error}");
                output.report(error).await?;
            }
        }
        Ok(())
    }
}

async fn fate(file: &mut File, path: &Path) -> Result<Fate> {
    let position = file.stream_position().await?;
    let read = file.metadata().await?;
    let named = match tokio::fs::metadata(path).await {
        Ok(named) => named,
        // Between the two steps of a rotation nobody has the name.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Fate::Same),
        Err(error) => return Err(format!("cannot look at {}: {error}", path.display()).into()),
    };
    Ok(if (named.dev(), named.ino()) != (read.dev(), read.ino()) {
        // What was written between our last read and the rotation is still to be read.
        if read.len() > position {
            Fate::Same
        } else {
            Fate::Replaced
        }
    } else if read.len() < position {
        Fate::Cut
    } else {
        Fate::Same
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mangrove_sdk::testing::{self, Sent};
    use std::fs;
    use std::io::Write;
    use tokio::time::timeout;

    struct Fixture {
        folder: tempfile::TempDir,
        sent: Sent,
    }

    impl Fixture {
        fn path(&self) -> PathBuf {
            self.folder.path().join("trips.jsonl")
        }

        fn append(&self, text: &str) {
            let mut file = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.path())
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        async fn recv(&mut self) -> Result<Tuple, String> {
            let message = timeout(Duration::from_secs(20), self.sent.recv()).await;
            message
                .expect("the source sent nothing")
                .expect("the source ended")
        }

        async fn recv_n(&mut self) -> i64 {
            self.recv().await.unwrap().message()["n"].as_i64().unwrap()
        }
    }

    /// Runs the source and `test` side by side until `test` is done.
    async fn following(test: impl AsyncFnOnce(&mut Fixture)) {
        let (output, sent) = testing::output(64);
        let folder = tempfile::tempdir().unwrap();
        let mut fixture = Fixture { folder, sent };
        let context = testing::context();
        let config = Config {
            interval: 1,
            max_line: 32,
            ..Config::default()
        };
        let data_source = fixture.path().display().to_string();
        let source = Sync::open(data_source, config, &context).await.unwrap();
        let test = async {
            test(&mut fixture).await;
            context.cancellation().cancel();
        };
        let (result, ()) = tokio::join!(source.run(output, context.clone()), test);
        result.unwrap();
    }

    #[tokio::test]
    async fn lines_come_when_they_are_complete() {
        following(async |fixture| {
            fixture.append("{\"n\":1}\n{\"n\":2}\n\n{\"n\"");
            let first = fixture.recv().await.unwrap();
            assert_eq!(
                (&first.message()["n"], &first.meta()["line"]),
                (&1.into(), &1.into())
            );
            assert_eq!(fixture.recv_n().await, 2);
            fixture.append(":4}\r\n");
            let last = fixture.recv().await.unwrap();
            assert_eq!(
                (&last.message()["n"], &last.meta()["line"]),
                (&4.into(), &4.into())
            );
        })
        .await;
    }

    #[tokio::test]
    async fn bad_and_endless_lines_are_reported_and_survived() {
        following(async |fixture| {
            fixture.append("nope\n");
            let error = fixture.recv().await.unwrap_err();
            assert!(error.contains("trips.jsonl:1: expected a JSON object"), "{error}");
            fixture.append(&"x".repeat(100_000));
            fixture.append("\n[1]\n{\"n\":4}\n");
            let error = fixture.recv().await.unwrap_err();
            assert!(error.contains(":2: the line has more than 32 bytes"), "{error}");
            assert!(
                fixture
                    .recv()
                    .await
                    .unwrap_err()
                    .contains(":3: expected a JSON object")
            );
            assert_eq!(fixture.recv_n().await, 4);
        })
        .await;
    }

    #[tokio::test]
    async fn a_cut_file_is_read_from_its_start() {
        following(async |fixture| {
            fixture.append("{\"n\":1}\n{\"n\":2}\n{\"half\":");
            assert_eq!((fixture.recv_n().await, fixture.recv_n().await), (1, 2));
            fs::write(fixture.path(), "{\"n\":3}\n").unwrap();
            assert_eq!(fixture.recv_n().await, 3);
        })
        .await;
    }

    #[tokio::test]
    async fn a_replaced_file_is_read_to_its_end_and_then_the_new_one() {
        following(async |fixture| {
            fixture.append("{\"n\":1}\n");
            assert_eq!(fixture.recv_n().await, 1);
            fs::rename(fixture.path(), fixture.folder.path().join("trips.jsonl.1")).unwrap();
            // The writer of a rotated file may not have noticed yet.
            let old = fixture.folder.path().join("trips.jsonl.1");
            let mut old = fs::OpenOptions::new().append(true).open(old).unwrap();
            old.write_all(b"{\"n\":2}\n{\"n\":3}").unwrap();
            fixture.append("{\"n\":4}\n");
            assert_eq!((fixture.recv_n().await, fixture.recv_n().await), (2, 3));
            let first_of_new = fixture.recv().await.unwrap();
            assert_eq!(
                (&first_of_new.message()["n"], &first_of_new.meta()["line"]),
                (&4.into(), &1.into())
            );
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_is_needed() {
        let open = async |path: &str| {
            let opened = Sync::open(path.to_owned(), Config::default(), &testing::context()).await;
            opened.err().unwrap().to_string()
        };
        assert!(open("").await.contains("no file"));
        assert!(open("/").await.contains("is a folder"));
    }
}
