//! The calls of the REST API that the documents show, made as they stand there.

use std::path::{Path, PathBuf};

use async_zip::base::write::ZipFileWriter;
use async_zip::{Compression, ZipEntryBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::{Follower, Host, Reply};
use crate::plugins::example;

/// The address that the documents use.
const ADDRESS: &str = "http://127.0.0.1:9081";

/// Where the documents expect a packed plugin.
const ZIP: &str = "file:///tmp/car.zip";

/// Calls that stand together, and what the document says they answer: JSON, or a line each.
struct Example<'a> {
    calls: Vec<&'a str>,
    answer: Option<String>,
}

fn examples(document: &str) -> Vec<Example<'_>> {
    let mut examples: Vec<Example<'_>> = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```").filter(|language| !language.is_empty()) else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let calls: Vec<&str> = block
            .iter()
            .copied()
            .filter(|line| line.starts_with("curl "))
            .collect();
        match language {
            "shell" if !calls.is_empty() => examples.push(Example { calls, answer: None }),
            "json" | "text" => {
                if let Some(example) = examples.last_mut().filter(|example| example.answer.is_none()) {
                    example.answer = Some(block.join("\n"));
                }
            }
            _ => {}
        }
    }
    examples
}

/// Starts a call that has no end: `curl -sN … &`.
async fn follow(host: &Host, line: &str) -> Follower {
    let (_, path) = line.split_once(ADDRESS).expect("the host's address");
    host.follow(path.trim_end_matches(" &")).await
}

/// Makes a call as `curl` would.
async fn call(host: &Host, line: &str, zip: &Path) -> Reply {
    let (options, rest) = line
        .split_once(ADDRESS)
        .unwrap_or_else(|| panic!("no address of the host: {line}"));
    let (path, body) = rest.split_once(" -d ").unwrap_or((rest, ""));
    let default = if body.is_empty() { "GET" } else { "POST" };
    let method = options.split(" -X ").nth(1).map_or(default, str::trim);
    let body = body
        .trim_matches('\'')
        .replace(ZIP, &format!("file://{}", zip.display()));
    host.request(method, path, &body).await
}

/// Whether `found` is what the document shows, but for figures and for names that the document leaves out.
fn agrees(shown: &Value, found: &Value) -> bool {
    match (shown, found) {
        (Value::Object(shown), Value::Object(found)) => shown.iter().all(|(key, shown)| {
            let varies = matches!(
                key.as_str(),
                "version" | "os" | "arch" | "text" | "reason" | "pid" | "MANGROVE_CONTROL" | "MANGROVE_TOKEN"
            ) || key.ends_with("last_invocation");
            found.get(key).is_some_and(|found| varies || agrees(shown, found))
        }),
        (Value::Array(shown), Value::Array(found)) => {
            shown.len() == found.len() && shown.iter().zip(found).all(|(shown, found)| agrees(shown, found))
        }
        (Value::Number(_), Value::Number(_)) => true,
        _ => shown == found,
    }
}

/// Plays a document and returns how many calls it has.
async fn play(host: &mut Host, document: &str, zip: &Path) -> usize {
    let mut count = 0;
    for example in examples(document) {
        let (mut replies, mut follower) = (Vec::new(), None);
        for line in &example.calls {
            if line.contains(" -sN ") {
                follower = Some(follow(host, line).await);
                count += 1;
                continue;
            }
            let reply = call(host, line, zip).await;
            count += 1;
            if reply.body.contains("was created successfully") {
                host.process
                    .line("the rule's start", |line| line.contains("rule is running"))
                    .await;
            }
            replies.push(reply.body.trim_end().to_owned());
        }
        let Some(answer) = &example.answer else { continue };
        let (found, calls) = (replies.join("\n"), example.calls.join("\n"));
        if let Some(mut follower) = follower {
            for event in answer.lines().filter_map(|line| line.strip_prefix("data: ")) {
                let shown: Value = serde_json::from_str(event).unwrap();
                let found = follower.next().await.expect("an event");
                assert!(agrees(&shown, &found), "{calls}\nshown: {shown}\nfound: {found}");
            }
            continue;
        }
        match serde_json::from_str(answer) {
            Ok(shown) => {
                let found =
                    serde_json::from_str(&found).unwrap_or_else(|error| panic!("{calls}: {error}: {found}"));
                assert!(agrees(&shown, &found), "{calls}\nshown: {shown}\nfound: {found}");
            }
            Err(_) => assert_eq!(*answer, found, "{calls}"),
        }
    }
    count
}

/// The example plugin as a zip.
pub(crate) async fn packed_car(folder: &Path) -> PathBuf {
    let mut zip = ZipFileWriter::new(Vec::new());
    for (name, path) in [
        ("car.json", example("car").join("car.json")),
        ("server", testkit::built("car", "server")),
    ] {
        let entry = ZipEntryBuilder::new(name.to_owned().into(), Compression::Stored).unix_permissions(0o755);
        zip.write_entry_whole(entry, &std::fs::read(path).unwrap())
            .await
            .unwrap();
    }
    let path = folder.join("car.zip");
    std::fs::write(&path, zip.close().await.unwrap()).unwrap();
    path
}

#[tokio::test]
async fn the_calls_in_the_readme_do_what_it_says() {
    let home = TempDir::new().unwrap();
    let mut host = Host::start(home.path()).await;
    assert_eq!(
        play(&mut host, include_str!("../../README.md"), home.path()).await,
        3
    );
    assert_eq!(host.logged("warm").await, json!([{"celsius": 22.5}]));
}

#[tokio::test]
async fn the_calls_in_the_rest_document_answer_what_it_shows() {
    let _car = testkit::exclusive("car");
    let home = TempDir::new().unwrap();
    let zip = packed_car(home.path()).await;
    let mut host = Host::start(home.path()).await;
    let calls = play(&mut host, include_str!("../../docs/rest.md"), &zip).await;
    assert!(calls > 20, "only {calls} calls were found");
}
