//! Owns the command line: what can be typed, and what it means as types. It does nothing itself; `main` acts
//! on what [`parse`] returns.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::config::LEVELS;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "mangrove", version, about, propagate_version = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What the program is asked to do.
#[derive(Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Run a host until SIGINT or SIGTERM
    Serve(ServeArgs),
}

/// The arguments of `mangrove serve`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub struct ServeArgs {
    /// The home folder, with etc, plugins and data; what is missing there is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub home: PathBuf,

    /// Where the REST API listens, instead of rest.address; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    pub rest: Option<SocketAddr>,

    /// How much is logged, instead of log.level
    #[arg(long, value_name = "LEVEL", value_parser = PossibleValuesParser::new(LEVELS))]
    pub log: Option<String>,
}

/// Parses the arguments of this process. For `--help`, `--version` and what it does not understand it prints
/// the answer and ends the process, the last with exit code 2.
pub fn parse() -> Command {
    Args::parse().command
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Args::try_parse_from(line.split(' ')).map(|args| args.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn serve_needs_nothing_and_takes_home_rest_and_log() {
        let bare = ServeArgs {
            home: PathBuf::from("."),
            rest: None,
            log: None,
        };
        assert_eq!(parse("mangrove serve").unwrap(), Command::Serve(bare));
        let all = ServeArgs {
            home: PathBuf::from("/srv/m"),
            rest: Some("[::1]:0".parse().unwrap()),
            log: Some("debug".to_owned()),
        };
        assert_eq!(
            parse("mangrove serve --home /srv/m --rest [::1]:0 --log debug").unwrap(),
            Command::Serve(all)
        );
    }

    #[test]
    fn what_it_does_not_understand_is_named() {
        for (line, part) in [
            ("mangrove serve --rest localhost", "'localhost'"),
            (
                "mangrove serve --log loud",
                "[possible values: error, warn, info, debug, trace]",
            ),
            ("mangrove serve --hom x", "'--hom'"),
            ("mangrove sreve", "'sreve'"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn the_version_is_that_of_the_package() {
        let error = parse("mangrove --version").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DisplayVersion);
        assert_eq!(
            error.to_string(),
            format!("mangrove {}\n", env!("CARGO_PKG_VERSION"))
        );
    }
}
