//! Every message there and back, and what must not be accepted.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::control::{Role, StateOperation, ToHost, ToPlugin};
use super::function::{CallWriter, FunctionContext, ResultWriter, Results, ToFunction, encode_cancel};
use super::opening::agree;
use super::sink::{SinkBatch, SinkWriter};
use super::source::{SourceBatch, SourceContent, SourceWriter, encode_end, encode_error};
use super::{MAX_ITEMS, VERSIONS};
use crate::Object;
use crate::manifest::SymbolKind;

/// What the host sends, one of each.
const TO_PLUGIN: &[&str] = &[
    r#"{"type":"welcome","version":1,"host":"mangrove/0.1.0","instance":0,"encoding":"json","limits":{"message":33554432,"batch":1024},"pingInterval":10000}"#,
    r#"{"type":"refused","reason":"no","versions":[1]}"#,
    r#"{"type":"start","id":7,"use":4,"symbol":"json","kind":"source","ruleId":"r","opId":"demo","instanceId":0,"dataSource":"topic","config":{"interval":10},"offset":[1,2],"address":"ipc:///x/4.ipc"}"#,
    r#"{"type":"start","id":8,"use":5,"symbol":"print","kind":"sink","ruleId":"r","opId":"o","instanceId":1,"config":{},"ack":true,"address":"ipc:///x/5.ipc"}"#,
    r#"{"type":"start","id":9,"use":6,"symbol":"rank","kind":"function","address":"tcp://*:40113"}"#,
    r#"{"type":"validate","id":10,"symbol":"rank","args":[1,"a.b"]}"#,
    r#"{"type":"stop","id":12,"use":5,"timeout":5000,"seq":30}"#,
    r#"{"type":"shutdown","timeout":5000}"#,
    r#"{"type":"ping","id":13}"#,
    r#"{"type":"commit","use":4,"seq":17}"#,
    r#"{"type":"answer","id":7,"value":{"a":1}}"#,
    r#"{"type":"answer","id":7,"error":"no"}"#,
    r#"{"type":"answer","id":7}"#,
];

/// What the plugin sends, one of each.
const TO_HOST: &[&str] = &[
    r#"{"type":"hello","versions":[1],"token":"00","plugin":"car","sdk":"x/1","symbols":{"sources":["json"],"sinks":["print"],"functions":["rank",{"name":"total","aggregate":true}]},"encodings":["json"]}"#,
    r#"{"type":"ack","use":5,"seq":3,"errors":[[1,"disk full"]]}"#,
    r#"{"type":"ack","use":5,"seq":3}"#,
    r#"{"type":"error","use":5,"error":"text"}"#,
    r#"{"type":"log","level":"warn","message":"hot","use":4,"fields":{"degrees":80}}"#,
    r#"{"type":"metric","use":4,"name":"bytes","kind":"counter","value":512.0}"#,
    r#"{"type":"get","id":5,"use":6,"rule":"r","key":"k"}"#,
    r#"{"type":"put","id":2,"use":4,"key":"k","value":{"a":null}}"#,
    r#"{"type":"delete","id":3,"use":4,"key":"k"}"#,
    r#"{"type":"add","id":4,"use":4,"key":"k","by":1}"#,
    r#"{"type":"ping","id":13}"#,
    r#"{"type":"answer","id":7,"value":{"seq":17}}"#,
];

fn context() -> FunctionContext {
    FunctionContext {
        rule_id: "r".parse().unwrap(),
        op_id: "o".parse().unwrap(),
        instance_id: 0,
        func_id: 2,
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn control_messages_look_as_the_contract_says() {
    for message in TO_PLUGIN {
        let read = ToPlugin::decode(message.as_bytes()).unwrap_or_else(|error| panic!("{message}: {error}"));
        assert!(!matches!(read, ToPlugin::Unknown(_)), "{message}");
        assert_eq!(text(read.encode()), *message);
    }
    for message in TO_HOST {
        let read = ToHost::decode(message.as_bytes()).unwrap_or_else(|error| panic!("{message}: {error}"));
        assert!(!matches!(read, ToHost::Unknown(_)), "{message}");
        assert_eq!(text(read.encode()), *message);
    }
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    let ToPlugin::Unknown(unknown) = ToPlugin::decode(br#"{"type":"dance","id":3,"x":[]}"#).unwrap() else {
        panic!("it is known");
    };
    assert_eq!((unknown.kind.as_str(), unknown.id), ("dance", Some(3)));
    let ToPlugin::Stop(1, stop) =
        ToPlugin::decode(br#"{"later":{},"use":2,"timeout":1,"id":1,"type":"stop"}"#).unwrap()
    else {
        panic!("no stop");
    };
    assert_eq!((stop.number, stop.seq), (2, None));
    let start = br#"{"type":"start","id":1,"use":1,"kind":"source","symbol":"s","ruleId":"r","opId":"o","address":"a","x":1}"#;
    let ToPlugin::Start(1, start) = ToPlugin::decode(start).unwrap() else {
        panic!("no start");
    };
    assert!(matches!(start.role, Role::Source { offset: None, .. }));
    assert_eq!(agree(&[1, 2, 4], &[4, 9, 1]), Some(4));
    assert_eq!(agree(VERSIONS, &[2]), None);
}

#[test]
fn errors_say_what_was_expected_and_never_the_token() {
    for (message, part) in [
        ("nope", r#"expected {"type":"…",…}"#),
        ("[1]", r#"expected {"type":"…",…}"#),
        ("{}", "missing field `type`"),
        (r#"{"type":"ack","use":1}"#, "missing field `seq`"),
        (r#"{"type":"ack","use":-1,"seq":1}"#, r#"expected {"type":"ack""#),
        (r#"{"type":"get","use":1,"key":"k"}"#, "it has no \"id\""),
        (r#"{"type":"add","id":1,"use":1,"key":"k"}"#, "it has no \"by\""),
        (r#"{"type":"ping"}"#, "it has no \"id\""),
        (r#"{"type":"answer"}"#, "it has no \"id\""),
    ] {
        let error = ToHost::decode(message.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{message}: {error}");
    }
    let hello = TO_HOST[0].replace("\"00\"", "\"s3cret\"");
    let read = ToHost::decode(hello.as_bytes()).unwrap();
    assert!(!format!("{read:?}").contains("s3cret"), "{read:?}");
    // Nor in the error about a hello that is broken elsewhere.
    let broken = hello.replace("[1]", "1");
    let error = ToHost::decode(broken.as_bytes()).unwrap_err().to_string();
    assert!(!error.contains("s3cret"), "{error}");
}

#[test]
fn a_hello_tells_its_symbols() {
    let ToHost::Hello(hello) = ToHost::decode(TO_HOST[0].as_bytes()).unwrap() else {
        panic!("no hello");
    };
    let symbols = hello.symbols;
    let total = "total".parse().unwrap();
    assert!(symbols.contains(SymbolKind::Function, &total) && symbols.is_aggregate(&total));
    assert!(!symbols.contains(SymbolKind::Sink, &total));
    assert!(symbols.contains(SymbolKind::Sink, &"print".parse().unwrap()));
    assert!(!symbols.is_aggregate(&"rank".parse().unwrap()));
}

#[test]
fn batches_are_read_as_objects_or_as_text() {
    let message = br#"{"seq":1,"tuples":[{"a":1.50},{"b":"x"}],"meta":[{"t":1},null],"offset":7}"#;
    let objects = SourceBatch::<Object>::decode(message, 2).unwrap();
    let raw = SourceBatch::decode_fields(&Bytes::from_static(message), 2).unwrap();
    assert_eq!((objects.seq, raw.seq), (1, 1));
    let (SourceContent::Tuples { tuples, meta, offset }, SourceContent::Tuples { tuples: texts, .. }) =
        (objects.content, raw.content)
    else {
        panic!("no tuples");
    };
    assert_eq!(tuples[0]["a"], 1.5);
    let mut text = Vec::new();
    texts.iter().for_each(|fields| fields.write(&mut text));
    assert_eq!(text, br#"{"a":1.50}{"b":"x"}"#);
    assert_eq!((meta.len(), meta[0].is_some(), offset), (2, true, Some(json!(7))));
}

#[test]
fn errors_and_ends_of_sources() {
    let read = |bytes: Vec<u8>| SourceBatch::<Object>::decode(&bytes, 1).unwrap();
    assert_eq!(
        read(encode_error(2, "no")).content,
        SourceContent::Error("no".to_owned())
    );
    assert_eq!(read(encode_end(3, None)).content, SourceContent::End(None));
    assert_eq!(
        read(encode_end(3, Some("eof"))).content,
        SourceContent::End(Some("eof".to_owned()))
    );
}

#[test]
fn batches_that_break_the_contract() {
    for (message, part) in [
        (r#"{"seq":1}"#, "neither \"tuples\""),
        (r#"{"tuples":[]}"#, "missing field `seq`"),
        (
            r#"{"seq":1,"tuples":[{},{},{}]}"#,
            "it has 3 tuples; at most 2 are allowed",
        ),
        (
            r#"{"seq":1,"tuples":[{}],"meta":[{},{}]}"#,
            "1 tuples and 2 items in \"meta\"",
        ),
        (r#"{"seq":1,"tuples":[1]}"#, "expected"),
        (r#"{"seq":1,"tuples":[{}]"#, "EOF"),
        ("\u{0}", "expected"),
    ] {
        let bytes = Bytes::copy_from_slice(message.as_bytes());
        let object = SourceBatch::<Object>::decode(&bytes, 2).unwrap_err().to_string();
        let raw = SourceBatch::decode_fields(&bytes, 2).unwrap_err().to_string();
        assert!(
            object.contains(part) && raw.contains(part),
            "{message}: {object}; {raw}"
        );
    }
    let many = format!(r#"{{"seq":1,"tuples":[{}{{}}]}}"#, "{},".repeat(MAX_ITEMS));
    let error = SourceBatch::<Object>::decode(many.as_bytes(), usize::MAX).unwrap_err();
    assert!(error.to_string().contains("at most 65536 items"), "{error}");
}

#[test]
fn writers_begin_anew_after_each_message() {
    let mut writer = SourceWriter::default();
    for seq in 1..3 {
        writer.push(&json!({"n": seq}), None).unwrap();
        writer.push(&json!({"m": 1}), Some(&Object::new())).unwrap();
        assert_eq!(writer.len(), 2);
        let message = text(writer.finish(seq, Some(&json!("o"))));
        assert_eq!(
            message,
            format!(r#"{{"seq":{seq},"tuples":[{{"n":{seq}}},{{"m":1}}],"meta":[null,{{}}],"offset":"o"}}"#)
        );
    }
    writer.push(&json!({}), None).unwrap();
    assert_eq!(text(writer.finish(3, None)), r#"{"seq":3,"tuples":[{}]}"#);

    let mut writer = SinkWriter::default();
    writer.push(b"[{}]");
    writer.push(b"{}");
    assert_eq!(
        (writer.len(), text(writer.finish(9))),
        (2, r#"{"seq":9,"results":[[{}],{}]}"#.to_owned())
    );
    assert!(writer.is_empty());

    let mut writer = CallWriter::default();
    writer.push(1, &[json!(2), json!("x")]);
    writer.push(2, &[]);
    writer.push(3, &[]);
    writer.undo();
    writer.undo();
    assert_eq!(writer.len(), 2);
    assert_eq!(
        text(writer.finish(&context(), 5000)),
        r#"{"context":{"ruleId":"r","opId":"o","instanceId":0,"funcId":2},"timeout":5000,"calls":[[1,[2,"x"]],[2,[]]]}"#
    );

    let mut writer = ResultWriter::default();
    assert_eq!(text(writer.finish()), "{}");
    writer.push_error(2, "text");
    assert_eq!(text(writer.finish()), r#"{"errors":[[2,"text"]]}"#);
    writer.push(1, "big").unwrap();
    writer.push(3, &Value::Null).unwrap();
    writer.push_error(2, "text");
    assert_eq!(
        text(writer.finish()),
        r#"{"results":[[1,"big"],[3,null]],"errors":[[2,"text"]]}"#
    );
}

#[test]
fn what_cannot_be_written_leaves_no_trace() {
    let broken = std::collections::HashMap::from([(vec![1], 1)]);
    let mut writer = SourceWriter::default();
    writer.push(&json!({}), None).unwrap();
    assert!(writer.push(&broken, None).is_err());
    assert_eq!(text(writer.finish(1, None)), r#"{"seq":1,"tuples":[{}]}"#);
    let mut writer = ResultWriter::default();
    assert!(writer.push(1, &broken).is_err());
    writer.push(2, &1).unwrap();
    assert_eq!(text(writer.finish()), r#"{"results":[[2,1]]}"#);
}

#[test]
fn calls_and_cancellations_are_told_apart() {
    assert_eq!(
        ToFunction::<Value>::decode(&encode_cancel(&[4, 5])).unwrap(),
        ToFunction::Cancel(vec![4, 5])
    );
    for message in [r#"{"calls":[]}"#, "{}", r#"{"calls":[[1]],"context":{}}"#, "7"] {
        assert!(
            ToFunction::<Value>::decode(message.as_bytes()).is_err(),
            "{message}"
        );
    }
    let error = Results::<Value>::decode(br#"{"results":[[1,2],[2,3]]}"#, 1).unwrap_err();
    assert!(
        error.to_string().contains("it has 2 results; at most 1"),
        "{error}"
    );
    assert_eq!(Results::<Value>::decode(b"{}", 1).unwrap().results, []);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = ToPlugin::decode(&bytes);
        let _ = ToHost::decode(&bytes);
        let _ = SourceBatch::<Object>::decode(&bytes, 10);
        let _ = SinkBatch::<Value>::decode(&bytes);
        let _ = ToFunction::<Vec<Value>>::decode(&bytes);
        let _ = Results::<Value>::decode(&bytes, 10);
    }

    /// A byte changed anywhere in a good message is no reason to panic.
    #[test]
    fn no_damage_panics(which in 0..TO_HOST.len(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = TO_HOST[which].as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = ToHost::decode(&bytes) {
            let again = ToHost::decode(&read.encode());
            prop_assert_eq!(again.ok(), Some(read));
        }
    }

    #[test]
    fn tuples_survive(texts in proptest::collection::vec(any::<String>(), 0..20), seq in 1u64..1 << 53) {
        let mut writer = SourceWriter::default();
        let tuples: Vec<Object> = texts
            .iter()
            .map(|text| Object::from_iter([(text.clone(), json!(text))]))
            .collect();
        for tuple in &tuples {
            writer.push(tuple, None).unwrap();
        }
        let read = SourceBatch::<Object>::decode(&writer.finish(seq, None), 20).unwrap();
        prop_assert_eq!(read.seq, seq);
        let content = SourceContent::Tuples { tuples, meta: vec![], offset: None };
        prop_assert_eq!(read.content, content);
    }

    #[test]
    fn calls_and_results_survive(texts in proptest::collection::vec(any::<String>(), 0..20)) {
        let mut calls = CallWriter::default();
        let mut results = ResultWriter::default();
        let mut sink = SinkWriter::default();
        for (id, text) in (1u64..).zip(&texts) {
            calls.push(id, &[json!(text), json!(id)]);
            results.push(id, text).unwrap();
            results.push_error(id, text);
            sink.push(json!([{ text: text }]).to_string().as_bytes());
        }
        let message = calls.finish(&context(), 7);
        let ToFunction::Calls { context: at, timeout: 7, calls } = ToFunction::<Vec<Value>>::decode(&message).unwrap()
        else {
            panic!("no calls");
        };
        prop_assert_eq!(at, context());
        let arguments: Vec<_> = calls.iter().map(|(_, args)| args[0].as_str().unwrap()).collect();
        prop_assert_eq!(&arguments, &texts);
        let read = Results::<String>::decode(&results.finish(), 40).unwrap();
        prop_assert_eq!(&read.results, &read.errors);
        prop_assert_eq!(read.results.into_iter().map(|(_, text)| text).collect::<Vec<_>>(), texts.clone());
        let message = sink.finish(1);
        let batch = SinkBatch::<&RawValue>::decode(&message).unwrap();
        prop_assert_eq!(batch.results.len(), texts.len());
    }
}

#[test]
fn an_add_may_be_a_fraction_or_less_than_nothing() {
    for by in ["-1", "0.5"] {
        let message = format!(r#"{{"type":"add","id":4,"use":4,"key":"k","by":{by}}}"#);
        let ToHost::State(4, request) = ToHost::decode(message.as_bytes()).unwrap() else {
            panic!("no request");
        };
        let StateOperation::Add(number) = request.operation else {
            panic!("no add");
        };
        assert_eq!(number.to_string(), by);
    }
}
