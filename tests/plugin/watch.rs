//! What happens in the plugins' folder while the host runs, and what the host makes of it.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use mangrove::plugin::{Event, Handle, State};
use mangrove_protocol::manifest::SymbolKind;
use testkit::within;
use tokio::sync::broadcast::Receiver;

use crate::folder::zip;
use crate::home::{Home, Host, manifest, unique};
use crate::operate::heard;
use crate::peer::Peer;

/// A program that speaks for itself.
pub(crate) const SPEAKS: &str = include_str!("handshake.py");

/// A host whose plugins' folder is empty, and what is heard of it.
pub(crate) async fn empty() -> (Home, Host, Receiver<Event>) {
    start(Home::new()).await
}

pub(crate) async fn start(home: Home) -> (Home, Host, Receiver<Event>) {
    let host = home.start().await;
    let events = host.plugins.events();
    (home, host, events)
}

/// The field of a manifest with one source of a name of its own.
pub(crate) fn source() -> (String, String) {
    let source = unique("wsrc");
    let fields = format!(r#""sources":["{source}"]"#);
    (source, fields)
}

pub(crate) fn with_version(version: &str, fields: &str) -> String {
    manifest("python", fields).replace("1.0", version)
}

/// Waits until a process other than `old` runs.
pub(crate) async fn up(events: &mut Receiver<Event>, name: &str, old: Option<u32>) -> Event {
    loop {
        let event = heard(events, name, State::Running).await;
        if event.pid.is_some() && event.pid != old {
            return event;
        }
    }
}

/// Writes a program beside its place and moves it there, so that nobody finds it open for writing.
fn put_program(folder: &Path, text: &str) {
    let new = folder.join(".new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(new, folder.join("run")).unwrap();
}

#[tokio::test]
async fn a_folder_that_is_moved_in_runs_and_one_that_is_moved_out_is_removed() {
    let (home, host, mut events) = empty().await;
    let (name, (source, fields)) = (unique("win"), source());
    let outside = home.path().join("outside");
    home.add_at(&outside, &name, "python", &fields, SPEAKS);
    std::fs::rename(&outside, home.plugin_folder(&name)).unwrap();
    let event = up(&mut events, &name, None).await;
    assert_eq!(event.version.as_deref(), Some("1.0"));
    assert!(host.plugins.symbol(SymbolKind::Source, &source).is_some());

    std::fs::rename(home.plugin_folder(&name), &outside).unwrap();
    heard(&mut events, &name, State::Removed).await;
    assert!(host.plugins.get(&name).is_none());
    let missing = host.plugins.missing(SymbolKind::Source, &source).unwrap();
    assert_eq!(missing.reason, format!("the plugin \"{name}\" was removed"));

    // And back again.
    std::fs::rename(&outside, home.plugin_folder(&name)).unwrap();
    up(&mut events, &name, None).await;
    host.shutdown().await;
}

#[tokio::test]
async fn a_folder_that_is_copied_piece_by_piece_is_incomplete_until_it_is_whole() {
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("wslow"), source());
    let folder = home.plugin_folder(&name);
    let status = || host.plugins.status(&name).unwrap();

    std::fs::create_dir(&folder).unwrap();
    let event = heard(&mut events, &name, State::Incomplete).await;
    assert_eq!(event.reason, "its files are still changing");
    let event = heard(&mut events, &name, State::Incomplete).await;
    assert!(event.reason.contains("no readable manifest"), "{event:?}");

    // Half a manifest is not a wrong one.
    let text = manifest("go", &fields);
    std::fs::write(folder.join(format!("{name}.json")), &text[..20]).unwrap();
    let event = heard(&mut events, &name, State::Incomplete).await;
    assert!(event.reason.contains("EOF"), "{event:?}");
    std::fs::write(folder.join(format!("{name}.json")), &text).unwrap();
    let event = heard(&mut events, &name, State::Incomplete).await;
    assert!(event.reason.contains("run cannot be found"), "{event:?}");
    assert_eq!(host.plugins.get(&name).unwrap().manifest.version, "1.0");

    // The program is there, but somebody is still writing it.
    let mut program = std::fs::File::create(folder.join("run")).unwrap();
    program.set_permissions(PermissionsExt::from_mode(0o755)).unwrap();
    program.write_all(b"#!/bin/sh\n").unwrap();
    while !status().err_msg.contains("open for writing") {
        heard(&mut events, &name, State::Incomplete).await;
    }
    program.write_all(b"exec sleep 600\n").unwrap();
    drop(program);
    let _peer = Peer::control(&name).await;
    up(&mut events, &name, None).await;
    assert_eq!((status().err_msg, status().note), (String::new(), String::new()));
    host.shutdown().await;
}

#[tokio::test]
async fn a_renamed_folder_is_another_plugin_with_the_same_symbols() {
    let (home, host, mut events) = empty().await;
    let (old, new, (source, fields)) = (unique("wa"), unique("wb"), source());
    home.add(&old, "python", &fields, SPEAKS);
    up(&mut events, &old, None).await;
    // The manifest follows the folder's name.
    let manifest = |name: &str| home.plugin_folder(&old).join(format!("{name}.json"));
    std::fs::copy(manifest(&old), manifest(&new)).unwrap();
    std::fs::rename(home.plugin_folder(&old), home.plugin_folder(&new)).unwrap();
    heard(&mut events, &old, State::Removed).await;
    up(&mut events, &new, None).await;
    let owner = host.plugins.symbol(SymbolKind::Source, &source).unwrap().0;
    assert_eq!(owner.as_str(), new);
    host.shutdown().await;
}

#[tokio::test]
async fn changed_files_are_swapped_in_and_wrong_ones_leave_a_note() {
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("wedit"), source());
    home.add(&name, "python", &fields, SPEAKS);
    let first = up(&mut events, &name, None).await;
    let folder = home.plugin_folder(&name);
    let path = folder.join(format!("{name}.json"));

    // As editors save: write beside, move over.
    let beside = folder.join(format!(".{name}.json.swp"));
    std::fs::write(&beside, with_version("2.0", &fields)).unwrap();
    std::fs::rename(&beside, &path).unwrap();
    let second = up(&mut events, &name, first.pid).await;
    assert_eq!(second.version.as_deref(), Some("2.0"));

    // A wrong manifest is said, and what runs goes on.
    let note = |part: &'static str| {
        let until = host.until(part, &name, move |status| status.note.contains(part));
        async { until.await.pid }
    };
    std::fs::write(&path, "{]").unwrap();
    assert_eq!(note("the manifest cannot be read").await, second.pid);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(note("no readable manifest").await, second.pid);
    assert_eq!(host.plugins.get(&name).unwrap().manifest.version, "2.0");

    // Back to an older version.
    std::fs::write(&path, manifest("python", &fields)).unwrap();
    let third = up(&mut events, &name, second.pid).await;
    assert_eq!(third.version.as_deref(), Some("1.0"));
    host.until("no note", &name, |status| status.note.is_empty())
        .await;
    host.shutdown().await;
}

#[tokio::test]
async fn a_replaced_folder_is_swapped_and_never_removed() {
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("wgit"), source());
    home.add(&name, "python", &fields, SPEAKS);
    let first = up(&mut events, &name, None).await;
    // As `git checkout` does: unlink and write anew, one file after the other.
    let folder = home.plugin_folder(&name);
    std::fs::remove_dir_all(&folder).unwrap();
    home.add(&name, "python", &fields, SPEAKS);
    let second = up(&mut events, &name, first.pid).await;
    assert_ne!(first.pid, second.pid);
    // It would have been heard before.
    let mut heard = Vec::new();
    while let Ok(event) = events.try_recv() {
        heard.push(event.state);
    }
    assert!(!heard.contains(&State::Removed), "{heard:?}");
    host.shutdown().await;
}

#[tokio::test]
async fn what_a_plugin_writes_into_its_own_folder_does_not_restart_it() {
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("wlog"), source());
    home.add(&name, "python", &fields, SPEAKS);
    let first = up(&mut events, &name, None).await;
    let folder = home.plugin_folder(&name);
    for own in ["data", "logs", "__pycache__"] {
        std::fs::create_dir(folder.join(own)).unwrap();
        std::fs::write(folder.join(own).join("x.py"), "x").unwrap();
    }
    for own in ["car.log", "car.pid", "state.db", "state.db-wal", ".hidden"] {
        std::fs::write(folder.join(own), "x").unwrap();
    }
    // Once a plugin that was dropped later runs, the other folder has been looked at.
    let (later, (_, fields)) = (unique("wlater"), source());
    home.add(&later, "python", &fields, SPEAKS);
    up(&mut events, &later, None).await;
    let status = host.status(&name);
    assert_eq!((status.pid, status.note.as_str()), (first.pid, ""));
    host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_that_keeps_changing_its_own_files_is_left_alone_in_the_end() {
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("wown"), source());
    // A new file at each start.
    let writes = "open('file' + str(__import__('os').getpid()), 'w')";
    home.add(&name, "python", &fields, &format!("{writes}\n{SPEAKS}"));
    let mut pid = None;
    for _ in 0..4 {
        pid = up(&mut events, &name, pid).await.pid;
    }
    let part = "keeps changing files in its own folder";
    let status = host.until(part, &name, |status| status.note.contains(part)).await;
    assert_eq!(status.pid, pid);
    // Its program still counts.
    put_program(&home.plugin_folder(&name), SPEAKS);
    up(&mut events, &name, pid).await;
    host.until("no note", &name, |status| status.note.is_empty())
        .await;
    host.shutdown().await;
}

#[tokio::test]
async fn the_plugins_folder_itself_may_go_and_come_back() {
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("wroot"), source());
    home.add(&name, "python", &fields, SPEAKS);
    let _ = up(&mut events, &name, None).await;
    let (portable, away) = (home.path().join("plugins/portable"), home.path().join("away"));
    std::fs::rename(&portable, &away).unwrap();
    heard(&mut events, &name, State::Removed).await;
    std::fs::rename(&away, &portable).unwrap();
    let event = up(&mut events, &name, None).await;

    // Something that cannot be read in its place says nothing about what lay there.
    std::fs::rename(&portable, &away).unwrap();
    symlink("portable", &portable).unwrap();
    let trouble = host.look("the trouble", Handle::trouble).await;
    assert!(trouble.contains("cannot read"), "{trouble}");
    std::fs::remove_file(&portable).unwrap();
    std::fs::rename(&away, &portable).unwrap();
    host.look("its end", |plugins| plugins.trouble().is_none().then_some(()))
        .await;
    assert_eq!(host.status(&name).pid, event.pid);
    host.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_a_plugin_is_refused_and_forgotten_when_it_goes() {
    let (home, host, mut events) = empty().await;
    let (good, link, junk) = (unique("wgood"), unique("wlink"), unique("wjunk"));
    let (_, fields) = source();
    home.add(&good, "python", &fields, SPEAKS);
    let running = up(&mut events, &good, None).await;
    symlink(home.plugin_folder(&good), home.plugin_folder(&link)).unwrap();
    let event = heard(&mut events, &link, State::Refused).await;
    assert!(event.reason.contains("symbolic link"), "{event:?}");
    // A manifest that nobody can read, whoever runs this.
    std::fs::create_dir(home.plugin_folder(&junk)).unwrap();
    let path = home.plugin_folder(&junk).join(format!("{junk}.json"));
    symlink(&path, &path).unwrap();
    let event = heard(&mut events, &junk, State::Refused).await;
    assert!(event.reason.contains("no readable manifest"), "{event:?}");
    std::fs::remove_dir_all(home.plugin_folder(&junk)).unwrap();
    heard(&mut events, &junk, State::Removed).await;
    std::fs::remove_file(home.plugin_folder(&link)).unwrap();
    heard(&mut events, &link, State::Removed).await;
    assert!(host.plugins.refused().is_empty());
    assert_eq!(host.status(&good).pid, running.pid);
    host.shutdown().await;
}

#[tokio::test]
async fn the_later_of_two_that_define_a_symbol_waits_until_it_is_free() {
    let (home, host, mut events) = empty().await;
    let (first, second, (_, fields)) = (unique("wone"), unique("wtwo"), source());
    home.add(&first, "python", &fields, SPEAKS);
    let _ = up(&mut events, &first, None).await;
    home.add(&second, "python", &fields, SPEAKS);
    let event = heard(&mut events, &second, State::Refused).await;
    assert!(
        event
            .reason
            .contains(&format!("already defined by the plugin \"{first}\"")),
        "{event:?}"
    );
    std::fs::remove_dir_all(home.plugin_folder(&first)).unwrap();
    up(&mut events, &second, None).await;
    assert!(host.plugins.get(&first).is_none());
    host.shutdown().await;
}

#[tokio::test]
async fn changed_files_that_did_not_start_are_tried_again_when_the_old_process_ends() {
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("wagain"), source());
    home.add(&name, "python", &fields, SPEAKS);
    let first = up(&mut events, &name, None).await;
    let (folder, licence) = (home.plugin_folder(&name), home.path().join("licence"));
    let outside = home.path().join("outside");
    let program = format!("open({:?}).close()\n{SPEAKS}", licence.to_str().unwrap());
    home.add_at(&outside, &name, "python", &fields, &program);
    std::fs::write(outside.join(format!("{name}.json")), with_version("2.0", &fields)).unwrap();
    for file in [&*format!("{name}.json"), "run"] {
        std::fs::rename(outside.join(file), folder.join(file)).unwrap();
    }
    let part = "it is tried again when its files change or its process ends";
    let status = host.until(part, &name, |status| status.note.contains(part)).await;
    assert_eq!((status.pid, status.version.as_str()), (first.pid, "1.0"));

    // What it lacked lies elsewhere, so nothing in its folder changes.
    std::fs::write(&licence, "").unwrap();
    let pid = first.pid.and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let second = host
        .until("the new version", &name, |status| {
            status.status == State::Running && status.version == "2.0"
        })
        .await;
    assert_eq!(second.note, "");
    host.shutdown().await;
}

#[tokio::test]
async fn a_stopped_plugin_stays_so_until_its_files_change() {
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("wstop"), source());
    home.add(&name, "python", &fields, SPEAKS);
    let _ = up(&mut events, &name, None).await;
    within("the stop", host.plugins.stop(&name)).await.unwrap();
    // Once a plugin that was dropped later runs, its folder has been looked at.
    let (later, (_, other)) = (unique("wlater"), source());
    home.add(&later, "python", &other, SPEAKS);
    up(&mut events, &later, None).await;
    assert_eq!(host.status(&name).status, State::Stopped);
    put_program(&home.plugin_folder(&name), &format!("# changed\n{SPEAKS}"));
    up(&mut events, &name, None).await;
    host.shutdown().await;
}

#[tokio::test]
async fn a_dropped_zip_is_installed_and_a_broken_one_stays_until_it_changes() {
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("wzip"), source());
    let path = home.plugin_folder(&format!("{name}.zip"));
    std::fs::write(&path, "PK\x03\x04 and nothing more").unwrap();
    let event = heard(&mut events, &name, State::Refused).await;
    assert!(
        event
            .reason
            .starts_with(&format!("{name}.zip was not installed: ")),
        "{event:?}"
    );
    assert!(path.exists() && !home.plugin_folder(&name).exists());

    // Replaced by a good one.
    let json = format!("{name}.json");
    let text = manifest("python", &fields);
    std::fs::write(
        &path,
        zip(&[(&json, text.as_bytes()), ("run", SPEAKS.as_bytes())]).await,
    )
    .unwrap();
    let first = up(&mut events, &name, None).await;
    host.look("the zip to be removed", |_| (!path.exists()).then_some(()))
        .await;
    assert!(home.plugin_folder(&name).join("run").exists());

    // A broken update leaves what runs, and says so.
    std::fs::write(&path, "not a zip").unwrap();
    let part = ".zip was not installed";
    let status = host.until(part, &name, |status| status.note.contains(part)).await;
    assert_eq!((status.status, status.pid), (State::Running, first.pid));
    std::fs::remove_file(&path).unwrap();
    host.until("no note", &name, |status| status.note.is_empty())
        .await;

    // A good one replaces it.
    let text = with_version("2.0", &fields);
    std::fs::write(
        &path,
        zip(&[(&json, text.as_bytes()), ("run", SPEAKS.as_bytes())]).await,
    )
    .unwrap();
    let second = up(&mut events, &name, first.pid).await;
    assert_eq!(second.version.as_deref(), Some("2.0"));
    host.shutdown().await;
}

#[tokio::test]
async fn a_zip_stays_when_its_installation_cannot_be_written_down_and_a_removal_is_for_good() {
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("wzip"), source());
    home.add(&name, "python", &fields, SPEAKS);
    up(&mut events, &name, None).await;
    let (path, json) = (home.plugin_folder(&format!("{name}.zip")), format!("{name}.json"));
    let text = with_version("2.0", &fields);
    let script = "cd ../.staging-*; pwd > \"$OLDPWD/hidden\"; mv .journal.json saved; mkdir .journal.json";
    let files = [
        (&*json, text.as_bytes()),
        ("run", SPEAKS.as_bytes()),
        ("install.sh", script.as_bytes()),
    ];
    std::fs::write(&path, zip(&files).await).unwrap();
    let part = ".zip is kept";
    let status = host.until(part, &name, |status| status.note.contains(part)).await;
    assert_eq!((status.status, &*status.version), (State::Running, "2.0"));
    assert!(path.exists());

    // The journal is whole again, as after an error of the disk.
    let hidden = std::fs::read_to_string(home.plugin_folder(&name).join("hidden")).unwrap();
    let hidden = Path::new(hidden.trim());
    std::fs::remove_dir(hidden.join(".journal.json")).unwrap();
    std::fs::rename(hidden.join("saved"), hidden.join(".journal.json")).unwrap();
    within("the removal", host.plugins.remove(&name)).await.unwrap();
    assert!(!path.exists() && !hidden.exists());
    host.shutdown().await;
    let host = home.start().await;
    assert!(host.plugins.get(&name).is_none() && !home.plugin_folder(&name).exists());
    host.shutdown().await;
}

#[tokio::test]
async fn a_zip_that_is_no_plugin_is_forgotten_when_it_goes() {
    let (home, host, mut events) = empty().await;
    let path = home.plugin_folder("no name.zip");
    std::fs::write(&path, "not a zip").unwrap();
    let event = heard(&mut events, "no name", State::Refused).await;
    assert!(event.reason.contains("contains ' '"), "{event:?}");
    std::fs::remove_file(&path).unwrap();
    heard(&mut events, "no name", State::Removed).await;
    // By hand, the zip goes with it.
    let name = unique("wzip");
    let path = home.plugin_folder(&format!("{name}.zip"));
    std::fs::write(&path, "not a zip").unwrap();
    heard(&mut events, &name, State::Refused).await;
    within("the removal", host.plugins.remove(&name)).await.unwrap();
    assert!(!path.exists());
    host.shutdown().await;
}

#[tokio::test]
async fn fifty_plugins_at_once_all_run_but_for_the_broken_one() {
    const MANY: usize = 50;
    let mut home = Home::new();
    home.settings.parallel_starts = 4;
    home.settings.restart_limit = 1;
    let (home, host, mut events) = start(home).await;
    let broken = unique("wbroken");
    home.add(&broken, "go", r#""sources":["wbroken"]"#, "#!/bin/sh\nexit 3\n");
    let mut names = Vec::new();
    for _ in 0..MANY {
        let (name, (_, fields)) = (unique("wmany"), source());
        home.add(&name, "python", &fields, SPEAKS);
        names.push(name);
    }
    let (mut starting, mut most, mut running, mut failed) = (0usize, 0, 0, 0);
    within("all to run", async {
        while running < MANY || failed == 0 {
            let event = events.recv().await.unwrap();
            match event.state {
                State::Starting => starting += 1,
                State::Running => (starting, running) = (starting - 1, running + 1),
                State::Failed => {
                    assert_eq!(event.plugin, broken);
                    (starting, failed) = (starting - 1, 1);
                }
                state => assert_eq!(state, State::Incomplete, "{event:?}"),
            }
            most = most.max(starting);
        }
    })
    .await;
    assert!(most > 1, "one after the other");
    for name in names {
        assert_eq!(host.status(&name).status, State::Running);
    }
    host.shutdown().await;
}

#[tokio::test]
async fn a_zip_that_is_refused_stays_so_while_others_come() {
    let (home, host, mut events) = empty().await;
    let names = [unique("wzip"), unique("wzip")];
    for name in &names {
        std::fs::write(home.plugin_folder(&format!("{name}.zip")), "not a zip").unwrap();
        heard(&mut events, name, State::Refused).await;
    }
    assert_eq!(host.plugins.status(&names[0]).unwrap().status, State::Refused);
    host.shutdown().await;
}
