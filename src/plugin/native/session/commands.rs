//! Carries out the commands of the life cycle: a data channel for what is started, and the messages that start and
//! stop it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mangrove_protocol::control::{Symbol, UseAs};
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::native::control::{Place, Role, Start, Stop, ToPlugin};
use sp_proto::{Endpoint, Pair, Pull, Push};

use super::super::desk::{Active, Asked, Entry};
use super::super::feed::Feed;
use super::super::link::Link;
use super::super::{limits, link, lock, milliseconds, remote};
use super::{Order, Task};
use crate::plugin::causes::with_sources;
use crate::plugin::channel::Ends;
use crate::plugin::lifecycle::{self, UseId};

impl Task {
    /// Listens for the data channel, then has the symbol started. An outcome at once means that nothing was sent.
    pub(super) async fn start(
        &mut self,
        id: UseId,
        symbol: Symbol,
        ends: Option<Ends>,
    ) -> Option<Result<(), String>> {
        let number = self.setup.native.next_number();
        let kind = lifecycle::kind(&symbol);
        let place = place(&symbol);
        let record = self.setup.records.of(kind, &symbol.name);
        let Some(address) = self.data_address() else {
            return Some(Err(
                "there is no address beside the one of its control channel".to_owned()
            ));
        };
        let (Some(ends), Some(own)) = (ends, self.own.upgrade()) else {
            return Some(Err("nobody uses it any more".to_owned()));
        };
        let options = self.options.clone();
        let batch = limits(&self.setup.settings).batch;
        let (active, endpoint) = match (&ends, &symbol.use_as) {
            (Ends::Source(inlet, _), UseAs::Source { .. }) => {
                let socket = Pull::with_options(options);
                let endpoint = match socket.listen(&address).await {
                    Ok(endpoint) => endpoint,
                    Err(error) => return Some(Err(with_sources(&error))),
                };
                let (feed, ending) = Feed::new(socket, number, own, batch);
                if !inlet.put(feed) {
                    return Some(Err("nobody receives from it".to_owned()));
                }
                (Active::Source(ending), endpoint)
            }
            (Ends::Sink(sender), UseAs::Sink) => {
                let socket = Push::with_options(options);
                let endpoint = match socket.listen(&address).await {
                    Ok(endpoint) => endpoint,
                    Err(error) => return Some(Err(with_sources(&error))),
                };
                sender.outlet.set_native(true);
                (Active::Sink(Arc::clone(sender), Some(socket)), endpoint)
            }
            (Ends::Function(_), UseAs::Function) => {
                let socket = Pair::with_options(options);
                let endpoint = match socket.listen(&address).await {
                    Ok(endpoint) => endpoint,
                    Err(error) => return Some(Err(with_sources(&error))),
                };
                let aggregate = self.symbols.is_aggregate(&symbol.name);
                let settings = &self.setup.settings;
                let record = Arc::clone(&record);
                let parts = link::new(socket, number, aggregate, own, record, settings);
                self.functions.spawn(parts.writer.run());
                self.functions.spawn(parts.reader.run());
                (Active::Function(parts.link), endpoint)
            }
            _ => return Some(Err("its ends are those of another kind of symbol".to_owned())),
        };
        let role = self.role(symbol.clone(), place.as_ref(), &active).await;
        self.desk.insert(
            number,
            Entry {
                id,
                symbol: symbol.name.clone(),
                place,
                record,
                active,
            },
        );
        let Some(role) = role else {
            return Some(Err("it lacks the ids of its rule and operator".to_owned()));
        };
        let request = self.desk.ask(Asked::Start(number));
        let start = Start {
            number,
            symbol: symbol.name,
            role,
            address: self.dialed(endpoint),
        };
        self.send(&ToPlugin::Start(request, Box::new(start)));
        None
    }

    /// Where to listen for a data channel.
    fn data_address(&self) -> Option<String> {
        if self.setup.remote {
            remote::beside(&self.address)
        } else {
            Some(self.setup.native.next_address())
        }
    }

    /// What the plugin is told of it.
    fn dialed(&self, endpoint: Endpoint) -> String {
        let star = self
            .setup
            .remote
            .then(|| remote::star(&endpoint.address))
            .flatten();
        star.unwrap_or(endpoint.address)
    }

    async fn role(&self, symbol: Symbol, place: Option<&Place>, active: &Active) -> Option<Role> {
        let config = symbol.config;
        Some(match (symbol.use_as, active) {
            (UseAs::Source { data_source }, _) => {
                let place = place?.clone();
                Role::Source {
                    offset: self.desk.offset(&symbol.name, &place).await,
                    place,
                    data_source,
                    config,
                }
            }
            (UseAs::Sink, Active::Sink(sender, _)) => Role::Sink {
                place: place?.clone(),
                config,
                ack: sender.outlet.acknowledges(),
            },
            _ => Role::Function,
        })
    }

    /// The use of a function that this process runs under this number, and is not about to stop.
    pub(super) fn running_function(&self, number: u64) -> Option<UseId> {
        let id = self.desk.entry(number)?.id;
        let is_newest = self.desk.number_of(id) == Some(number);
        (is_newest && lock(&self.links).contains_key(&id)).then_some(id)
    }

    pub(super) fn stop_use(&mut self, id: UseId) -> Option<Result<(), String>> {
        // It never started, or the process has forgotten it.
        let Some(number) = self.desk.number_of(id) else {
            return Some(Ok(()));
        };
        lock(&self.links).remove(&id);
        let seq = match self.desk.entry(number).map(|entry| &entry.active) {
            Some(Active::Sink(sender, _)) => Some(sender.outlet.last(number)),
            Some(Active::Function(link)) => {
                let link = Arc::clone(link);
                self.order_after_calls(vec![link], Order::StopFunction { number });
                return None;
            }
            _ => None,
        };
        self.send_stop(number, seq);
        None
    }

    /// Ends the process; first its functions answer what they were asked.
    pub(super) fn shut_down(&mut self, limit: Duration) {
        let links: Vec<_> = lock(&self.links).drain().map(|(_, link)| link).collect();
        self.order_after_calls(links, Order::End(limit));
    }

    /// Calls go another way than the control channel, where a word that ends something could overtake them.
    fn order_after_calls(&mut self, links: Vec<Arc<Link>>, order: Order) {
        let Some(own) = self.own.upgrade() else { return };
        let stop = self.stop.clone();
        self.functions.spawn(async move {
            let ordered = async {
                join_all(links.iter().map(|link| link.retire())).await;
                // The session may have ended.
                let _ = own.send(order).await;
            };
            let _stopped = stop.run_until_cancelled(ordered).await;
        });
    }

    pub(super) fn send_stop(&mut self, number: u64, seq: Option<u64>) {
        let request = self.desk.ask(Asked::Stop(number));
        let timeout = milliseconds(self.setup.settings.command_timeout);
        self.send(&ToPlugin::Stop(request, Stop { number, timeout, seq }));
    }
}

/// The ids of a source or a sink; a function has none.
fn place(symbol: &Symbol) -> Option<Place> {
    if lifecycle::kind(symbol) == SymbolKind::Function {
        return None;
    }
    Some(Place {
        rule_id: symbol.meta.rule_id.clone()?,
        op_id: symbol.meta.op_id.clone()?,
        instance_id: symbol.meta.instance_id,
    })
}
