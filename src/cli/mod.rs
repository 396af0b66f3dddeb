//! Owns the command line: what can be typed, and what it means as types. `main` acts on what [`parse`] returns:
//! it runs a host itself, and lets everything that is asked of a running one be asked here, over its REST API.
//!
//! | module | what it does |
//! |---|---|
//! | `plugin`, `rule` | the commands, and how the answers look |
//! | `author`, `run` | those that need no host |
//! | `live` | answers without an end |
//! | `client` | the way to a host |
//! | `table`, `terminal` | text for a terminal, and the terminal |

mod author;
mod client;
mod live;
mod plugin;
mod rule;
mod run;
mod table;
mod terminal;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use self::client::{Client, ClientError};
use self::terminal::Terminal;
use crate::config::LEVELS;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "mangrove", version, about, propagate_version = true)]
struct Args {
    #[command(subcommand)]
    command: Typed,
}

#[derive(Debug, clap::Subcommand)]
enum Typed {
    /// Run a host until SIGINT or SIGTERM
    Serve(ServeArgs),
    /// Look at the plugins of a running host, change them, and write new ones
    Plugin {
        #[command(subcommand)]
        command: plugin::Command,
        #[command(flatten)]
        remote: Remote,
    },
    /// Look at the rules of a running host
    Rule {
        #[command(subcommand)]
        command: rule::Command,
        #[command(flatten)]
        remote: Remote,
    },
    /// Print what makes a shell complete these commands
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What all commands for a running host have.
#[derive(Debug, PartialEq, Eq, clap::Args)]
struct Remote {
    /// Where the host's REST API is
    #[arg(
        long,
        global = true,
        env = "MANGROVE_HOST",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:9081"
    )]
    host: String,

    /// Print JSON, as the host answers it
    #[arg(long, global = true)]
    json: bool,
}

/// What the program is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Run a host.
    Serve(ServeArgs),
    /// Anything else.
    Ask(Ask),
}

/// Something that needs no host of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Ask(Inner);

#[derive(Debug, PartialEq, Eq)]
enum Inner {
    Plugin(plugin::Command, Remote),
    Rule(rule::Command, Remote),
    Completions(Shell),
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
    Args::parse().command.into()
}

impl From<Typed> for Command {
    fn from(typed: Typed) -> Self {
        Self::Ask(Ask(match typed {
            Typed::Serve(args) => return Self::Serve(args),
            Typed::Plugin { command, remote } => Inner::Plugin(command, remote),
            Typed::Rule { command, remote } => Inner::Rule(command, remote),
            Typed::Completions { shell } => Inner::Completions(shell),
        }))
    }
}

impl Ask {
    /// Asks, and prints the answer on standard output.
    ///
    /// # Errors
    /// What the host says, or that there is none. That nobody reads the answer any more is none.
    pub fn run(self) -> anyhow::Result<()> {
        let (mut output, mut input) = (io::stdout().lock(), io::stdin().lock());
        let outcome = self.answer(&mut output, &mut input);
        match outcome {
            Err(error) if is_unread(&error) => Ok(()),
            outcome => outcome,
        }
    }

    fn answer(self, output: &mut dyn io::Write, input: &mut dyn io::BufRead) -> anyhow::Result<()> {
        // A host that is run for an author has as many threads as any.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        match self.0 {
            Inner::Plugin(plugin::Command::Author(command), remote) => {
                let json = remote.json;
                let mut terminal = Terminal { json, output, input };
                runtime.block_on(author::run(command, &mut terminal))
            }
            Inner::Plugin(command, remote) => {
                let (client, mut terminal) = remote.open(output, input)?;
                runtime.block_on(plugin::run(command, &client, &mut terminal))
            }
            Inner::Rule(command, remote) => {
                let (client, mut terminal) = remote.open(output, input)?;
                runtime.block_on(rule::run(command, &client, &mut terminal))
            }
            Inner::Completions(shell) => {
                clap_complete::generate(shell, &mut Args::command(), "mangrove", &mut *output);
                Ok(())
            }
        }
    }
}

impl Remote {
    fn open<'a>(
        &self,
        output: &'a mut dyn io::Write,
        input: &'a mut dyn io::BufRead,
    ) -> Result<(Client, Terminal<'a>), ClientError> {
        let json = self.json;
        let terminal = Terminal { json, output, input };
        Ok((Client::new(&self.host)?, terminal))
    }
}

fn is_unread(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What the program ends with: 2 when what was typed makes no sense, 3 when no host was reached, else 1.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(ClientError::Host(_)) => ExitCode::from(2),
        Some(ClientError::Unreachable { .. }) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Args::try_parse_from(line.split(' ')).map(|args| args.command.into())
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
            ("mangrove plugin status", "<NAME>"),
            ("mangrove plugin logs car -n x", "'x'"),
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

    #[test]
    fn the_host_can_be_said_anywhere() {
        let expected = Command::Ask(Ask(Inner::Rule(
            rule::Command::List,
            Remote {
                host: "edge:9081".to_owned(),
                json: true,
            },
        )));
        for line in [
            "mangrove rule --host edge:9081 --json list",
            "mangrove rule list --json --host edge:9081",
        ] {
            assert_eq!(parse(line).unwrap(), expected);
        }
    }

    #[test]
    fn who_is_to_blame_decides_the_exit_code() {
        let unreachable = ClientError::Unreachable {
            host: "edge:9081".to_owned(),
            reason: "refused".to_owned(),
        };
        assert_eq!(exit_code(&unreachable.into()), ExitCode::from(3));
        let wrong = ClientError::Host("edge".to_owned());
        assert_eq!(exit_code(&wrong.into()), ExitCode::from(2));
        let refused = ClientError::Refused {
            status: 404,
            message: "no".to_owned(),
        };
        assert_eq!(exit_code(&refused.into()), ExitCode::FAILURE);
        assert!(is_unread(&io::Error::from(io::ErrorKind::BrokenPipe).into()));
        assert!(!is_unread(&io::Error::from(io::ErrorKind::NotFound).into()));
    }
}
