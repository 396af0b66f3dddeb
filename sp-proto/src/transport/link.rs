//! One connection of any transport, before and after it is split into its two directions.

use crate::transport::Credentials;
use crate::transport::inproc::Duplex;
use crate::transport::ipc_stream::{self, IpcReader, IpcWriter};
use crate::wire::{Batch, Framing, GREETING_LEN};
use bytes::Bytes;
use bytes::buf::Limit;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp};
use tokio::sync::mpsc;

/// How many pieces one write gathers.
const SLICES: usize = 64;

/// A connection that is not yet a pipe.
#[derive(Debug)]
pub(crate) enum Link {
    Ipc(UnixStream),
    Tcp(TcpStream),
    Inproc(Duplex),
}

/// The receiving direction; its pipe's task alone has it.
#[derive(Debug)]
pub(crate) enum Reader {
    Ipc(IpcReader),
    Tcp(tcp::OwnedReadHalf),
    Inproc(mpsc::Receiver<Bytes>),
}

/// The sending direction; the pipe's task shares it with senders that write themselves.
#[derive(Debug)]
pub(crate) enum Writer {
    Ipc(IpcWriter),
    Tcp(tcp::OwnedWriteHalf),
    Inproc(mpsc::Sender<Bytes>),
}

impl From<UnixStream> for Link {
    fn from(stream: UnixStream) -> Self {
        Self::Ipc(stream)
    }
}

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
            Self::Ipc(_) => Framing::Ipc,
            Self::Tcp(_) => Framing::Tcp,
            Self::Inproc(_) => Framing::Inproc,
        }
    }

    /// Who is at the other end, for people to read.
    pub(crate) fn peer_address(&self) -> String {
        match self {
            Self::Ipc(stream) => match stream
                .peer_addr()
                .ok()
                .and_then(|peer| Some(peer.as_pathname()?.to_owned()))
            {
                Some(path) => format!("ipc://{}", path.display()),
                None => match self.credentials().and_then(|credentials| credentials.pid) {
                    Some(pid) => format!("ipc (process {pid})"),
                    None => "ipc".to_owned(),
                },
            },
            Self::Tcp(stream) => match stream.peer_addr() {
                Ok(peer) => format!("tcp://{peer}"),
                Err(_) => "tcp".to_owned(),
            },
            Self::Inproc(_) => "inproc".to_owned(),
        }
    }

    pub(crate) fn credentials(&self) -> Option<Credentials> {
        let Self::Ipc(stream) = self else { return None };
        let peer = stream.peer_cred().ok()?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
        Some(Credentials {
            pid,
            uid: peer.uid(),
            gid: peer.gid(),
        })
    }

    pub(crate) async fn send_greeting(&mut self, greeting: [u8; GREETING_LEN]) -> io::Result<()> {
        match self {
            Self::Ipc(stream) => stream.write_all(&greeting).await,
            Self::Tcp(stream) => stream.write_all(&greeting).await,
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
            Self::Ipc(stream) => stream.read_exact(&mut greeting).await.map(drop)?,
            Self::Tcp(stream) => stream.read_exact(&mut greeting).await.map(drop)?,
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
            Self::Ipc(stream) => {
                let (reader, writer) = ipc_stream::split(stream)?;
                (Reader::Ipc(reader), Writer::Ipc(writer))
            }
            Self::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            Self::Inproc(Duplex { sender, receiver }) => (Reader::Inproc(receiver), Writer::Inproc(sender)),
        })
    }
}

impl Reader {
    /// Reads into `buffer`, which is not empty; 0 = the peer has closed. An inproc pipe brings whole messages
    /// instead.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Ipc(reader) => reader.poll_read(cx, buffer),
            Self::Tcp(reader) => {
                let mut buffer = ReadBuf::new(buffer);
                let read = Pin::new(reader).poll_read(cx, &mut buffer);
                read.map_ok(|()| buffer.filled().len())
            }
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
            Self::Ipc(reader) => reader.poll_read_body(cx, body),
            Self::Tcp(reader) => tokio_util::io::poll_read_buf(Pin::new(reader), cx, body),
            Self::Inproc(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Goes on with a write that stopped for lack of room: writes as often as there is some, until `batch` is
    /// empty.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        writer: &Writer,
        batch: &mut Batch,
    ) -> Poll<io::Result<()>> {
        match (self, writer) {
            (Self::Ipc(reader), _) => reader.poll_write(cx, || match writer.try_write(batch) {
                Ok(()) if !batch.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
                result => result,
            }),
            (Self::Tcp(_), Writer::Tcp(half)) => loop {
                ready!(half.as_ref().poll_write_ready(cx))?;
                writer.try_write(batch)?;
                if batch.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            },
            // An inproc pipe is waited for through a `PollSender`.
            _ => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }
}

impl Writer {
    /// Writes as much of `batch` as goes without waiting. `Ok` with a batch that is not empty means: wait.
    pub(crate) fn try_write(&self, batch: &mut Batch) -> io::Result<()> {
        while !batch.is_empty() {
            let written = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let used = batch.io_slices(&mut slices);
                let slices = slices.get(..used).unwrap_or_default();
                match (self, slices) {
                    (Self::Ipc(writer), pieces) => ipc_stream::write(writer, pieces),
                    (Self::Tcp(writer), [one]) => writer.try_write(one),
                    (Self::Tcp(writer), many) => writer.try_write_vectored(many),
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
