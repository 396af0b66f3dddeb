//! Owns one running use of a source: the author's future, and the push socket that carries its batches to the host.
//!
//! Both run in one task: whatever the author's code has sent until it waits goes out together.

use mangrove_protocol::Object;
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::native::control::Stopped;
use serde_json::{Value, json};
use sp_proto::Push;
use tokio::task::coop;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::using::{StartError, Use};
use crate::context::Place;
use crate::erased::{AnySource, OpenSource};
use crate::error::describe;
use crate::guard::guard;
use crate::output::{Bounds, Framing, Messages};
use crate::{Context, Error, Output, Result};

/// Messages in a row after which the author's code has its turn, also when others keep sending for it.
const RUN: u32 = 16;

/// What a source is opened with.
pub(super) struct Opening {
    pub(super) open: OpenSource,
    pub(super) place: Place,
    pub(super) data_source: String,
    pub(super) config: Object,
    pub(super) offset: Option<Value>,
}

/// Opens and runs it until it is stopped.
pub(super) async fn run(using: &Use, request: u64, opening: Opening) {
    let Opening {
        open,
        place,
        data_source,
        config,
        offset,
    } = opening;
    let cancellation = CancellationToken::new();
    let context = using.context(SymbolKind::Source, place, None, offset, cancellation.clone());
    let span = context.span().clone();
    let all = async {
        let start = async {
            let source = guard(open(data_source, config, &context)).await??;
            let push = Push::with_options(using.socket.clone());
            push.dial(&using.address)
                .await
                .map_err(|error| using.dial_error(error))?;
            Ok::<_, StartError>((source, push))
        };
        if let Some((source, push)) = using.open(request, &cancellation, start).await {
            produce(using, source, &push, context, &cancellation).await;
            push.close().await;
        }
    };
    all.instrument(span).await;
}

async fn produce(
    using: &Use,
    source: Box<dyn AnySource>,
    push: &Push,
    context: Context,
    cancellation: &CancellationToken,
) {
    let bounds = Bounds {
        tuples: using.options.source_queue,
        message: using.limits.message,
    };
    let (output, messages) = Output::channel(Framing::Batches(using.limits.batch), bounds);
    let author = async {
        let result = tokio::select! {
            biased;
            result = guard(source.run(output, context)) => result.map_err(Error::from).flatten(),
            () = using.past_grace(cancellation) => Err("it did not stop in time and was dropped".into()),
        };
        // It may have given its output to somebody else who still holds it.
        messages.close();
        if using.orders.end().is_some() {
            // The host reads until it has the last batch, which may need its reading to go out.
            answer(using, messages.last_seq()).await;
        }
        result
    };
    // What is queued is bounded, and to be sent even if the author's code has used up the task's budget.
    let carrier = coop::unconstrained(carry(&messages, push, using));
    let (result, ()) = tokio::join!(author, carrier);
    if using.orders.end().is_some() {
        ended(&result, true);
        return;
    }
    ended(&result, false);
    let error = result.err().map(|error| describe(error.as_ref()));
    deliver(messages.end(error.as_deref()), push, using).await;
    using.tell_figures().await;
    // The host asks for the end of this use as of every other.
    using.orders.given().await;
    answer(using, messages.last_seq()).await;
}

fn ended(result: &Result, was_asked: bool) {
    match result {
        Ok(()) => tracing::debug!("the source has ended"),
        // A source that is stopped in the middle of something says so; that is no failure.
        Err(error) if was_asked => {
            tracing::debug!(error = describe(error.as_ref()), "the source has stopped")
        }
        Err(_) => {}
    }
}

async fn answer(using: &Use, seq: u64) {
    let Stopped { seq } = Stopped { seq };
    using.answer_stop(Ok(json!({ "seq": seq }))).await;
}

/// Carries messages to the host until the output is closed and empty, or the channel is.
async fn carry(messages: &Messages, push: &Push, using: &Use) {
    let mut run = 0;
    while let Some(message) = messages.next().await {
        if !deliver(message, push, using).await {
            messages.close();
            return;
        }
        run += 1;
        if run == RUN {
            run = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Hands a message to the channel; false: it takes nothing any more.
async fn deliver(message: Vec<u8>, push: &Push, using: &Use) -> bool {
    tokio::select! {
        biased;
        sent = push.send(message) => sent.is_ok(),
        () = abandoned(push, using) => false,
    }
}

/// Completes when the source has to stop and nobody is there to take what it has sent.
async fn abandoned(push: &Push, using: &Use) {
    using.orders.given().await;
    let mut events = push.events();
    while !push.pipes().is_empty() && events.recv().await.is_some() {}
}
