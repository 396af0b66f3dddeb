//! Owns the way of log lines to the host: the span that every use of a symbol has, and the layer of [`tracing`] that
//! finds out for which use a line was written.
//!
//! A span carries numbers only, so a session with a host ([`Sink`]) is known here by its number. Lines that belong to no
//! session, or to one that takes nothing, go to standard error.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mangrove_protocol::Object;
use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::native::UseNumber;
use mangrove_protocol::native::control::{Level, Log};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Metadata, Span, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::context::Place;

/// The longest text in a line, in bytes; the rest is cut off.
const MAX_TEXT: usize = 16 * 1024;

/// Takes log lines. It must not wait, and must not log.
pub(crate) trait Sink: Send + Sync {
    /// False: it was not taken, because nobody is there.
    fn log(&self, line: Log) -> bool;
}

/// Which use of which session a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) session: u64,
    /// `None`: the session itself.
    pub(crate) number: Option<UseNumber>,
}

static SESSIONS: Mutex<BTreeMap<u64, Weak<dyn Sink>>> = Mutex::new(BTreeMap::new());
static NEXT_SESSION: AtomicU64 = AtomicU64::new(1);

/// A session that takes log lines, until it is dropped.
pub(crate) struct Session {
    pub(crate) number: u64,
}

impl Session {
    pub(crate) fn open<S: Sink + 'static>(sink: &Arc<S>) -> Self {
        let number = NEXT_SESSION.fetch_add(1, Ordering::Relaxed);
        let sink: Weak<S> = Arc::downgrade(sink);
        sessions(|sessions| sessions.insert(number, sink));
        Self { number }
    }
}

impl Session {
    /// The span of what belongs to no use.
    pub(crate) fn span(&self) -> Span {
        tracing::info_span!("session", session = self.number)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        sessions(|sessions| sessions.remove(&self.number));
    }
}

fn sessions<R>(with: impl FnOnce(&mut BTreeMap<u64, Weak<dyn Sink>>) -> R) -> R {
    with(&mut SESSIONS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The span of a use.
pub(crate) fn span(kind: SymbolKind, symbol: &str, place: &Place, origin: Option<Origin>) -> Span {
    // Not `info_span!` twice: the same fields, whether they are filled or not.
    tracing::info_span!(
        "symbol",
        %kind,
        name = symbol,
        rule = place.rule,
        op = place.op,
        instance = place.instance,
        session = origin.map(|origin| origin.session),
        r#use = origin.and_then(|origin| origin.number),
    )
}

/// Logs to standard error, for a host that keeps what plugins print. `RUST_LOG` chooses what, by default `info`.
pub(crate) fn to_stderr() {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter("info"))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // The author's own subscriber is as good as ours.
    let _ = subscriber.try_init();
}

/// Logs to the host. `RUST_LOG` chooses what, by default `default`.
pub(crate) fn to_host(default: &str) {
    let subscriber = tracing_subscriber::registry()
        .with(filter(default))
        .with(HostLayer);
    let _ = subscriber.try_init();
}

fn filter(default: &str) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default))
}

/// Sends each line to the session that it belongs to; one that belongs to none goes to the only session there is.
struct HostLayer;

/// What a span of ours says, kept with it.
struct Mark {
    origin: Origin,
    /// A function's use says nothing of the rule.
    rule: Option<String>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for HostLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if !matches!(attributes.metadata().name(), "symbol" | "session") {
            return;
        }
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let number = |name: &str| fields.values.get(name).and_then(Value::as_u64);
        let (Some(session), Some(span)) = (number("session"), context.span(id)) else {
            return;
        };
        let origin = Origin {
            session,
            number: number("use"),
        };
        let is_function = fields.values.get("kind").is_some_and(|kind| kind == "function");
        let rule = fields.values.get("rule").and_then(Value::as_str);
        span.extensions_mut().insert(Mark {
            origin,
            rule: rule.filter(|_| is_function).map(str::to_owned),
        });
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut origin = None;
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(mark) = span.extensions().get::<Mark>() {
                if let Some(rule) = &mark.rule {
                    fields.values.insert("rule".to_owned(), rule.as_str().into());
                }
                origin = Some(mark.origin);
                break;
            }
        }
        let line = Log {
            level: level(event.metadata()),
            message: fields.message,
            number: origin.and_then(|origin| origin.number),
            fields: fields.values,
        };
        deliver(origin, line);
    }
}

fn deliver(origin: Option<Origin>, line: Log) {
    // Not under the lock: the session takes locks of its own.
    let sink = sessions(|sessions| match origin {
        Some(origin) => sessions.get(&origin.session).and_then(Weak::upgrade),
        None if sessions.len() == 1 => sessions.values().next().and_then(Weak::upgrade),
        None => None,
    });
    let taken = sink.is_some_and(|sink| sink.log(line.clone()));
    if !taken {
        let Log {
            level,
            message,
            fields,
            ..
        } = line;
        let fields = if fields.is_empty() {
            String::new()
        } else {
            format!(" {}", Value::Object(fields))
        };
        // A log that nobody reads is no reason to fail.
        let _ = writeln!(std::io::stderr(), "{level:?}: {message}{fields}");
    }
}

fn level(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::TRACE => Level::Trace,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::INFO => Level::Info,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::ERROR => Level::Error,
    }
}

/// Reads the fields of a span or an event.
#[derive(Default)]
struct Fields {
    message: String,
    values: Object,
}

impl Fields {
    fn text(&mut self, field: &Field, text: String) {
        let text = cut(text);
        if field.name() == "message" {
            self.message = text;
        } else {
            self.values.insert(field.name().to_owned(), text.into());
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.values.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.values.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.values.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.values.insert(field.name().to_owned(), value.into());
    }
}

/// Cut at a character's boundary.
fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}
