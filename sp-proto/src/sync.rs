//! What threads share: the lock around a socket's state and the channels of inproc pipes. The standard
//! library's and tokio's; in a build for the models (`engine/model.rs`) loom's, or watched by loom, so that
//! its threads meet at each of them in every order.

#[cfg(not(all(test, sp_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard};
#[cfg(not(all(test, sp_loom)))]
pub(crate) use tokio::sync::mpsc;
#[cfg(not(all(test, sp_loom)))]
pub(crate) use tokio_util::sync::PollSender;

#[cfg(all(test, sp_loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(all(test, sp_loom))]
pub(crate) use watched::{PollSender, mpsc};

/// Tokio's channels. Loom cannot look into them, so each operation is announced to it as one step.
#[cfg(all(test, sp_loom))]
mod watched {
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};
    use tokio_util::sync::PollSendError;

    loom::lazy_static! {
        static ref STEPS: AtomicUsize = AtomicUsize::new(0);
    }

    /// Another thread may run before the caller's next step, and loom learns that their order matters.
    fn step() {
        STEPS.fetch_add(1, Ordering::SeqCst);
    }

    #[derive(Debug)]
    pub(crate) struct PollSender<T>(tokio_util::sync::PollSender<T>);

    impl<T: Send> PollSender<T> {
        pub(crate) fn new(sender: mpsc::Sender<T>) -> Self {
            Self(tokio_util::sync::PollSender::new(sender.0))
        }

        pub(crate) fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PollSendError<T>>> {
            step();
            self.0.poll_reserve(cx)
        }

        pub(crate) fn send_item(&mut self, item: T) -> Result<(), PollSendError<T>> {
            step();
            self.0.send_item(item)
        }
    }

    pub(crate) mod mpsc {
        use crate::sync::watched::step;
        use std::task::{Context, Poll};
        pub(crate) use tokio::sync::mpsc::error;
        use tokio::sync::mpsc::{self, Permit};

        #[derive(Debug)]
        pub(crate) struct Sender<T>(pub(super) mpsc::Sender<T>);

        #[derive(Debug)]
        pub(crate) struct Receiver<T>(mpsc::Receiver<T>);

        pub(crate) fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
            let (sender, receiver) = mpsc::channel(capacity);
            (Sender(sender), Receiver(receiver))
        }

        impl<T> Clone for Sender<T> {
            fn clone(&self) -> Self {
                Self(self.0.clone())
            }
        }

        impl<T> Sender<T> {
            pub(crate) fn try_reserve(&self) -> Result<Permit<'_, T>, error::TrySendError<()>> {
                step();
                self.0.try_reserve()
            }

            pub(crate) async fn send(&self, item: T) -> Result<(), error::SendError<T>> {
                step();
                self.0.send(item).await
            }
        }

        impl<T> Receiver<T> {
            pub(crate) async fn recv(&mut self) -> Option<T> {
                step();
                self.0.recv().await
            }

            pub(crate) fn poll_recv_many(
                &mut self,
                cx: &mut Context<'_>,
                items: &mut Vec<T>,
                limit: usize,
            ) -> Poll<usize> {
                step();
                self.0.poll_recv_many(cx, items, limit)
            }
        }
    }
}
