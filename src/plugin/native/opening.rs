//! Decides whether a `hello` is taken. Pure.

use mangrove_protocol::manifest::{Manifest, SymbolKind};
use mangrove_protocol::native::VERSIONS;
use mangrove_protocol::native::opening::{Hello, Symbols, agree};

/// The encodings that the host knows.
const ENCODING: &str = "json";

/// What was agreed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) version: u32,
    /// Symbols that the manifest does not name: nobody is offered them.
    pub(super) surplus: Vec<String>,
}

/// Checks a `hello` against what the host has given to the process, and what the plugin's manifest says.
pub(super) fn check(hello: &Hello, token: &str, manifest: &Manifest) -> Result<Agreed, String> {
    if !is_same(hello.token.as_bytes(), token.as_bytes()) {
        return Err("the token is not the one in MANGROVE_TOKEN".to_owned());
    }
    let (ours, theirs) = (VERSIONS, &hello.versions);
    let version = agree(ours, theirs).ok_or_else(|| {
        format!("the plugin speaks the versions {theirs:?} of the contract, the host {ours:?}")
    })?;
    if hello.plugin != manifest.name {
        let (said, name) = (&hello.plugin, &manifest.name);
        return Err(format!(
            "it says that it is the plugin \"{said}\"; expected \"{name}\""
        ));
    }
    if !hello.encodings.is_empty() && !hello.encodings.iter().any(|encoding| encoding == ENCODING) {
        let known = &hello.encodings;
        return Err(format!("it knows the encodings {known:?}; expected {ENCODING:?}"));
    }
    for kind in SymbolKind::ALL {
        let missing = manifest.symbols(kind).iter();
        if let Some(missing) = missing
            .into_iter()
            .find(|name| !hello.symbols.contains(kind, name))
        {
            return Err(format!(
                "its manifest names the {kind} \"{missing}\", which it does not have"
            ));
        }
    }
    Ok(Agreed {
        version,
        surplus: surplus(&hello.symbols, manifest),
    })
}

fn surplus(symbols: &Symbols, manifest: &Manifest) -> Vec<String> {
    let functions = symbols.functions.iter().map(|function| &function.name);
    let all = (symbols.sources.iter().map(|name| (SymbolKind::Source, name)))
        .chain(symbols.sinks.iter().map(|name| (SymbolKind::Sink, name)))
        .chain(functions.map(|name| (SymbolKind::Function, name)));
    all.filter(|(kind, name)| !manifest.symbols(*kind).contains(name))
        .map(|(kind, name)| format!("{kind} \"{name}\""))
        .collect()
}

/// Whether two tokens are the same; how long it takes says nothing about where they differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |seen, (a, b)| seen | (a ^ b));
    one.len() == other.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use mangrove_protocol::native::opening::FunctionSymbol;

    fn manifest() -> Manifest {
        let json = br#"{"version":"1","language":"rust","executable":"x","sources":["s"],"functions":["f"]}"#;
        Manifest::parse(&"car".parse().unwrap(), json).unwrap()
    }

    fn hello() -> Hello {
        let function = |name: &str| FunctionSymbol {
            name: name.parse().unwrap(),
            aggregate: false,
        };
        Hello {
            versions: vec![1, 7],
            token: "t0".to_owned(),
            plugin: "car".parse().unwrap(),
            sdk: String::new(),
            symbols: Symbols {
                sources: vec!["s".parse().unwrap()],
                sinks: vec!["more".parse().unwrap()],
                functions: vec![function("f")],
            },
            encodings: Vec::new(),
        }
    }

    #[test]
    fn what_the_manifest_does_not_name_is_noted() {
        let agreed = check(&hello(), "t0", &manifest()).unwrap();
        assert_eq!(
            (agreed.version, agreed.surplus),
            (1, vec!["sink \"more\"".to_owned()])
        );
    }

    #[test]
    fn every_reason_to_refuse_one() {
        let refusal = |change: fn(&mut Hello)| {
            let mut hello = hello();
            change(&mut hello);
            check(&hello, "t0", &manifest()).unwrap_err()
        };
        for (change, part) in [
            (
                (|hello| hello.token = "t1".to_owned()) as fn(&mut Hello),
                "MANGROVE_TOKEN",
            ),
            (|hello| hello.token.clear(), "MANGROVE_TOKEN"),
            (|hello| hello.token.push('x'), "MANGROVE_TOKEN"),
            (
                |hello| hello.versions = vec![2],
                "the versions [2] of the contract, the host [1]",
            ),
            (|hello| hello.plugin = "bus".parse().unwrap(), "expected \"car\""),
            (
                |hello| hello.encodings = vec!["cbor".to_owned()],
                "expected \"json\"",
            ),
            (
                |hello| hello.symbols.sources.clear(),
                "the source \"s\", which it does not have",
            ),
            (
                |hello| hello.symbols.functions.clear(),
                "the function \"f\", which it does not have",
            ),
        ] {
            let why = refusal(change);
            assert!(why.contains(part) && !why.contains("t0"), "{why}");
        }
    }
}
