//! Owns one running use of a source: the author's future, the queue behind its [`Output`] and the push socket
//! that carries it to the host.

use mangrove_protocol::Object;
use mangrove_protocol::address;
use mangrove_protocol::control::Meta;
use mangrove_protocol::data::SourceMessage;
use sp_proto::Push;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{StartError, Use};
use crate::erased::{AnySource, OpenSource};
use crate::error::describe;
use crate::guard::guard;
use crate::output::{Bounds, Framing, Messages};
use crate::{Context, Error, Options, Output};

/// Opens a source and its channel; the returned use runs it.
pub(super) async fn start(
    open: OpenSource,
    meta: &Meta,
    data_source: String,
    config: Object,
    options: &Options,
    stop: CancellationToken,
    context: Context,
) -> Result<Use, StartError> {
    let (rule, op) = super::whose(meta)?;
    let address = address::data(rule, op, meta.instance_id)?;
    let opening = open(data_source, config, &context).instrument(context.span().clone());
    let source = guard(opening).await??;
    let push = Push::with_options(options.socket());
    push.dial(&address)
        .await
        .map_err(|source| StartError::Dial { address, source })?;
    let bounds = Bounds {
        tuples: options.source_queue,
        message: 0,
    };
    let span = context.span().clone();
    Ok(Use::spawn(
        stop,
        run(source, push, bounds, context).instrument(span),
    ))
}

async fn run(source: Box<dyn AnySource>, push: Push, bounds: Bounds, context: Context) {
    tracing::info!("source started");
    let (output, messages) = Output::channel(Framing::Single, bounds);
    let ended = CancellationToken::new();
    let author = async {
        let result = guard(source.run(output, context.clone())).await;
        ended.cancel();
        result.map_err(Error::from).flatten()
    };
    let (result, ()) = tokio::join!(author, pump(messages, &push, &ended, &context));
    match result {
        Ok(()) => tracing::info!("source ended"),
        // A source that is stopped in the middle of something says so; that is no failure.
        Err(error) if context.is_cancelled() => {
            tracing::debug!(error = describe(error.as_ref()), "source stopped");
        }
        Err(error) => {
            let text = describe(error.as_ref());
            tracing::error!(error = text, "source failed");
            deliver(SourceMessage::Error(text).encode(), &push, &context).await;
        }
    }
    push.close().await;
}

/// Carries messages to the host until the source has `ended` and what it had sent is on its way. A source may
/// have given its output to somebody else who still holds it: the queue is closed then.
async fn pump(messages: Messages, push: &Push, ended: &CancellationToken, context: &Context) {
    loop {
        let message = tokio::select! {
            biased;
            message = messages.next() => message,
            () = ended.cancelled() => {
                messages.close();
                messages.next().await
            }
        };
        let Some(message) = message else { return };
        if !deliver(message, push, context).await {
            return;
        }
    }
}

/// Hands a message to the channel; false: it takes nothing any more.
async fn deliver(message: Vec<u8>, push: &Push, context: &Context) -> bool {
    tokio::select! {
        sent = push.send(message) => match sent {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the source's channel is closed");
                false
            }
        },
        () = abandoned(push, context) => false,
    }
}

/// Completes when the source has to stop and nobody is there to take what it has sent. Without this a host that
/// closes the channel before it asks for the stop would wait for the whole grace.
async fn abandoned(push: &Push, context: &Context) {
    context.cancelled().await;
    let mut events = push.events();
    while !push.pipes().is_empty() && events.recv().await.is_some() {}
}
