//! The example plugin `samples-rust`: what the samples of every SDK have, for the conformance kit.
//!
//! | symbol | file |
//! |---|---|
//! | source `counter_rust` | [`counter`] |
//! | sink `keep_rust` | [`keep`] |
//! | functions `echo_rust`, `slow_rust`, `fail_rust`, `total_rust`, `tally_rust` | [`functions`] |

mod counter;
mod functions;
mod keep;

use mangrove_sdk::{Plugin, RunError};

fn plugin() -> Plugin {
    Plugin::new("samples-rust")
        .source::<counter::Counter>("counter_rust")
        .sink::<keep::Keep>("keep_rust")
        .function("echo_rust", functions::Echo)
        .function("slow_rust", functions::Slow)
        .function("fail_rust", functions::Fail)
        .function("total_rust", functions::Total)
        .function("tally_rust", functions::Tally)
}

#[tokio::main]
async fn main() -> Result<(), RunError> {
    plugin().run().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use mangrove_protocol::manifest::{Manifest, SymbolKind};
    use mangrove_sdk::Result;
    use mangrove_sdk::testing::Host;

    #[tokio::test]
    async fn the_manifest_names_what_the_plugin_has() -> Result {
        let manifest = Manifest::parse(&"samples-rust".parse()?, include_bytes!("../samples-rust.json"))?;
        let host = Host::start(plugin()).await?;
        for (kind, mut found) in SymbolKind::ALL.into_iter().zip(host.symbols()) {
            let mut named: Vec<_> = manifest.symbols(kind).iter().map(ToString::to_string).collect();
            named.sort();
            found.sort();
            assert_eq!(named, found, "{kind}");
        }
        host.stop().await
    }
}
