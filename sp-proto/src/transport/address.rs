//! Addresses: what the text of a URL means.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The longest path of an ipc socket, in bytes: `sun_path` has 108 with its closing zero.
const PATH_MAX: usize = 107;

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It begins with no transport that is known.
    #[error("{address:?} has an unknown transport: expected ipc://, tcp:// or inproc://")]
    Transport {
        /// The whole text.
        address: String,
    },
    /// There is nothing behind the transport.
    #[error("{address:?} names nothing")]
    Empty {
        /// The whole text.
        address: String,
    },
    /// The path does not fit into a socket address.
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
    /// The port is missing or no number below 65536.
    #[error("{address:?} has no valid port: expected tcp://host:port")]
    Port {
        /// The whole text.
        address: String,
    },
    /// An IPv6 address must stand in brackets.
    #[error("{address:?} has no valid host: expected tcp://host:port, IPv6 addresses in brackets")]
    Host {
        /// The whole text.
        address: String,
    },
}

/// Where to listen or to connect. It prints as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// `ipc://path`: a Unix socket in the file system, its path of at most 107 bytes.
    Ipc(PathBuf),
    /// `tcp://host:port`, an IPv6 address in brackets.
    Tcp(TcpTarget),
    /// `inproc://name`: inside of this process.
    Inproc(String),
}

/// A host and a port; no host means every interface when listening and this machine when dialing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTarget {
    /// A name or an address, without brackets; `None` prints as `*`.
    pub host: Option<String>,
    /// The port; 0 lets the system choose when listening.
    pub port: u16,
}

impl Address {
    /// What the text of an address means.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(address: &str) -> Result<Self, AddressError> {
        let text = || address.to_owned();
        let (transport, rest) = address
            .split_once("://")
            .ok_or_else(|| AddressError::Transport { address: text() })?;
        if !matches!(transport, "ipc" | "tcp" | "inproc") {
            return Err(AddressError::Transport { address: text() });
        }
        if rest.is_empty() {
            return Err(AddressError::Empty { address: text() });
        }
        match transport {
            "ipc" if rest.len() > PATH_MAX => Err(AddressError::PathTooLong {
                address: text(),
                length: rest.len(),
            }),
            "ipc" if rest.contains('\0') => Err(AddressError::ZeroByte { address: text() }),
            "ipc" => Ok(Self::Ipc(rest.into())),
            "tcp" => {
                let (host, port) = rest
                    .rsplit_once(':')
                    .ok_or_else(|| AddressError::Port { address: text() })?;
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|_| digits);
                let port = port.ok_or_else(|| AddressError::Port { address: text() })?;
                let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
                    Some(host) if is_ipv6(host) => Some(host),
                    Some(_) => return Err(AddressError::Host { address: text() }),
                    None if host.contains([':', '[', ']', '/']) => {
                        return Err(AddressError::Host { address: text() });
                    }
                    None => (!matches!(host, "" | "*")).then_some(host),
                };
                Ok(Self::Tcp(TcpTarget {
                    host: host.map(str::to_owned),
                    port,
                }))
            }
            _ => Ok(Self::Inproc(rest.to_owned())),
        }
    }
}

/// An address, maybe with the zone that a link-local one needs: `fe80::1%eth0`.
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host
        .split_once('%')
        .map_or((host, None), |(address, zone)| (address, Some(zone)));
    address.parse::<Ipv6Addr>().is_ok() && zone != Some("")
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Self::Tcp(TcpTarget { host: None, port }) => write!(f, "tcp://*:{port}"),
            Self::Tcp(TcpTarget {
                host: Some(host),
                port,
            }) if host.contains(':') => {
                write!(f, "tcp://[{host}]:{port}")
            }
            Self::Tcp(TcpTarget {
                host: Some(host),
                port,
            }) => write!(f, "tcp://{host}:{port}"),
            Self::Inproc(name) => write!(f, "inproc://{name}"),
        }
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
            "inproc://x",
        ] {
            assert_eq!(Address::parse(address).unwrap().to_string(), address);
        }
        assert_eq!(Address::parse("tcp://:7").unwrap().to_string(), "tcp://*:7");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason() {
        let reason = |address: &str| Address::parse(address).unwrap_err().to_string();
        assert!(reason("udp://x").contains("unknown transport"));
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
