//! A connected Unix stream that the poller watches for what comes in, and for room to write only while a
//! writer waits for it.
//!
//! The kernel reports "there is room" on a Unix stream whenever its peer has read something, so one that is
//! watched for both, as tokio's own is, wakes its process once more for every message that it sent. That costs
//! a third of the round trips per second.

use bytes::buf::Limit;
use rustix::buffer::spare_capacity;
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The receiving direction, and the registration with the poller.
#[derive(Debug)]
pub(crate) struct IpcReader {
    /// `None` after a registration that failed, which ends the pipe.
    fd: Option<AsyncFd<Arc<UnixStream>>>,
    room: Room,
}

/// Is room to write watched for?
#[derive(Clone, Copy, Debug)]
enum Room {
    Ignored,
    /// For so many more reads, unless a writer waits.
    Watched {
        reads: u8,
        waiting: bool,
    },
}

/// A pipe that is written to faster than its peer reads waits for room again and again; it is registered anew
/// only after this many reads without.
const READS: u8 = 32;

const WAITING: Room = Room::Watched {
    reads: READS,
    waiting: true,
};

/// The sending direction, for whoever has begun a write.
pub(crate) type IpcWriter = Arc<UnixStream>;

/// What the kernel is asked to hold for the peer, in bytes; Linux takes it twice, for its own overhead, and by
/// default gives half of this. A megabyte then stops for lack of room half as often.
const SEND_BUFFER: usize = 208 * 1024;

/// Takes a connection over from tokio.
pub(crate) fn split(stream: tokio::net::UnixStream) -> io::Result<(IpcReader, IpcWriter)> {
    // As much as the system allows without privileges. Refused, it stays at what it was.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER);
    let stream = Arc::new(stream.into_std()?);
    let reader = IpcReader {
        fd: Some(register(Arc::clone(&stream), Interest::READABLE)?),
        room: Room::Ignored,
    };
    Ok((reader, stream))
}

impl IpcReader {
    /// Reads into `buffer`, which is not empty; 0 = the peer has closed.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let room = buffer.len();
        self.poll_io(cx, room, |mut stream| stream.read(buffer))
    }

    /// Reads into the room that `body` has; 0 = the peer has closed.
    pub(crate) fn poll_read_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Limit<&mut Vec<u8>>,
    ) -> Poll<io::Result<usize>> {
        let limit = body.limit();
        let body = &mut **body.get_mut();
        let (len, room) = (body.len(), body.capacity() - body.len());
        if room <= limit {
            return self.poll_io(cx, room, |stream| {
                Ok(rustix::io::read(stream, spare_capacity(body))?)
            });
        }
        // More than was asked for; the next frame must not get into it.
        body.resize(len + limit, 0);
        let read = self.poll_read(cx, body.get_mut(len..).unwrap_or_default());
        body.truncate(len + if let Poll::Ready(Ok(read)) = read { read } else { 0 });
        read
    }

    fn poll_io(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        mut read: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        match &mut self.room {
            Room::Ignored => {}
            Room::Watched { reads, waiting } => {
                if !*waiting {
                    *reads = reads.saturating_sub(1);
                }
            }
        }
        let Some(fd) = &self.fd else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            let mut ready = ready!(fd.poll_read_ready(cx))?;
            match ready.try_io(|fd| read(fd.get_ref())) {
                Ok(Ok(read)) => {
                    if 0 < read && read < room {
                        // There is no more: the next read may wait for the poller at once.
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(read));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    /// Calls `write`, which has met [`WouldBlock`](io::ErrorKind::WouldBlock) before, whenever there is room,
    /// until it meets something else.
    pub(crate) fn poll_write<R>(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut() -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        match &mut self.room {
            Room::Ignored => self.watch(WAITING)?,
            room => *room = WAITING,
        }
        let Some(fd) = &self.fd else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            let mut ready = ready!(fd.poll_write_ready(cx))?;
            if let Ok(result) = ready.try_io(|_| write()) {
                drop(ready);
                self.room = Room::Watched {
                    reads: READS,
                    waiting: false,
                };
                return Poll::Ready(result);
            }
        }
    }

    /// Has nobody waited for room for long?
    pub(crate) fn wants_care(&self) -> bool {
        matches!(
            self.room,
            Room::Watched {
                reads: 0,
                waiting: false
            }
        )
    }

    /// Stops watching for room. Whoever waits for something to read has to ask again.
    pub(crate) fn take_care(&mut self) -> io::Result<()> {
        self.watch(Room::Ignored)
    }

    /// Registers anew; what is ready by then is reported again, so nothing is missed.
    fn watch(&mut self, room: Room) -> io::Result<()> {
        let fd = self.fd.take().ok_or(io::ErrorKind::NotConnected)?;
        let interest = match room {
            Room::Ignored => Interest::READABLE,
            Room::Watched { .. } => Interest::READABLE | Interest::WRITABLE,
        };
        self.fd = Some(register(fd.into_inner(), interest)?);
        self.room = room;
        Ok(())
    }
}

#[expect(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
fn register(stream: Arc<UnixStream>, interest: Interest) -> io::Result<AsyncFd<Arc<UnixStream>>> {
    // SAFETY: the descriptor is the stream's own. It stays open, and the same, for as long as the `Arc` lives:
    // nobody can take the stream out of it or change it, for there is no `&mut` to what an `Arc` shares that
    // is cloned, and no clone is ever unwrapped. The `AsyncFd` owns one of the clones.
    Ok(unsafe { AsyncFd::register_with_interest(stream, interest) }?)
}

/// How much of what was written the peer has not read, with the kernel's overhead.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[expect(
    unsafe_code,
    reason = "the crate for system calls has no function for this one"
)]
pub(crate) fn unread(stream: &UnixStream) -> Option<u64> {
    /// `SIOCOUTQ`.
    const OPCODE: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: for a socket, this request writes one `int` and reads nothing, see unix(7).
    let unread = unsafe {
        let request = rustix::ioctl::Getter::<OPCODE, std::ffi::c_int>::new();
        rustix::ioctl::ioctl(stream, request)
    };
    u64::try_from(unread.ok()?).ok()
}

/// Elsewhere it has other numbers, or is not there.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(crate) fn unread(_: &UnixStream) -> Option<u64> {
    None
}

/// One write of these pieces.
pub(crate) fn write(mut stream: &UnixStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    match pieces {
        [one] => stream.write(one),
        many => stream.write_vectored(many),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    const PIECE: [u8; 4096] = [7; 4096];

    async fn bounded<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), future)
            .await
            .unwrap()
    }

    fn pair() -> (IpcReader, IpcWriter, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (reader, writer) = split(tokio::net::UnixStream::from_std(ours).unwrap()).unwrap();
        (reader, writer, theirs)
    }

    /// Writes until the stream takes no more and gives how much it took.
    fn fill(writer: &UnixStream) -> usize {
        let mut filled = 0;
        loop {
            match write(writer, &[IoSlice::new(&PIECE)]) {
                Ok(written) => filled += written,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return filled;
                }
            }
        }
    }

    async fn read(reader: &mut IpcReader) -> usize {
        let mut buffer = [0; 16];
        bounded(poll_fn(|cx| reader.poll_read(cx, &mut buffer)))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_writer_waits_for_room_and_reading_goes_on_before_and_after() {
        let (mut reader, writer, mut theirs) = pair();
        for round in 0..3 {
            assert_eq!(reader.wants_care(), round > 0);
            if round > 0 {
                reader.take_care().unwrap();
            }
            assert!(matches!(reader.room, Room::Ignored));
            let mut filled = fill(&writer);
            let waiting = poll_fn(|cx| reader.poll_write(cx, || write(&writer, &[IoSlice::new(&PIECE)])));
            // What is sent meanwhile must not get lost when the registration changes.
            theirs.write_all(b"first").unwrap();
            let (written, mut theirs_again) = bounded(async {
                tokio::join!(waiting, async {
                    let mut stream = theirs.try_clone().unwrap();
                    tokio::task::spawn_blocking(move || {
                        stream.read_exact(&mut vec![0; filled]).unwrap();
                        stream
                    })
                    .await
                    .unwrap()
                })
            })
            .await;
            filled = written.unwrap();
            theirs_again.read_exact(&mut vec![0; filled]).unwrap();
            assert!(matches!(reader.room, Room::Watched { .. }));
            assert_eq!(read(&mut reader).await, 5);
            for _ in 0..READS {
                theirs.write_all(b"x").unwrap();
                assert_eq!(read(&mut reader).await, 1);
            }
        }
        drop(theirs);
        assert_eq!(read(&mut reader).await, 0, "the end of the stream");
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_end_and_no_further() {
        let (mut reader, _writer, mut theirs) = pair();
        theirs.write_all(b"bodynext").unwrap();
        for spare in [4, 100] {
            let mut body = Vec::with_capacity(spare);
            let mut limited = bytes::BufMut::limit(&mut body, 4);
            let read = bounded(poll_fn(|cx| reader.poll_read_body(cx, &mut limited))).await;
            assert_eq!(read.unwrap(), 4);
            assert_eq!(body, if spare == 4 { b"body" } else { b"next" });
        }
    }
}
