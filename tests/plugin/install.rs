//! Installations: packages from a server, scripts in them, the files in `etc`; and that whatever goes wrong,
//! nothing of it is left.

use std::path::PathBuf;
use std::time::Duration;

use mangrove::plugin::{InstallError, InstallRequest, RemoveError, State};
use mangrove_protocol::manifest::SymbolKind;
use testkit::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::folder::{package, tree};
use crate::home::{Home, Host, SLEEP, manifest, unique};
use crate::peer::Peer;

/// A good plugin with a source of its own, to which tests add files.
struct Example {
    name: String,
    source: String,
    json: String,
    manifest: String,
}

impl Example {
    fn new() -> Self {
        let (name, source) = (unique("inst"), unique("isrc"));
        Self {
            json: format!("{name}.json"),
            manifest: manifest("go", &format!(r#""sources":["{source}"]"#)),
            name,
            source,
        }
    }

    async fn package(&self, home: &Home, more: &[(&str, &str)]) -> InstallRequest {
        let mut files = vec![(&*self.json, &*self.manifest), ("run", SLEEP)];
        files.extend(more);
        package(home, &self.name, &files).await
    }

    /// The conf keys of its source, below a plugin's folder or `etc`.
    fn yaml(&self) -> String {
        format!("sources/{}.yaml", self.source)
    }

    /// Installs a package that is fine. As long as the returned end of its channel lives, it runs.
    async fn install(&self, host: &Host, request: InstallRequest) -> Peer {
        let installing = host.plugins.install(request);
        let (installed, peer) = within("the installation", async {
            tokio::join!(installing, Peer::control(&self.name))
        })
        .await;
        installed.unwrap();
        host.running(&self.name).await;
        peer
    }
}

/// The zip that the request means.
fn bytes(request: &InstallRequest) -> Vec<u8> {
    std::fs::read(path(request)).unwrap()
}

fn path(request: &InstallRequest) -> PathBuf {
    request.file.strip_prefix("file://").unwrap().into()
}

/// Serves these bytes, whatever is asked, with TLS or without, until it is dropped.
async fn serve(body: Vec<u8>, tls: Option<tokio_rustls::TlsAcceptor>) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            match &tls {
                None => answer(stream, &body).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream, &body).await;
                    }
                }
            }
        }
    });
    (port, tasks)
}

async fn answer(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, body: &[u8]) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn a_package_comes_from_a_server_and_only_the_right_one_is_taken() {
    let home = Home::new();
    let example = Example::new();
    let host = home.start().await;
    let before = tree(&home);
    let local = example.package(&home, &[]).await;
    let (port, _server) = serve(bytes(&local), None).await;
    let remote = InstallRequest::new(
        local.name.clone(),
        format!("http://127.0.0.1:{port}/car.zip?token=1"),
    );
    let wrong = "0".repeat(64);
    for request in [&local, &remote] {
        let request = InstallRequest {
            sha256: Some(wrong.parse().unwrap()),
            ..request.clone()
        };
        let error = within("the refusal", host.plugins.install(request))
            .await
            .unwrap_err();
        let InstallError::Checksum { found, .. } = &error else {
            panic!("{error}");
        };
        assert_ne!(found.to_string(), wrong);
        assert_eq!(tree(&home), before);
    }
    let right = {
        let summed = std::process::Command::new("sha256sum")
            .arg(path(&local))
            .output()
            .unwrap();
        String::from_utf8(summed.stdout).unwrap()[..64].to_owned()
    };
    for request in [remote, local] {
        let request = InstallRequest {
            sha256: Some(right.parse().unwrap()),
            ..request
        };
        example.install(&host, request).await;
        within("the removal", host.plugins.remove(&example.name))
            .await
            .unwrap();
        assert_eq!(tree(&home), before);
    }
    host.shutdown().await;
}

#[tokio::test]
async fn over_https_an_authority_of_ones_own_has_to_be_set() {
    let mut home = Home::new();
    let example = Example::new();
    let request = example.package(&home, &[]).await;
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let (port, _server) = serve(bytes(&request), Some(std::sync::Arc::new(config).into())).await;
    let request = InstallRequest::new(request.name, format!("https://localhost:{port}/car.zip"));

    let host = home.start().await;
    let before = tree(&home);
    let error = within("the refusal", host.plugins.install(request.clone()))
        .await
        .unwrap_err();
    assert!(matches!(error, InstallError::Download(_)), "{error}");
    assert!(
        error.to_string().contains("cannot connect to localhost"),
        "{error}"
    );
    assert_eq!(tree(&home), before);
    host.shutdown().await;

    let ca_file = home.path().join("ca.pem");
    std::fs::write(&ca_file, key.cert.pem()).unwrap();
    home.settings.ca_file = Some(ca_file);
    let host = home.start().await;
    example.install(&host, request).await;
    host.shutdown().await;
}

#[tokio::test]
async fn a_script_runs_once_before_the_first_start_with_its_paras() {
    let home = Home::new();
    let example = Example::new();
    let host = home.start().await;
    // The program is what the script makes.
    let script = "echo \"got $1 and $2\"; echo ran >> log; mv later run; chmod +x run";
    let files = [
        (&*example.json, &*example.manifest),
        ("later", SLEEP),
        ("install.sh", script),
    ];
    let request = InstallRequest {
        shell_paras: vec!["a b".to_owned(), "$HOME".to_owned()],
        ..package(&home, &example.name, &files).await
    };
    example.install(&host, request).await;
    let output = host.plugins.output(&example.name).unwrap();
    assert!(
        output.iter().any(|line| line.text == "got a b and $HOME"),
        "{output:?}"
    );
    host.shutdown().await;

    let host = home.start().await;
    let _peer = Peer::control(&example.name).await;
    host.running(&example.name).await;
    let log = home.plugin_folder(&example.name).join("log");
    assert_eq!(std::fs::read_to_string(log).unwrap(), "ran\n");
    host.shutdown().await;
}

#[tokio::test]
async fn whatever_a_script_does_wrong_nothing_is_left_behind() {
    let mut home = Home::new();
    // A script that removes its folder fails by itself, before anybody has seen that it is gone.
    home.settings.settle = Duration::from_secs(3600);
    let example = Example::new();
    let host = home.start().await;
    let before = tree(&home);
    let yaml = example.yaml();
    let json = &example.json;
    let damage = format!("echo nonsense > {json}");
    let rename = format!("sed -i s/1.0/2.0/ {json}; rm run");
    for (script, expected) in [
        (
            "echo no licence >&2; exit 3",
            "failed: exit code 3; it said last: no licence",
        ),
        ("sleep 600 & exit 5", "failed: exit code 5; it said nothing"),
        (
            "yes | head -c 3000000; exit 6",
            "failed: exit code 6; it said last: y | y",
        ),
        (
            "rm -rf ../\"$(basename \"$PWD\")\"; exit 7",
            "failed: exit code 7",
        ),
        ("rm -rf ../\"$(basename \"$PWD\")\"", "no readable manifest"),
        ("mkdir -p deep/er; chmod 0 deep; exit 8", "failed: exit code 8"),
        ("mkfifo run2; mv run2 run", "is not a file"),
        (&damage, "the manifest cannot be read"),
        (&rename, "cannot be found"),
    ] {
        let request = example
            .package(&home, &[("install.sh", script), (&yaml, "a: {}")])
            .await;
        let error = within("the refusal", host.plugins.install(request))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{script:?}: {text}");
        assert!(!text.contains(".staging-") && text.len() < 600, "{text}");
        let left: Vec<_> = tree(&home)
            .into_iter()
            .filter(|path| path != "etc" && path != "etc/sources")
            .collect();
        assert_eq!(left, before, "{script:?}");
        assert!(host.plugins.get(&example.name).is_none());
        let records = home.path().join("data/portable");
        assert!(records.read_dir().map_or(0, Iterator::count) == 0);
        // What it said is still there to be read.
        assert!(host.plugins.output(&example.name).is_some());
    }
    // And a good one may follow.
    let request = example.package(&home, &[]).await;
    example.install(&host, request).await;
    host.shutdown().await;
}

#[tokio::test]
async fn a_script_that_hangs_is_killed_with_what_it_started() {
    let mut home = Home::new();
    home.settings.install_timeout = Duration::from_millis(300);
    let example = Example::new();
    let host = home.start().await;
    let before = tree(&home);
    let pipe = home.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    // Whoever lives of the two holds the pipe open for reading.
    let script = format!("exec 3<>{}; sleep 600 & sleep 600", pipe.display());
    let request = example.package(&home, &[("install.sh", &script)]).await;
    let error = within("the refusal", host.plugins.install(request))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("failed: it has not ended within 300ms"),
        "{error}"
    );
    assert_eq!(tree(&home), before);
    within("the end of both", async {
        // To open it for writing, without waiting, takes a reader.
        let open = || tokio::net::unix::pipe::OpenOptions::new().open_sender(&pipe);
        while open().is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    host.shutdown().await;
}

/// The host undoes what the host has done. What a script does elsewhere is the script's business, as it is the
/// plugin's: both run with the host's rights.
#[tokio::test]
async fn what_a_script_writes_elsewhere_stays_and_disturbs_nobody() {
    let home = Home::new();
    let example = Example::new();
    let host = home.start().await;
    let outside = home.path().join("outside");
    let script = format!("echo x > {}; mkdir ../half; exit 1", outside.display());
    let request = example.package(&home, &[("install.sh", &script)]).await;
    let error = within("the refusal", host.plugins.install(request))
        .await
        .unwrap_err();
    assert!(matches!(error, InstallError::Script { .. }), "{error}");
    assert!(outside.exists() && !home.plugin_folder(&example.name).exists());
    let request = example.package(&home, &[]).await;
    example.install(&host, request).await;
    host.shutdown().await;
}

#[tokio::test]
async fn an_update_whose_script_fails_leaves_the_old_one_with_its_files() {
    let home = Home::new();
    let example = Example::new();
    let host = home.start().await;
    let yaml = example.yaml();
    let etc = home.path().join("etc").join(&yaml);
    let request = example.package(&home, &[(&yaml, "old: {}")]).await;
    let peer = example.install(&host, request).await;
    let old = host.status(&example.name).pid;
    let files = [
        (&*yaml, "new: {}"),
        ("install.sh", "echo broken; exit 1"),
        ("new", ""),
    ];
    let request = example.package(&home, &files).await;
    let updating = host.plugins.update(request);
    let error = within("the refusal", updating).await.unwrap_err();
    assert!(
        error.to_string().ends_with("exit code 1; it said last: broken"),
        "{error}"
    );
    assert_eq!(host.running(&example.name).await.pid, old);
    assert_eq!(std::fs::read_to_string(&etc).unwrap(), "old: {}");
    assert!(!home.plugin_folder(&example.name).join("new").exists());

    drop(peer);
    // Edited by the user, it survives all that follows.
    std::fs::write(&etc, "mine: {}").unwrap();
    within("the removal", host.plugins.remove(&example.name))
        .await
        .unwrap();
    let request = example.package(&home, &[(&yaml, "newer: {}")]).await;
    example.install(&host, request).await;
    within("the removal", host.plugins.remove(&example.name))
        .await
        .unwrap();
    assert_eq!(std::fs::read_to_string(&etc).unwrap(), "mine: {}");
    host.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_put_back_is_kept_until_the_host_starts_again() {
    let home = Home::new();
    let example = Example::new();
    let host = home.start().await;
    let request = example.package(&home, &[]).await;
    let _peer = example.install(&host, request).await;
    let old = host.status(&example.name).pid;
    // The new version is to have one more source; its script takes the old one away from the host, and fails.
    let more = unique("isrc");
    let sources = format!(r#""sources":["{}","{more}"]"#, example.source);
    let update = Example {
        manifest: manifest("go", &sources),
        name: example.name.clone(),
        source: example.source.clone(),
        json: example.json.clone(),
    };
    let script = "mv ../.staging-* ../.away; exit 1";
    let request = update
        .package(&home, &[("install.sh", script), ("new", "")])
        .await;
    let error = within("the refusal", host.plugins.update(request))
        .await
        .unwrap_err();
    let InstallError::Stuck { kept, cause, .. } = &error else {
        panic!("{error}");
    };
    assert!(matches!(**cause, InstallError::Script { .. }), "{cause}");
    assert!(error.to_string().contains(&*kept.to_string_lossy()), "{error}");
    let part = "cannot be put back";
    let status = host
        .until("the note", &example.name, |status| status.note.contains(part))
        .await;
    assert_eq!((status.status, status.pid), (State::Running, old));
    // What it was to bring is free for others.
    let other = Example {
        manifest: manifest("go", &format!(r#""sources":["{more}"]"#)),
        ..Example::new()
    };
    let request = other.package(&home, &[]).await;
    let _other = other.install(&host, request).await;
    host.shutdown().await;

    let folder = home.plugin_folder(&example.name);
    assert!(folder.join("new").exists());
    std::fs::rename(home.plugin_folder(".away"), kept).unwrap();
    let host = home.start().await;
    assert!(!folder.join("new").exists() && !kept.exists());
    let _peer = Peer::control(&example.name).await;
    assert_eq!(host.running(&example.name).await.note, "");
    host.shutdown().await;
}

#[tokio::test]
async fn a_host_that_stops_gives_up_what_it_was_installing() {
    let home = Home::new();
    let (scripted, fetched) = (Example::new(), Example::new());
    let host = home.start().await;
    let before = tree(&home);
    // A server that never answers, and a script that never ends.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/car.zip", listener.local_addr().unwrap());
    let plugins = host.plugins.clone();
    let request = InstallRequest::new(fetched.name.parse().unwrap(), url);
    let mut installing = JoinSet::new();
    installing.spawn(async move { plugins.install(request).await });
    let _connection = within("the request", listener.accept()).await.unwrap();
    host.shutdown().await;
    let ended = installing.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(matches!(ended, InstallError::Interrupted(_)), "{ended}");
    assert_eq!(tree(&home), before);

    let host = home.start().await;
    let (plugins, request) = (
        host.plugins.clone(),
        scripted
            .package(&home, &[("install.sh", "echo begun; sleep 600")])
            .await,
    );
    installing.spawn(async move { plugins.install(request).await });
    host.script_begun(&scripted.name).await;
    host.shutdown().await;
    let ended = installing.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(matches!(ended, InstallError::Interrupted(_)), "{ended}");
    let left: Vec<_> = tree(&home)
        .into_iter()
        .filter(|path| !path.starts_with("etc"))
        .collect();
    assert_eq!(left, before);
}

#[tokio::test]
async fn a_plugin_that_is_being_installed_shows_how_far_it_is_and_can_be_removed() {
    let home = Home::new();
    let (scripted, fetched) = (Example::new(), Example::new());
    let host = home.start().await;
    let before = tree(&home);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/car.zip", listener.local_addr().unwrap());
    let request = InstallRequest::new(fetched.name.parse().unwrap(), url);
    let (plugins, mut installing) = (host.plugins.clone(), JoinSet::new());
    installing.spawn(async move { plugins.install(request).await });
    let _connection = within("the request", listener.accept()).await.unwrap();
    let status = host.plugins.status(&fetched.name).unwrap();
    assert_eq!(
        (status.status, status.err_msg.as_str()),
        (State::Installing, "its package is being fetched and checked")
    );
    assert!(host.plugins.get(&fetched.name).is_none());
    assert_eq!(host.plugins.coming(), [fetched.name.as_str()]);
    within("the removal", host.plugins.remove(&fetched.name))
        .await
        .unwrap();
    let ended = installing.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(matches!(ended, InstallError::Interrupted(_)), "{ended}");
    assert!(host.plugins.status(&fetched.name).is_none());

    let plugins = host.plugins.clone();
    let request = scripted
        .package(&home, &[("install.sh", "echo begun; sleep 600")])
        .await;
    installing.spawn(async move { plugins.install(request).await });
    host.script_begun(&scripted.name).await;
    let status = host.status(&scripted.name);
    assert_eq!(
        (status.status, status.err_msg.as_str(), status.version.as_str()),
        (State::Installing, "its install.sh is running", "1.0")
    );
    let missing = host.plugins.missing(SymbolKind::Source, &scripted.source);
    let reason = format!("the plugin \"{}\" is being installed", scripted.name);
    assert_eq!(missing.unwrap().reason, reason);
    within("the removal", host.plugins.remove(&scripted.name))
        .await
        .unwrap();
    let ended = installing.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(matches!(ended, InstallError::Interrupted(_)), "{ended}");
    // Nothing was, and nothing is.
    assert!(matches!(
        host.plugins.remove(&scripted.name).await,
        Err(RemoveError::NotFound(_))
    ));
    let left = tree(&home).into_iter().filter(|path| !path.starts_with("etc"));
    assert_eq!(left.collect::<Vec<_>>(), before);
    host.shutdown().await;
}

/// What lies in the plugins' folder is looked at without waiting for anybody, and removed without touching what
/// it leads to.
#[tokio::test]
async fn hostile_folders_have_a_verdict_and_go_without_harm() {
    let home = Home::new();
    let outside = home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret.json"), "{\"colour\": 1}").unwrap();
    let shell = |folder: &str, script: &str| {
        let folder = home.plugin_folder(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let mut sh = std::process::Command::new("/bin/sh");
        let ran = sh.args(["-ec", script]).current_dir(folder).status().unwrap();
        assert!(ran.success(), "{script}");
    };
    let example = Example::new();
    let program = |name: &str| home.add(name, "go", r#""sources":["b"]"#, SLEEP);
    for (name, make, expected) in [
        ("m-pipe", "mkfifo m-pipe.json", "it is not a file"),
        (
            "m-loop",
            "ln -s m-loop.json m-loop.json",
            "no readable manifest m-loop/m-loop.json",
        ),
        (
            "m-device",
            "ln -s /dev/zero m-device.json",
            "leads out of the plugin's folder",
        ),
        (
            "m-secret",
            "ln -s ../../../outside/secret.json m-secret.json",
            "leads out of the plugin's folder",
        ),
        (
            "m-kernel",
            "ln -s /proc/kmsg m-kernel.json",
            "leads out of the plugin's folder",
        ),
        ("m-folder", "mkdir m-folder.json", "it is not a file"),
        ("m-huge", "truncate -s 5G m-huge.json", "at most"),
        ("p-pipe", "rm run; mkfifo run", "p-pipe/run is not a file"),
        ("p-loop", "rm run; ln -s run run", "p-loop/run cannot be found"),
        (
            "p-device",
            "rm run; ln -s /dev/null run",
            "p-device/run leads out",
        ),
        ("p-folder", "rm run; mkdir run", "p-folder/run is not a file"),
    ] {
        if name.starts_with('p') {
            program(name);
        }
        shell(name, make);
        let host = within("the start", home.start()).await;
        let unreadable = host
            .plugins
            .refused()
            .into_iter()
            .find(|(folder, _)| folder == name);
        let reason = unreadable.map_or_else(|| host.status(name).err_msg, |(_, reason)| reason);
        assert!(reason.contains(expected), "{name}: {reason}");
        assert!(!reason.contains("colour"), "{reason}");
        within("the removal", host.plugins.remove(name)).await.unwrap();
        host.shutdown().await;
    }

    // One that runs, over a heap of what may lie in a folder.
    let name = &example.name;
    home.add(name, "go", &format!(r#""sources":["{}"]"#, example.source), SLEEP);
    let heap = "ln -s / root; ln -s .. up; mkfifo pipe; mkdir -p shut/inside; ln -s ../../../outside sources
        touch shut/inside/x; chmod 0 shut; d=.; for i in $(seq 60); do d=$d/deep; mkdir $d; done
        mkdir many; cd many; seq 20000 | xargs touch";
    shell(name, heap);
    std::fs::write(outside.join(format!("{}.yaml", example.source)), "not: its").unwrap();
    let host = within("the start", home.start()).await;
    let _peer = Peer::control(name).await;
    host.running(name).await;
    assert!(!home.path().join("etc").join(example.yaml()).exists());
    within("the removal", host.plugins.remove(name)).await.unwrap();
    assert_eq!(outside.read_dir().unwrap().count(), 2);
    assert!(tree(&home).iter().all(|path| !path.contains(".staging-")));
    host.shutdown().await;
}
