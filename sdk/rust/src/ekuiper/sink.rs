//! Owns one running use of a sink: the pull socket that the host dials, the author's sink, and the push socket for
//! its acknowledgements.

use std::time::Duration;

use mangrove_protocol::control::Meta;
use mangrove_protocol::data::encode_ack;
use mangrove_protocol::{Object, address};
use serde_json::Value;
use sp_proto::{ListenError, Pull, Push};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{StartError, Use};
use crate::erased::{AnySink, OpenSink};
use crate::error::describe;
use crate::guard::guard;
use crate::{Context, Error, Message, Options};

/// How often an address that somebody still holds is tried, and how long apart: a sink that was just stopped, in
/// this process or in the one before it, may not have let go of it yet.
const LISTEN_TRIES: u32 = 40;
const LISTEN_PAUSE: Duration = Duration::from_millis(50);

/// Opens a sink and its channels; the returned use runs it.
pub(super) async fn start(
    open: OpenSink,
    meta: &Meta,
    config: Object,
    options: &Options,
    stop: CancellationToken,
    context: Context,
) -> Result<Use, StartError> {
    let (rule, op) = super::whose(meta)?;
    let data_address = address::data(rule, op, meta.instance_id)?;
    let ack_address = address::acknowledgements(rule, op, meta.instance_id)?;
    let require_ack = config.get("requireAck").and_then(Value::as_bool).unwrap_or(false);
    let opening = open(config, &context).instrument(context.span().clone());
    let sink = guard(opening).await??;
    let pull = Pull::with_options(options.socket());
    listen(&pull, &data_address).await?;
    let push = Push::with_options(options.answering_socket());
    if require_ack {
        push.dial(&ack_address).await.map_err(|source| StartError::Dial {
            address: ack_address,
            source,
        })?;
    } else {
        // Nobody need listen there.
        push.dial_in_background(&ack_address)
            .map_err(|source| StartError::Dial {
                address: ack_address,
                source: source.into(),
            })?;
    }
    let span = context.span().clone();
    let acks = Acks { push, require_ack };
    Ok(Use::spawn(stop, run(sink, pull, acks, context).instrument(span)))
}

async fn listen(pull: &Pull, address: &str) -> Result<(), StartError> {
    let mut tries = 1;
    loop {
        match pull.listen(address).await {
            Ok(_) => return Ok(()),
            Err(ListenError::InUse { .. }) if tries < LISTEN_TRIES => {
                tries += 1;
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
            Err(source) => {
                return Err(StartError::Listen {
                    address: address.to_owned(),
                    source,
                });
            }
        }
    }
}

async fn run(mut sink: Box<dyn AnySink>, pull: Pull, acks: Acks, context: Context) {
    tracing::info!("sink started");
    loop {
        let message = tokio::select! {
            biased;
            () = context.cancelled() => break,
            message = pull.recv() => message,
        };
        match message {
            Ok(message) => collect(sink.as_mut(), message, &acks, &context).await,
            Err(error) => {
                tracing::warn!(%error, "the sink's channel ended");
                break;
            }
        }
    }
    // What the host has handed over before it asked the sink to stop is still to be taken.
    while let Ok(Some(message)) = pull.try_recv() {
        collect(sink.as_mut(), message, &acks, &context).await;
    }
    pull.close().await;
    let closed = guard(sink.close(&context)).await.map_err(Error::from).flatten();
    match closed {
        Ok(()) => tracing::info!("sink stopped"),
        Err(error) => tracing::error!(error = describe(error.as_ref()), "closing the sink failed"),
    }
    acks.push.close().await;
}

async fn collect(sink: &mut dyn AnySink, message: sp_proto::Message, acks: &Acks, context: &Context) {
    let message = Message::from(message.into_bytes());
    let result = guard(sink.collect(message, context))
        .await
        .map_err(Error::from)
        .flatten();
    let ack = result.map_err(|error| {
        let text = describe(error.as_ref());
        tracing::error!(error = text, "the sink did not take a message");
        // An empty text would read as success.
        if text.is_empty() {
            "error without a text".to_owned()
        } else {
            text
        }
    });
    acks.send(&encode_ack(&ack)).await;
}

struct Acks {
    push: Push,
    require_ack: bool,
}

impl Acks {
    /// A host that wants no acknowledgements may not read them either: then they must not hold up the sink.
    async fn send(&self, ack: &[u8]) {
        let sent = if self.require_ack {
            self.push.send(ack.to_vec()).await
        } else {
            self.push.try_send(ack.to_vec())
        };
        if let (Err(error), true) = (sent, self.require_ack) {
            tracing::warn!(%error, "the host did not take an acknowledgement");
        }
    }
}
