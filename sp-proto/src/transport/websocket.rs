//! Websockets over tcp or TLS: the upgrade, and a connection that carries one message per binary websocket
//! message.

use crate::Protocol;
use crate::transport::{OpenError, WsTarget};
use crate::wire::Batch;
use crate::wire::websocket::{
    Control, FrameKind, HEAD_MAX, Role, UpgradeError, UpgradeRequest, WebSocketDecoder, WebSocketError,
    accept_upgrade, check_upgrade, encode_header, mask, refuse_upgrade, request_upgrade,
};
use bytes::Bytes;
use std::fmt;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// How much is encoded before it is written, in bytes.
const CHUNK: usize = 64 * 1024;

/// The longest frame that is sent, in bytes; a longer message goes in parts. nng takes no longer ones.
const FRAME_MAX: usize = 1024 * 1024;

/// What a websocket runs over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug> Stream for S {}

/// One end of an upgrade that is to come.
#[derive(Clone, Debug)]
pub(crate) enum Side {
    Dialer { host: String, path: String },
    Listener { path: String },
}

impl Side {
    pub(super) fn dialer(target: &WsTarget) -> Self {
        let (port, host) = (target.server.port, target.server.host.as_deref());
        // A zone means something on this machine only.
        let host = host
            .and_then(|host| host.split('%').next())
            .unwrap_or("localhost");
        let host = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        Self::Dialer {
            host,
            path: target.path.clone(),
        }
    }

    pub(super) fn listener(target: &WsTarget) -> Self {
        let path = match target.path.as_str() {
            "" => "/",
            path => path,
        };
        Self::Listener {
            path: path.to_owned(),
        }
    }

    /// Upgrades, and says which of `ours` this end now speaks. A dialer has one only.
    pub(super) async fn open(
        self,
        stream: Box<dyn Stream>,
        ours: &[Protocol],
    ) -> Result<(Box<WebSocket>, Protocol), OpenError> {
        match self {
            Self::Dialer { host, path } => {
                let nothing = || io::Error::from(io::ErrorKind::InvalidInput);
                let ours = ours.first().copied().ok_or_else(nothing)?;
                dial(stream, &host, &path, ours).await
            }
            Self::Listener { path } => listen(stream, &path, ours).await,
        }
    }
}

async fn dial(
    mut stream: Box<dyn Stream>,
    host: &str,
    path: &str,
    ours: Protocol,
) -> Result<(Box<WebSocket>, Protocol), OpenError> {
    let mut keys = Keys::new();
    let nonce = (u128::from(keys.next()) << 64 | u128::from(keys.next())).to_ne_bytes();
    let server = ours.peer();
    stream
        .write_all(&request_upgrade(host, path, server, nonce))
        .await?;
    stream.flush().await?;
    let head = |bytes: &[u8]| Ok(check_upgrade(bytes, server, nonce)?.map(|length| ((), length)));
    let ((), leftover) = read_head(&mut stream, head).await?;
    Ok((WebSocket::new(stream, Role::Client, leftover, keys), ours))
}

async fn listen(
    mut stream: Box<dyn Stream>,
    path: &str,
    ours: &[Protocol],
) -> Result<(Box<WebSocket>, Protocol), OpenError> {
    let request = read_head(&mut stream, UpgradeRequest::parse).await;
    let chosen = request.and_then(|(request, leftover)| {
        let chosen = request.choose(path, ours)?;
        Ok((request, leftover, chosen))
    });
    match chosen {
        Ok((request, leftover, chosen)) => {
            stream.write_all(&accept_upgrade(&request, chosen)).await?;
            stream.flush().await?;
            let socket = WebSocket::new(stream, Role::Server, leftover, Keys::new());
            Ok((socket, chosen))
        }
        Err(error) => {
            if let OpenError::Upgrade(error) = &error {
                // Told as far as they listen.
                let _ = stream.write_all(&refuse_upgrade(error)).await;
                let _ = stream.shutdown().await;
            }
            Err(error)
        }
    }
}

/// Reads until `parse` has a whole head; gives what it made of that, and the bytes behind it.
async fn read_head<T>(
    stream: &mut Box<dyn Stream>,
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, UpgradeError>,
) -> Result<(T, Vec<u8>), OpenError> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let mut room = (&mut *stream).take((HEAD_MAX - bytes.len()) as u64);
        if room.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Some((head, length)) = parse(&bytes)? {
            return Ok((head, bytes.split_off(length)));
        }
    }
}

/// Numbers that no peer can foresee: a hash with a key of the system's randomness, over a counter. Masks must
/// be such, so that nobody can choose what bytes a proxy in between sees.
struct Keys {
    secret: RandomState,
    counter: u64,
}

impl Keys {
    fn new() -> Self {
        Self {
            secret: RandomState::new(),
            counter: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.secret.hash_one(self.counter)
    }
}

/// Why nothing more can be received.
#[derive(Debug)]
pub(crate) enum ReadEnd {
    Closed,
    MidMessage,
    Io(io::Error),
    Broken(WebSocketError),
}

/// An upgraded connection. One task has it: what is written depends on what was read.
pub(crate) struct WebSocket {
    stream: Box<dyn Stream>,
    role: Role,
    decoder: WebSocketDecoder,
    /// What was read together with the upgrade.
    leftover: Vec<u8>,
    keys: Keys,
    /// Encoded, of which this much is written.
    out: Vec<u8>,
    written: usize,
    /// The message that is being encoded.
    body: Option<Body>,
    /// The newest ping that is to be answered. A peer that pings faster than it reads is answered now and then.
    ping: Option<Bytes>,
}

/// A message that is not yet encoded as a whole.
struct Body {
    rest: Bytes,
    first: bool,
    /// What is missing of the frame that is being encoded, in bytes.
    missing: usize,
    key: Option<[u8; 4]>,
    /// How much of the frame is encoded, in bytes.
    done: usize,
}

impl Body {
    fn new(rest: Bytes) -> Self {
        Self {
            rest,
            first: true,
            missing: 0,
            key: None,
            done: 0,
        }
    }

    fn begin_frame(&mut self, out: &mut Vec<u8>, key: Option<[u8; 4]>) {
        self.missing = self.rest.len().min(FRAME_MAX);
        let kind = FrameKind::Data {
            first: self.first,
            last: self.missing == self.rest.len(),
        };
        encode_header(out, kind, self.missing, key);
        (self.first, self.key, self.done) = (false, key, 0);
    }

    /// Encodes the next chunk of the frame.
    fn encode(&mut self, out: &mut Vec<u8>) {
        let step = self.missing.min(CHUNK);
        let start = out.len();
        out.extend_from_slice(&self.rest.split_to(step));
        if let Some(key) = self.key {
            mask(out.get_mut(start..).unwrap_or_default(), key, self.done);
        }
        self.missing -= step;
        self.done += step;
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("stream", &self.stream)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl WebSocket {
    fn new(stream: Box<dyn Stream>, role: Role, leftover: Vec<u8>, keys: Keys) -> Box<Self> {
        Box::new(Self {
            stream,
            role,
            decoder: WebSocketDecoder::new(role),
            leftover,
            keys,
            out: Vec::new(),
            written: 0,
            body: None,
            ping: None,
        })
    }

    /// Reads once and adds the messages that are now complete. `scratch` is where the bytes go meanwhile,
    /// `limit` the longest message accepted, 0 = no limit.
    pub(crate) fn poll_messages(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        limit: usize,
        messages: &mut Vec<Bytes>,
    ) -> Poll<Result<(), ReadEnd>> {
        // An answer that the connection did not take yet. Pending is fine: reading goes on.
        if let Poll::Ready(Err(error)) = self.poll_out(cx) {
            return Poll::Ready(Err(ReadEnd::Io(error)));
        }
        let leftover = std::mem::take(&mut self.leftover);
        let mut buffer = ReadBuf::new(scratch);
        let bytes = if leftover.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)).map_err(ReadEnd::Io)?;
            buffer.filled()
        } else {
            &leftover
        };
        if bytes.is_empty() {
            let between = self.decoder.is_between_messages();
            return Poll::Ready(Err(if between {
                ReadEnd::Closed
            } else {
                ReadEnd::MidMessage
            }));
        }
        let decoded = self.decoder.decode(bytes, limit, messages);
        self.ping = self.decoder.take_ping().or(self.ping.take());
        self.answer();
        if self.decoder.is_closed() {
            self.say_goodbye();
        }
        // An error will be met again.
        let _ = self.poll_out(cx);
        Poll::Ready(match decoded {
            Err(error) => Err(ReadEnd::Broken(error)),
            Ok(()) if self.decoder.is_closed() => Err(ReadEnd::Closed),
            Ok(()) => Ok(()),
        })
    }

    /// Encodes and writes all of `batch`, whose messages are whole.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_out(cx))?;
            if !self.encode(batch) {
                // The room for a flood is not kept once it is over.
                self.out.shrink_to(CHUNK / 16);
                return Pin::new(&mut self.stream).poll_flush(cx);
            }
        }
    }

    /// Says goodbye and waits for the peer to hang up as well.
    pub(crate) async fn hang_up(mut self: Box<Self>) {
        self.say_goodbye();
        if poll_fn(|cx| self.poll_out(cx)).await.is_ok() && self.stream.shutdown().await.is_ok() {
            let mut unread = [0; 4096];
            while self.stream.read(&mut unread).await.is_ok_and(|read| read > 0) {}
        }
    }

    /// Writes and flushes what is encoded.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        if self.written > 0 {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.out.clear();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Adds the next chunk to what is to be written. `false` when there is nothing left.
    fn encode(&mut self, batch: &mut Batch) -> bool {
        while self.out.len() < CHUNK {
            self.answer();
            let key = self.key();
            let body = match &mut self.body {
                Some(body) => body,
                empty => match batch.pop_message() {
                    Some(rest) => empty.insert(Body::new(rest)),
                    None => break,
                },
            };
            if body.missing == 0 {
                body.begin_frame(&mut self.out, key);
            }
            body.encode(&mut self.out);
            if body.missing == 0 && body.rest.is_empty() {
                self.body = None;
            }
        }
        !self.out.is_empty()
    }

    /// What the next frame is masked with.
    fn key(&mut self) -> Option<[u8; 4]> {
        let [a, b, c, d, ..] = self.keys.next().to_ne_bytes();
        (self.role == Role::Client).then_some([a, b, c, d])
    }

    /// Adds the pong that is due, if no frame is half encoded.
    fn answer(&mut self) {
        if self.is_between_frames()
            && self.out.len() < CHUNK
            && let Some(ping) = self.ping.take()
        {
            self.control(Control::Pong, &ping);
        }
    }

    fn say_goodbye(&mut self) {
        /// 1000: there is nothing more to say.
        const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();
        if self.is_between_frames() {
            self.control(Control::Close, &NORMAL);
        }
    }

    fn is_between_frames(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.missing == 0)
    }

    fn control(&mut self, control: Control, payload: &[u8]) {
        let key = self.key();
        encode_header(&mut self.out, FrameKind::Control(control), payload.len(), key);
        let start = self.out.len();
        self.out.extend_from_slice(payload);
        if let Some(key) = key {
            mask(self.out.get_mut(start..).unwrap_or_default(), key, 0);
        }
    }
}
