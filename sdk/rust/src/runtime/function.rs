//! Owns one running function: its channel and the decoding of its calls.

use std::sync::Arc;

use mangrove_protocol::address;
use mangrove_protocol::data::{FunctionCall, FunctionReply};
use mangrove_protocol::name::SymbolName;
use sp_proto::Req;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::guard::{guard, guard_call};
use super::requester::{self, Answer, Timers};
use super::{StartError, Use};
use crate::erased::AnyFunction;
use crate::error::describe;
use crate::{Context, Error, Options};

/// Opens the channel of a function; the returned use serves it.
pub(super) async fn start(
    function: Arc<dyn AnyFunction>,
    symbol: &SymbolName,
    options: &Options,
    stop: CancellationToken,
) -> Result<Use, StartError> {
    let address = address::function(symbol)?;
    let socket = Req::with_options(options.answering_socket());
    socket
        .dial(&address)
        .await
        .map_err(|source| StartError::Dial { address, source })?;
    // The process ends with its control channel; a function outlives a gap of any length.
    let timers = Timers {
        keep_alive: options.keep_alive,
        host_timeout: None,
    };
    let mut calls = Calls {
        function,
        symbol: symbol.clone(),
        stop: stop.clone(),
    };
    Ok(Use::spawn(stop.clone(), async move {
        requester::serve(&socket, timers, &stop, &mut calls).await;
        socket.close().await;
    }))
}

struct Calls {
    function: Arc<dyn AnyFunction>,
    symbol: SymbolName,
    stop: CancellationToken,
}

impl Answer for Calls {
    async fn answer(&mut self, message: &[u8]) -> Vec<u8> {
        self.reply(message)
            .await
            .unwrap_or_else(|error| FunctionReply::Error(describe(error.as_ref())))
            .encode()
    }
}

impl Calls {
    async fn reply(&self, message: &[u8]) -> Result<FunctionReply, Error> {
        Ok(match FunctionCall::decode(message)? {
            FunctionCall::Validate(args) => {
                guard_call(|| self.function.validate(&args))??;
                FunctionReply::Result("".into())
            }
            FunctionCall::IsAggregate => {
                FunctionReply::Result(guard_call(|| self.function.is_aggregate())?.into())
            }
            FunctionCall::Exec { args, context } => {
                let context = Context::of_call(self.symbol.as_str(), &context, self.stop.clone());
                let call = self
                    .function
                    .exec(args, &context)
                    .instrument(context.span().clone());
                FunctionReply::Result(guard(call).await??)
            }
        })
    }
}
