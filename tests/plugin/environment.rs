//! Python plugins with an environment of their own, built by the real `venv`, `pip` and `uv`. The package that
//! they require lies beside them as a wheel, so nothing is fetched.

use std::path::{Path, PathBuf};

use mangrove::plugin::{InstallError, InstallRequest, State};
use testkit::within;

use crate::folder::{tree, write_package, zip};
use crate::home::{Home, Host, manifest, unique};
use crate::peer::Peer;

const WHEEL: &str = "greet-1.0-py3-none-any.whl";

/// A program that lives on its required package.
const PROGRAM: &str = concat!(
    "import greet, sys\nprint(greet.WORD, sys.prefix)\n",
    include_str!("handshake.py")
);

async fn wheel() -> Vec<u8> {
    let info = "greet-1.0.dist-info";
    zip(&[
        ("greet.py", b"WORD = 'hello from a wheel'\n"),
        (
            &format!("{info}/METADATA"),
            b"Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n",
        ),
        (
            &format!("{info}/WHEEL"),
            b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (&format!("{info}/RECORD"), b""),
    ])
    .await
}

fn python(tool: &str) -> String {
    let source = unique("esrc");
    manifest(
        "python",
        &format!(r#""sources":["{source}"],"virtualEnvType":"{tool}""#),
    )
}

async fn package(home: &Home, name: &str, manifest: &str, requirements: &str) -> InstallRequest {
    let files: [(&str, &[u8]); 4] = [
        (&format!("{name}.json"), manifest.as_bytes()),
        ("run", PROGRAM.as_bytes()),
        ("requirements.txt", requirements.as_bytes()),
        (WHEEL, &wheel().await),
    ];
    write_package(home, name, &zip(&files).await)
}

/// The one environment that the host has built in the plugin's folder.
fn built(folder: &Path) -> PathBuf {
    let target = folder.join("venv").read_link().unwrap();
    assert!(target.to_str().unwrap().starts_with(".venv-"), "{target:?}");
    folder.join(target)
}

async fn said_hello(host: &Host, name: &str) {
    host.heard("its word", name, |line| line.starts_with("hello from a wheel "))
        .await;
}

async fn install(host: &Host, name: &str, request: InstallRequest) {
    let installing = host.plugins.install(request);
    let (installed, _peer) = within("the installation", async {
        tokio::join!(installing, Peer::control(name))
    })
    .await;
    installed.unwrap();
    said_hello(host, name).await;
}

#[tokio::test]
async fn venv_and_pip_build_what_an_update_keeps_and_a_bad_one_does_not_break() {
    let home = Home::new();
    let (name, manifest) = (unique("venv"), python("venv"));
    let host = home.start().await;

    let request = package(&home, &name, &manifest, &format!("./{WHEEL}\n")).await;
    install(&host, &name, request).await;
    let folder = home.plugin_folder(&name);
    let environment = built(&folder);
    std::fs::write(environment.join("mark"), "").unwrap();

    // The same requirements: the environment moves over. Others that cannot be had: the old one is back, with it.
    let new = manifest.replace("1.0", "2.0");
    for (requirements, is_taken) in [
        (format!("./{WHEEL}\n"), true),
        ("./no-such-file.whl".to_owned(), false),
    ] {
        let request = package(&home, &name, &new, &requirements).await;
        let updated = within("the update", host.plugins.update(request)).await;
        assert_eq!(updated.is_ok(), is_taken, "{updated:?}");
        if let Err(error) = updated {
            assert!(matches!(error, InstallError::Environment { .. }), "{error}");
            let text = error.to_string();
            let said = "pip install: exit code 1; it said last: ";
            assert!(text.contains(said) && text.contains("no-such-file"), "{text}");
        }
        host.running(&name).await;
        assert_eq!(host.plugins.get(&name).unwrap().manifest.version, "2.0");
        assert_eq!(built(&folder), environment);
        assert!(environment.join("mark").exists());
    }
    host.shutdown().await;
}

#[tokio::test]
async fn a_dropped_folder_gets_its_environment_and_the_host_does_not_wait_for_it() {
    let mut home = Home::new();
    let (name, broken) = (unique("venv"), unique("uv"));
    home.settings.uv_bin = "/no/such/uv".to_owned();
    for (name, tool) in [(&name, "venv"), (&broken, "uv")] {
        home.add(name, "python", "", PROGRAM);
        let folder = home.plugin_folder(name);
        std::fs::write(folder.join(format!("{name}.json")), python(tool)).unwrap();
        std::fs::write(folder.join("requirements.txt"), format!("./{WHEEL}")).unwrap();
        std::fs::write(folder.join(WHEEL), wheel().await).unwrap();
    }
    let host = home.start().await;
    assert_ne!(host.status(&name).status, State::Running);
    let _peer = Peer::control(&name).await;
    host.running(&name).await;
    said_hello(&host, &name).await;
    let environment = built(&home.plugin_folder(&name));
    let status = host
        .until("the refusal", &broken, |status| {
            status.err_msg.contains("uv venv: /no/such/uv cannot be started")
        })
        .await;
    assert_eq!(status.status, State::Refused);
    host.shutdown().await;

    // At the next start it is there.
    std::fs::write(environment.join("mark"), "").unwrap();
    let host = home.start().await;
    let _peer = Peer::control(&name).await;
    host.running(&name).await;
    assert!(built(&home.plugin_folder(&name)).join("mark").exists());
    host.shutdown().await;
}

#[tokio::test]
async fn uv_builds_it_as_well() {
    let Some(uv) = testkit::uv() else { return };
    let mut home = Home::new();
    home.settings.uv_bin = uv.display().to_string();
    let (name, manifest) = (unique("uv"), python("uv"));
    let host = home.start().await;
    let request = package(&home, &name, &manifest, &format!("./{WHEEL}\n")).await;
    install(&host, &name, request).await;
    built(&home.plugin_folder(&name));
    host.shutdown().await;
}

#[tokio::test]
async fn a_tool_that_is_not_there_is_named() {
    let mut home = Home::new();
    home.settings.uv_bin = "/no/such/uv".to_owned();
    let (name, manifest) = (unique("uv"), python("uv"));
    let host = home.start().await;
    let before = tree(&home);
    let request = package(&home, &name, &manifest, "").await;
    let error = within("the refusal", host.plugins.install(request))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("uv venv: /no/such/uv cannot be started: No such file"),
        "{text}"
    );
    assert_eq!(tree(&home), before);
    host.shutdown().await;
}
