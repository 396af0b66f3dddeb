//! Dialers whose target comes and goes.
#![allow(missing_docs)]

mod support;

use sp_proto::{Event, Pull, Push, SocketOptions};
use std::time::Duration;
use support::{Transport, bounded, descriptors, event, pipe_added, pipe_removed, resident};

fn eager(transport: &Transport) -> SocketOptions {
    SocketOptions {
        reconnect_min: Duration::from_millis(1),
        reconnect_max: Duration::from_millis(1),
        ..transport.options()
    }
}

/// The target comes and goes this often; a tenth of it before the first measurement.
const TIMES: usize = 1000;

async fn comes_and_goes(transport: &Transport) {
    let push = Push::with_options(eager(transport));
    let mut events = push.events();
    let mut address = transport.address.clone();
    let mut before = None;
    for time in 0..TIMES {
        let pull = Pull::with_options(transport.options());
        address = pull.listen(&address).await.unwrap().address;
        if time == 0 {
            push.dial(&address).await.unwrap();
        }
        pipe_added(&mut events).await;
        push.send(time.to_string()).await.unwrap();
        assert_eq!(&pull.recv().await.unwrap()[..], time.to_string().as_bytes());
        pull.close().await;
        pipe_removed(&mut events).await;
        if time == TIMES / 10 {
            before = Some((descriptors(), resident()));
        }
    }
    let (open, memory) = before.unwrap();
    assert!(
        descriptors() <= open + 8,
        "{} descriptors are open, {open} were",
        descriptors()
    );
    let grown = resident().saturating_sub(memory);
    assert!(grown < 4 << 20, "memory grew by {grown} bytes");
    assert!(push.pipes().is_empty());
}

/// One test, because they measure their process.
#[tokio::test]
async fn a_target_that_comes_and_goes_costs_nothing_in_the_end() {
    let transports = [
        Transport::ipc(),
        Transport::tcp(),
        #[cfg(feature = "tls")]
        Transport::tls(),
        #[cfg(feature = "ws")]
        Transport::ws(),
    ];
    for transport in &transports {
        bounded(comes_and_goes(transport)).await;
    }
    a_dialer_gives_up_when_it_may_not_go_on().await;
}

async fn a_dialer_gives_up_when_it_may_not_go_on() {
    bounded(async {
        let at = Transport::ipc();
        let push = Push::with_options(SocketOptions {
            reconnect_attempts: Some(3),
            ..eager(&at)
        });
        let mut events = push.events();
        let pull = Pull::new();
        pull.listen(&at.address).await.unwrap();
        let endpoint = push.dial(&at.address).await.unwrap();
        pipe_added(&mut events).await;
        pull.close().await;
        let mut failed = 0;
        let gave_up = event(&mut events, |event| match event {
            Event::DialFailed { .. } => {
                failed += 1;
                None
            }
            Event::DialerGaveUp { endpoint, reason } => Some((endpoint, reason)),
            _ => None,
        });
        let (gave_up, reason) = gave_up.await;
        assert_eq!(gave_up, endpoint.id);
        assert!(reason.contains("cannot connect"), "{reason}");
        assert_eq!(failed, 2, "the third failure is the last");
        push.close_endpoint(endpoint.id).await;
        let pull = Pull::new();
        pull.listen(&at.address).await.unwrap();
        push.dial(&at.address).await.unwrap();
    })
    .await;
}
