//! The files beside the program: what a host reads of them must fit the program and each other.

use std::path::Path;

use mangrove_protocol::manifest::{Manifest, SymbolKind};
use serde_json::Value;

const FOLDER: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let path = Path::new(FOLDER).join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest() -> Manifest {
    Manifest::parse(&"car".parse().unwrap(), &read("car.json")).unwrap()
}

#[test]
fn the_manifest_names_the_program_that_cargo_builds() {
    let program = Path::new(env!("CARGO_BIN_EXE_server"));
    assert_eq!(program.file_name().unwrap(), manifest().executable.as_str());
}

#[test]
fn every_symbol_of_the_manifest_is_served() {
    let main = String::from_utf8(read("src/main.rs")).unwrap();
    let manifest = manifest();
    for kind in SymbolKind::ALL {
        for symbol in manifest.symbols(kind) {
            let registered = main.lines().any(|line| {
                let line = line.trim();
                line.starts_with(&format!(".{kind}")) && line.contains(&format!("(\"{symbol}\""))
            });
            assert!(registered, "main.rs registers no {kind} \"{symbol}\"");
        }
    }
}

#[test]
fn every_symbol_is_described_and_every_source_has_its_conf_keys() {
    let manifest = manifest();
    for kind in SymbolKind::ALL {
        for symbol in manifest.symbols(kind) {
            let about: Value =
                serde_json::from_slice(&read(format!("{}/{symbol}.json", kind.plural()))).unwrap();
            assert!(about["about"]["description"]["en_US"].is_string(), "{symbol}");
        }
    }
    for source in manifest.symbols(SymbolKind::Source) {
        let yaml = String::from_utf8(read(format!("sources/{source}.yaml"))).unwrap();
        assert!(yaml.starts_with("default:"), "{source}");
    }
}
