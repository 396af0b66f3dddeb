//! Owns one running use of a sink: the pull socket that brings batches of results, the author's sink, and the
//! acknowledgements.

use std::time::Duration;

use mangrove_protocol::Object;
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::native::control::{Ack, ToHost};
use mangrove_protocol::native::sink::SinkBatch;
use serde_json::Value;
use serde_json::value::RawValue;
use sp_proto::{Pull, RecvError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::orders::End;
use super::using::{StartError, Use};
use crate::context::Place;
use crate::erased::{AnySink, OpenSink};
use crate::error::describe;
use crate::guard::guard;
use crate::{Context, Error, Message};

/// While more batches are there, an acknowledgement waits for those that come after it, but no longer than this.
const ACK_DELAY: Duration = Duration::from_millis(2);

/// The longest text of an error, in bytes.
const MAX_ERROR: usize = 1024;

/// What a sink is opened with.
pub(super) struct Opening {
    pub(super) open: OpenSink,
    pub(super) place: Place,
    pub(super) config: Object,
    pub(super) ack: bool,
}

/// Opens and runs it until it is stopped.
pub(super) async fn run(using: &Use, request: u64, opening: Opening) {
    let Opening {
        open,
        place,
        config,
        ack,
    } = opening;
    let cancellation = CancellationToken::new();
    let context = using.context(SymbolKind::Sink, place, None, None, cancellation.clone());
    let span = context.span().clone();
    let all = async {
        let start = async {
            let sink = guard(open(config, &context)).await??;
            let pull = Pull::with_options(using.socket.clone());
            pull.dial(&using.address)
                .await
                .map_err(|error| using.dial_error(error))?;
            Ok::<_, StartError>((sink, pull))
        };
        let Some((sink, pull)) = using.open(request, &cancellation, start).await else {
            return;
        };
        let mut taking = Taking {
            using,
            sink,
            context: &context,
            taken: 0,
            acks: ack.then_some(Acks::default()),
        };
        tokio::select! {
            biased;
            () = taking.take_all(&pull) => {}
            () = using.past_work(&cancellation) => tracing::warn!("the sink was dropped in the middle of a result"),
        }
        cancellation.cancel();
        taking.ack().await;
        pull.close().await;
        let closed = guard(taking.sink.close(&context))
            .await
            .map_err(Error::from)
            .flatten();
        match closed {
            Ok(()) => tracing::debug!("the sink has stopped"),
            Err(error) => using.report(describe(error.as_ref())).await,
        }
        using.answer_stop(Ok(Value::Null)).await;
    };
    all.instrument(span).await;
}

struct Taking<'a> {
    using: &'a Use,
    sink: Box<dyn AnySink>,
    context: &'a Context,
    /// The last batch.
    taken: u64,
    /// `None`: the host wants none.
    acks: Option<Acks>,
}

/// What is to be acknowledged.
#[derive(Default)]
struct Acks {
    /// Since when the oldest batch waits for it.
    since: Option<Instant>,
}

impl Taking<'_> {
    /// Takes batches until there is an order to end, and what the order says.
    async fn take_all(&mut self, pull: &Pull) {
        loop {
            let next = match self.using.orders.end() {
                Some(End::Broken) => return,
                Some(_) if self.context.is_cancelled() => return,
                Some(End::Drained(Some(last))) if self.taken >= last => return,
                _ => pull.try_recv(),
            };
            let message = match next {
                Ok(Some(message)) => Ok(message),
                Ok(None) => {
                    self.ack().await;
                    match self.using.orders.end() {
                        Some(End::Drained(None)) => return,
                        Some(_) => tokio::select! {
                            message = pull.recv() => message,
                            () = self.context.cancelled() => return,
                        },
                        None => tokio::select! {
                            message = pull.recv() => message,
                            () = self.using.orders.given() => continue,
                        },
                    }
                }
                Err(error) => Err(error),
            };
            match message {
                Ok(message) => self.take(message).await,
                Err(RecvError::TimedOut) => {}
                Err(_) => return,
            }
        }
    }

    async fn take(&mut self, message: sp_proto::Message) {
        let bytes = message.into_bytes();
        let SinkBatch { seq, results } = match SinkBatch::<&RawValue>::decode(&bytes) {
            Ok(batch) => batch,
            Err(error) => return self.using.report(error).await,
        };
        if seq != self.taken + 1 {
            let expected = self.taken + 1;
            self.using
                .report(format!("the batch has \"seq\" {seq}; expected {expected}"))
                .await;
        }
        let mut errors = Vec::new();
        for (index, result) in (0_u32..).zip(results) {
            if self.context.is_cancelled() {
                // The rest of the batch is not taken, and so not acknowledged.
                return;
            }
            let message = Message::from(bytes.slice_ref(result.get().as_bytes()));
            let collected = guard(self.sink.collect(message, self.context)).await;
            if let Err(error) = collected.map_err(Error::from).flatten() {
                errors.push((index, text(error.as_ref())));
            }
        }
        self.taken = seq;
        self.taken(errors).await;
    }

    async fn taken(&mut self, errors: Vec<(u32, String)>) {
        let Some(acks) = &mut self.acks else {
            for (_, error) in errors {
                self.using.report(error).await;
            }
            return;
        };
        let since = *acks.since.get_or_insert_with(Instant::now);
        if !errors.is_empty() {
            acks.since = None;
            self.send_ack(errors).await;
        } else if since.elapsed() >= ACK_DELAY {
            self.ack().await;
        }
    }

    /// Acknowledges what is taken and not yet acknowledged.
    async fn ack(&mut self) {
        let waiting = self.acks.as_mut().and_then(|acks| acks.since.take());
        if waiting.is_some() {
            self.send_ack(Vec::new()).await;
        }
    }

    async fn send_ack(&mut self, errors: Vec<(u32, String)>) {
        let ack = Ack {
            number: self.using.number,
            seq: self.taken,
            errors,
        };
        self.using.link.send(&ToHost::Ack(ack)).await;
    }
}

fn text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = describe(error);
    text.truncate(text.floor_char_boundary(MAX_ERROR));
    text
}
