//! A connection that has been greeted, and the frames that come and go over it.

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::job::Transport;

/// How much is read at a time, in bytes, unless a message is longer.
const READ: usize = 68 * 1024;

/// Payloads up to this many bytes are copied behind their header.
const COPY_MAX: usize = 4 * 1024;

pub(crate) struct Stream {
    incoming: AsyncFd<Socket>,
    /// Watched for room to write from the first wait for it on: a Unix stream has room again whenever its peer has
    /// read, and who asks for that is woken for it.
    room: Option<AsyncFd<Socket>>,
    is_ipc: bool,
    /// To be written.
    outgoing: Vec<u8>,
    /// Received and not yet taken: `buffer[from..to]`.
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    /// Of every message that comes, id included.
    length: usize,
}

enum Socket {
    Ipc(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Ipc(stream) => Self::Ipc(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Ipc(stream) => (&*stream).read(buffer),
            Self::Tcp(stream) => (&*stream).read(buffer),
        }
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, pieces) {
            (Self::Ipc(stream), [one]) => (&*stream).write(one),
            (Self::Tcp(stream), [one]) => (&*stream).write(one),
            (Self::Ipc(stream), many) => (&*stream).write_vectored(many),
            (Self::Tcp(stream), many) => (&*stream).write_vectored(many),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Ipc(stream) => stream.as_raw_fd(),
            Self::Tcp(stream) => stream.as_raw_fd(),
        }
    }
}

#[expect(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
fn register(socket: Socket, interest: Interest) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the descriptor is the socket's own, and stays open and the same until the `AsyncFd` drops it: nothing
    // here asks that for `&mut` to it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

pub(crate) enum Listener {
    Ipc(UnixListener, String),
    Tcp(TcpListener),
}

impl Listener {
    /// Where programs of this machine can dial it.
    pub(crate) fn bind(transport: Transport) -> Result<(Self, String)> {
        Ok(match transport {
            Transport::Ipc => {
                let folder = std::env::temp_dir();
                let path = format!("{}/floor.{}.ipc", folder.display(), std::process::id());
                // One that a killed process with this number has left.
                let _ = std::fs::remove_file(&path);
                let address = format!("ipc://{path}");
                (Self::Ipc(UnixListener::bind(&path)?, path), address)
            }
            Transport::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let address = format!("tcp://{}", listener.local_addr()?);
                (Self::Tcp(listener), address)
            }
        })
    }

    /// The first connection. Blocks: there is nothing else to do.
    pub(crate) fn accept(self, greeting: Greeting, length: usize) -> Result<Stream> {
        let socket = match &self {
            Self::Ipc(listener, _) => Socket::Ipc(listener.accept()?.0),
            Self::Tcp(listener) => Socket::Tcp(listener.accept()?.0),
        };
        Stream::new(socket, greeting, length)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Ipc(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The protocol numbers of SP, each in one byte.
#[derive(Clone, Copy)]
pub(crate) struct Greeting {
    pub(crate) own: u8,
    pub(crate) peer: u8,
}

impl Stream {
    pub(crate) fn dial(address: &str, greeting: Greeting, length: usize) -> Result<Self> {
        let socket = match address.split_once("://") {
            Some(("ipc", path)) => Socket::Ipc(UnixStream::connect(path)?),
            Some(("tcp", address)) => Socket::Tcp(TcpStream::connect(address)?),
            _ => bail!("{address} is no ipc or tcp address"),
        };
        Self::new(socket, greeting, length)
    }

    fn new(socket: Socket, greeting: Greeting, length: usize) -> Result<Self> {
        let mut answer = [0; 8];
        let bytes = |protocol| [0, b'S', b'P', 0, 0, protocol, 0, 0];
        socket.write(&[IoSlice::new(&bytes(greeting.own))])?;
        socket.read(&mut answer)?;
        ensure!(answer == bytes(greeting.peer), "the peer greets with {answer:?}");
        match &socket {
            Socket::Ipc(stream) => stream.set_nonblocking(true)?,
            Socket::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
            }
        }
        Ok(Self {
            is_ipc: matches!(socket, Socket::Ipc(_)),
            incoming: register(socket, Interest::READABLE)?,
            room: None,
            outgoing: Vec::new(),
            buffer: vec![0; READ.max(length + 9)],
            from: 0,
            to: 0,
            length,
        })
    }

    /// Reads once into `buffer`, after waiting for something to read.
    async fn read(incoming: &AsyncFd<Socket>, buffer: &mut [u8]) -> Result<usize> {
        loop {
            let mut ready = incoming.readable().await?;
            let Ok(read) = ready.try_io(|socket| socket.get_ref().read(buffer)) else {
                continue;
            };
            let read = read?;
            ensure!(read > 0, "the peer has closed the connection");
            if read < buffer.len() {
                ready.clear_ready();
            }
            return Ok(read);
        }
    }

    /// Sends back what comes next.
    pub(crate) async fn echo(&mut self) -> Result<()> {
        let read = Self::read(&self.incoming, &mut self.buffer).await?;
        let mut pieces = [IoSlice::new(&self.buffer[..read])];
        Self::write_all(&self.incoming, &mut self.room, &mut pieces).await
    }

    /// The next message, id included.
    pub(crate) async fn next(&mut self) -> Result<Bytes> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            if self.from > 0 {
                self.buffer.copy_within(self.from..self.to, 0);
                self.to -= self.from;
                self.from = 0;
            }
            self.to += Self::read(&self.incoming, &mut self.buffer[self.to..]).await?;
        }
    }

    /// The next message, if it is there already.
    pub(crate) fn take(&mut self) -> Result<Option<Bytes>> {
        let header = if self.is_ipc { 9 } else { 8 };
        let waiting = &self.buffer[self.from..self.to];
        let Some((frame, payload)) = waiting.split_at_checked(header) else {
            return Ok(None);
        };
        let length = u64::from_be_bytes(frame[header - 8..].try_into()?);
        ensure!(
            length == self.length as u64,
            "a message of {length} bytes came, expected {}",
            self.length
        );
        let message = payload.get(..self.length).map(Bytes::copy_from_slice);
        if message.is_some() {
            self.from += header + self.length;
        }
        Ok(message)
    }

    /// Adds a message to those that go with the next [`Stream::flush`].
    pub(crate) fn push(&mut self, id: &[u8], payload: &[u8]) {
        self.push_header(id, payload);
        self.outgoing.extend_from_slice(payload);
    }

    fn push_header(&mut self, id: &[u8], payload: &[u8]) {
        if self.is_ipc {
            self.outgoing.push(1);
        }
        let length = (id.len() + payload.len()) as u64;
        self.outgoing.extend_from_slice(&length.to_be_bytes());
        self.outgoing.extend_from_slice(id);
    }

    pub(crate) async fn flush(&mut self) -> Result<()> {
        let mut pieces = [IoSlice::new(&self.outgoing)];
        Self::write_all(&self.incoming, &mut self.room, &mut pieces).await?;
        self.outgoing.clear();
        Ok(())
    }

    /// Sends these messages as one write, if the connection takes that much.
    pub(crate) async fn send(&mut self, messages: &[Bytes]) -> Result<()> {
        if messages.iter().all(|message| message.len() <= COPY_MAX) {
            messages.iter().for_each(|message| self.push(&[], message));
            return self.flush().await;
        }
        messages.iter().for_each(|message| self.push_header(&[], message));
        let headers = self.outgoing.chunks(self.outgoing.len() / messages.len());
        let pieces = headers
            .zip(messages)
            .flat_map(|(header, message)| [header, message]);
        let mut pieces: Vec<_> = pieces.map(IoSlice::new).collect();
        Self::write_all(&self.incoming, &mut self.room, &mut pieces).await?;
        self.outgoing.clear();
        Ok(())
    }

    async fn write_all(
        socket: &AsyncFd<Socket>,
        room: &mut Option<AsyncFd<Socket>>,
        mut pieces: &mut [IoSlice<'_>],
    ) -> Result<()> {
        while !pieces.is_empty() {
            let written = match socket.get_ref().write(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let room = match room {
                        Some(room) => room,
                        None => {
                            let socket = socket.get_ref().try_clone()?;
                            room.insert(register(socket, Interest::WRITABLE)?)
                        }
                    };
                    let mut ready = room.writable().await?;
                    match ready.try_io(|socket| socket.get_ref().write(pieces)) {
                        Ok(written) => written?,
                        Err(_would_block) => continue,
                    }
                }
                written => written?,
            };
            ensure!(written > 0, "the connection takes no more");
            IoSlice::advance_slices(&mut pieces, written);
        }
        Ok(())
    }
}
