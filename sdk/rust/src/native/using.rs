//! Owns what the uses of all kinds have in common: who they are, the way to the host, how they open and end.

use std::sync::Arc;

use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::{RuleId, SymbolName};
use mangrove_protocol::native::UseNumber;
use mangrove_protocol::native::address::resolve;
use mangrove_protocol::native::control::{ErrorNote, ToHost};
use mangrove_protocol::native::opening::Limits;
use serde_json::Value;
use sp_proto::{DialError, SocketOptions};
use tokio_util::sync::CancellationToken;

use super::link::{HostStore, Link};
use super::orders::Orders;
use crate::context::{Place, Services};
use crate::error::describe;
use crate::guard::Panicked;
use crate::log::Origin;
use crate::metrics::{Figures, Metrics};
use crate::state::State;
use crate::{Context, Error, Options};

/// One use of a symbol; a function has one for all rules.
pub(super) struct Use {
    pub(super) number: UseNumber,
    pub(super) symbol: SymbolName,
    pub(super) link: Arc<Link>,
    pub(super) orders: Arc<Orders>,
    pub(super) figures: Arc<Figures>,
    pub(super) limits: Limits,
    pub(super) options: Arc<Options>,
    pub(super) socket: SocketOptions,
    /// Where the data channel is, with the control channel's address to complete it.
    pub(super) address: String,
    /// For log lines.
    pub(super) session: u64,
}

/// Why a symbol does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("it {0}")]
    Panicked(#[from] Panicked),
    #[error(transparent)]
    Open(#[from] Error),
    #[error("cannot reach the host at {address}")]
    Dial {
        address: String,
        #[source]
        source: DialError,
    },
    #[error("it was stopped before it had started")]
    Stopped,
}

impl Use {
    pub(super) fn data_address(address: &str, control: &str) -> String {
        resolve(address, control)
    }

    pub(super) fn dial_error(&self, source: DialError) -> StartError {
        StartError::Dial {
            address: self.address.clone(),
            source,
        }
    }

    pub(super) fn context(
        &self,
        kind: SymbolKind,
        place: Place,
        rule: Option<RuleId>,
        offset: Option<Value>,
        cancellation: CancellationToken,
    ) -> Context {
        let store = HostStore {
            link: Arc::clone(&self.link),
            number: self.number,
            rule,
        };
        let services = Services {
            state: State::new(store),
            metrics: Metrics::new(Arc::clone(&self.figures)),
            log: Some(Origin {
                session: self.session,
                number: Some(self.number),
            }),
            offset,
        };
        Context::new(kind, self.symbol.as_str(), place, services, cancellation)
    }

    /// Opens the symbol and its channel, and answers the request to start it. `None`: it does not run.
    pub(super) async fn open<T>(
        &self,
        request: u64,
        cancellation: &CancellationToken,
        opening: impl Future<Output = Result<T, StartError>>,
    ) -> Option<T> {
        let opened = tokio::select! {
            biased;
            opened = opening => opened,
            () = self.past_grace(cancellation) => Err(StartError::Stopped),
        };
        match opened {
            Ok(opened) => {
                self.link.answer(request, Ok(Value::Null)).await;
                Some(opened)
            }
            Err(error) => {
                self.link.answer(request, Err(describe(&error))).await;
                None
            }
        }
    }

    /// Tells the symbol to stop as soon as there is an order to; completes when it has had its time.
    pub(super) async fn past_grace(&self, cancellation: &CancellationToken) {
        self.orders.given().await;
        cancellation.cancel();
        self.orders.grace().await;
    }

    /// The same for a symbol that has work left when the order comes: for half of its time it is not told.
    pub(super) async fn past_work(&self, cancellation: &CancellationToken) {
        self.orders.half().await;
        cancellation.cancel();
        self.orders.grace().await;
    }

    /// Answers the request to stop it, if there is one that has no answer yet.
    pub(super) async fn answer_stop(&self, outcome: Result<Value, String>) {
        if let Some(request) = self.orders.take_answer() {
            self.tell_figures().await;
            self.link.answer(request, outcome).await;
        }
    }

    /// Tells the host what has changed since it was told last.
    pub(super) async fn tell_figures(&self) {
        for metric in self.figures.take_changed() {
            self.link.send(&ToHost::Metric(metric)).await;
        }
    }

    /// Tells of an error that the symbol survives.
    pub(super) async fn report(&self, error: impl ToString) {
        let note = ErrorNote {
            number: self.number,
            error: error.to_string(),
        };
        self.link.send(&ToHost::Error(note)).await;
    }
}
