//! Owns `mangrove plugin run`: a host of its own for a plugin that is being written, and what of it shows up at the
//! author's terminal.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use super::table::printable;
use super::terminal::Terminal;
use crate::app;
use crate::author::{Mirror, Mirrored};
use crate::config::{Config, Overrides};

/// How often the author's folder is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What a log of it shows: the plugin's own lines, results of rules, and whatever goes wrong.
const LEVELS: &str = "info";

#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(super) struct RunArgs {
    /// The plugin's folder
    folder: PathBuf,
    /// Where the REST API of its host listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9081")]
    rest: SocketAddr,
    /// The home folder of its host, which keeps streams, rules and state; by default one that is removed at the end
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
}

/// The host's home folder.
enum Home {
    Own(TempDir),
    Kept(PathBuf),
}

impl Home {
    fn path(&self) -> &Path {
        match self {
            Self::Own(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }
}

/// The copy of the plugin in the host's folder. Removed when dropped.
struct Installed(Mirror);

impl Drop for Installed {
    fn drop(&mut self) {
        // Mostly the whole home folder goes next.
        let _left = std::fs::remove_dir_all(self.0.copy());
    }
}

pub(super) async fn run(args: RunArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
    let folder = args.folder.canonicalize();
    let folder = folder.with_context(|| format!("there is no folder {}", args.folder.display()))?;
    let name = folder
        .file_name()
        .context("the folder has no name that a plugin could have")?;
    let home = match args.home {
        Some(path) => Home::Kept(std::path::absolute(path)?),
        None => Home::Own(tempfile::Builder::new().prefix("mangrove-run-").tempdir()?),
    };
    let copy = home.path().join("plugins/portable").join(name);
    if copy.exists() {
        bail!("{} is already there; take another --home", copy.display());
    }
    let overrides = Overrides {
        rest: Some(args.rest),
        log: None,
    };
    let config = Config::load(home.path(), &overrides)?;
    log()?;
    // Before anything starts: a signal that comes early must not leave anything behind.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let installed = Installed(Mirror::new(folder.clone(), copy));
    let ready = |address: SocketAddr| {
        let folder = folder.display();
        let output = &mut terminal.output;
        let lines = format!("following {folder}; Ctrl-C ends it\nmangrove is ready at http://{address}");
        // Whoever started it may have closed its end.
        let _unread = writeln!(output, "{lines}").and_then(|()| output.flush());
    };
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            error = follow(installed) => tracing::error!("{}", printable(&error.to_string())),
        }
    };
    Ok(app::run(&config, ready, stop).await?)
}

/// Brings the copy up to date until that fails.
async fn follow(mut installed: Installed) -> anyhow::Error {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let looked = tokio::task::spawn_blocking(move || {
            let found = installed.0.look();
            (installed, found)
        });
        let found = match looked.await {
            Ok((back, found)) => {
                installed = back;
                found
            }
            Err(error) => return error.into(),
        };
        match found {
            Ok(Mirrored::Unchanged) => {}
            Ok(Mirrored::Copied(files)) => tracing::info!("{files} files were saved; the plugin is loaded"),
            Ok(Mirrored::Unfit(reason)) => tracing::warn!("not loaded: {}", printable(&reason)),
            Err(error) => return error.into(),
        }
    }
}

/// Everything that is worth a line, short: the author has one plugin and sees it live.
fn log() -> anyhow::Result<()> {
    let subscriber = tracing_subscriber::fmt()
        .compact()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(LEVELS)?)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .finish();
    Ok(tracing::subscriber::set_global_default(subscriber)?)
}
