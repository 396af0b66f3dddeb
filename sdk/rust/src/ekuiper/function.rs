//! Owns one running function: its channel and the decoding of its calls.

use std::sync::Arc;

use mangrove_protocol::address;
use mangrove_protocol::data::{FunctionCall, FunctionContext, FunctionReply};
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::SymbolName;
use sp_proto::Req;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::requester::{self, Answer, Timers};
use super::{StartError, Use, services};
use crate::context::Place;
use crate::erased::AnyFunction;
use crate::error::describe;
use crate::guard::{guard, guard_call};
use crate::metrics::Figures;
use crate::state::Memory;
use crate::{Context, Error, Options};

/// Opens the channel of a function; the returned use serves it.
pub(super) async fn start(
    function: Arc<dyn AnyFunction>,
    symbol: &SymbolName,
    memory: &Memory,
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
        memory: memory.clone(),
        figures: Figures::new(0, Arc::default()),
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
    memory: Memory,
    figures: Arc<Figures>,
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
                let context = self.context(&context);
                let span = context.span().clone();
                let call = Arc::clone(&self.function).call(args, context).instrument(span);
                FunctionReply::Result(guard(call).await??)
            }
        })
    }

    fn context(&self, call: &FunctionContext) -> Context {
        let place = Place::from(call);
        let services = services(&self.memory, &self.symbol, &place, Arc::clone(&self.figures));
        let stop = self.stop.clone();
        Context::new(SymbolKind::Function, self.symbol.as_str(), place, services, stop)
    }
}
