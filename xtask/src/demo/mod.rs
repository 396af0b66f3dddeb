//! `cargo demo`: the main job in one command. Builds the host and the example plugin, lays out a home folder
//! with the plugin in it, starts the host, makes a stream and a rule over REST and prints each result, until
//! Ctrl-C or until the wanted number of results is there.

mod home;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::host::Host;
use crate::http;
use home::{Home, Results};

/// Runs a rule through a host and the example plugin until Ctrl-C.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// End after this many results.
    #[arg(long, value_name = "N")]
    results: Option<u64>,
}

/// The stream takes what the plugin's source `json` sends: the items of its conf key, one each second.
const STREAM: &str = r#"CREATE STREAM cars () WITH (TYPE="json", CONF_KEY="default", FORMAT="JSON")"#;

/// The rule calls two of the plugin's functions.
const RULE: &str = "SELECT color, size, rank(color) AS place, link(color, 'of size', size) AS label FROM cars WHERE size > 1";

/// The longest wait for a result; one comes every second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo.
///
/// # Errors
/// Something doesn't build, the host doesn't start, refuses the rule, stops giving results, or doesn't end
/// cleanly.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let home = Home::prepare()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(play(&home, arguments.results))?;
    Ok(ExitCode::SUCCESS)
}

async fn play(home: &Home, wanted: Option<u64>) -> Result<()> {
    // Before the host runs, so that no signal can end us without it.
    let mut stop = Stop::listen()?;
    let mut results = home.results()?;
    let launch = home.launch();
    let mut host = tokio::select! {
        host = Host::start(&launch) => host?,
        () = stop.wanted() => return Ok(()),
    };
    let address = host.address();
    let mut count = 0;
    let outcome = tokio::select! {
        outcome = show(address, home, &mut results, wanted, &mut count) => outcome,
        status = host.ended() => Err(anyhow!("the host ended by itself: {}", status?)),
        () = stop.wanted() => Ok(()),
    };
    println!("\nStopping the host …");
    let stopped = host.stop().await;
    outcome.and(stopped).with_context(|| home.last_words())?;
    println!("The host ended cleanly after {count} results.");
    Ok(())
}

/// Makes the stream and the rule and prints results, `wanted` or for ever.
async fn show(
    address: SocketAddr,
    home: &Home,
    results: &mut Results,
    wanted: Option<u64>,
    count: &mut u64,
) -> Result<()> {
    create_rule(address, home).await?;
    explain(address, home);
    while wanted.is_none_or(|wanted| *count < wanted) {
        let Ok(result) = tokio::time::timeout(PATIENCE, results.next()).await else {
            return Err(silence(address).await);
        };
        println!("  {}", result?);
        *count += 1;
    }
    Ok(())
}

async fn create_rule(address: SocketAddr, home: &Home) -> Result<()> {
    http::post(address, "/streams", &json!({ "sql": STREAM })).await?;
    let rule = json!({
        "id": "demo",
        "sql": RULE,
        "actions": [{ "command": { "command": ["tee", home.results_path()], "sendSingle": true } }],
    });
    http::post(address, "/rules", &rule).await
}

fn explain(address: SocketAddr, home: &Home) {
    println!(
        "
A rule runs through the plugin `car`, a process of its own:

  source json ──▶ WHERE ──▶ functions rank and link ──▶ sink command

  {STREAM}
  {RULE}

The REST API listens at http://{address}. Try in another terminal:

  curl http://{address}/rules/demo/status
  curl http://{address}/plugins/portables
  curl -X POST http://{address}/rules/demo/stop

Home folder: {}; the host's log: {}. Ctrl-C ends it.

Results:",
        from_here(home.folder()).display(),
        from_here(&home.log()).display(),
    );
}

/// The path as one would type it in this folder.
fn from_here(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_owned()
}

/// The error that no result comes, with what the host says about the rule.
async fn silence(address: SocketAddr) -> anyhow::Error {
    let seconds = PATIENCE.as_secs();
    match http::get(address, "/rules/demo/status").await {
        Ok(status) => anyhow!("no result for {seconds} s; the rule's status: {status}"),
        Err(error) => error.context(format!("no result for {seconds} s, and no status of the rule")),
    }
}

/// The signals that ask for the end.
struct Stop([Signal; 3]);

impl Stop {
    fn listen() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self([
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
        ]))
    }

    async fn wanted(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
