//! Folders that come, change and go in the ways of people's tools; ones that the host may not read or write; and
//! the plugins' folder itself as a link, taken away, and put back.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mangrove::plugin::{Handle, InstallError, RemoveError, State};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use testkit::within;
use tokio::sync::broadcast::Receiver;

use crate::folder::package;
use crate::home::{Home, SLEEP, manifest, unique};
use crate::operate::heard;
use crate::watch::{SPEAKS, empty, source, start, up, with_version};

/// Runs a program to its end, while the host goes on.
async fn run(program: &Path, args: &[&str], folder: &Path) {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder);
    // Nobody's own settings.
    command.env("HOME", folder).env("GIT_CONFIG_NOSYSTEM", "1");
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = within("a program", running).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {args:?}: {said}", program.display());
}

/// The states of everything that was heard so far.
fn states(events: &mut Receiver<mangrove::plugin::Event>) -> Vec<State> {
    std::iter::from_fn(|| events.try_recv().ok())
        .map(|event| event.state)
        .collect()
}

/// Copies a plugin into its place, and a changed one over it: it runs, is replaced, and never thought gone.
async fn comes_and_changes(way: impl AsyncFn(&Path, &Path)) {
    let (home, host, mut events) = empty().await;
    let mut all = host.plugins.events();
    let (name, (_, fields)) = (unique("cway"), source());
    let (outside, folder) = (home.path().join("outside"), home.plugin_folder(&name));
    home.add_at(&outside, &name, "python", &fields, SPEAKS);
    std::fs::create_dir(outside.join("lib")).unwrap();
    std::fs::write(outside.join("lib/more.py"), "x = 1\n").unwrap();
    way(&outside, &folder).await;
    let first = up(&mut events, &name, None).await;
    assert_eq!(first.version.as_deref(), Some("1.0"));
    std::fs::write(outside.join(format!("{name}.json")), with_version("2.0", &fields)).unwrap();
    std::fs::write(outside.join("lib/more.py"), "x = 1000\n").unwrap();
    way(&outside, &folder).await;
    let second = up(&mut events, &name, first.pid).await;
    assert_eq!(second.version.as_deref(), Some("2.0"));
    assert_eq!(host.status(&name).note, "");
    let states = states(&mut all);
    assert!(!states.contains(&State::Removed), "{states:?}");
    host.shutdown().await;
}

/// Every file under `folder`, relative to it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inside) = folders.pop() {
        for entry in inside.read_dir().unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(folder).unwrap().to_owned()),
            }
        }
    }
    found
}

#[tokio::test]
async fn a_folder_comes_as_rsync_writes_it() {
    comes_and_changes(async |from, to| {
        for file in files(from) {
            let place = to.join(&file);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            // Hidden, under a name of its own, piece by piece, and then moved into place.
            let name = place.file_name().unwrap().to_str().unwrap();
            let draft = place.with_file_name(format!(".{name}.k3Qz9A"));
            let text = std::fs::read(from.join(&file)).unwrap();
            std::fs::write(&draft, &text[..text.len() / 2]).unwrap();
            tokio::task::yield_now().await;
            std::fs::write(&draft, &text).unwrap();
            std::fs::rename(draft, place).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_folder_comes_by_rsync() {
    let Some(rsync) = testkit::program("rsync") else {
        return;
    };
    comes_and_changes(async |from, to| {
        let from = format!("{}/", from.display());
        // Both versions are of one size, and may be of one second.
        let args = ["-a", "--delete", "--checksum", &from, &*to.to_string_lossy()];
        run(&rsync, &args, Path::new("/")).await;
    })
    .await;
}

#[tokio::test]
async fn a_folder_comes_by_cp() {
    let Some(cp) = testkit::program("cp") else { return };
    comes_and_changes(async |from, to| {
        std::fs::create_dir_all(to).unwrap();
        let from = format!("{}/.", from.display());
        run(&cp, &["-r", &from, &*to.to_string_lossy()], Path::new("/")).await;
    })
    .await;
}

/// Many megabytes, which mean nothing to the interpreter.
fn comments() -> Vec<u8> {
    let line = [b"# ", &[b'x'; 61][..], b"\n"].concat();
    line.repeat((8 << 20) / line.len())
}

/// Begins to copy a large program, which is held open and not yet what it is to be.
fn half(program: &Path, first: &[u8]) -> File {
    let mut file = File::create(program).unwrap();
    set_mode(program, 0o755);
    file.write_all(first).unwrap();
    file.write_all(&comments()).unwrap();
    file
}

#[tokio::test]
async fn a_large_program_whose_copy_pauses_runs_in_the_end() {
    let (home, host, mut events) = empty().await;
    let mut all = host.plugins.events();
    let (name, (_, fields)) = (unique("cslow"), source());
    let folder = home.plugin_folder(&name);
    let (json, program) = (folder.join(format!("{name}.json")), folder.join("run"));

    // The manifest is there first. For an interpreter half a program is one, which comes to its end at once.
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&json, manifest("python", &fields)).unwrap();
    let mut copy = half(&program, b"");
    heard(&mut events, &name, State::Failed).await;
    copy.write_all(SPEAKS.as_bytes()).unwrap();
    drop(copy);
    let first = up(&mut events, &name, None).await;

    // Over one that runs: it goes on until the rest is there.
    let mut copy = half(&program, b"");
    std::fs::write(&json, with_version("2.0", &fields)).unwrap();
    let part = "does not start";
    let status = host.until(part, &name, |status| status.note.contains(part)).await;
    assert_eq!((status.pid, status.version.as_str()), (first.pid, "1.0"));
    copy.write_all(SPEAKS.as_bytes()).unwrap();
    drop(copy);
    let second = up(&mut events, &name, first.pid).await;
    assert_eq!(second.version.as_deref(), Some("2.0"));

    // What the system itself runs, it does not while it is written.
    let mut copy = half(&program, b"#!/usr/bin/env python3\n");
    let text = manifest("go", &fields).replace("1.0", "3.0");
    std::fs::write(&json, text).unwrap();
    let part = "its program is still open for writing";
    let status = host.until(part, &name, |status| status.note == part).await;
    assert_eq!((status.pid, status.version.as_str()), (second.pid, "2.0"));
    copy.write_all(SPEAKS.as_bytes()).unwrap();
    drop(copy);
    let third = up(&mut events, &name, second.pid).await;
    assert_eq!(third.version.as_deref(), Some("3.0"));
    host.until("no note", &name, |status| status.note.is_empty())
        .await;
    let states = states(&mut all);
    assert!(!states.contains(&State::Removed), "{states:?}");
    host.shutdown().await;
}

/// Packs a folder, and has a tool unpack it into another one.
async fn unzipped(tool: &Path, args: &[&str], from: &Path, to: &Path) {
    let archive = from.with_extension("zip");
    let _before = std::fs::remove_file(&archive);
    let python = testkit::program("python3").expect("plugins of these tests need it");
    let pack = "import shutil, sys; shutil.make_archive(sys.argv[1], 'zip', sys.argv[2])";
    let stem = archive.with_extension("");
    let words = ["-c", pack, &*stem.to_string_lossy(), &*from.to_string_lossy()];
    run(&python, &words, Path::new("/")).await;
    let (archive, to) = (archive.to_string_lossy(), to.to_string_lossy());
    let word = |word: &&str| match *word {
        "ARCHIVE" => archive.to_string(),
        "FOLDER" => to.to_string(),
        word => word.to_owned(),
    };
    let words: Vec<String> = args.iter().map(word).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run(tool, &words, Path::new("/")).await;
}

#[tokio::test]
async fn a_folder_comes_by_unzip() {
    let Some(unzip) = testkit::program("unzip") else {
        return;
    };
    comes_and_changes(async |from, to| {
        unzipped(&unzip, &["-q", "-o", "ARCHIVE", "-d", "FOLDER"], from, to).await;
    })
    .await;
}

#[tokio::test]
async fn a_folder_comes_by_pythons_zipfile() {
    let Some(python) = testkit::program("python3") else {
        return;
    };
    comes_and_changes(async |from, to| {
        unzipped(&python, &["-m", "zipfile", "-e", "ARCHIVE", "FOLDER"], from, to).await;
    })
    .await;
}

/// Commits what lies in the work tree `folder` as `tag`.
async fn commit(git: &Path, folder: &Path, tag: &str) {
    run(git, &["add", "-A"], folder).await;
    let author = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
    let commit = ["commit", "-q", "--allow-empty", "-m", tag];
    run(git, &[&author[..], &commit].concat(), folder).await;
    run(git, &["tag", tag], folder).await;
}

#[tokio::test]
async fn a_work_tree_of_git_follows_its_checkouts() {
    let Some(git) = testkit::program("git") else {
        return;
    };
    let (home, host, mut events) = empty().await;
    let mut all = host.plugins.events();
    let (name, (_, fields)) = (unique("cgit"), source());
    let outside = home.path().join("outside");
    home.add_at(&outside, &name, "python", &fields, SPEAKS);
    run(&git, &["init", "-q"], &outside).await;
    commit(&git, &outside, "one").await;
    let json = outside.join(format!("{name}.json"));
    std::fs::write(json, with_version("2.0", &fields)).unwrap();
    commit(&git, &outside, "two").await;
    let folder = home.plugin_folder(&name);
    let words = ["clone", "-q", "outside", &*folder.to_string_lossy()];
    run(&git, &words, home.path()).await;
    let mut pid = up(&mut events, &name, None).await.pid;
    for (tag, version) in [("one", "1.0"), ("two", "2.0")] {
        run(&git, &["checkout", "-q", tag], &folder).await;
        let event = up(&mut events, &name, pid).await;
        assert_eq!(event.version.as_deref(), Some(version));
        pid = event.pid;
    }
    let states = states(&mut all);
    assert!(!states.contains(&State::Removed), "{states:?}");
    host.shutdown().await;
}

#[tokio::test]
async fn the_plugins_folder_may_be_a_work_tree_of_git() {
    let Some(git) = testkit::program("git") else {
        return;
    };
    let (home, host, mut events) = empty().await;
    let (name, (_, fields)) = (unique("cgit"), source());
    let portable = home.path().join("plugins/portable");
    run(&git, &["init", "-q"], &portable).await;
    commit(&git, &portable, "without").await;
    home.add(&name, "python", &fields, SPEAKS);
    up(&mut events, &name, None).await;
    commit(&git, &portable, "with").await;
    run(&git, &["checkout", "-q", "without"], &portable).await;
    heard(&mut events, &name, State::Removed).await;
    run(&git, &["checkout", "-q", "with"], &portable).await;
    up(&mut events, &name, None).await;
    assert!(host.plugins.refused().is_empty());
    host.shutdown().await;
}

#[tokio::test]
async fn an_editor_that_moves_the_old_file_away_first_replaces_the_plugin_once() {
    let (home, host, mut events) = empty().await;
    let mut all = host.plugins.events();
    let (name, (_, fields)) = (unique("cedit"), source());
    home.add(&name, "python", &fields, SPEAKS);
    let first = up(&mut events, &name, None).await;
    // As vim saves with a backup: it tries whether it may write, and for a moment there is no such file.
    let folder = home.plugin_folder(&name);
    std::fs::write(folder.join("4913"), "").unwrap();
    std::fs::remove_file(folder.join("4913")).unwrap();
    std::fs::rename(folder.join("run"), folder.join("run~")).unwrap();
    tokio::task::yield_now().await;
    std::fs::write(folder.join("run"), format!("# edited\n{SPEAKS}")).unwrap();
    std::fs::remove_file(folder.join("run~")).unwrap();
    let second = up(&mut events, &name, first.pid).await;
    // Once a plugin that was dropped later runs, the folder has been looked at once more.
    let (later, (_, fields)) = (unique("cedit"), source());
    home.add(&later, "python", &fields, SPEAKS);
    up(&mut events, &later, None).await;
    let status = host.status(&name);
    assert_eq!((status.pid, status.note.as_str()), (second.pid, ""));
    let states = states(&mut all);
    assert!(!states.contains(&State::Removed), "{states:?}");
    host.shutdown().await;
}

/// Runs a test that modes of files mean something to, even when it is root that runs it.
fn bound_by_modes(test: impl Future<Output = ()> + Send + 'static) {
    let bound = move || {
        let mut sets = capabilities(None).unwrap();
        sets.effective
            .remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        // Of this thread, and of those that the runtime starts from it.
        set_capabilities(None, sets).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test);
    };
    let thread = std::thread::current().name().unwrap_or_default().to_owned();
    let bound = std::thread::Builder::new().name(thread).spawn(bound).unwrap();
    if let Err(panic) = bound.join() {
        std::panic::resume_unwind(panic);
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_that_may_not_be_read_is_refused_or_noted_until_it_may() {
    bound_by_modes(async {
        let (home, host, mut events) = empty().await;
        let (shut, runs) = (unique("cshut"), unique("cshut"));
        let (folder, (_, fields)) = (home.plugin_folder(&runs), source());
        home.add(&runs, "python", &fields, SPEAKS);
        let running = up(&mut events, &runs, None).await;

        // One that was never seen.
        home.add(&shut, "python", &source().1, SPEAKS);
        set_mode(&home.plugin_folder(&shut), 0o000);
        let event = heard(&mut events, &shut, State::Refused).await;
        assert!(event.reason.contains("Permission denied"), "{event:?}");
        set_mode(&home.plugin_folder(&shut), 0o755);
        up(&mut events, &shut, None).await;

        // One that runs.
        set_mode(&folder, 0o000);
        let noted = |status: &mangrove::plugin::Status| status.note.contains("Permission denied");
        let status = host.until("the note", &runs, noted).await;
        assert_eq!((status.status, status.pid), (State::Running, running.pid));
        set_mode(&folder, 0o755);
        let status = host
            .until("no note", &runs, |status| status.note.is_empty())
            .await;
        assert_eq!(status.pid, running.pid);

        // Neither may a file in it be read.
        let json = folder.join(format!("{runs}.json"));
        set_mode(&json, 0o000);
        let status = host.until("the note", &runs, noted).await;
        assert_eq!((status.status, status.pid), (State::Running, running.pid));
        set_mode(&json, 0o644);
        host.until("no note", &runs, |status| status.note.is_empty())
            .await;
        host.shutdown().await;
    });
}

#[test]
fn what_runs_goes_on_while_the_plugins_folder_may_not_be_read() {
    bound_by_modes(async {
        let mut home = Home::new();
        // That a folder was shut is no event in it.
        home.settings.rescan = Duration::from_millis(50);
        let (home, host, mut events) = start(home).await;
        let (name, (_, fields)) = (unique("cshut"), source());
        home.add(&name, "python", &fields, SPEAKS);
        let running = up(&mut events, &name, None).await;
        let portable = home.path().join("plugins/portable");
        set_mode(&portable, 0o000);
        let trouble = host.look("the trouble", Handle::trouble).await;
        assert!(trouble.contains("Permission denied"), "{trouble}");
        assert_eq!(host.status(&name).pid, running.pid);
        set_mode(&portable, 0o755);
        host.look("its end", |plugins| plugins.trouble().is_none().then_some(()))
            .await;
        assert_eq!(host.status(&name).pid, running.pid);
        host.shutdown().await;
    });
}

#[test]
fn in_a_folder_that_may_not_be_written_plugins_run_and_stay() {
    bound_by_modes(async {
        let (home, host, mut events) = empty().await;
        let (name, other, (_, fields)) = (unique("cro"), unique("cro"), source());
        home.add(&name, "python", &fields, SPEAKS);
        let first = up(&mut events, &name, None).await;
        let portable = home.path().join("plugins/portable");
        set_mode(&portable, 0o555);

        // Neither installed nor updated, and nothing has changed.
        let text = manifest("go", &source().1);
        let files = [(&*format!("{other}.json"), &*text), ("run", SLEEP)];
        let request = package(&home, &other, &files).await;
        let installed = within("the refusal", host.plugins.install(request)).await;
        assert!(matches!(installed, Err(InstallError::Io { .. })), "{installed:?}");
        assert!(host.plugins.status(&other).is_none());
        let text = with_version("2.0", &fields);
        let files = [(&*format!("{name}.json"), &*text), ("run", SPEAKS)];
        let request = package(&home, &name, &files).await;
        let updated = within("the refusal", host.plugins.update(request)).await;
        assert!(matches!(updated, Err(InstallError::Io { .. })), "{updated:?}");
        let status = host.running(&name).await;
        assert_eq!((status.pid, status.version.as_str()), (first.pid, "1.0"));

        // What lies there is the truth: it is stopped, cannot be removed, and runs again.
        let removed = within("the refusal", host.plugins.remove(&name)).await;
        assert!(matches!(removed, Err(RemoveError::Io { .. })), "{removed:?}");
        let second = up(&mut events, &name, first.pid).await;
        set_mode(&portable, 0o755);
        within("the removal", host.plugins.remove(&name)).await.unwrap();
        assert!(second.pid.is_some() && !home.plugin_folder(&name).exists());
        host.shutdown().await;
    });
}

#[tokio::test]
async fn links_inside_of_a_folder_may_lead_to_what_is_inside_of_it() {
    let (home, host, mut events) = empty().await;
    let (inward, outward) = (unique("clink"), unique("clink"));
    for name in [&inward, &outward] {
        let outside = home.path().join(name);
        home.add_at(&outside, name, "python", &source().1, SPEAKS);
        std::fs::rename(outside.join("run"), outside.join("run-1")).unwrap();
        let target = match name == &inward {
            true => PathBuf::from("run-1"),
            false => home.path().join("run-1"),
        };
        std::fs::write(home.path().join("run-1"), SPEAKS).unwrap();
        symlink(target, outside.join("run")).unwrap();
        std::fs::rename(&outside, home.plugin_folder(name)).unwrap();
    }
    let event = heard(&mut events, &outward, State::Refused).await;
    assert!(
        event.reason.contains("leads out of the plugin's folder"),
        "{event:?}"
    );
    let status = host
        .until("it to run", &inward, |status| status.status == State::Running)
        .await;
    // The link is turned to another program, as deployments do.
    let folder = home.plugin_folder(&inward);
    std::fs::write(folder.join("run-2"), format!("# second\n{SPEAKS}")).unwrap();
    symlink("run-2", folder.join(".next")).unwrap();
    std::fs::rename(folder.join(".next"), folder.join("run")).unwrap();
    host.until("another process", &inward, |now| {
        now.status == State::Running && now.pid != status.pid
    })
    .await;
    host.shutdown().await;
}

#[tokio::test]
async fn the_plugins_folder_may_be_a_link() {
    let home = Home::new();
    let (name, (_, fields)) = (unique("clink"), source());
    let (portable, elsewhere) = (
        home.path().join("plugins/portable"),
        home.path().join("elsewhere"),
    );
    std::fs::rename(&portable, &elsewhere).unwrap();
    symlink(&elsewhere, &portable).unwrap();
    let (home, host, mut events) = start(home).await;
    home.add(&name, "python", &fields, SPEAKS);
    up(&mut events, &name, None).await;
    std::fs::remove_dir_all(elsewhere.join(&name)).unwrap();
    heard(&mut events, &name, State::Removed).await;
    host.shutdown().await;
}

#[tokio::test]
async fn the_plugins_folder_may_be_deleted_and_made_again_with_all_that_it_lies_in() {
    let mut home = Home::new();
    // Where the folder lies in is not watched from further up.
    home.settings.rescan = Duration::from_millis(50);
    let (home, host, mut events) = start(home).await;
    let (name, (_, fields)) = (unique("croot"), source());
    for gone in ["plugins/portable", "plugins"] {
        home.add(&name, "python", &fields, SPEAKS);
        up(&mut events, &name, None).await;
        std::fs::remove_dir_all(home.path().join(gone)).unwrap();
        heard(&mut events, &name, State::Removed).await;
        assert_eq!(host.plugins.trouble(), None);
    }
    home.add(&name, "python", &fields, SPEAKS);
    up(&mut events, &name, None).await;
    host.shutdown().await;
}
