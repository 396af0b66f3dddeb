//! Addresses: what the text of a URL means.

use std::fmt::{self, Write as _};
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The longest path of an ipc socket, in bytes: `sun_path` has 108 with its closing zero; an abstract name has
/// its zero in front.
const PATH_MAX: usize = 107;

/// Why a text is no address, or none that can be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It begins with no transport that is known.
    #[error(
        "{address:?} has an unknown transport: expected inproc://, ipc://, abstract://, tcp://, tls+tcp://, ws:// \
         or wss://"
    )]
    Transport {
        /// The whole text.
        address: String,
    },
    /// The transport is known, but this build of the crate does not have it.
    #[error("{address:?} cannot be used: sp-proto was built without the feature `{feature}`")]
    NotBuilt {
        /// The whole text.
        address: String,
        /// The cargo feature that brings the transport.
        feature: &'static str,
    },
    /// There is nothing behind the transport.
    #[error("{address:?} names nothing")]
    Empty {
        /// The whole text.
        address: String,
    },
    /// The path or abstract name does not fit into a socket address.
    #[error("the socket path of {address:?} has {length} bytes; at most {PATH_MAX} fit")]
    PathTooLong {
        /// The whole text.
        address: String,
        /// The length of its path, in bytes.
        length: usize,
    },
    /// The path holds a zero byte.
    #[error("the socket path of {address:?} holds a zero byte")]
    ZeroByte {
        /// The whole text.
        address: String,
    },
    /// A percent sign that two hexadecimal digits do not follow.
    #[error("the name of {address:?} has a percent sign without two hexadecimal digits behind it")]
    Percent {
        /// The whole text.
        address: String,
    },
    /// The port is missing or no number below 65536.
    #[error("{address:?} has no valid port: expected host:port, the port at most 65535")]
    Port {
        /// The whole text.
        address: String,
    },
    /// The host is no name and no address; an IPv6 address must stand in brackets.
    #[error("{address:?} has no valid host: expected host:port, IPv6 addresses in brackets")]
    Host {
        /// The whole text.
        address: String,
    },
    /// The path of a websocket holds what does not belong into a URL.
    #[error("the path of {address:?} holds {found:?}, which must be percent-encoded")]
    Path {
        /// The whole text.
        address: String,
        /// The first character that does not belong there.
        found: char,
    },
}

/// Where to listen or to connect. It prints as it is written.
///
/// # The transports
///
/// **`inproc://name`** connects sockets of one process; the name is any text. Messages are handed over as they
/// are, without a copy.
///
/// **`ipc://path`** is a Unix socket. Listening makes its file, in place of one that a dead process left behind,
/// and closing removes it. Its owner may connect, and whomever the option `ipc_mode` and the folder's permissions allow.
/// Peers are known by their [`Credentials`](crate::Credentials).
///
/// **`abstract://name`** is the same without a file, on Linux only: everybody in the same network name space can
/// connect.
///
/// **`tcp://host:port`**: the host is a name, an IPv4 address or an IPv6 address in brackets, with a zone where
/// that is needed (`[fe80::1%eth0]`). All addresses of a name are tried, each a quarter of a second after the one
/// before it or when that failed, and the first that answers is taken. `*` listens on every IPv4 interface and
/// `[::]` on every interface. With port 0 the system chooses, and the
/// [`Endpoint`](crate::Endpoint) tells what.
///
/// **`tls+tcp://host:port`** is tcp within TLS 1.2 or 1.3. `TlsOptions`, in the options of sockets and of
/// `Listener`, say whom to trust and who we are.
///
/// **`ws://host:port/path`** is a websocket: an HTTP/1.1 upgrade with the sub-protocol
/// `<protocol>.sp.nanomsg.org`, then one binary websocket message per message. A listener answers at its path
/// only, queries aside, and refuses all else with an HTTP status. The sub-protocol stands in for the greeting,
/// so a [`Listener`](crate::Listener) tells several protocols apart here as well. **`wss://`** is the same within
/// TLS.
///
/// ```
/// use sp_proto::Address;
/// let address = Address::parse("tcp://[::1]:5555")?;
/// assert!(matches!(&address, Address::Tcp(target) if target.port == 5555));
/// assert_eq!(address.to_string(), "tcp://[::1]:5555");
/// assert!(Address::parse("tcp://::1:5555").unwrap_err().to_string().contains("IPv6 addresses in brackets"));
/// # Ok::<(), sp_proto::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// `inproc://name`: inside of this process.
    Inproc(String),
    /// `ipc://path`: a Unix socket in the file system, its path of at most 107 bytes. `unix://path` is the same.
    Ipc(PathBuf),
    /// `abstract://name`: a Unix socket without a file, on Linux only. The name has at most 107 bytes; those
    /// that do not belong into a URL are percent-encoded. Listening with an empty name lets the system choose.
    Abstract(Vec<u8>),
    /// `tcp://host:port`.
    Tcp(TcpTarget),
    /// `tls+tcp://host:port`: TLS over tcp.
    TlsTcp(TcpTarget),
    /// `ws://host:port/path`: a websocket.
    Ws(WsTarget),
    /// `wss://host:port/path`: a websocket over TLS.
    Wss(WsTarget),
}

/// A host and a port; no host means every IPv4 interface when listening and this machine when dialing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTarget {
    /// A name or an address, without brackets; `None` prints as `*`.
    pub host: Option<String>,
    /// The port; 0 lets the system choose when listening.
    pub port: u16,
}

/// A host, a port and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WsTarget {
    /// The host and the port; 80 (`ws`) and 443 (`wss`) when the URL has none.
    pub server: TcpTarget,
    /// The path with its slash, and maybe a query; empty means `/`.
    pub path: String,
}

impl Address {
    /// What the text of an address means. The transport need not be one that this build has.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(address: &str) -> Result<Self, AddressError> {
        let text = || address.to_owned();
        let (transport, rest) = address
            .split_once("://")
            .ok_or_else(|| AddressError::Transport { address: text() })?;
        if rest.is_empty() && transport != "abstract" {
            return Err(match transport {
                "inproc" | "ipc" | "unix" | "tcp" | "tls+tcp" | "ws" | "wss" => {
                    AddressError::Empty { address: text() }
                }
                _ => AddressError::Transport { address: text() },
            });
        }
        match transport {
            "inproc" => Ok(Self::Inproc(rest.to_owned())),
            "ipc" | "unix" if rest.contains('\0') => Err(AddressError::ZeroByte { address: text() }),
            "ipc" | "unix" => Ok(Self::Ipc(fitting(rest.into(), rest.len(), text)?)),
            "abstract" => {
                let name = decode_percent(rest).ok_or_else(|| AddressError::Percent { address: text() })?;
                let length = name.len();
                Ok(Self::Abstract(fitting(name, length, text)?))
            }
            "tcp" => Ok(Self::Tcp(TcpTarget::parse(rest, None, text)?)),
            "tls+tcp" => Ok(Self::TlsTcp(TcpTarget::parse(rest, None, text)?)),
            "ws" => Ok(Self::Ws(WsTarget::parse(rest, 80, text)?)),
            "wss" => Ok(Self::Wss(WsTarget::parse(rest, 443, text)?)),
            _ => Err(AddressError::Transport { address: text() }),
        }
    }

    /// Parses, and refuses what this build has no transport for.
    pub(crate) fn parse_usable(address: &str) -> Result<Self, AddressError> {
        let parsed = Self::parse(address)?;
        let (built, feature) = match &parsed {
            Self::Inproc(_) => (true, "tokio"),
            Self::Ipc(_) | Self::Abstract(_) => (cfg!(feature = "ipc"), "ipc"),
            Self::Tcp(_) => (cfg!(feature = "tcp"), "tcp"),
            Self::TlsTcp(_) => (cfg!(feature = "tls"), "tls"),
            Self::Ws(_) => (cfg!(feature = "ws"), "ws"),
            Self::Wss(_) if cfg!(not(feature = "ws")) => (false, "ws"),
            Self::Wss(_) => (cfg!(feature = "tls"), "tls"),
        };
        let address = || address.to_owned();
        built.then_some(parsed).ok_or_else(|| AddressError::NotBuilt {
            address: address(),
            feature,
        })
    }
}

impl TcpTarget {
    fn parse(
        target: &str,
        default_port: Option<u16>,
        text: impl Fn() -> String,
    ) -> Result<Self, AddressError> {
        let (host, port) = match (target.rsplit_once(':'), default_port) {
            // The colon of a bracketed address is none before a port.
            (Some((_, port)), Some(default)) if port.ends_with(']') => (target, default),
            (None, Some(default)) => (target, default),
            (Some((host, port)), _) => {
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|_| digits);
                (host, port.ok_or_else(|| AddressError::Port { address: text() })?)
            }
            (None, None) => return Err(AddressError::Port { address: text() }),
        };
        let no_host = || AddressError::Host { address: text() };
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) if is_ipv6(host) => Some(host),
            Some(_) => return Err(no_host()),
            None if matches!(host, "" | "*") => None,
            None if host.bytes().all(is_name_byte) => Some(host),
            None => return Err(no_host()),
        };
        Ok(Self {
            host: host.map(str::to_owned),
            port,
        })
    }
}

impl WsTarget {
    fn parse(rest: &str, default_port: u16, text: impl Fn() -> String) -> Result<Self, AddressError> {
        let (server, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let belongs = |c: &char| {
            c.is_ascii_graphic() && !matches!(c, '"' | '#' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
        };
        if let Some(found) = path.chars().find(|c| !belongs(c)) {
            return Err(AddressError::Path {
                address: text(),
                found,
            });
        }
        Ok(Self {
            server: TcpTarget::parse(server, Some(default_port), text)?,
            path: if path.starts_with('?') {
                format!("/{path}")
            } else {
                path.to_owned()
            },
        })
    }
}

/// A host name: what DNS has, and the underscore that people use all the same.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

/// An address, maybe with the zone that a link-local one needs: `fe80::1%eth0`.
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host
        .split_once('%')
        .map_or((host, None), |(address, zone)| (address, Some(zone)));
    address.parse::<Ipv6Addr>().is_ok()
        && zone.is_none_or(|zone| !zone.is_empty() && zone.bytes().all(is_name_byte))
}

fn fitting<T>(path: T, length: usize, text: impl Fn() -> String) -> Result<T, AddressError> {
    if length > PATH_MAX {
        return Err(AddressError::PathTooLong {
            address: text(),
            length,
        });
    }
    Ok(path)
}

/// `None` when a percent sign has no two digits behind it.
fn decode_percent(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(decoded)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inproc(name) => write!(f, "inproc://{name}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Self::Abstract(name) => {
                f.write_str("abstract://")?;
                name.iter().try_for_each(|&byte| match byte {
                    b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => f.write_char(byte.into()),
                    byte if byte.is_ascii_alphanumeric() => f.write_char(byte.into()),
                    byte => write!(f, "%{byte:02X}"),
                })
            }
            Self::Tcp(target) => write!(f, "tcp://{target}"),
            Self::TlsTcp(target) => write!(f, "tls+tcp://{target}"),
            Self::Ws(target) => write!(f, "ws://{target}"),
            Self::Wss(target) => write!(f, "wss://{target}"),
        }
    }
}

impl fmt::Display for TcpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.host {
            None => write!(f, "*:{port}"),
            Some(host) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some(host) => write!(f, "{host}:{port}"),
        }
    }
}

impl fmt::Display for WsTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.server, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_are_written() {
        for address in [
            "ipc:///tmp/a.ipc",
            "ipc://relative",
            "tcp://127.0.0.1:5555",
            "tcp://[::1]:80",
            "tcp://[fe80::1%eth0]:80",
            "tcp://*:0",
            "tcp://localhost:5555",
            "tls+tcp://example.org:443",
            "tls+tcp://[::1]:443",
            "ws://127.0.0.1:80",
            "ws://[::1]:8080/",
            "wss://example.org:443/a/b%20c?d=e",
            "abstract://name/with.some-more_of~it:@",
            "abstract://%00%FF%20",
            "abstract://",
            "inproc://x",
        ] {
            assert_eq!(Address::parse(address).unwrap().to_string(), address);
        }
        for (written, printed) in [
            ("tcp://:7", "tcp://*:7"),
            ("ws://host", "ws://host:80"),
            ("wss://[::1]/x", "wss://[::1]:443/x"),
            ("ws://host:1?q", "ws://host:1/?q"),
            ("unix:///a", "ipc:///a"),
            ("abstract://%61%2f", "abstract://a/"),
        ] {
            assert_eq!(Address::parse(written).unwrap().to_string(), printed);
        }
        assert_eq!(
            Address::parse("abstract://a%00"),
            Ok(Address::Abstract(b"a\0".to_vec()))
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason() {
        let reason = |address: &str| Address::parse(address).unwrap_err().to_string();
        assert!(reason("udp://x").contains("unknown transport"));
        assert!(reason("udp://").contains("unknown transport"));
        for percent in ["%", "%4", "%4x", "%+1"] {
            assert!(
                reason(&format!("abstract://{percent}")).contains("percent sign"),
                "{percent}"
            );
        }
        assert!(reason(&format!("abstract://{}", "x".repeat(108))).contains("108 bytes"));
        assert!(reason("ws://host/a b").contains("holds ' '"));
        assert!(reason("ws://host/a\r\nX: y").contains("holds '\\r'"));
        assert!(reason("ws://host/a#b").contains("holds '#'"));
        assert!(reason("ws://host#b").contains("holds '#'"));
        assert!(reason("ws://user@host/").contains("valid host"));
        assert!(reason("ws://host:x/").contains("port"));
        assert!(reason("tcp://ho\r\nst:1").contains("valid host"));
        assert!(reason("nonsense").contains("unknown transport"));
        assert!(reason("ipc://").contains("names nothing"));
        assert!(reason("tcp://localhost").contains("port"));
        assert!(reason("tcp://localhost:65536").contains("port"));
        assert!(reason("tcp://localhost:+1").contains("port"));
        assert!(reason("tcp://::1:80").contains("brackets"));
        for host in ["[]", "[*]", "[localhost]", "[::1%]", "[::1"] {
            assert!(reason(&format!("tcp://{host}:80")).contains("brackets"), "{host}");
        }
        assert!(reason(&format!("ipc:///{}", "x".repeat(107))).contains("108 bytes"));
        assert!(reason("ipc:///a\0b").contains("zero byte"));
    }
}
