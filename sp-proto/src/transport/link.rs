//! One connection of any transport, before and after it is split into its two directions.

use crate::sync::mpsc;
use crate::transport::Credentials;
use crate::transport::inproc::Duplex;
#[cfg(feature = "ipc")]
use crate::transport::ipc;
#[cfg(feature = "ipc")]
use crate::transport::ipc_stream::{self, IpcReader, IpcWriter};
#[cfg(feature = "ws")]
use crate::transport::websocket::WebSocket;
use crate::wire::{Batch, Framing, GREETING_LEN};
use bytes::Bytes;
use bytes::buf::Limit;
use std::io::{self, IoSlice};
#[cfg(feature = "tcp")]
use std::pin::Pin;
#[cfg(feature = "tcp")]
use std::task::ready;
use std::task::{Context, Poll};
#[cfg(feature = "tls")]
use tokio::io::AsyncWrite;
#[cfg(feature = "tcp")]
use tokio::io::{AsyncRead, ReadBuf};
#[cfg(any(feature = "ipc", feature = "tcp"))]
use tokio::io::{AsyncReadExt, AsyncWriteExt};
#[cfg(feature = "ipc")]
use tokio::net::UnixStream;
#[cfg(feature = "tcp")]
use tokio::net::{TcpStream, tcp};
#[cfg(feature = "tls")]
use tokio_rustls::TlsStream;

/// How many pieces one write gathers.
const SLICES: usize = 64;

/// A connection that is not yet a pipe.
#[derive(Debug)]
pub(crate) enum Link {
    Inproc(Duplex),
    #[cfg(feature = "ipc")]
    Ipc(UnixStream),
    #[cfg(feature = "tcp")]
    Tcp(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(feature = "ws")]
    WebSocket(Box<WebSocket>),
}

/// The receiving direction.
#[derive(Debug)]
pub(crate) enum Reader {
    Inproc(mpsc::Receiver<Bytes>),
    #[cfg(feature = "ipc")]
    Ipc(IpcReader),
    #[cfg(feature = "tcp")]
    Tcp(tcp::OwnedReadHalf),
    /// Both directions: what is written depends on what was read, so one task does both.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
    /// Both directions as well.
    #[cfg(feature = "ws")]
    WebSocket(Box<WebSocket>),
}

/// The sending direction; the pipe's task shares it with senders that write themselves.
#[derive(Debug)]
pub(crate) enum Writer {
    Inproc(mpsc::Sender<Bytes>),
    #[cfg(feature = "ipc")]
    Ipc(IpcWriter),
    #[cfg(feature = "tcp")]
    Tcp(tcp::OwnedWriteHalf),
    /// The pipe's task writes, through its reader.
    #[cfg(any(feature = "tls", feature = "ws"))]
    Task,
}

#[cfg(feature = "ipc")]
impl From<UnixStream> for Link {
    fn from(stream: UnixStream) -> Self {
        Self::Ipc(stream)
    }
}

#[cfg(feature = "tcp")]
impl From<TcpStream> for Link {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<Duplex> for Link {
    fn from(duplex: Duplex) -> Self {
        Self::Inproc(duplex)
    }
}

impl Link {
    pub(crate) fn framing(&self) -> Framing {
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(_) => Framing::Ipc,
            #[cfg(feature = "tcp")]
            Self::Tcp(_) => Framing::Tcp,
            #[cfg(feature = "tls")]
            Self::Tls(_) => Framing::Tcp,
            #[cfg(feature = "ws")]
            Self::WebSocket(_) => Framing::Inproc,
            Self::Inproc(_) => Framing::Inproc,
        }
    }

    /// Who is at the other end, for people to read.
    pub(crate) fn peer_address(&self) -> String {
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(stream) => {
                let peer = stream.peer_addr().ok().map(std::os::unix::net::SocketAddr::from);
                match peer.as_ref().and_then(ipc::address) {
                    Some(address) => address.to_string(),
                    None => match self.credentials().and_then(|credentials| credentials.pid) {
                        Some(pid) => format!("ipc (process {pid})"),
                        None => "ipc".to_owned(),
                    },
                }
            }
            #[cfg(feature = "tcp")]
            Self::Tcp(stream) => match stream.peer_addr() {
                Ok(peer) => format!("tcp://{peer}"),
                Err(_) => "tcp".to_owned(),
            },
            #[cfg(feature = "tls")]
            Self::Tls(_) => "tls+tcp".to_owned(),
            #[cfg(feature = "ws")]
            Self::WebSocket(_) => "ws".to_owned(),
            Self::Inproc(_) => "inproc".to_owned(),
        }
    }

    pub(crate) fn credentials(&self) -> Option<Credentials> {
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(stream) => ipc::credentials(stream),
            _ => None,
        }
    }

    pub(crate) async fn send_greeting(&mut self, greeting: [u8; GREETING_LEN]) -> io::Result<()> {
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(stream) => stream.write_all(&greeting).await,
            #[cfg(feature = "tcp")]
            Self::Tcp(stream) => stream.write_all(&greeting).await,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => {
                stream.write_all(&greeting).await?;
                stream.flush().await
            }
            // Its upgrade is the greeting.
            #[cfg(feature = "ws")]
            Self::WebSocket(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Inproc(duplex) => {
                let greeting = Bytes::copy_from_slice(&greeting);
                duplex
                    .sender
                    .send(greeting)
                    .await
                    .map_err(|_| io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    pub(crate) async fn recv_greeting(&mut self) -> io::Result<[u8; GREETING_LEN]> {
        let mut greeting = [0; GREETING_LEN];
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(stream) => stream.read_exact(&mut greeting).await.map(drop)?,
            #[cfg(feature = "tcp")]
            Self::Tcp(stream) => stream.read_exact(&mut greeting).await.map(drop)?,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read_exact(&mut greeting).await.map(drop)?,
            #[cfg(feature = "ws")]
            Self::WebSocket(_) => return Err(io::ErrorKind::Unsupported.into()),
            Self::Inproc(duplex) => {
                let message = duplex.receiver.recv().await.ok_or(io::ErrorKind::UnexpectedEof)?;
                greeting = message[..].try_into().map_err(|_| io::ErrorKind::InvalidData)?;
            }
        }
        Ok(greeting)
    }

    /// # Errors
    /// The system cannot watch the connection.
    pub(crate) fn split(self) -> io::Result<(Reader, Writer)> {
        Ok(match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(stream) => {
                let (reader, writer) = ipc_stream::split(stream)?;
                (Reader::Ipc(reader), Writer::Ipc(writer))
            }
            #[cfg(feature = "tcp")]
            Self::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            #[cfg(feature = "tls")]
            Self::Tls(stream) => (Reader::Tls(stream), Writer::Task),
            #[cfg(feature = "ws")]
            Self::WebSocket(socket) => (Reader::WebSocket(socket), Writer::Task),
            Self::Inproc(Duplex { sender, receiver }) => (Reader::Inproc(receiver), Writer::Inproc(sender)),
        })
    }
}

impl Reader {
    /// Reads into `buffer`, which is not empty; 0 = the peer has closed. An inproc pipe brings whole messages
    /// instead.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(reader) => reader.poll_read(cx, buffer),
            #[cfg(feature = "tcp")]
            Self::Tcp(reader) => poll_read(Pin::new(reader), cx, buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => poll_read(Pin::new(stream), cx, buffer),
            // Whole messages, not bytes.
            #[cfg(feature = "ws")]
            Self::WebSocket(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
            Self::Inproc(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Reads into the room that `body` has; 0 = the peer has closed.
    pub(crate) fn poll_read_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Limit<&mut Vec<u8>>,
    ) -> Poll<io::Result<usize>> {
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(reader) => reader.poll_read_body(cx, body),
            #[cfg(feature = "tcp")]
            Self::Tcp(reader) => tokio_util::io::poll_read_buf(Pin::new(reader), cx, body),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => tokio_util::io::poll_read_buf(Pin::new(stream), cx, body),
            #[cfg(feature = "ws")]
            Self::WebSocket(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
            Self::Inproc(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Is it time to [take care](Self::take_care)?
    pub(crate) fn wants_care(&self) -> bool {
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(reader) => reader.wants_care(),
            _ => false,
        }
    }

    /// Changes how the connection is watched, which only its pipe's task may: it is in the right runtime.
    /// Afterwards it is to be read, for whoever was to be woken is forgotten.
    pub(crate) fn take_care(&mut self) -> io::Result<()> {
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(reader) => reader.take_care(),
            _ => Ok(()),
        }
    }

    /// Goes on with a write that stopped for lack of room, or that this end does itself: writes as often as
    /// there is some, until `batch` is empty.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        writer: &Writer,
        batch: &mut Batch,
    ) -> Poll<io::Result<()>> {
        match (self, writer) {
            #[cfg(feature = "ipc")]
            (Self::Ipc(reader), _) => reader.poll_write(cx, || match writer.try_write(batch) {
                Ok(()) if !batch.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
                result => result,
            }),
            #[cfg(feature = "tls")]
            (Self::Tls(stream), _) => poll_write_all(Pin::new(stream), cx, batch),
            #[cfg(feature = "ws")]
            (Self::WebSocket(socket), _) => socket.poll_write(cx, batch),
            // An inproc pipe is waited for through a `PollSender`, and a tcp pipe through its writer.
            _ => {
                let _ = (cx, batch);
                Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
            }
        }
    }
}

impl Reader {
    /// Says goodbye and waits for the peer to hang up as well. A tcp connection that is closed while something
    /// unread lies in it is reset, which can destroy what we have just written. The writer is dropped by now;
    /// the owner bounds the wait.
    pub(crate) async fn hang_up(self) {
        match self {
            #[cfg(feature = "tcp")]
            Self::Tcp(reader) => drain(reader).await,
            #[cfg(feature = "tls")]
            Self::Tls(mut stream) => {
                // When that fails there is nothing to wait for, and reading tells so.
                let _ = stream.shutdown().await;
                drain(stream).await;
            }
            #[cfg(feature = "ws")]
            Self::WebSocket(socket) => socket.hang_up().await,
            _ => {}
        }
    }
}

#[cfg(feature = "tcp")]
fn poll_read<S: AsyncRead>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(stream.poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// Writes all of `batch`, and what a layer in between keeps back.
#[cfg(feature = "tls")]
fn poll_write_all<S: AsyncWrite>(
    mut stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    batch: &mut Batch,
) -> Poll<io::Result<()>> {
    while !batch.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let used = batch.io_slices(&mut slices);
        let slices = slices.get(..used).unwrap_or_default();
        match ready!(stream.as_mut().poll_write_vectored(cx, slices))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => batch.advance(written),
        }
    }
    stream.poll_flush(cx)
}

/// Reads until the end.
#[cfg(feature = "tcp")]
async fn drain(mut reader: impl AsyncRead + Unpin) {
    let mut unread = [0; 4096];
    while reader.read(&mut unread).await.is_ok_and(|read| read > 0) {}
}

impl Writer {
    /// How much of what was written the peer has not read, if the system knows.
    pub(crate) fn unread(&self) -> Option<u64> {
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(writer) => ipc_stream::unread(writer),
            _ => None,
        }
    }

    /// Can the system know?
    pub(crate) fn tells_unread(&self) -> bool {
        match self {
            #[cfg(feature = "ipc")]
            Self::Ipc(_) => true,
            _ => false,
        }
    }

    /// Is writing a matter of the reader, which is the task's alone then?
    pub(crate) fn needs_reader(&self) -> bool {
        match self {
            #[cfg(any(feature = "tls", feature = "ws"))]
            Self::Task => true,
            _ => false,
        }
    }

    /// Goes on with a write to a tcp connection that stopped for lack of room.
    #[cfg(feature = "tcp")]
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let Self::Tcp(half) = self else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        loop {
            ready!(half.as_ref().poll_write_ready(cx))?;
            self.try_write(batch)?;
            if batch.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Writes as much of `batch` as goes without waiting. `Ok` with a batch that is not empty means: wait.
    pub(crate) fn try_write(&self, batch: &mut Batch) -> io::Result<()> {
        while !batch.is_empty() {
            let written: io::Result<usize> = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let used = batch.io_slices(&mut slices);
                let slices = slices.get(..used).unwrap_or_default();
                match (self, slices) {
                    #[cfg(feature = "ipc")]
                    (Self::Ipc(writer), pieces) => ipc_stream::write(writer, pieces),
                    #[cfg(feature = "tcp")]
                    (Self::Tcp(writer), [one]) => writer.try_write(one),
                    #[cfg(feature = "tcp")]
                    (Self::Tcp(writer), many) => writer.try_write_vectored(many),
                    #[cfg(any(feature = "tls", feature = "ws"))]
                    (Self::Task, _) => return Ok(()),
                    (Self::Inproc(sender), _) => match sender.try_reserve() {
                        Ok(permit) => {
                            permit.send(batch.pop_message().unwrap_or_default());
                            continue;
                        }
                        Err(mpsc::error::TrySendError::Full(())) => Err(io::ErrorKind::WouldBlock.into()),
                        Err(mpsc::error::TrySendError::Closed(())) => Err(io::ErrorKind::BrokenPipe.into()),
                    },
                }
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => batch.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
