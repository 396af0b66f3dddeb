//! Every message of our own contract that `docs/protocol.md` shows is one.

use bytes::Bytes;
use mangrove_protocol::Object;
use mangrove_protocol::native::control::{ToHost, ToPlugin};
use mangrove_protocol::native::function::{Results, ToFunction};
use mangrove_protocol::native::sink::SinkBatch;
use mangrove_protocol::native::source::SourceBatch;
use serde_json::Value;

/// The lines of each example, with what its fence says of them.
fn examples(document: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut kind = None;
    document.lines().filter_map(move |line| {
        if let Some(fence) = line.strip_prefix("```") {
            kind = fence.strip_prefix("json ");
            return None;
        }
        Some((kind?, line))
    })
}

fn from_plugin(line: &str) {
    let read = ToHost::decode(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(!matches!(read, ToHost::Unknown(_)), "{line}");
    assert_eq!(ToHost::decode(&read.encode()).unwrap(), read);
}

fn from_host(line: &str) {
    let read = ToPlugin::decode(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(!matches!(read, ToPlugin::Unknown(_)), "{line}");
    assert_eq!(ToPlugin::decode(&read.encode()).unwrap(), read);
}

#[test]
fn every_message_that_the_page_shows_is_one() {
    let mut count = 0;
    for (kind, line) in examples(include_str!("../docs/protocol.md")) {
        count += 1;
        let bytes = line.as_bytes();
        match kind {
            "plugin" => from_plugin(line),
            "host" => from_host(line),
            "plugin or host" => {
                from_plugin(line);
                from_host(line);
            }
            "source" => {
                let objects = SourceBatch::<Object>::decode(bytes, 1024).unwrap();
                let raw = SourceBatch::decode_fields(&Bytes::copy_from_slice(bytes), 1024).unwrap();
                assert_eq!(objects.seq, raw.seq);
            }
            "sink" => drop(SinkBatch::<Value>::decode(bytes).unwrap()),
            "call" => drop(ToFunction::<Vec<Value>>::decode(bytes).unwrap()),
            "result" => drop(Results::<Value>::decode(bytes, 1024).unwrap()),
            other => panic!("what is {other:?}? {line}"),
        }
    }
    assert!(count > 30, "{count} examples");
}
