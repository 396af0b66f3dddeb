//! The plugin of `cargo soak`. One program serves as several plugins: the environment says which.
//!
//! | symbol | file | what it does |
//! |---|---|---|
//! | source `<plugin>_source` | [`source`] | sends numbered tuples at a rate, and notes the last number when it is stopped |
//! | sink `<plugin>_sink` | [`sink`] | appends each number to a file before it acknowledges it |
//! | function `<plugin>_function` | [`function`] | gives its argument back |
//!
//! | signal | what it does |
//! |---|---|
//! | SIGUSR1 | exits at once, as a program does that calls `exit` somewhere |
//! | SIGUSR2 | writes garbage to the host's sockets ([`garbage`]) |
//! | SIGHUP | writes garbage into its connections and exits |
//! | SIGALRM | acknowledges what it has not taken |
//!
//! `CHAOS_NAME` is the plugin's name, `CHAOS_FOLDER` where it keeps its records; with `CHAOS_CHILD` it starts a
//! process that leaves its process group and session; `CHAOS_DELAY` is how many milliseconds its start takes,
//! and with `CHAOS_USELESS` it does not start at all.

mod function;
mod garbage;
mod sink;
mod source;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mangrove_sdk::Plugin;
use tokio::signal::unix::{SignalKind, signal};

/// Where records are kept.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// A status that nothing else here exits with.
const EXIT: i32 = 77;

#[tokio::main]
async fn main() -> Result<()> {
    let name = std::env::var("CHAOS_NAME").context("CHAOS_NAME is not set; expected the plugin's name")?;
    let folder = std::env::var_os("CHAOS_FOLDER").context("CHAOS_FOLDER is not set; expected a folder")?;
    let _first = FOLDER.set(folder.into());
    if std::env::var_os("CHAOS_CHILD").is_some() {
        start_child()?;
    }
    if let Ok(delay) = std::env::var("CHAOS_DELAY") {
        let delay = delay.parse().context("CHAOS_DELAY is no number")?;
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    if std::env::var_os("CHAOS_USELESS").is_some() {
        std::process::exit(EXIT);
    }
    let mut exit = signal(SignalKind::user_defined1())?;
    let mut litter = signal(SignalKind::user_defined2())?;
    let mut spew = signal(SignalKind::hangup())?;
    let mut lie = signal(SignalKind::alarm())?;
    let plugin = Plugin::new(&name)
        .source::<source::Numbers>(&format!("{name}_source"))
        .sink::<sink::Record>(&format!("{name}_sink"))
        .function(&format!("{name}_function"), function::Same);
    let faults = async {
        loop {
            tokio::select! {
                _ = exit.recv() => std::process::exit(EXIT),
                _ = litter.recv() => garbage::write().await,
                _ = spew.recv() => {
                    garbage::spew();
                    std::process::exit(EXIT);
                }
                _ = lie.recv() => garbage::lie().await,
            }
        }
    };
    tokio::select! {
        result = plugin.run() => Ok(result?),
        () = faults => Ok(()),
    }
}

/// The folder of the records.
fn folder() -> &'static std::path::Path {
    FOLDER.get().map_or(std::path::Path::new("."), PathBuf::as_path)
}

/// A grandchild with a session of its own, which no signal to this process's group reaches.
fn start_child() -> Result<()> {
    let status = Command::new("setsid")
        .args(["--fork", "sleep", "3600"])
        .stdin(Stdio::null())
        .status()
        .context("cannot run setsid")?;
    anyhow::ensure!(status.success(), "setsid ended with {status}");
    Ok(())
}
