//! Raw sockets and devices. The near side of each device is on the transport under test, the far side on tcp.

use crate::support::{Transport, pipe_added, pipe_removed};
use sp_proto::{
    Bus, DeviceError, Endpoint, Message, Pair1, Protocol, Pub, Pull, Push, Raw, RawMessage, RecvError, Rep,
    Req, Respondent, SendErrorKind, SocketOptions, Sub, Surveyor, device,
};
use std::time::Duration;

/// Runs `work` while a device forwards between the two.
async fn during<T>(left: &Raw, right: &Raw, work: impl Future<Output = T>) -> T {
    tokio::select! {
        end = device(left, right) => panic!("the device ended: {end:?}"),
        result = work => result,
    }
}

async fn sides(transport: &Transport, near: Protocol) -> (Raw, Endpoint, Raw, Endpoint) {
    let (near, far) = (
        Raw::with_options(near, transport.options()),
        Raw::new(near.peer()),
    );
    let near_at = near.listen(&transport.address).await.unwrap();
    let far_at = far.listen(&Transport::tcp().address).await.unwrap();
    (near, near_at, far, far_at)
}

pub(crate) async fn requests(transport: &Transport) {
    let (near, near_at, far, far_at) = sides(transport, Protocol::Rep).await;
    let (req, rep) = (
        Req::with_options(transport.options()),
        Rep::with_options(transport.options()),
    );
    req.dial(&near_at.address).await.unwrap();
    rep.dial(&far_at.address).await.unwrap();
    let conversation = async {
        for round in 0..20 {
            let answer = async {
                let request = rep.recv().await.unwrap();
                let reply = format!("re: {}", str::from_utf8(request.body()).unwrap());
                request.reply(reply).await.unwrap();
            };
            let (reply, ()) = tokio::join!(req.request(format!("{round}")), answer);
            assert_eq!(reply.unwrap(), format!("re: {round}").into());
        }
    };
    // A device that is gone can be replaced: the sockets live on.
    during(&near, &far, conversation).await;
    let again = async {
        let (reply, ()) = tokio::join!(req.request("again"), async {
            rep.recv().await.unwrap().reply("yes").await.unwrap();
        });
        assert_eq!(&reply.unwrap()[..], b"yes");
    };
    during(&far, &near, again).await;
}

pub(crate) async fn surveys(transport: &Transport) {
    let (near, near_at, far, far_at) = sides(transport, Protocol::Respondent).await;
    let surveyor = Surveyor::with_options(SocketOptions {
        survey_time: Duration::from_secs(600),
        ..transport.options()
    });
    let mut joined = far.events();
    surveyor.dial(&near_at.address).await.unwrap();
    let respondents = [
        Respondent::with_options(transport.options()),
        Respondent::with_options(transport.options()),
    ];
    for respondent in &respondents {
        respondent.dial(&far_at.address).await.unwrap();
        pipe_added(&mut joined).await;
    }
    let work = async {
        let mut survey = surveyor.survey("?").await.unwrap();
        for respondent in &respondents {
            respondent.recv().await.unwrap().reply("!").await.unwrap();
        }
        for _ in &respondents {
            assert_eq!(&survey.recv().await.unwrap()[..], b"!");
        }
    };
    during(&near, &far, work).await;
}

pub(crate) async fn one_way(transport: &Transport) {
    let (near, near_at, far, far_at) = sides(transport, Protocol::Pull).await;
    let (push, pull) = (
        Push::with_options(transport.options()),
        Pull::with_options(transport.options()),
    );
    push.dial(&near_at.address).await.unwrap();
    pull.dial(&far_at.address).await.unwrap();
    let work = async {
        for number in 0..1000_u32 {
            push.send(number.to_be_bytes().to_vec()).await.unwrap();
        }
    };
    let collect = async {
        for number in 0..1000_u32 {
            assert_eq!(pull.recv().await.unwrap()[..], number.to_be_bytes());
        }
    };
    during(&near, &far, async { tokio::join!(work, collect) }).await;
    near.close().await;

    let (near, near_at, far, far_at) = sides(transport, Protocol::Sub).await;
    let (publisher, sub) = (
        Pub::with_options(transport.options()),
        Sub::with_options(transport.options()),
    );
    sub.subscribe("wanted");
    let (mut joined, mut seen) = (publisher.events(), far.events());
    publisher.dial(&near_at.address).await.unwrap();
    pipe_added(&mut joined).await;
    sub.dial(&far_at.address).await.unwrap();
    pipe_added(&mut seen).await;
    let work = async {
        publisher.send("unwanted").await.unwrap();
        publisher.send("wanted").await.unwrap();
        assert_eq!(&sub.recv().await.unwrap()[..], b"wanted");
    };
    during(&far, &near, work).await;
}

pub(crate) async fn pairs(transport: &Transport) {
    let (near, near_at, far, far_at) = sides(transport, Protocol::Pair1).await;
    let strict = SocketOptions {
        ttl: 1,
        ..transport.options()
    };
    let (left, right) = (
        Pair1::with_options(transport.options()),
        Pair1::with_options(strict),
    );
    left.dial(&near_at.address).await.unwrap();
    right.dial(&far_at.address).await.unwrap();
    let work = async {
        right.send("to the left").await.unwrap();
        assert_eq!(&left.recv().await.unwrap()[..], b"to the left");
        left.send("to the right").await.unwrap();
        let dropped = async {
            while right.stats().dropped.too_many_hops == 0 {
                tokio::task::yield_now().await;
            }
        };
        dropped.await;
        assert_eq!(right.try_recv(), Ok(None), "a device was one hop too many");
    };
    during(&near, &far, work).await;
}

pub(crate) async fn reflector(transport: &Transport) {
    let hub = Raw::with_options(Protocol::Bus, transport.options());
    let mut joined = hub.events();
    let at = hub.listen(&transport.address).await.unwrap();
    let buses = [
        Bus::with_options(transport.options()),
        Bus::with_options(transport.options()),
        Bus::with_options(transport.options()),
    ];
    for bus in &buses {
        bus.dial(&at.address).await.unwrap();
        pipe_added(&mut joined).await;
    }
    let work = async {
        for (speaker, bus) in buses.iter().enumerate() {
            bus.send(vec![speaker as u8]).await.unwrap();
            for (listener, bus) in buses.iter().enumerate() {
                if listener != speaker {
                    assert_eq!(bus.recv().await.unwrap()[..], [speaker as u8]);
                }
            }
        }
        for bus in &buses {
            assert_eq!(bus.try_recv(), Ok(None), "never back to the sender");
        }
    };
    during(&hub, &hub.clone(), work).await;
}

/// A device that is dropped and replaced over and over doubles nothing, keeps the order, and loses one
/// message per drop at most.
pub(crate) async fn cancelled_devices(transport: &Transport) {
    const COUNT: u32 = 500;
    let (near, near_at, far, far_at) = sides(transport, Protocol::Pull).await;
    let (push, pull) = (
        Push::with_options(transport.options()),
        Pull::with_options(transport.options()),
    );
    push.dial(&near_at.address).await.unwrap();
    pull.dial(&far_at.address).await.unwrap();
    let send = async {
        for number in 0..COUNT {
            push.send(number.to_be_bytes().to_vec()).await.unwrap();
        }
        loop {
            // Any one of these may be lost.
            push.send(u32::MAX.to_be_bytes().to_vec()).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let collect = async {
        let (mut got, mut dropped) = (Vec::new(), 0);
        loop {
            tokio::select! {
                biased;
                end = device(&near, &far) => panic!("the device ended: {end:?}"),
                message = pull.recv() => {
                    let number = u32::from_be_bytes(message.unwrap()[..].try_into().unwrap());
                    if number == u32::MAX {
                        return (got, dropped);
                    }
                    got.push(number);
                }
                () = tokio::task::yield_now() => {}
            }
            dropped += 1;
        }
    };
    let (got, dropped): (Vec<u32>, usize) = tokio::select! {
        () = send => unreachable!("it sends for ever"),
        collected = collect => collected,
    };
    assert!(got.is_sorted_by(|before, after| before < after), "{got:?}");
    assert!(got.len() + dropped >= COUNT as usize);
}

pub(crate) async fn not_forwarded(transport: &Transport) {
    let near = Raw::with_options(Protocol::Pull, transport.options());
    let far = Raw::with_options(
        Protocol::Push,
        SocketOptions {
            send_timeout: Some(Duration::from_millis(1)),
            ..transport.options()
        },
    );
    let at = near.listen(&transport.address).await.unwrap();
    let push = Push::with_options(transport.options());
    push.dial(&at.address).await.unwrap();
    let work = async {
        for dropped in 1..4 {
            push.send("for nobody").await.unwrap();
            while far.stats().dropped.not_forwarded < dropped {
                tokio::task::yield_now().await;
            }
        }
    };
    during(&near, &far, work).await;
    assert_eq!(far.stats().dropped.not_forwarded, 3);
    assert_eq!(near.stats().dropped, Default::default());
}

pub(crate) async fn ends(transport: &Transport) {
    let (near, _, far, _) = sides(transport, Protocol::Rep).await;
    assert_eq!(
        device(&near, &near.clone()).await,
        Err(DeviceError::Mismatch {
            left: Protocol::Rep,
            right: Protocol::Rep,
            expected: Protocol::Req,
        })
    );
    let error = device(&near, &Raw::with_options(Protocol::Pull, transport.options()))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a device of rep and pull: with rep the other side must be req"
    );
    let (end, ()) = tokio::join!(device(&near, &far), far.close());
    assert_eq!(end, Ok(()), "a closed socket ends its device");
}

pub(crate) async fn headers(transport: &Transport) {
    let raw = Raw::with_options(Protocol::Rep, transport.options());
    let mut events = raw.events();
    let at = raw.listen(&transport.address).await.unwrap();
    let req = Req::with_options(transport.options());
    req.dial(&at.address).await.unwrap();
    let mut context = req.context();
    context.send("?").await.unwrap();
    let message = raw.recv().await.unwrap();
    assert_eq!((message.header.len(), &message.body[..]), (8, &b"?"[..]));
    let wrong = RawMessage {
        header: vec![1, 2, 3].into(),
        body: "!".into(),
    };
    let error = raw.send(wrong.clone()).await.unwrap_err();
    assert_eq!((error.kind, error.message), (SendErrorKind::Header, wrong));
    raw.send(RawMessage {
        header: message.header.clone(),
        body: "!".into(),
    })
    .await
    .unwrap();
    assert_eq!(context.recv().await.unwrap(), Message::from("!"));
    req.close().await;
    pipe_removed(&mut events).await;
    raw.send(message).await.unwrap();
    assert_eq!(raw.stats().dropped.peer_gone, 1);

    let pull = Raw::with_options(Protocol::Pull, transport.options());
    let error = pull.try_send(RawMessage::default()).unwrap_err();
    assert_eq!(error.kind, SendErrorKind::ReceiveOnly);
    assert_eq!(
        Raw::with_options(Protocol::Pub, transport.options()).recv().await,
        Err(RecvError::SendOnly)
    );
    let (received, ()) = tokio::join!(raw.recv(), raw.close());
    assert_eq!(received, Err(RecvError::Closed));
}
