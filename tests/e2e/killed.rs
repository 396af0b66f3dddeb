//! A host that is killed while it installs or updates a plugin: what was there before is there again when the next
//! one starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_zip::base::write::ZipFileWriter;
use async_zip::{Compression, ZipEntryBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::within;

use crate::host::Host;
use crate::plugins::example;

/// It starts, and never speaks.
const MUTE: &str = "#!/bin/sh\necho begun\nexec sleep 600\n";

/// It never ends.
const ENDLESS: &str = "echo begun; touch half; sleep 600";

/// Packs the plugin `car` in this version, with these files instead of or beside its own.
pub(crate) async fn packed(home: &Path, version: &str, more: &[(&str, &str)]) -> PathBuf {
    let manifest = std::fs::read_to_string(example("car").join("car.json")).unwrap();
    let mut files = vec![
        ("car.json", manifest.replace("v1.0.0", version).into_bytes()),
        ("server", std::fs::read(testkit::built("car", "server")).unwrap()),
        ("sources/udp.yaml", format!("{version}: {{}}\n").into_bytes()),
    ];
    for (name, text) in more {
        files.retain(|(other, _)| other != name);
        files.push((name, text.as_bytes().to_vec()));
    }
    let mut zip = ZipFileWriter::new(Vec::new());
    for (name, bytes) in files {
        let entry = ZipEntryBuilder::new(name.to_owned().into(), Compression::Stored).unix_permissions(0o755);
        zip.write_entry_whole(entry, &bytes).await.unwrap();
    }
    let path = home.join(format!("car-{version}.zip"));
    std::fs::write(&path, zip.close().await.unwrap()).unwrap();
    path
}

pub(crate) fn descriptor(zip: &Path) -> Value {
    json!({"name": "car", "file": format!("file://{}", zip.display())})
}

/// Waits until the script or the program of the plugin has said that it has begun.
async fn begun(host: &Host) {
    within("the script or the program", async {
        while !host
            .get("/plugins/portables/car/logs")
            .await
            .body
            .contains("begun")
        {
            // The host has no event for it.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Kills a host that is busy with `work` once something of the plugin has begun.
async fn killed(host: &mut Host, work: impl AsyncFn(&Host)) {
    let busy: &Host = host;
    tokio::select! {
        () = work(busy) => panic!("it has come to its end"),
        () = begun(busy) => {}
    }
    host.process.kill().await;
}

/// Every file of plugins and of their symbols, relative to the home, with its text unless it is the program.
fn files(home: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = ["plugins", "etc", "data/portable"]
        .map(|name| home.join(name))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(home).unwrap().display().to_string();
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                found.push((name, text));
            }
        }
    }
    found.sort();
    found
}

pub(crate) async fn running(host: &Host, version: &str) {
    within("the plugin", async {
        loop {
            let status = host.get("/plugins/portables/car/status").await;
            if status.status == 200 && status.json()["status"] == "running" {
                assert_eq!(status.json()["version"], version, "{}", status.body);
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_killed_host_has_installed_nothing() {
    let _car = testkit::exclusive("car");
    for more in [("install.sh", ENDLESS), ("server", MUTE)] {
        let home = TempDir::new().unwrap();
        let mut host = Host::start(home.path()).await;
        let before = files(home.path());
        let zip = packed(home.path(), "v2", &[more]).await;
        killed(&mut host, async |host| {
            host.post("/plugins/portables", &descriptor(&zip)).await;
        })
        .await;
        assert!(home.path().join("plugins/portable/car").exists());
        let mut host = Host::start(home.path()).await;
        host.process
            .line_of_all("that it is removed", |line| {
                line.contains("its installation was cut short: it is removed")
            })
            .await;
        assert_eq!(host.get("/plugins/portables/car/status").await.status, 404);
        assert_eq!(files(home.path()), before, "{more:?}");
        assert!(host.interrupt().await.success());
    }
}

#[tokio::test]
async fn a_killed_host_has_the_old_version_back() {
    let _car = testkit::exclusive("car");
    for more in [("install.sh", ENDLESS), ("server", MUTE)] {
        let home = TempDir::new().unwrap();
        let zip = packed(home.path(), "v1", &[]).await;
        let mut host = Host::start(home.path()).await;
        assert_eq!(
            host.post("/plugins/portables", &descriptor(&zip)).await.status,
            201
        );
        let before = files(home.path());
        assert!(
            before
                .iter()
                .any(|(name, text)| name == "etc/sources/udp.yaml" && text == "v1: {}\n")
        );
        let zip = packed(home.path(), "v2", &[more]).await;
        killed(&mut host, async |host| {
            host.put("/plugins/portables/car", &descriptor(&zip)).await;
        })
        .await;
        assert_ne!(files(home.path()), before);
        let mut host = Host::start(home.path()).await;
        host.process
            .line_of_all("that it is back", |line| {
                line.contains("its update was cut short: the old version is back")
            })
            .await;
        running(&host, "v1").await;
        assert_eq!(files(home.path()), before, "{more:?}");
        assert!(host.interrupt().await.success());
    }
}

#[tokio::test]
async fn a_killed_host_installs_a_dropped_zip_again() {
    let _car = testkit::exclusive("car");
    let home = TempDir::new().unwrap();
    let mut host = Host::start(home.path()).await;
    let again = home.path().join("again");
    let script = format!("[ -e {0} ] && exit 0; touch {0}; {ENDLESS}", again.display());
    let zip = packed(home.path(), "v2", &[("install.sh", &script)]).await;
    let dropped = home.path().join("plugins/portable/car.zip");
    killed(&mut host, async |host| {
        std::fs::rename(&zip, &dropped).unwrap();
        let _busy = host.follow("/events").await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut host = Host::start(home.path()).await;
    host.process
        .line_of_all("that it is removed", |line| {
            line.contains("its installation was cut short: it is removed")
        })
        .await;
    running(&host, "v2").await;
    assert!(!home.path().join("plugins/portable/car/half").exists());
    within("the end of the zip", async {
        while dropped.exists() {
            host.get("/ping").await;
        }
    })
    .await;
    assert!(host.interrupt().await.success());
}
