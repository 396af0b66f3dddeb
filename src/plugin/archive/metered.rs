//! Owns a reader with a budget. While an archive is opened, the library reads directory records for as long as
//! it finds some, however many the archive says that it has; the budget bounds that, and so the memory.

use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncSeek, ReadBuf};

/// How many bytes may still be read. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<AtomicU64>);

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// From now on everything may be read.
    pub(super) fn lift(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Reads from `inner` within a budget, and fails when it is spent. What is read again counts again.
pub(super) struct Metered<R> {
    inner: R,
    budget: Budget,
    position: u64,
    seeks: bool,
}

impl<R> Metered<R> {
    /// `inner` stands at its beginning.
    pub(super) fn new(inner: R, budget: Budget) -> Self {
        Self {
            inner,
            budget,
            position: 0,
            seeks: false,
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.position += bytes as u64;
        let left = self.budget.0.load(Ordering::Relaxed);
        let left = left.saturating_sub(bytes as u64);
        self.budget.0.store(left, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        if self.budget.is_spent() {
            return Err(io::Error::other("too much is read"));
        }
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.advance(buffer.filled().len() - before);
        polled
    }
}

impl<R: AsyncBufRead + Unpin> AsyncBufRead for Metered<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.check()?;
        Pin::new(&mut self.get_mut().inner).poll_fill_buf(context)
    }

    fn consume(mut self: Pin<&mut Self>, bytes: usize) {
        self.advance(bytes);
        Pin::new(&mut self.inner).consume(bytes);
    }
}

impl<R: AsyncSeek + Unpin> AsyncSeek for Metered<R> {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        // The library asks where it is after every record; to seek there would empty the buffer each time.
        self.seeks = position != SeekFrom::Current(0);
        if self.seeks {
            Pin::new(&mut self.inner).start_seek(position)?;
        }
        Ok(())
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        if self.seeks {
            self.position = ready!(Pin::new(&mut self.inner).poll_complete(context))?;
            self.seeks = false;
        }
        Poll::Ready(Ok(self.position))
    }
}
