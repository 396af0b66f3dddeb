//! In a flood receivers read by themselves; nothing must get lost, come twice or wait when they stop or go away.
#![cfg(all(feature = "ipc", feature = "tcp"))]
#![allow(missing_docs)]

mod support;

use sp_proto::{Event, Message, Pull, Push, Rep, Req, SocketOptions};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use support::{Transport, bounded};

fn transports() -> [Transport; 3] {
    [Transport::ipc(), Transport::tcp(), Transport::inproc()]
}

async fn connect(transport: &Transport, options: SocketOptions) -> (Pull, Push) {
    let (pull, push) = (Pull::with_options(options), Push::new());
    let at = pull.listen(&transport.address).await.unwrap();
    push.dial(&at.address).await.unwrap();
    (pull, push)
}

/// Of all kinds of lengths: several in one read, one in several, and read straight into their buffers.
fn message(number: u32) -> Message {
    let length = [4, 900, 17_000, 16_384, 40_000, 100_000, 64, 0][number as usize % 8];
    let mut message = number.to_be_bytes().to_vec();
    message.resize(4 + length, number as u8);
    message.into()
}

async fn send_all(push: &Push, count: u32) {
    for number in 0..count {
        push.send(message(number)).await.unwrap();
    }
}

/// Receives in a future that is polled once and dropped, until one of those is ready at once.
async fn recv_impatiently(pull: &Pull) -> Message {
    loop {
        let mut recv = pin!(pull.recv());
        if let Poll::Ready(received) = poll_fn(|cx| Poll::Ready(recv.as_mut().poll(cx))).await {
            return received.unwrap();
        }
        tokio::task::yield_now().await;
    }
}

async fn come_once_and_in_order() {
    const COUNT: u32 = 1500;
    for transport in transports() {
        let (pull, push) = connect(&transport, SocketOptions::default()).await;
        let receive = async {
            for number in 0..COUNT {
                let received = match number % 3 {
                    0 => recv_impatiently(&pull).await,
                    _ => pull.recv().await.unwrap(),
                };
                assert!(
                    received == message(number),
                    "message {number} over {}",
                    transport.address
                );
            }
        };
        bounded(async { tokio::join!(send_all(&push, COUNT), receive) }).await;
        assert!(pull.try_recv().unwrap().is_none());
    }
}

#[tokio::test]
async fn messages_come_once_and_in_order_though_receivers_are_cancelled() {
    come_once_and_in_order().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_once_and_in_order_on_two_workers() {
    come_once_and_in_order().await;
}

#[tokio::test]
async fn a_pipe_is_read_on_and_its_end_noticed_while_its_receiver_is_not_polled() {
    const COUNT: u32 = 300;
    let wide = SocketOptions {
        recv_queue: usize::MAX,
        recv_queue_bytes: usize::MAX,
        ..Default::default()
    };
    for transport in transports() {
        let (pull, push) = connect(&transport, wide.clone()).await;
        let mut events = pull.events();
        // Receivers that come, for a while.
        bounded(async {
            tokio::join!(send_all(&push, COUNT), async {
                for number in 0..COUNT {
                    assert!(pull.recv().await.unwrap() == message(number));
                }
            })
        })
        .await;
        let mut stalled = pin!(pull.recv());
        assert!(
            poll_fn(|cx| Poll::Ready(stalled.as_mut().poll(cx)))
                .await
                .is_pending()
        );
        bounded(async {
            send_all(&push, COUNT).await;
            push.close().await;
            while !matches!(events.recv().await, Some(Event::PipeRemoved { .. })) {}
        })
        .await;
        assert!(stalled.await.unwrap() == message(0));
        for number in 1..COUNT {
            let received = pull.try_recv().unwrap();
            assert!(
                received == Some(message(number)),
                "message {number} over {}",
                transport.address
            );
        }
    }
}

#[tokio::test]
async fn what_a_few_contexts_ask_at_a_time_is_kept_with_the_options_that_sockets_have() {
    const CONTEXTS: usize = 8;
    const LENGTH: usize = 1024 * 1024;
    bounded(async {
        let (req, rep) = (Req::new(), Rep::new());
        let ipc = Transport::ipc();
        let at = rep.listen(&ipc.address).await.unwrap();
        req.dial(&at.address).await.unwrap();
        let mut contexts: Vec<_> = (0..CONTEXTS).map(|_| req.context()).collect();
        for context in &mut contexts {
            context.send(vec![0; LENGTH]).await.unwrap();
        }
        while rep.stats().received.messages < CONTEXTS as u64 {
            tokio::task::yield_now().await;
        }
        for _ in 0..CONTEXTS {
            let request = rep.try_recv().unwrap().unwrap();
            assert_eq!(request.body().len(), LENGTH);
        }
        assert_eq!(rep.stats().dropped, Default::default());
    })
    .await;
}
