//! The plugins' folder as a file system of its own, as a volume of a container is.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use testkit::{Process, within};
use tokio::process::Command;

use crate::host::Host;
use crate::killed::{descriptor, packed, running};

/// A shell that sees mounts of its own: as the one who runs the tests, or as the root of its own users.
fn apart(how: &str, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args([how, "sh", "-ec", script]);
    command
}

/// Nothing but these lies there.
fn lies(folder: &Path, expected: &[&str]) {
    let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn plugins_come_change_and_go_in_a_folder_that_is_a_mount_point() {
    let home = TempDir::new().unwrap();
    let folder = home.path().join("plugins/portable");
    std::fs::create_dir_all(&folder).unwrap();
    let mount = r#"mount -t tmpfs tmpfs "$0""#;
    let mut refused = String::new();
    let mut found = None;
    for how in ["-m", "-Urm"] {
        match apart(how, mount).arg(&folder).output().await {
            Ok(output) if output.status.success() => {
                found = Some(how);
                break;
            }
            Ok(output) => refused = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => return testkit::skip("unshare", &error.to_string()),
        }
    }
    let Some(how) = found else {
        return testkit::skip("a mount", &refused);
    };
    let _car = testkit::exclusive("car");
    let (first, second) = (
        packed(home.path(), "v1", &[]).await,
        packed(home.path(), "v2", &[]).await,
    );
    let serve = format!(r#"{mount}; exec "$1" serve --home "$2" --rest 127.0.0.1:0"#);
    let mut command = apart(how, &serve);
    command
        .arg(&folder)
        .arg(env!("CARGO_BIN_EXE_mangrove"))
        .arg(home.path());
    let host = Host::ready(Process::spawn(command)).await;
    let root = format!("/proc/{}/root", host.process.id().expect("it runs"));
    let seen = Path::new(&root).join(folder.strip_prefix("/").unwrap());

    let reply = host.post("/plugins/portables", &descriptor(&first)).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    running(&host, "v1").await;
    let reply = host.put("/plugins/portables/car", &descriptor(&second)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    running(&host, "v2").await;
    lies(&seen, &["car"]);
    assert_eq!(host.get("/plugins/portable").await.json(), json!(["car"]));
    let reply = host.delete("/plugins/portables/car").await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    lies(&seen, &[]);

    std::fs::copy(&first, seen.join("car.zip")).unwrap();
    within("the zip", async {
        while !seen.join("car").exists() || seen.join("car.zip").exists() {
            host.get("/ping").await;
        }
    })
    .await;
    running(&host, "v1").await;
    lies(&seen, &["car"]);
    assert!(host.interrupt().await.success());
}
