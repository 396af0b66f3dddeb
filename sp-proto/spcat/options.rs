//! The command line: what users of `nngcat` and `nanocat` know, by the same names.

use anyhow::{Context as _, Result, ensure};
use clap::{ArgAction, ArgGroup, Parser};
use sp_proto::{Protocol, SocketOptions, TlsAuthorities, TlsIdentity, TlsOptions};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::format::Format;

/// Sends and receives messages of the nanomsg scalability protocols.
///
/// Push and pub send; pull and sub receive; req and surveyor ask; rep and respondent receive, and answer when
/// there is data; pair and bus receive, and send first when there is data. Times are in seconds, with a
/// fraction if need be.
#[derive(Debug, Parser)]
#[command(name = "spcat", version)]
#[command(group = ArgGroup::new("protocol").required(true))]
#[command(group = ArgGroup::new("shown_as"))]
#[command(group = ArgGroup::new("source"))]
pub(crate) struct Options {
    #[command(flatten)]
    protocols: Protocols,
    #[command(flatten)]
    addresses: Addresses,
    #[command(flatten)]
    formats: Formats,

    /// What to send
    #[arg(short = 'D', long, group = "source", value_name = "TEXT")]
    data: Option<String>,
    /// Send what is in this file; - is the standard input
    #[arg(short = 'F', long, group = "source", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Send again and again at this interval
    #[arg(short = 'i', long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) interval: Option<Duration>,
    /// Wait before the first message is sent
    #[arg(short = 'd', long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) delay: Option<Duration>,
    /// End after so many messages or exchanges; 0 = never
    #[arg(short = 'C', long, value_name = "COUNT", default_value_t = 0)]
    pub(crate) count: u64,
    /// Sub: receive what begins with this; may be given several times, without it everything is received
    #[arg(long, value_name = "TOPIC")]
    pub(crate) subscribe: Vec<String>,
    /// Fail when a message cannot be sent for so long
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    send_timeout: Option<Duration>,
    /// End when nothing was received for so long
    #[arg(long, alias = "receive-timeout", value_name = "SECONDS", value_parser = seconds)]
    recv_timeout: Option<Duration>,
    /// The largest message to receive, in bytes; 0 = no limit
    #[arg(short = 'Z', long, value_name = "BYTES", default_value_t = 1024 * 1024)]
    recv_maxsz: usize,
    /// As nanocat: dial in the background, and --pair is version 0
    #[arg(long, conflicts_with_all = ["async_", "count"])]
    pub(crate) compat: bool,
    /// Dial in the background, again and again; without it a failure to connect ends the program
    #[arg(long = "async")]
    async_: bool,
    /// Say on the standard error who comes and goes
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    /// Say nothing on the standard error but why the program ends
    #[arg(short = 'q', long, conflicts_with = "verbose")]
    pub(crate) silent: bool,
    /// Put this name before each line on the standard error that tells of the socket
    #[arg(long, value_name = "NAME")]
    socket_name: Option<String>,

    /// TLS: believe whoever answers, whatever its certificate
    #[arg(short = 'k', long)]
    insecure: bool,
    /// TLS: the authorities to trust; a listener then lets in only those whom they have signed
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// TLS: our certificate, and our key if there is no --key
    #[arg(short = 'E', long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// TLS: our private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Protocols {
    #[arg(long, group = "protocol", alias = "push0")]
    push: bool,
    #[arg(long, group = "protocol", alias = "pull0")]
    pull: bool,
    #[arg(long = "pub", group = "protocol", alias = "pub0")]
    publish: bool,
    #[arg(long, group = "protocol", alias = "sub0")]
    sub: bool,
    #[arg(long, group = "protocol", alias = "req0")]
    req: bool,
    #[arg(long, group = "protocol", alias = "rep0")]
    rep: bool,
    #[arg(long, group = "protocol", alias = "surveyor0")]
    surveyor: bool,
    #[arg(long, group = "protocol", alias = "respondent0")]
    respondent: bool,
    #[arg(long, group = "protocol", alias = "bus0")]
    bus: bool,
    /// Version 1, or 0 with --compat
    #[arg(long, group = "protocol")]
    pair: bool,
    #[arg(long, group = "protocol")]
    pair0: bool,
    #[arg(long, group = "protocol")]
    pair1: bool,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Addresses {
    /// Connect to this address
    #[arg(long, alias = "connect", value_name = "URL")]
    dial: Vec<String>,
    /// Listen on this address
    #[arg(long, alias = "bind", value_name = "URL")]
    listen: Vec<String>,
    /// The same as --dial ipc://PATH
    #[arg(short = 'x', long, value_name = "PATH")]
    connect_ipc: Vec<String>,
    /// The same as --listen ipc://PATH
    #[arg(short = 'X', long, value_name = "PATH")]
    bind_ipc: Vec<String>,
    /// The same as --dial tcp://127.0.0.1:PORT
    #[arg(short = 'l', long, value_name = "PORT")]
    connect_local: Vec<u16>,
    /// The same as --listen tcp://127.0.0.1:PORT
    #[arg(short = 'L', long, value_name = "PORT")]
    bind_local: Vec<u16>,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Formats {
    /// How to print what is received
    #[arg(long, group = "shown_as", value_name = "FORMAT")]
    format: Option<Format>,
    /// The same as --format ascii
    #[arg(short = 'A', long, group = "shown_as")]
    ascii: bool,
    /// The same as --format quoted
    #[arg(short = 'Q', long, group = "shown_as")]
    quoted: bool,
    /// The same as --format hex
    #[arg(long, group = "shown_as", action = ArgAction::SetTrue)]
    hex: bool,
    /// The same as --format msgpack
    #[arg(long, group = "shown_as")]
    msgpack: bool,
    /// The same as --format raw
    #[arg(long, group = "shown_as")]
    raw: bool,
}

/// A number of seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl Options {
    /// Tells of the socket on the standard error.
    pub(crate) fn say(&self, line: std::fmt::Arguments<'_>) {
        match &self.socket_name {
            Some(name) => eprintln!("{name}: {line}"),
            None => eprintln!("{line}"),
        }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        let Protocols {
            push,
            pull,
            publish,
            sub,
            req,
            rep,
            surveyor,
            respondent,
            bus,
            pair: _,
            pair0,
            pair1,
        } = self.protocols;
        let chosen = [
            (push, Protocol::Push),
            (pull, Protocol::Pull),
            (publish, Protocol::Pub),
            (sub, Protocol::Sub),
            (req, Protocol::Req),
            (rep, Protocol::Rep),
            (surveyor, Protocol::Surveyor),
            (respondent, Protocol::Respondent),
            (bus, Protocol::Bus),
            (pair0 || self.compat, Protocol::Pair0),
            (pair1, Protocol::Pair1),
        ];
        chosen
            .into_iter()
            .find_map(|(is, protocol)| is.then_some(protocol))
            .unwrap_or(Protocol::Pair1)
    }

    pub(crate) fn format(&self) -> Format {
        let formats = &self.formats;
        let chosen = [
            (formats.ascii, Format::Ascii),
            (formats.quoted, Format::Quoted),
            (formats.hex, Format::Hex),
            (formats.msgpack, Format::Msgpack),
            (formats.raw, Format::Raw),
        ];
        let by_name = chosen.into_iter().find_map(|(is, format)| is.then_some(format));
        by_name.or(formats.format).unwrap_or(Format::No)
    }

    pub(crate) fn dialed(&self) -> Vec<String> {
        let Addresses {
            dial,
            connect_ipc,
            connect_local,
            ..
        } = &self.addresses;
        joined(dial, connect_ipc, connect_local)
    }

    pub(crate) fn listened(&self) -> Vec<String> {
        let Addresses {
            listen,
            bind_ipc,
            bind_local,
            ..
        } = &self.addresses;
        joined(listen, bind_ipc, bind_local)
    }

    pub(crate) fn in_background(&self) -> bool {
        self.async_ || self.compat
    }

    /// What is to be sent.
    pub(crate) fn data(&self) -> Result<Option<Vec<u8>>> {
        match (&self.data, &self.file) {
            (Some(data), _) => Ok(Some(data.clone().into_bytes())),
            (None, Some(file)) if file == Path::new("-") => {
                let mut data = Vec::new();
                let read = std::io::stdin().read_to_end(&mut data);
                read.context("cannot read the standard input")?;
                Ok(Some(data))
            }
            (None, Some(file)) => read(file).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Refuses what makes no sense together.
    pub(crate) fn check(&self) -> Result<()> {
        let protocol = self.protocol();
        let has_data = self.data.is_some() || self.file.is_some();
        let some_address = !self.dialed().is_empty() || !self.listened().is_empty();
        ensure!(some_address, "no address: use --dial or --listen");
        ensure!(
            self.subscribe.is_empty() || protocol == Protocol::Sub,
            "--subscribe is for --sub"
        );
        match protocol {
            Protocol::Pull | Protocol::Sub => {
                ensure!(
                    !has_data,
                    "{protocol} sends nothing, so --data and --file make no sense"
                );
                ensure!(
                    self.interval.is_none(),
                    "{protocol} sends nothing, so --interval makes no sense"
                );
            }
            Protocol::Push | Protocol::Pub => {
                ensure!(
                    has_data,
                    "{protocol} needs something to send: use --data or --file"
                );
                let quiet = self.format() == Format::No;
                ensure!(quiet, "{protocol} receives nothing, so a format makes no sense");
            }
            Protocol::Req | Protocol::Surveyor => {
                ensure!(
                    has_data,
                    "{protocol} needs something to send: use --data or --file"
                );
            }
            Protocol::Rep | Protocol::Respondent => {
                ensure!(
                    self.interval.is_none(),
                    "{protocol} only answers, so --interval makes no sense"
                );
            }
            _ => ensure!(
                has_data || self.interval.is_none(),
                "--interval needs --data or --file"
            ),
        }
        Ok(())
    }

    pub(crate) fn socket(&self) -> Result<SocketOptions> {
        Ok(SocketOptions {
            send_timeout: self.send_timeout,
            recv_timeout: self.recv_timeout,
            recv_max_size: self.recv_maxsz,
            tls: self.tls()?,
            ..Default::default()
        })
    }

    fn tls(&self) -> Result<TlsOptions> {
        let mut tls = TlsOptions {
            insecure: self.insecure,
            ..Default::default()
        };
        if let Some(file) = &self.cacert {
            let authorities = TlsAuthorities::from_pem(&read(file)?);
            tls.authorities = authorities.with_context(|| file.display().to_string())?;
            if !self.insecure {
                tls.client_auth = sp_proto::ClientAuth::Required;
            }
        }
        if let Some(file) = &self.cert {
            let key = self.key.as_ref().unwrap_or(file);
            let identity = TlsIdentity::from_pem(&read(file)?, &read(key)?);
            tls.identity = Some(identity.with_context(|| file.display().to_string())?);
        }
        Ok(tls)
    }
}

fn joined(urls: &[String], paths: &[String], ports: &[u16]) -> Vec<String> {
    let paths = paths.iter().map(|path| format!("ipc://{path}"));
    let ports = ports.iter().map(|port| format!("tcp://127.0.0.1:{port}"));
    urls.iter().cloned().chain(paths).chain(ports).collect()
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parsed(line: &str) -> Options {
        Options::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_names_of_both_programs_are_known() {
        let nng = parsed("spcat --req0 --connect tcp://a:1 -l 2 --bind ipc:///b -X /c -D x -Q -C 3");
        assert_eq!(nng.protocol(), Protocol::Req);
        assert_eq!(nng.dialed(), ["tcp://a:1", "tcp://127.0.0.1:2"]);
        assert_eq!(nng.listened(), ["ipc:///b", "ipc:///c"]);
        assert_eq!(nng.format(), Format::Quoted);
        nng.check().unwrap();
        assert_eq!(
            parsed("spcat --pair -L 1 --format hex").protocol(),
            Protocol::Pair1
        );
        assert_eq!(parsed("spcat --pair --compat -L 1").protocol(), Protocol::Pair0);
        let slow = parsed("spcat --push -L 1 --interval 0.5 -D x");
        assert_eq!(slow.interval, Some(Duration::from_millis(500)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "spcat --pull",
            "spcat --pull -L 1 -D x",
            "spcat --push -L 1",
            "spcat --push -L 1 -D x -A",
            "spcat --rep -L 1 -D x -i 1",
            "spcat --pair -L 1 -i 1",
            "spcat --pull -L 1 --subscribe x",
        ] {
            assert!(parsed(line).check().is_err(), "{line}");
        }
        for line in [
            "spcat -L 1",
            "spcat --pull --push -L 1",
            "spcat --pull -L 1 -A -Q",
            "spcat --push -L 1 -D x -F y",
            "spcat --push -L 1 -D x -i -1",
        ] {
            assert!(Options::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
