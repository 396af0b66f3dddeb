//! `spcat`: sends and receives SP messages from the command line, with the options of `nngcat` and `nanocat`.

mod conversation;
mod format;
mod options;
mod socket;

use clap::Parser as _;
use options::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(conversation::run(options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spcat: {error:#}");
            ExitCode::FAILURE
        }
    }
}
