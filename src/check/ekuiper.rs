//! Owns what is tried of a plugin that speaks eKuiper's contract: less, since that contract promises less. Its
//! addresses are the same for every host of a machine, so it must not run in one meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use mangrove_protocol::control::{Command, Meta, Request as Said, Symbol, UseAs};
use mangrove_protocol::data::{FunctionCall, FunctionContext, FunctionReply, SourceMessage};
use mangrove_protocol::manifest::{Manifest, SymbolKind};
use mangrove_protocol::name::SymbolName;
use mangrove_protocol::{address, native};
use sp_proto::{Listener, Protocol, Pull, Rep, Request};
use tokio::time::timeout;

use super::behaviour::{Behaviour, Bench, Flaw, Verdict, demand};
use super::function::agree;
use super::plan::placed;
use super::session::{STOP, name, options, place};
use super::symbols::all;
use crate::config::Portable;
use crate::plugin::{Candidate, Trial};

pub(super) const ALL: &[Behaviour] = &[
    Behaviour {
        name: "handshake",
        about: "shakes hands as eKuiper's SDKs do; its own contract is not spoken",
        play: |bench| Box::pin(handshake(bench)),
    },
    Behaviour {
        name: "start-stop",
        about: "starts and stops each source and sink, and refuses what it does not have",
        play: |bench| Box::pin(start_stop(bench)),
    },
    Behaviour {
        name: "tuples",
        about: "sends tuples",
        play: |bench| Box::pin(tuples(bench)),
    },
    Behaviour {
        name: "calls",
        about: "answers calls",
        play: |bench| Box::pin(calls(bench)),
    },
    Behaviour {
        name: "garbage-control",
        about: "survives a command that is none",
        play: |bench| Box::pin(garbage(bench)),
    },
    Behaviour {
        name: "shutdown",
        about: "ends on SIGTERM, with everything that it has started",
        play: |bench| Box::pin(shutdown(bench)),
    },
];

/// Whether the plugin connects to where eKuiper's SDKs do, and not to where it was told to.
pub(super) async fn is_spoken(candidate: &Candidate, settings: &Portable, patience: Duration) -> bool {
    let spoken = async {
        let scratch = tempfile::tempdir().ok()?;
        let own = format!("ipc://{}", scratch.path().join("control.ipc").display());
        let theirs = address::control(&candidate.manifest().name).ok()?;
        let ours = Listener::bind(&own, &[Protocol::Pair0], Default::default())
            .await
            .ok()?;
        let theirs = Listener::bind(&theirs, &[Protocol::Req], Default::default())
            .await
            .ok()?;
        let trial = candidate
            .start(settings, variables(&own, candidate.manifest()))
            .await
            .ok()?;
        tokio::select! {
            _ = ours.accept() => None,
            accepted = theirs.accept() => accepted.ok(),
            _ = trial.ended() => None,
        }
    };
    // Without an answer, the first behaviour says what is wrong.
    matches!(timeout(patience, spoken).await, Ok(Some(_)))
}

fn variables(control: &str, manifest: &Manifest) -> BTreeMap<String, String> {
    BTreeMap::from([
        (native::CONTROL_VARIABLE.to_owned(), control.to_owned()),
        (native::TOKEN_VARIABLE.to_owned(), "0".repeat(32)),
        (native::PLUGIN_VARIABLE.to_owned(), manifest.name.to_string()),
        (native::INSTANCE_VARIABLE.to_owned(), "0".to_owned()),
    ])
}

/// A process that has shaken hands.
struct Session {
    trial: Trial,
    control: Rep,
    /// The plugin's newest request, which the next command replies to.
    ready: Option<Request>,
    patience: Duration,
    scratch: tempfile::TempDir,
}

impl Session {
    async fn open(bench: &Bench<'_>) -> Verdict<Self> {
        let manifest = bench.candidate.manifest();
        let scratch = tempfile::tempdir().map_err(Flaw::broken)?;
        let control = Rep::with_options(options());
        let listening = address::control(&manifest.name).map_err(Flaw::broken)?;
        control.listen(&listening).await.map_err(Flaw::broken)?;
        let nobody = format!("ipc://{}", scratch.path().join("nobody.ipc").display());
        let started = bench
            .candidate
            .start(bench.settings, variables(&nobody, manifest))
            .await;
        let mut session = Self {
            trial: started.map_err(Flaw::broken)?,
            control,
            ready: None,
            patience: bench.patience,
            scratch,
        };
        let request = session.within("its handshake", session.control.recv()).await?;
        let request = request.map_err(Flaw::broken)?;
        demand(Said::decode(request.body().as_bytes()) == Said::Handshake, || {
            let said = String::from_utf8_lossy(request.body().as_bytes()).into_owned();
            format!("it begins with {said:?}; expected \"handshake\"")
        })?;
        session.ready = Some(request);
        Ok(session)
    }

    async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> Verdict<T> {
        tokio::select! {
            biased;
            done = timeout(self.patience, future) => {
                done.map_err(|_| Flaw::failed(format!("{what} did not come within {} s", self.patience.as_secs())))
            }
            _ = self.trial.ended() => Err(Flaw::failed(format!("its process ended before {what} came"))),
        }
    }

    /// Gives a command, and awaits what comes of it.
    async fn give(&mut self, command: &[u8]) -> Verdict<Result<(), String>> {
        // Once more if it crosses a keep-alive.
        for _ in 0..2 {
            if let Some(ready) = self.ready.take() {
                ready.reply(command.to_vec()).await.map_err(Flaw::broken)?;
            }
            let request = self
                .within("the answer to a command", self.control.recv())
                .await?;
            let request = request.map_err(Flaw::broken)?;
            let said = Said::decode(request.body().as_bytes());
            self.ready = Some(request);
            match said {
                Said::Handshake => {}
                Said::Done => return Ok(Ok(())),
                Said::Failed(error) => return Ok(Err(error)),
            }
        }
        Err(Flaw::failed("it does not answer a command but shakes hands"))
    }

    fn symbol(&self, bench: &Bench<'_>, kind: SymbolKind, symbol: &SymbolName) -> Symbol {
        let source = bench.plan.sources.get(symbol);
        let (config, use_as) = match kind {
            SymbolKind::Source => (
                source.and_then(|plan| plan.config.clone()),
                UseAs::Source {
                    data_source: source.map(|plan| plan.data_source.clone()).unwrap_or_default(),
                },
            ),
            SymbolKind::Sink => {
                let plan = bench.plan.sinks.get(symbol);
                (plan.and_then(|plan| plan.config.clone()), UseAs::Sink)
            }
            SymbolKind::Function => (None, UseAs::Function),
        };
        let place = place();
        let meta = Meta {
            rule_id: Some(place.rule_id),
            op_id: Some(place.op_id),
            instance_id: 0,
        };
        Symbol {
            name: symbol.clone(),
            meta,
            use_as,
            config: placed(&config.unwrap_or_default(), self.scratch.path()),
        }
    }

    async fn start(&mut self, symbol: &Symbol) -> Verdict {
        let started = self.give(&Command::Start(symbol.clone()).encode()).await?;
        started.map_err(|error| Flaw::failed(format!("{} does not start: {error}", symbol.name)))
    }

    async fn stop(&mut self, symbol: Symbol) -> Verdict {
        let named = symbol.name.clone();
        let stopped = self.give(&Command::Stop(symbol).encode()).await?;
        stopped.map_err(|error| Flaw::failed(format!("{named} does not stop: {error}")))
    }
}

/// The channel on which a source of this kit's rule sends.
async fn source_channel() -> Verdict<Pull> {
    let place = place();
    let pull = Pull::with_options(options());
    let at = address::data(&place.rule_id, &place.op_id, 0).map_err(Flaw::broken)?;
    pull.listen(&at).await.map_err(Flaw::broken)?;
    Ok(pull)
}

async fn handshake(bench: &Bench<'_>) -> Verdict {
    Session::open(bench).await.map(drop)
}

async fn start_stop(bench: &Bench<'_>) -> Verdict {
    let mut session = Session::open(bench).await?;
    for (kind, symbol) in all(bench) {
        if kind == SymbolKind::Function {
            continue;
        }
        // A sink listens there by itself.
        let _channel = match kind {
            SymbolKind::Source => Some(source_channel().await?),
            _ => None,
        };
        let symbol = session.symbol(bench, kind, symbol);
        session.start(&symbol).await?;
        session.stop(symbol).await?;
    }
    let stranger = session.symbol(bench, SymbolKind::Source, &name("no_such_symbol"));
    let answer = session.give(&Command::Start(stranger).encode()).await?;
    demand(answer.is_err(), || {
        "it starts a source that it does not have".to_owned()
    })
}

async fn tuples(bench: &Bench<'_>) -> Verdict {
    demand(!bench.plan.sources.is_empty(), String::new).map_err(|_| Flaw::skipped("it has no source"))?;
    let mut session = Session::open(bench).await?;
    for source in bench.plan.sources.keys() {
        let channel = source_channel().await?;
        let symbol = session.symbol(bench, SymbolKind::Source, source);
        session.start(&symbol).await?;
        for _ in 0..3 {
            let message = session
                .within("a tuple", channel.recv())
                .await?
                .map_err(Flaw::broken)?;
            SourceMessage::decode(message.as_bytes()).map_err(Flaw::broken)?;
        }
        session.stop(symbol).await?;
    }
    Ok(())
}

async fn calls(bench: &Bench<'_>) -> Verdict {
    demand(!bench.plan.functions.is_empty(), String::new).map_err(|_| Flaw::skipped("it has no function"))?;
    let mut session = Session::open(bench).await?;
    for (function, plan) in &bench.plan.functions {
        let channel = Rep::with_options(options());
        let at = address::function(function).map_err(Flaw::broken)?;
        channel.listen(&at).await.map_err(Flaw::broken)?;
        let symbol = session.symbol(bench, SymbolKind::Function, function);
        session.start(&symbol).await?;
        let mut ready = session
            .within("the function's handshake", channel.recv())
            .await?
            .map_err(Flaw::broken)?;
        for call in plan.calls.iter().filter(|call| call.succeeds()) {
            let exec = FunctionCall::Exec {
                args: call.args.clone(),
                context: FunctionContext {
                    rule_id: name("check"),
                    op_id: name("project"),
                    instance_id: 0,
                    func_id: 0,
                },
            };
            ready.reply(exec.encode()).await.map_err(Flaw::broken)?;
            ready = session
                .within("the answer to a call", channel.recv())
                .await?
                .map_err(Flaw::broken)?;
            let reply = FunctionReply::decode(ready.body().as_bytes()).map_err(Flaw::broken)?;
            match reply {
                FunctionReply::Result(value) if call.result.is_null() || agree(&value, &call.result) => {}
                other => {
                    let expected = &call.result;
                    return Err(Flaw::failed(format!(
                        "{function} answers {other:?}; expected {expected}"
                    )));
                }
            }
        }
        session.stop(symbol).await?;
    }
    Ok(())
}

async fn garbage(bench: &Bench<'_>) -> Verdict {
    let mut session = Session::open(bench).await?;
    let arg = r#"{\"symbolName\":\"x\",\"pluginType\":\"source\",\"meta\":{},\"config\":{}}"#;
    let command = format!(r#"{{"cmd":"dance","arg":"{arg}"}}"#);
    let answer = session.give(command.as_bytes()).await?;
    demand(answer.is_err(), || {
        "it carries out the command \"dance\"".to_owned()
    })
}

async fn shutdown(bench: &Bench<'_>) -> Verdict {
    let session = Session::open(bench).await?;
    session.trial.terminate();
    let ended = timeout(STOP, session.trial.ended()).await;
    demand(ended.is_ok(), || {
        format!(
            "its process did not end within {} s after SIGTERM",
            STOP.as_secs()
        )
    })?;
    let end = session.trial.reap().await;
    demand(end.left == 0, || {
        format!(
            "{} processes that it has started were left when it ended",
            end.left
        )
    })
}
