//! Plugins that are stopped, started, restarted and removed by hand, and what is heard of it.

use std::time::Duration;

use mangrove::plugin::{ControlError, Event, State};
use mangrove_protocol::Object;
use mangrove_protocol::manifest::SymbolKind;
use testkit::within;
use tokio::sync::broadcast::Receiver;

use crate::folder::{write_package, zip};
use crate::home::{Home, Host, SLEEP, manifest, meta, unique};
use crate::peer::Peer;

/// Skips events until one of `plugin` with this state.
pub(crate) async fn heard(events: &mut Receiver<Event>, plugin: &str, state: State) -> Event {
    within(&format!("{plugin} to be {state}"), async {
        loop {
            let event = events.recv().await.unwrap();
            if event.plugin == plugin && event.state == state {
                return event;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_stopped_plugin_withholds_its_symbols_until_it_is_started() {
    let home = Home::new();
    let (name, source) = (unique("oper"), unique("osrc"));
    home.add(&name, "go", &format!(r#""sources":["{source}"]"#), SLEEP);
    let host = home.start().await;
    let (mut events, mut changes) = (host.plugins.events(), host.plugins.changes());
    let missing = || {
        let missing = host.plugins.missing(SymbolKind::Source, &source)?;
        Some(missing.reason)
    };
    let peer = Peer::control(&name).await;
    let running = heard(&mut events, &name, State::Running).await;
    assert_eq!(running.version.as_deref(), Some("1.0"));
    assert_eq!((running.pid, missing()), (host.status(&name).pid, None));

    changes.mark_unchanged();
    let stopping = host.plugins.stop(&name);
    // A rule that uses it would let go now.
    let (stopped, _) = within("the stop", async { tokio::join!(stopping, changes.changed()) }).await;
    stopped.unwrap();
    drop(peer);
    assert_eq!(missing().unwrap(), format!("the plugin \"{name}\" is stopped"));
    let stopped = heard(&mut events, &name, State::Stopped).await;
    assert!(stopped.reason.starts_with("stopped by hand"), "{stopped:?}");
    let status = host.status(&name);
    assert_eq!((status.status, status.pid), (State::Stopped, None));
    host.plugins
        .open_source(&source, meta("r"), "", Object::new())
        .await
        .unwrap_err();

    changes.mark_unchanged();
    let starting = host.plugins.start(&name);
    let (started, peer) = within("the start", async {
        tokio::join!(starting, Peer::control(&name))
    })
    .await;
    started.unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(missing(), None);

    // A restart withholds nothing.
    let old = host.status(&name).pid;
    drop(peer);
    let restarting = host.plugins.restart(&name);
    let (restarted, _peer) = within("the restart", async {
        tokio::join!(restarting, host.next_peer(&name, old))
    })
    .await;
    restarted.unwrap();
    assert_ne!(host.status(&name).pid, old);

    let removed = within("the removal", host.plugins.remove(&name)).await.unwrap();
    assert!(removed.rules.is_empty());
    heard(&mut events, &name, State::Removed).await;
    assert_eq!(missing().unwrap(), format!("the plugin \"{name}\" was removed"));
    host.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let mut home = Home::new();
    home.settings.restart_limit = 1;
    let (dies, broken) = (unique("odie"), unique("obad"));
    home.add(&dies, "go", r#""sources":["od"]"#, "#!/bin/sh\nexit 3\n");
    home.add(&broken, "go", r#""sources":["ob"]"#, SLEEP);
    std::fs::remove_file(home.plugin_folder(&broken).join("run")).unwrap();
    let host = home.start().await;
    for error in [
        host.plugins.start("nobody").await,
        host.plugins.stop("nobody").await,
        host.plugins.restart("../etc").await,
    ] {
        assert!(matches!(error, Err(ControlError::NotFound(_))), "{error:?}");
    }
    for error in [
        host.plugins.start(&broken).await,
        host.plugins.stop(&broken).await,
    ] {
        assert!(
            matches!(&error, Err(ControlError::Refused { reason, .. }) if reason.contains("cannot be found")),
            "{error:?}"
        );
    }
    let error = within("the start", host.plugins.start(&dies)).await.unwrap_err();
    assert!(
        matches!(&error, ControlError::Failed { reason, .. } if reason.contains("exit code 3")),
        "{error}"
    );
    // Mended, it is accepted.
    home.add(&broken, "go", r#""sources":["ob"]"#, SLEEP);
    let starting = host.plugins.start(&broken);
    let (started, _peer) = within("the start", async {
        tokio::join!(starting, Peer::control(&broken))
    })
    .await;
    started.unwrap();
    host.shutdown().await;
}

#[tokio::test]
async fn a_removal_names_the_rules_and_waits_for_them() {
    let home = Home::new();
    let (name, source) = (unique("orem"), unique("osrc"));
    home.add(&name, "go", &format!(r#""sources":["{source}"]"#), SLEEP);
    let host = home.start().await;
    let mut peer = Peer::control(&name).await;
    let (opened, ()) = within("the source", async {
        let opening = host
            .plugins
            .open_source(&source, meta("orule"), "", Object::new());
        tokio::join!(opening, async {
            peer.command().await;
            peer.say("ok").await;
        })
    })
    .await;
    let opened = opened.unwrap();
    let mut changes = host.plugins.changes();
    let (removed, ()) = within("the removal", async {
        tokio::join!(host.plugins.remove(&name), async {
            while host.plugins.missing(SymbolKind::Source, &source).is_none() {
                changes.changed().await.unwrap();
            }
            // The rule still has its plugin.
            assert_eq!(host.status(&name).status, State::Running);
            drop(opened);
            peer.command().await;
            peer.say("ok").await;
        })
    })
    .await;
    assert_eq!(removed.unwrap().rules, ["orule"]);
    host.shutdown().await;
}

/// A plugin whose process lives and never says anything, as far as it comes.
async fn hanging(prefix: &str) -> (Home, Host, Receiver<Event>, String) {
    let mut home = Home::new();
    home.settings.start_timeout = Duration::from_secs(3600);
    let name = unique(prefix);
    home.add(&name, "python", &format!(r#""sources":["{name}"]"#), SLEEP);
    let host = home.start().await;
    let events = host.plugins.events();
    started(&host, &name).await;
    (home, host, events, name)
}

async fn started(host: &Host, name: &str) {
    host.until("its process", name, |status| status.pid.is_some())
        .await;
}

#[tokio::test]
async fn a_start_that_hangs_gives_way_to_whoever_stops_or_removes_the_plugin() {
    let (home, host, _, name) = hanging("ohang").await;
    within("the stop", host.plugins.stop(&name)).await.unwrap();
    assert_eq!(host.status(&name).status, State::Stopped);

    let starting = host.plugins.start(&name);
    let removing = async {
        started(&host, &name).await;
        host.plugins.remove(&name).await
    };
    let (start, removed) = within("the removal", async { tokio::join!(starting, removing) }).await;
    assert!(matches!(start, Err(ControlError::Failed { .. })), "{start:?}");
    assert!(removed.unwrap().rules.is_empty());
    assert!(host.plugins.get(&name).is_none() && !home.plugin_folder(&name).exists());
    host.shutdown().await;
}

#[tokio::test]
async fn a_start_that_hangs_gives_way_to_what_happens_to_its_folder() {
    let (home, host, mut events, name) = hanging("ofold").await;
    let speaks = include_str!("handshake.py");
    home.add(&name, "python", &format!(r#""sources":["{name}"]"#), speaks);
    heard(&mut events, &name, State::Running).await;

    home.add(&name, "python", &format!(r#""sources":["{name}"]"#), SLEEP);
    within("the restart", async {
        let restarting = host.plugins.restart(&name);
        let deleting = async {
            heard(&mut events, &name, State::Starting).await;
            std::fs::remove_dir_all(home.plugin_folder(&name)).unwrap();
        };
        tokio::join!(restarting, deleting)
    })
    .await
    .0
    .unwrap_err();
    heard(&mut events, &name, State::Removed).await;
    assert!(host.plugins.get(&name).is_none());
    host.shutdown().await;
}

#[tokio::test]
async fn plugins_that_are_started_together_do_not_give_way_to_each_other() {
    let mut home = Home::new();
    home.settings.parallel_starts = 1;
    let host = home.start().await;
    let mut events = host.plugins.events();
    let names: Vec<String> = (0..4).map(|_| unique("otog")).collect();
    let speaks = include_str!("handshake.py");
    for name in &names {
        home.add(name, "python", &format!(r#""sources":["{name}"]"#), speaks);
    }
    let mut waiting = names.clone();
    within("all to run", async {
        while !waiting.is_empty() {
            let event = events.recv().await.unwrap();
            waiting.retain(|name| event.state != State::Running || *name != event.plugin);
        }
    })
    .await;
    host.shutdown().await;
}

#[tokio::test]
async fn a_plugin_that_may_not_start_yet_says_what_it_waits_for() {
    let mut home = Home::new();
    home.settings.parallel_starts = 1;
    home.settings.start_timeout = Duration::from_secs(3600);
    let names = [unique("oqueue"), unique("oqueue"), unique("oqueue")];
    let host = home.start().await;
    for name in &names {
        home.add(name, "python", &format!(r#""sources":["{name}"]"#), SLEEP);
    }
    // One that hangs keeps the others waiting for a while only. With two that do there is no room for a third.
    let (begun, waits) = host
        .look("two to have begun and one to wait", |plugins| {
            let all = names.iter().filter_map(|name| plugins.get(name));
            let (begun, waits): (Vec<_>, Vec<_>) = all
                .map(|plugin| plugin.status)
                .partition(|status| status.pid.is_some());
            let waits = waits
                .into_iter()
                .find(|status| status.err_msg.contains("waits for its turn"))?;
            (begun.len() == 2).then_some((begun, waits))
        })
        .await;
    assert_eq!(waits.status, State::Starting);
    assert!(begun.iter().all(|status| status.err_msg.is_empty()), "{begun:?}");
    host.shutdown().await;
}

#[tokio::test]
async fn what_somebody_does_to_the_folder_during_an_update_is_not_undone() {
    let mut home = Home::new();
    home.settings.start_timeout = Duration::from_secs(3600);
    let name = unique("oupd");
    let (fields, speaks) = (format!(r#""sources":["{name}"]"#), include_str!("handshake.py"));
    home.add(&name, "python", &fields, speaks);
    let host = home.start().await;
    let mut events = host.plugins.events();
    heard(&mut events, &name, State::Running).await;
    let silent = manifest("python", &fields).replace("1.0", "2.0");
    let json = format!("{name}.json");
    let files = [
        (&*json, silent.as_bytes()),
        ("run", b"while True: pass".as_slice()),
    ];
    let request = write_package(&home, &name, &zip(&files).await);

    let deleting = async {
        let folder = home.plugin_folder(&name);
        while std::fs::read(folder.join(&json)).ok() != Some(silent.clone().into_bytes()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        std::fs::remove_dir_all(folder).unwrap();
    };
    let updating = async { tokio::join!(host.plugins.update(request), deleting).0 };
    let error = within("the update", updating).await.unwrap_err();
    assert!(!home.plugin_folder(&name).exists(), "{error}");
    heard(&mut events, &name, State::Removed).await;
    assert!(host.plugins.get(&name).is_none() && !home.plugin_folder(&name).exists());
    host.shutdown().await;
}
