//! Folders and zips: good, broken and hostile ones, and what the host makes of them.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use async_zip::base::write::ZipFileWriter;
use async_zip::{Compression, ZipEntryBuilder};
use mangrove::plugin::{InstallError, InstallRequest, OpenError, RemoveError, State};
use mangrove_protocol::Object;
use mangrove_protocol::control::Command;
use mangrove_protocol::manifest::SymbolKind;
use testkit::within;

use crate::home::{Home, Host, SLEEP, manifest, meta, unique};
use crate::peer::Peer;

/// Writes a zip with these files and asks for its installation as `name`.
pub(crate) async fn package(home: &Home, name: &str, files: &[(&str, &str)]) -> InstallRequest {
    let files: Vec<_> = files
        .iter()
        .map(|(path, text)| (*path, text.as_bytes()))
        .collect();
    write_package(home, name, &zip(&files).await)
}

pub(crate) async fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipFileWriter::new(Vec::new());
    for (path, bytes) in files {
        let entry = ZipEntryBuilder::new((*path).into(), Compression::Deflate);
        writer.write_entry_whole(entry, bytes).await.unwrap();
    }
    writer.close().await.unwrap()
}

pub(crate) fn write_package(home: &Home, name: &str, bytes: &[u8]) -> InstallRequest {
    let path = home.path().join(format!("{}.zip", unique("pkg")));
    std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    InstallRequest::new(name.parse().unwrap(), format!("file://{}", path.display()))
}

/// Everything below the plugins' folder and `etc`, sorted.
pub(crate) fn tree(home: &Home) -> Vec<String> {
    fn walk(folder: &Path, into: &mut Vec<String>, root: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            into.push(path.strip_prefix(root).unwrap().display().to_string());
            if path.is_dir() && !path.is_symlink() {
                walk(&path, into, root);
            }
        }
    }
    let mut found = Vec::new();
    walk(&home.path().join("plugins"), &mut found, home.path());
    walk(&home.path().join("etc"), &mut found, home.path());
    found.sort();
    found
}

#[tokio::test]
async fn broken_folders_are_refused_and_stop_nobody() {
    let home = Home::new();
    let (good, twin) = (unique("ha-good"), unique("hb-twin"));
    let source = unique("hsrc");
    let fields = format!(r#""sources":["{source}"]"#);
    home.add(&good, "go", &fields, SLEEP);
    home.add(&twin, "go", &fields, SLEEP);
    for (name, text) in [
        ("hjunk", "{\"version\": "),
        ("hunknown", &manifest("go", r#""sources":["a"],"colour":1"#)),
    ] {
        std::fs::create_dir(home.plugin_folder(name)).unwrap();
        std::fs::write(home.plugin_folder(name).join(format!("{name}.json")), text).unwrap();
    }
    std::fs::create_dir(home.plugin_folder("hempty")).unwrap();
    std::fs::create_dir(home.plugin_folder("bad name")).unwrap();
    std::fs::write(home.plugin_folder("afile.zip"), "").unwrap();
    std::os::unix::fs::symlink(home.plugin_folder(&good), home.plugin_folder("hlink")).unwrap();
    home.add("hnoexec", "go", r#""sources":["b"]"#, SLEEP);
    std::fs::remove_file(home.plugin_folder("hnoexec").join("run")).unwrap();
    std::fs::create_dir(home.path().join("plugins/portable/.staging-old")).unwrap();
    // Older hosts have made them there.
    std::fs::create_dir(home.path().join("plugins/.staging-older")).unwrap();

    let host = home.start().await;
    let refused: Vec<String> = host.plugins.refused().into_iter().map(|(name, _)| name).collect();
    assert_eq!(refused, ["bad name", "hempty", "hjunk", "hlink", "hunknown"]);
    let reasons: String = host
        .plugins
        .refused()
        .into_iter()
        .map(|(_, reason)| reason + "\n")
        .collect();
    for part in [
        "contains ' '",
        "no readable manifest",
        "EOF while parsing",
        "symbolic link",
        "unknown field `colour`",
    ] {
        assert!(reasons.contains(part), "{part:?} is not in {reasons}");
    }
    let reason = |name: &str| {
        let status = host.status(name);
        assert_eq!(status.status, State::Refused);
        status.err_msg
    };
    let incomplete = host.status("hnoexec");
    assert_eq!(incomplete.status, State::Incomplete);
    assert!(incomplete.err_msg.contains("cannot be found"));
    assert_eq!(host.plugins.status("hempty").unwrap().status, State::Incomplete);
    assert!(reason(&twin).contains(&format!(r#"already defined by the plugin "{good}""#)));
    let error = host
        .plugins
        .open_source("b", meta("r"), "", Object::new())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Refused { .. }), "{error}");
    for left in ["portable/.staging-old", ".staging-older"] {
        assert!(!home.path().join("plugins").join(left).exists(), "{left}");
    }

    let _peer = Peer::control(&good).await;
    host.running(&good).await;
    assert_eq!(
        host.plugins
            .symbol(SymbolKind::Source, &source)
            .unwrap()
            .0
            .as_str(),
        good
    );
    // When the owner of the symbol goes, the twin's turn comes.
    within("the removal", host.plugins.remove(&good)).await.unwrap();
    let _peer = Peer::control(&twin).await;
    host.running(&twin).await;
    // What is refused can be removed, too, and a link goes without what it leads to.
    within("the removal", host.plugins.remove("hlink")).await.unwrap();
    assert!(!home.plugin_folder("hlink").is_symlink());
    host.shutdown().await;
}

#[tokio::test]
async fn a_good_package_is_installed_with_its_settings() {
    let home = Home::new();
    let (name, source) = (unique("hzip"), unique("hsrc"));
    let host = home.start().await;
    let manifest = manifest("go", &format!(r#""sources":["{source}"]"#));
    let settings = format!("sources/{source}.yaml");
    let files = [
        (&*format!("{name}.json"), &*manifest),
        ("run", SLEEP),
        (&*settings, "default: {}"),
        ("sources/other.yaml", "not its own"),
    ];
    let request = package(&home, &name, &files).await;
    let installing = host.plugins.install(request.clone());
    let (installed, _peer) = within("the installation", async {
        tokio::join!(installing, Peer::control(&name))
    })
    .await;
    installed.unwrap();
    let plugin = host.plugins.get(&name).unwrap();
    assert_eq!(
        (plugin.status.status, plugin.manifest.version.as_str()),
        (State::Running, "1.0")
    );
    assert_eq!(
        std::fs::read_to_string(home.path().join("etc").join(&settings)).unwrap(),
        "default: {}"
    );
    assert!(!home.path().join("etc/sources/other.yaml").exists());

    let error = host.plugins.install(request).await.unwrap_err();
    assert!(matches!(error, InstallError::AlreadyExists(_)), "{error}");
    within("the removal", host.plugins.remove(&name)).await.unwrap();
    assert!(host.plugins.get(&name).is_none() && !home.plugin_folder(&name).exists());
    assert!(matches!(
        host.plugins.remove(&name).await,
        Err(RemoveError::NotFound(_))
    ));
    assert!(matches!(
        host.plugins.remove("../portable").await,
        Err(RemoveError::NotFound(_))
    ));
    host.shutdown().await;
}

#[tokio::test]
async fn whatever_is_wrong_with_a_package_nothing_is_left_behind() {
    let home = Home::new();
    let (owner, taken) = (unique("hown"), unique("hsrc"));
    home.add(&owner, "go", &format!(r#""sources":["{taken}"]"#), SLEEP);
    let host = home.start().await;
    let before = tree(&home);
    let name = unique("hbad");
    let json = format!("{name}.json");
    let source = unique("hsrc");
    let good = manifest("go", &format!(r#""sources":["{source}"]"#));
    let twin = manifest("go", &format!(r#""sources":["{taken}"]"#));
    let settings = format!("sources/{source}.yaml");
    let dies = "#!/bin/sh\necho 'no licence' >&2; exit 1\n";
    let packages = [
        (vec![("run", SLEEP)], "no readable manifest"),
        (
            vec![("sub/x.json", &*good), ("run", SLEEP)],
            "no readable manifest",
        ),
        (vec![(&*json, &*good)], "cannot be found"),
        (vec![(&*json, "{"), ("run", SLEEP)], "the manifest cannot be read"),
        (
            vec![(&*json, &*twin), ("run", SLEEP)],
            "already defined by the plugin",
        ),
        (
            vec![(&*json, &*good), ("run", SLEEP), ("../../escaped", "x")],
            "has the component \"..\"",
        ),
        (
            vec![(&*json, &*good), ("run", SLEEP), ("/tmp/escaped", "x")],
            "its name is absolute",
        ),
        (
            vec![(&*json, &*good), ("run", dies), (&*settings, "x")],
            "exit code 1; it said last: no licence",
        ),
        (
            vec![(&*json, &*good), ("run", "#!/no/such/interpreter")],
            "cannot start",
        ),
    ];
    for (files, expected) in packages {
        let request = package(&home, &name, &files).await;
        let error = within("the refusal", host.plugins.install(request))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains(expected),
            "expected {expected:?}: {error}"
        );
        assert_eq!(
            tree(&home)
                .iter()
                .filter(|path| !path.ends_with("etc/sources"))
                .count(),
            before.len(),
            "{expected}"
        );
        assert!(host.plugins.get(&name).is_none());
    }
    for bytes in [&b""[..], b"PK", b"not a zip at all", &[0; 100_000]] {
        let error = host
            .plugins
            .install(write_package(&home, &name, bytes))
            .await
            .unwrap_err();
        assert!(matches!(error, InstallError::Archive(_)), "{error}");
    }
    for (file, expected) in [
        ("ftp://example.org/x.zip", "expected file:///an/absolute/path.zip"),
        (
            "file:///no/such/file.zip",
            "cannot open the package /no/such/file.zip",
        ),
        ("file:///dev/null", "it is not a file"),
    ] {
        let request = InstallRequest::new(name.parse().unwrap(), file);
        let error = host.plugins.install(request).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(!home.path().join("plugins/escaped").exists() && !Path::new("/tmp/escaped").exists());
    host.shutdown().await;
}

#[tokio::test]
async fn an_update_replaces_and_a_bad_one_leaves_the_old_one_running() {
    let mut home = Home::new();
    home.settings.restart_limit = 10;
    let (name, source, rule) = (unique("hupd"), unique("hsrc"), unique("hr"));
    let fields = format!(r#""sources":["{source}"]"#);
    home.add(&name, "go", &fields, "#!/bin/sh\necho first\nexec sleep 600\n");
    let host = home.start().await;
    let mut peer = Peer::control(&name).await;
    let opening = host.plugins.open_source(&source, meta(&rule), "", Object::new());
    let plugin = async {
        peer.command().await;
        peer.say("ok").await;
    };
    let (opened, ()) = within("the source", async { tokio::join!(opening, plugin) }).await;
    let _source = opened.unwrap();
    // Before it has read its script it could read that of the version which lies there for a moment.
    host.heard("the old process", &name, |line| line == "first").await;
    let old = host.running(&name).await.pid;
    let json = format!("{name}.json");

    // Not a plugin: the old one is not even stopped.
    let request = package(&home, &name, &[(&json, "{"), ("run", SLEEP)]).await;
    within("the refusal", host.plugins.update(request))
        .await
        .unwrap_err();
    assert_eq!(host.running(&name).await.pid, old);

    // A plugin that does not start: the old one runs on, with its source.
    let new = manifest("go", &fields).replace("1.0", "2.0");
    let request = package(&home, &name, &[(&json, &new), ("run", "#!/bin/sh\nexit 4\n")]).await;
    let error = within("the refusal", host.plugins.update(request))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, InstallError::Start { reason, .. } if reason.contains("exit code 4")),
        "{error}"
    );
    let status = host.running(&name).await;
    assert_eq!(status.pid, old, "{status:?}");
    assert_eq!(status.ref_count, [(rule.clone(), 1)].into());
    assert_eq!(host.plugins.get(&name).unwrap().manifest.version, "1.0");

    // A good one takes over the source.
    let script = "#!/bin/sh\necho second\nexec sleep 600\n";
    let request = package(&home, &name, &[(&json, &new), ("run", script)]).await;
    let updating = host.plugins.update(request);
    let moving = async {
        host.heard("the new process", &name, |line| line == "second")
            .await;
        let mut next = Peer::control(&name).await;
        assert!(matches!(next.command().await, Command::Start(symbol) if symbol.name.as_str() == source));
        next.say("ok").await;
        assert!(matches!(peer.command().await, Command::Stop(symbol) if symbol.name.as_str() == source));
        peer.say("ok").await;
        next
    };
    let (updated, second) = within("the update", async { tokio::join!(updating, moving) }).await;
    updated.unwrap();
    drop(peer);
    assert_eq!(host.plugins.get(&name).unwrap().manifest.version, "2.0");
    let status = host.running(&name).await;
    assert_ne!(status.pid, old);

    // Removed while it is used, and installed again: the source goes on.
    drop(second);
    within("the removal", host.plugins.remove(&name)).await.unwrap();
    assert!(host.plugins.get(&name).is_none());
    let request = package(&home, &name, &[(&json, &new), ("run", SLEEP)]).await;
    let installing = host.plugins.install(request);
    let replaying = replayed(&host, &name, status.pid, &source);
    let (installed, _peer) = within("the installation", async { tokio::join!(installing, replaying) }).await;
    installed.unwrap();
    host.shutdown().await;
}

/// Speaks for the next process, which has to start the source.
async fn replayed(host: &Host, name: &str, old: Option<u32>, source: &str) -> Peer {
    let mut peer = host.next_peer(name, old).await;
    let command = peer.command().await;
    assert!(
        matches!(&command, Command::Start(symbol) if symbol.name.as_str() == source),
        "{command:?}"
    );
    peer.say("ok").await;
    peer
}

#[tokio::test]
async fn an_installation_goes_on_when_its_caller_goes_away() {
    let home = Home::new();
    let (name, source) = (unique("hzip"), unique("hsrc"));
    let host = home.start().await;
    let files = [
        (
            &*format!("{name}.json"),
            &*manifest("go", &format!(r#""sources":["{source}"]"#)),
        ),
        ("run", SLEEP),
    ];
    let request = package(&home, &name, &files).await;
    let mut events = host.plugins.events();
    drop(tokio::time::timeout(Duration::ZERO, host.plugins.install(request)).await);
    let _peer = Peer::control(&name).await;
    within("the plugin", async {
        while events.recv().await.unwrap().state != State::Running {}
    })
    .await;
    host.shutdown().await;
}
