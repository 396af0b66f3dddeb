//! The `mangrove` program: arguments, logging, the exit code. Everything else is in the library.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use mangrove::cli::{self, Command, ServeArgs};
use mangrove::config::{Config, Overrides};
use mangrove::plugin::guard;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Not a command for people, and it must stay small: no parser, no runtime.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|command| command == guard::COMMAND) {
        return guard::run(args);
    }
    let outcome = match cli::parse() {
        Command::Serve(args) => serve(args),
        Command::Ask(ask) => ask.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `{error:#}`: the library's errors hold the text of their sources already. Not `eprintln!`: it
            // panics when nobody reads any more.
            let _unread = writeln!(std::io::stderr(), "mangrove: {error}");
            cli::exit_code(&error)
        }
    }
}

#[tokio::main]
async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let overrides = Overrides {
        rest: args.rest,
        log: args.log,
    };
    let config = Config::load(&args.home, &overrides)?;
    log_to_stderr(&config.log.level)?;
    // Before anything starts: a signal that comes early must not kill a host with plugins half up.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("SIGINT: shutting down"),
            _ = terminate.recv() => tracing::info!("SIGTERM: shutting down"),
        }
    };
    let ready = |address| {
        // Whoever started the host may have closed its end; the host does not depend on being read.
        let _unread = writeln!(std::io::stdout(), "mangrove is ready at http://{address}");
    };
    Ok(mangrove::app::run(&config, ready, stop).await?)
}

fn log_to_stderr(level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written is lost. Told about it, the subscriber would panic: on the same stream.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
