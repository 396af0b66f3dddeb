//! The bodies of the fuzz targets: everything that reads bytes of foreign origin, with what must hold for any
//! of them. A fuzzer drives them through `fuzz_targets/`; `cargo test` replays the corpora through them.

use bytes::{BufMut, Bytes, BytesMut};
use mangrove::sql::{self, CallResults, Catalog, CreateStream, Row, SqlError, Statement, Step};
use mangrove_protocol::Object;
use mangrove_protocol::control::{Command, Request};
use mangrove_protocol::data::{FunctionCall, FunctionReply, SourceMessage, decode_ack, encode_ack};
use mangrove_protocol::manifest::{Manifest, SymbolKind};
use mangrove_protocol::name::PluginName;
use mangrove_protocol::native::MAX_ITEMS;
use mangrove_protocol::native::control::{ToHost, ToPlugin};
use mangrove_protocol::native::function::{CallWriter, ResultWriter, Results, ToFunction};
use mangrove_protocol::native::sink::{SinkBatch, SinkWriter};
use mangrove_protocol::native::source::{SourceBatch, SourceContent};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sp_proto::wire::websocket::{
    HEAD_MAX, Role, UpgradeError, UpgradeRequest, WebSocketDecoder, WebSocketError, accept_upgrade,
    check_upgrade,
};
use sp_proto::wire::{
    Backtrace, DEFAULT_TTL, Decoder, FrameError, Framing, GREETING_LEN, decode_greeting, encode_greeting,
};
use sp_proto::{Address, Protocol};

/// A greeting is refused, or is the one that we would send.
pub fn greeting(input: &[u8]) {
    if let Some(bytes) = input.first_chunk::<GREETING_LEN>()
        && let Ok(protocol) = decode_greeting(*bytes)
    {
        assert_eq!(encode_greeting(protocol), *bytes);
    }
}

/// However a stream is split and handed over, the same frames come out, none beyond the limit, and the same error.
///
/// The first byte chooses the framing and the [`Way`], the second the limit, the third the length of the parts.
pub fn frames(input: &[u8]) {
    /// The fourth bit of the first byte: limit and parts are 256 times as long, and the stream is
    /// [stretched](stretch), so that a short input brings the long frames that have ways of their own.
    const WIDE: u8 = 8;
    let [first, limit, part, stream @ ..] = input else {
        return;
    };
    let framing = if first & 1 == 0 {
        Framing::Tcp
    } else {
        Framing::Ipc
    };
    let way = Way {
        shared: first & 2 != 0,
        straight: first & 4 != 0,
    };
    let stretched = (first & WIDE != 0).then(|| stretch(stream));
    let unit = if stretched.is_some() { 256 } else { 1 };
    let stream = stretched.as_deref().unwrap_or(stream);
    let [limit, part] = [limit, part].map(|byte| (usize::from(*byte) + 1) * unit);
    let whole = decode(framing, limit, Way::default(), stream, stream.len());
    let split = decode(framing, limit, way, stream, part);
    assert_eq!(whole, split);
    assert!(whole.0.iter().all(|frame| frame.len() <= limit));
}

/// Pairs of a number and a byte: the byte, so many times as the number squared is.
fn stretch(pairs: &[u8]) -> Vec<u8> {
    const MOST: usize = 256 * 1024;
    let (pairs, _) = pairs.as_chunks();
    let runs = pairs
        .iter()
        .flat_map(|[count, byte]| std::iter::repeat_n(*byte, usize::from(*count).pow(2)));
    runs.take(MOST).collect()
}

/// How a decoder gets its input: copied, unless otherwise said.
#[derive(Clone, Copy, Default)]
struct Way {
    /// As a buffer that frames may be slices of.
    shared: bool,
    /// The rest of a payload straight into its own buffer.
    straight: bool,
}

fn decode(
    framing: Framing,
    limit: usize,
    way: Way,
    mut stream: &[u8],
    part: usize,
) -> (Vec<Bytes>, Result<(), FrameError>) {
    let mut decoder = Decoder::new(framing, limit);
    let mut frames = Vec::new();
    let mut buffer = BytesMut::zeroed(part);
    while !stream.is_empty() {
        if way.straight
            && let Some(mut body) = decoder.body()
        {
            let (now, later) = stream.split_at(part.min(body.remaining_mut()).min(stream.len()));
            assert!(!now.is_empty(), "a payload that is complete is a frame");
            body.put_slice(now);
            stream = later;
            decoder.finish(&mut frames);
            continue;
        }
        let (now, later) = stream.split_at(part.min(stream.len()));
        stream = later;
        let done = if way.shared {
            buffer[..now.len()].copy_from_slice(now);
            let lent = decoder.lend(&mut buffer);
            decoder.decode_shared(&lent.slice(..now.len()), &mut frames)
        } else {
            decoder.decode(now, &mut frames)
        };
        if done.is_err() {
            return (frames, done);
        }
    }
    (frames, Ok(()))
}

/// However an upgraded connection is split, the same messages come out, none beyond the limit, and the same
/// error.
///
/// The first byte chooses the role, the second the limit, the third the length of the parts.
pub fn websocket(input: &[u8]) {
    let [role, limit, part, stream @ ..] = input else {
        return;
    };
    let role = if role % 2 == 0 { Role::Client } else { Role::Server };
    let limit = usize::from(*limit) + 1;
    let whole = unpack(role, limit, std::iter::once(stream));
    let split = unpack(role, limit, stream.chunks(usize::from(*part) + 1));
    assert_eq!(whole, split);
    assert!(whole.0.iter().all(|message| message.len() <= limit));
}

fn unpack<'a>(
    role: Role,
    limit: usize,
    parts: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Bytes>, Result<(), WebSocketError>) {
    let mut decoder = WebSocketDecoder::new(role);
    let mut messages = Vec::new();
    for part in parts {
        let done = decoder.decode(part, limit, &mut messages);
        if done.is_err() {
            return (messages, done);
        }
    }
    (messages, Ok(()))
}

/// A request is read, refused, or found incomplete, and one that is read gets a response that a client can
/// read. No bytes are a response that agrees to another key than its own.
pub fn upgrade(input: &[u8]) {
    const NONCE: [u8; 16] = [7; 16];
    match UpgradeRequest::parse(input) {
        Ok(Some((request, length))) => {
            assert!(length <= input.len().min(HEAD_MAX));
            if let Ok(chosen) = request.choose("/sp", &[Protocol::Rep, Protocol::Pair0]) {
                let response = accept_upgrade(&request, chosen);
                let agreed = check_upgrade(&response, chosen, NONCE);
                let other_key = UpgradeError::Response("Sec-WebSocket-Accept");
                assert!(agreed == Ok(Some(response.len())) || agreed == Err(other_key));
            }
        }
        Ok(None) => assert!(input.len() < HEAD_MAX, "a head without end is refused"),
        Err(_) => {}
    }
    if let Ok(Some(length)) = check_upgrade(input, Protocol::Rep, NONCE) {
        assert!(length <= input.len().min(HEAD_MAX));
    }
}

/// What is taken off a request as its backtrace, and what remains, are what came.
pub fn backtrace(input: &[u8]) {
    for ttl in [DEFAULT_TTL, 1, u8::MAX] {
        let mut body = Bytes::copy_from_slice(input);
        if let Ok(backtrace) = Backtrace::split_off(&mut body, ttl) {
            assert!(backtrace.as_bytes().len() <= 4 * usize::from(ttl));
            assert_eq!([backtrace.as_bytes(), &body].concat(), input);
        }
    }
}

/// Whatever callers and peers do to a pattern, in whatever order, it does not panic, keeps its bounds and
/// gives what it says is there. The first byte names the pattern, the others are operations.
pub fn operations(input: &[u8]) {
    sp_proto::operations(input);
}

/// An address that is accepted prints as an address that means the same.
pub fn address(input: &[u8]) {
    if let Ok(text) = str::from_utf8(input)
        && let Ok(address) = Address::parse(text)
    {
        assert_eq!(
            Address::parse(&address.to_string()).as_ref(),
            Ok(&address),
            "{text:?}"
        );
    }
}

/// A manifest that is accepted names only what lies inside of its folder.
pub fn manifest(input: &[u8]) {
    let folder: PluginName = "car".parse().expect("a name");
    if let Ok(manifest) = Manifest::parse(&folder, input) {
        assert_eq!(manifest.name, folder);
        assert!(
            SymbolKind::ALL
                .iter()
                .any(|kind| !manifest.symbols(*kind).is_empty())
        );
        let executables = manifest.executables.values().chain([&manifest.executable]);
        for path in executables {
            assert!(
                !path.starts_with('/') && path.split('/').all(|part| part != ".."),
                "{path}"
            );
        }
    }
}

/// A command that is understood can be sent on; any bytes are some request.
pub fn control(input: &[u8]) {
    let _any = Request::decode(input);
    if let Ok(command) = Command::decode(input) {
        let again = Command::decode(&command.encode()).expect("our own command");
        assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&command));
    }
}

/// A message of a data channel that is understood can be sent on. (Only its kind is compared: a number with
/// more digits than a float has may change in its last one.)
pub fn data(input: &[u8]) {
    if let Ok(message) = SourceMessage::decode(input) {
        let again = SourceMessage::decode(&message.encode()).expect("our own message");
        assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&message));
    }
    if let Ok(ack) = decode_ack(input) {
        assert_eq!(
            decode_ack(&encode_ack(&ack)).expect("our own acknowledgement"),
            ack
        );
    }
    if let Ok(call) = FunctionCall::decode(input) {
        let again = FunctionCall::decode(&call.encode()).expect("our own call");
        assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&call));
    }
    if let Ok(reply) = FunctionReply::decode(input) {
        let again = FunctionReply::decode(&reply.encode()).expect("our own reply");
        assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&reply));
    }
}

/// What our own contract's decoders take, they take again when it is written anew; a batch is the same as objects and
/// as text.
pub fn native(input: &[u8]) {
    if let Ok(message) = ToHost::decode(input) {
        let again = ToHost::decode(&message.encode()).expect("our own message");
        assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&message));
    }
    if let Ok(message) = ToPlugin::decode(input) {
        let again = ToPlugin::decode(&message.encode()).expect("our own message");
        assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&message));
    }
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(batch) = SourceBatch::<Object>::decode(input, MAX_ITEMS) {
        let raw = SourceBatch::decode_fields(&bytes, MAX_ITEMS).expect("the same as text");
        assert_eq!(raw.seq, batch.seq);
        if let (SourceContent::Tuples { tuples, .. }, SourceContent::Tuples { tuples: texts, .. }) =
            (batch.content, raw.content)
        {
            assert_eq!(tuples.len(), texts.len());
            for (object, text) in tuples.into_iter().zip(texts) {
                assert_eq!(object, text.into_object().expect("the same as text"));
            }
        }
    }
    if let Ok(batch) = SinkBatch::<&RawValue>::decode(input) {
        let mut writer = SinkWriter::default();
        batch
            .results
            .iter()
            .for_each(|result| writer.push(result.get().as_bytes()));
        let message = writer.finish(batch.seq);
        let again = SinkBatch::<Value>::decode(&message);
        // What is nested too deeply can be passed on, but not read.
        assert!(again.is_err() || again.is_ok_and(|again| again.results.len() == batch.results.len()));
    }
    if let Ok(ToFunction::Calls {
        context,
        timeout,
        calls,
    }) = ToFunction::<Vec<Value>>::decode(input)
    {
        let mut writer = CallWriter::default();
        calls.iter().for_each(|(id, args)| writer.push(*id, args));
        let message = writer.finish(&context, timeout);
        assert!(ToFunction::<Vec<Value>>::decode(&message).is_ok());
    }
    if let Ok(Results { results, errors }) = Results::<Value>::decode(input, MAX_ITEMS) {
        let mut writer = ResultWriter::default();
        for (id, result) in &results {
            writer.push(*id, result).expect("a tree of values");
        }
        errors
            .iter()
            .for_each(|(id, error)| writer.push_error(*id, error));
        let again = Results::<Value>::decode(&writer.finish(), MAX_ITEMS).expect("our own results");
        assert_eq!((again.results.len(), again.errors), (results.len(), errors));
    }
}

/// SQL is refused with a place, or planned and evaluated to an end; each portable call is asked for once.
pub fn sql(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let statement = match sql::parse(text) {
        Ok(statement) => statement,
        Err(error) => return assert_place(&error, text),
    };
    let Statement::Select(select) = statement else {
        return;
    };
    let plan = match sql::plan(&select, &Demo::default()) {
        Ok(plan) => plan,
        Err(error) => return assert_place(&error, text),
    };
    assert!(!plan.explain().is_empty());
    let row = row();
    let mut results = CallResults::default();
    for _ in 0..=plan.calls().len() {
        match plan.evaluate(&row, &results) {
            Ok(Step::Call { site, .. }) => results.set(site, 1.into()),
            Ok(Step::Emit(_) | Step::Drop) | Err(_) => return,
        }
    }
    panic!("more calls are asked for than there are in the statement");
}

fn assert_place(error: &SqlError, text: &str) {
    let lines = text.split('\n').count();
    assert!(
        (1..=lines).contains(&error.line) && error.column >= 1,
        "{error}: no such place"
    );
    assert!(!error.message.is_empty());
}

/// A catalog with one stream, `demo`, and two portable functions.
struct Demo(CreateStream);

impl Default for Demo {
    fn default() -> Self {
        match sql::parse(r#"CREATE STREAM demo () WITH (DATASOURCE="demo", FORMAT="JSON")"#) {
            Ok(Statement::CreateStream(stream)) => Self(*stream),
            other => panic!("{other:?}"),
        }
    }
}

impl Catalog for Demo {
    fn stream(&self, name: &str) -> Option<&CreateStream> {
        matches!(name, "demo" | "cars").then_some(&self.0)
    }

    fn is_portable_function(&self, name: &str) -> bool {
        matches!(name, "rank" | "link")
    }
}

fn row() -> Row {
    let Value::Object(message) = json!({
        "color": "red", "size": 3, "weight": 1.5, "smallest": i64::MIN, "new": true, "owner": null,
        "a": {"b": [1, "two", {"c": 3}]},
    }) else {
        unreachable!("the literal is an object")
    };
    Row {
        message: message.into(),
        meta: None,
        timestamp: 0,
        seed: 0,
    }
}
