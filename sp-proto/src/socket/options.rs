//! The options of sockets and of their endpoints.

use crate::transport::Settings;
#[cfg(feature = "tls")]
use crate::transport::TlsOptions;
use crate::{Admission, Overflow, wire};
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

const MIB: usize = 1024 * 1024;

/// Settings of a socket, fixed when it is made. End a literal with `..Default::default()`: cargo features add
/// fields.
///
/// ```
/// let options = sp_proto::SocketOptions { recv_max_size: 64 * 1024, ..Default::default() };
/// let pull = sp_proto::Pull::with_options(options);
/// ```
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Messages queued per pipe for sending before `send` waits; or, for pub, bus, surveyor and raw replies,
    /// before that peer misses messages. Default 512, at least 1.
    pub send_queue: usize,
    /// The same in bytes; a message that begins below it is taken, whatever its length. Default 1 MiB, at
    /// least 1.
    pub send_queue_bytes: usize,
    /// Messages queued for `recv`. Default 1024, at least 1.
    ///
    /// - Pair, pull, bus and raw: of one pipe, before the pipe is no longer read; one read of at most 68 KiB
    ///   or one longer message may go beyond.
    /// - Sub: of one context; what is beyond is dropped, see `sub_overflow`.
    /// - Surveyor: of one context; responses beyond are dropped.
    ///
    /// Rep and respondent have `rep_backlog` instead, and a bound in bytes that `recv_queue_bytes` tells.
    pub recv_queue: usize,
    /// The same in bytes. Rep and respondent push out the oldest requests of a pipe beyond it, or beyond twice
    /// `recv_max_size` if that is more, and keep the newest whatever its length. Default 4 MiB, at least 1.
    pub recv_queue_bytes: usize,
    /// Largest message accepted, in bytes; 0 = no limit. A peer that announces more is disconnected before
    /// anything is allocated for it. Default 16 MiB.
    pub recv_max_size: usize,
    /// How long `send` waits for room; `None` = for ever. Default `None`.
    pub send_timeout: Option<Duration>,
    /// How long `recv` waits for a message; `None` = for ever. Default `None`.
    pub recv_timeout: Option<Duration>,
    /// How long a peer has for its greeting, and a dialer for its connection. Default 5 s.
    pub handshake_timeout: Duration,
    /// How long a dialer waits after its first failure; doubled with each further one. Half of each delay is
    /// random. Default 100 ms, at least 1 ms.
    pub reconnect_min: Duration,
    /// The longest delay between two attempts of a dialer. Default 5 s.
    pub reconnect_max: Duration,
    /// How many attempts in a row may fail before a dialer gives up; `None` = it never does. A connection
    /// that is made starts the count over. Default `None`.
    pub reconnect_attempts: Option<u32>,
    /// How long `close` goes on writing what was queued. Default 1 s.
    pub linger: Duration,
    /// Req only: resend after this long without a reply, and again after as long; `None` or zero = never.
    /// Default 60 s.
    pub resend_time: Option<Duration>,
    /// Rep and respondent: how many requests of one pipe are kept until they are received; more push the
    /// oldest out, as do more bytes than `recv_queue_bytes` tells. Raise it for requesters that have more requests in flight on one connection; with 1, of a
    /// peer that asks again and again only the newest is kept. Default 32, at least 1.
    pub rep_backlog: usize,
    /// Surveyor only: how long a survey takes responses. Default 1 s.
    pub survey_time: Duration,
    /// Sub only: which message a full queue drops. Default: the oldest.
    pub sub_overflow: Overflow,
    /// Pair1, rep, respondent and raw: through how many sockets a message may have come; one with more is
    /// dropped. 1–255 (0 counts as 1). Default 8. The sender's own socket counts: 1 allows no device in
    /// between. nng knows at most 15.
    pub ttl: u8,
    /// Which peers are taken. Default: everybody.
    pub admission: Admission,
    /// The permissions of the files that `ipc://` listeners make, as in `chmod`: who may write to one may connect.
    /// They are set before anybody can connect, whatever the umask is. 0–0o777, other bits are ignored. Default 0o600:
    /// the owner only. Who may connect under an `abstract://` name cannot be limited so; see `admission`.
    #[cfg(feature = "ipc")]
    pub ipc_mode: u32,
    /// Certificates, for `tls+tcp://` and `wss://`. Default none.
    #[cfg(feature = "tls")]
    pub tls: TlsOptions,
}

/// What is to be different at one endpoint; `None` = as the socket's options say. End a literal with
/// `..Default::default()`: cargo features add fields.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sp_proto::{EndpointOptions, Pull};
/// let pull = Pull::new();
/// pull.listen("inproc://trusted-example").await?;
/// let strict = EndpointOptions { recv_max_size: Some(64 * 1024), ..Default::default() };
/// pull.listen_with("tcp://127.0.0.1:0", strict).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct EndpointOptions {
    /// Largest message accepted there, in bytes; 0 = no limit.
    pub recv_max_size: Option<usize>,
    /// How long a peer has for its greeting, and a dialer for its connection.
    pub handshake_timeout: Option<Duration>,
    /// Dialers only: how long it waits after its first failure; at least 1 ms.
    pub reconnect_min: Option<Duration>,
    /// Dialers only: the longest delay between two attempts.
    pub reconnect_max: Option<Duration>,
    /// Dialers only: how many attempts in a row may fail before it gives up. Where the socket has a limit,
    /// `Some(u32::MAX)` is as good as none.
    pub reconnect_attempts: Option<u32>,
    /// `ipc://` listeners only: the permissions of the file.
    #[cfg(feature = "ipc")]
    pub ipc_mode: Option<u32>,
    /// Certificates, in place of all those of the socket.
    #[cfg(feature = "tls")]
    pub tls: Option<TlsOptions>,
}

/// What goes for one endpoint.
pub(crate) struct Terms {
    pub(crate) recv_max_size: usize,
    pub(crate) handshake_timeout: Duration,
    pub(crate) reconnect_min: Duration,
    pub(crate) reconnect_max: Duration,
    pub(crate) reconnect_attempts: Option<u32>,
    pub(crate) settings: Settings,
}

impl EndpointOptions {
    /// These, and what they leave open as the socket has it.
    pub(crate) fn over(self, socket: &SocketOptions, settings: &Settings) -> Terms {
        #[cfg(not(any(feature = "ipc", feature = "tls")))]
        let _ = settings;
        let settings = Settings {
            #[cfg(feature = "ipc")]
            ipc_mode: self.ipc_mode.unwrap_or(settings.ipc_mode),
            #[cfg(feature = "tls")]
            tls: self.tls.map_or_else(|| Arc::clone(&settings.tls), Into::into),
        };
        Terms {
            recv_max_size: self.recv_max_size.unwrap_or(socket.recv_max_size),
            handshake_timeout: self.handshake_timeout.unwrap_or(socket.handshake_timeout),
            reconnect_min: self.reconnect_min.unwrap_or(socket.reconnect_min),
            reconnect_max: self.reconnect_max.unwrap_or(socket.reconnect_max),
            reconnect_attempts: self.reconnect_attempts.or(socket.reconnect_attempts),
            settings,
        }
    }
}

impl SocketOptions {
    /// What the transports are to know of these.
    pub(crate) fn transport(&self) -> Settings {
        Settings {
            #[cfg(feature = "ipc")]
            ipc_mode: self.ipc_mode,
            #[cfg(feature = "tls")]
            tls: self.tls.clone().into(),
        }
    }
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            send_queue: 512,
            send_queue_bytes: MIB,
            recv_queue: 1024,
            recv_queue_bytes: 4 * MIB,
            recv_max_size: 16 * MIB,
            send_timeout: None,
            recv_timeout: None,
            handshake_timeout: Duration::from_secs(5),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
            reconnect_attempts: None,
            linger: Duration::from_secs(1),
            resend_time: Some(Duration::from_secs(60)),
            rep_backlog: 32,
            survey_time: Duration::from_secs(1),
            sub_overflow: Overflow::DropOldest,
            ttl: wire::DEFAULT_TTL,
            admission: Admission::default(),
            #[cfg(feature = "ipc")]
            ipc_mode: crate::transport::IPC_MODE,
            #[cfg(feature = "tls")]
            tls: TlsOptions::default(),
        }
    }
}
