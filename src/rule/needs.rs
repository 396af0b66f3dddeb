//! Which portable symbols a rule needs, whether or not somebody defines them just now.
//!
//! PURE but for asking the plugins' handle. The rule's run drives it: it parks the rule while something is
//! missing.

use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::PluginName;
use tokio::sync::{broadcast, watch};

use super::compile::{CompileError, Streams};
use super::definition::Definition;
use crate::io;
use crate::plugin::{self, Event, Missing, State};
use crate::sql::{self, Catalog, CreateStream, Statement};

/// The portable symbols of one rule.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs(Vec<(SymbolKind, String)>);

/// Every function that is not built in counts as portable.
struct Supposed<'a>(&'a Streams);

impl Catalog for Supposed<'_> {
    fn stream(&self, name: &str) -> Option<&CreateStream> {
        self.0.get(name).map(|stream| &*stream.definition)
    }

    fn is_portable_function(&self, _: &str) -> bool {
        true
    }
}

impl Needs {
    /// # Errors
    /// The rule's SQL cannot be planned, whatever plugins there are.
    pub(crate) fn of(definition: &Definition, streams: &Streams) -> Result<Self, CompileError> {
        let Statement::Select(select) = sql::parse(&definition.sql)? else {
            return Err(CompileError::NotASelect);
        };
        let plan = sql::plan(&select, &Supposed(streams))?;
        let source_type = |name| streams.get(name)?.definition.options.source_type.clone();
        let sources = plan.streams().iter().filter_map(source_type);
        let sources = sources.filter(|name| !io::SOURCES.contains(&name.as_str()));
        let sinks = definition.actions.iter().map(|action| action.sink.clone());
        let sinks = sinks.filter(|name| !io::SINKS.contains(&name.as_str()));
        let functions = plan.calls().iter().map(|site| site.function.clone());
        let of = |kind| move |name| (kind, name);
        let all = sources
            .map(of(SymbolKind::Source))
            .chain(sinks.map(of(SymbolKind::Sink)))
            .chain(functions.map(of(SymbolKind::Function)));
        Ok(Self(all.collect()))
    }

    /// The first of them that nobody can use now.
    pub(crate) fn missing(&self, plugins: &plugin::Handle) -> Option<Missing> {
        self.0
            .iter()
            .find_map(|(kind, name)| plugins.missing(*kind, name))
    }

    /// Waits until one of them is missing.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(crate) async fn lost(&self, plugins: &plugin::Handle, changes: &mut watch::Receiver<u64>) -> Missing {
        loop {
            if let Some(missing) = self.missing(plugins) {
                return missing;
            }
            if changes.changed().await.is_err() {
                // The plugins have ended with the host, which stops its rules by itself.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The plugins that define them now; one that defines several comes several times.
    pub(crate) fn plugins(&self, plugins: &plugin::Handle) -> impl Iterator<Item = PluginName> {
        let owner = |(kind, name): &(SymbolKind, String)| Some(plugins.symbol(*kind, name)?.0);
        self.0.iter().filter_map(owner)
    }

    /// Waits for the news that one of their plugins runs.
    ///
    /// # Cancel safety
    /// Events that were taken are lost.
    pub(crate) async fn running(&self, plugins: &plugin::Handle, events: &mut broadcast::Receiver<Event>) {
        loop {
            match events.recv().await {
                Ok(event) if event.state == State::Running => {
                    if self.plugins(plugins).any(|name| name.as_str() == event.plugin) {
                        return;
                    }
                }
                // One that was lost may have been the one.
                Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => std::future::pending::<()>().await,
                Ok(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::stream::Stream;

    fn needs(sql: &str, actions: &str) -> Result<Needs, String> {
        let streams = [("cars", "json"), ("ticks", "simulator")]
            .map(|(name, source)| {
                let sql = format!("CREATE STREAM {name} () WITH (TYPE=\"{source}\")");
                (name.to_owned(), Stream::parse(&sql).unwrap())
            })
            .into();
        let definition = format!(r#"{{"id":"r","sql":"{sql}","actions":{actions}}}"#);
        let definition = Definition::parse(&definition, None).unwrap();
        Needs::of(&definition, &streams).map_err(|error| error.to_string())
    }

    #[test]
    fn whatever_is_not_built_in_is_a_plugins() {
        let found = needs(
            "SELECT upper(link(color)) AS a FROM cars WHERE rank(color) > 1",
            r#"[{"log":{}},{"command":{}}]"#,
        );
        let expected = [
            (SymbolKind::Source, "json"),
            (SymbolKind::Sink, "command"),
            (SymbolKind::Function, "rank"),
            (SymbolKind::Function, "link"),
        ]
        .map(|(kind, name)| (kind, name.to_owned()));
        let mut found = found.unwrap().0;
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(
            needs("SELECT abs(n) FROM ticks", r#"[{"nop":{}}]"#),
            Ok(Needs::default())
        );
    }

    #[test]
    fn what_no_plugin_can_mend_is_an_error() {
        assert!(
            needs("SELECT * FROM nowhere", r#"[{"log":{}}]"#)
                .unwrap_err()
                .contains("nowhere")
        );
        assert!(needs("SELECT * FORM cars", r#"[{"log":{}}]"#).is_err());
    }
}
