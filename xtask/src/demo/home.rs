//! Owns the demo's home folder, `target/demo`: made anew each time, with the example plugin in its place and
//! a named pipe through which the results come.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode};
use serde_json::{StreamDeserializer, Value};
use tokio::net::unix::pipe;

use crate::command::cargo;
use crate::host::{Launch, last_words};

/// Where eKuiper's users expect the REST API.
const PORT: u16 = 9081;

/// The home folder and the programs that run in it.
pub(super) struct Home {
    folder: PathBuf,
    host: PathBuf,
    /// Held until the end: one demo at a time in this checkout.
    _lock: File,
}

impl Home {
    /// Builds what the demo needs and lays it out.
    pub(super) fn prepare() -> Result<Self> {
        let root = crate::workspace_folder()?;
        let target = testkit::target_folder();
        let folder = target.join("demo");
        let lock = lock(&target.join("demo.lock"))?;

        println!("Building the host and the example plugin; the first time this takes some minutes.");
        let status = cargo()
            .current_dir(&root)
            .args(["build", "--package", "mangrove", "--package", "car"])
            .status()
            .context("cannot run cargo")?;
        ensure!(status.success(), "the host or the example plugin does not build");
        let programs = target.join("debug");

        if folder.exists() {
            std::fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let plugin = folder.join("plugins/portable/car");
        let example = root.join("examples/car");
        copy(&example.join("car.json"), &plugin.join("car.json"))?;
        copy(&programs.join("server"), &plugin.join("server"))?;
        for kind in ["sources", "sinks", "functions"] {
            copy_all(&example.join(kind), &plugin.join(kind))?;
        }
        let home = Self {
            folder,
            host: programs.join("mangrove"),
            _lock: lock,
        };
        rustix::fs::mkfifoat(CWD, home.results_path(), Mode::RUSR | Mode::WUSR)
            .with_context(|| format!("cannot make the pipe {}", home.results_path().display()))?;
        Ok(home)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The host that runs in it.
    pub(super) fn launch(&self) -> Launch {
        Launch {
            program: self.host.clone(),
            home: self.folder.clone(),
            rest: rest_address(),
            log: self.log(),
            environment: Vec::new(),
        }
    }

    /// Where the host's log goes.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("mangrove.log")
    }

    /// The end of the host's log, for the text of a failure.
    pub(super) fn last_words(&self) -> String {
        last_words(&self.log())
    }

    /// To which the plugin's sink writes.
    pub(super) fn results_path(&self) -> PathBuf {
        self.folder.join("results")
    }

    /// The reading end of the results.
    pub(super) fn results(&self) -> Result<Results> {
        // Open for writing too: else it would be at its end whenever no command of the sink has it open.
        let pipe = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(self.results_path())
            .with_context(|| format!("cannot open {}", self.results_path().display()))?;
        Ok(Results {
            pipe,
            buffer: Vec::new(),
        })
    }
}

/// The usual address, or a free port when someone has it.
fn rest_address() -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    if TcpListener::bind(usual).is_ok() {
        return usual;
    }
    println!("The port {PORT} is taken; the REST API gets another one.");
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.try_lock()
        .context("a demo is already running in this checkout")?;
    Ok(file)
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let entries = std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("cannot copy {} to {}", from.display(), to.display());
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).with_context(what)?;
    }
    std::fs::copy(from, to).with_context(what)?;
    Ok(())
}

/// The results as they come through the pipe: JSON values, one after another.
pub(super) struct Results {
    pipe: pipe::Receiver,
    buffer: Vec<u8>,
}

impl Results {
    /// The next result.
    ///
    /// # Errors
    /// What came is no JSON.
    ///
    /// # Cancel safety
    /// What was read so far is kept.
    pub(super) async fn next(&mut self) -> Result<Value> {
        loop {
            if let Some(value) = take_value(&mut self.buffer)? {
                return Ok(value);
            }
            self.pipe.readable().await.context("cannot wait for results")?;
            let mut chunk = [0; 4096];
            match self.pipe.try_read(&mut chunk) {
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot read the results"),
            }
        }
    }
}

/// Takes the first complete object or array off the front of `buffer`.
fn take_value(buffer: &mut Vec<u8>) -> Result<Option<Value>> {
    let mut values: StreamDeserializer<'_, _, Value> =
        serde_json::Deserializer::from_slice(buffer).into_iter();
    match values.next() {
        Some(Ok(value)) => {
            let used = values.byte_offset();
            buffer.drain(..used);
            Ok(Some(value))
        }
        None => Ok(None),
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(error)) => {
            Err(error).with_context(|| format!("the sink wrote no JSON: {}", String::from_utf8_lossy(buffer)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_taken_one_by_one_and_parts_are_kept() {
        let mut buffer = br#"{"a":1}{"b":2} [3"#.to_vec();
        assert_eq!(take_value(&mut buffer).unwrap(), Some(json!({"a": 1})));
        assert_eq!(take_value(&mut buffer).unwrap(), Some(json!({"b": 2})));
        assert_eq!(take_value(&mut buffer).unwrap(), None);
        buffer.push(b']');
        assert_eq!(take_value(&mut buffer).unwrap(), Some(json!([3])));
        assert_eq!(take_value(&mut buffer).unwrap(), None);
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        let error = take_value(&mut b"tee: no".to_vec()).unwrap_err();
        assert_eq!(error.to_string(), "the sink wrote no JSON: tee: no");
    }
}
