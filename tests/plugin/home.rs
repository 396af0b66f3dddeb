//! A home folder with plugins in it, and the manager over it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mangrove::config::{Config, Portable};
use mangrove::plugin::{Handle, Manager, State, Status};
use mangrove::store::{Keeper, States};
use mangrove_protocol::control::Meta;
use testkit::within;
use tokio_util::sync::CancellationToken;

use crate::peer::Peer;

/// A program that does nothing but live.
pub(crate) const SLEEP: &str = "#!/bin/sh\nexec sleep 600\n";

/// A name that no other test on this machine uses: the sockets' addresses are made of it.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{prefix}{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The ids of one use of a symbol.
pub(crate) fn meta(rule: &str) -> Meta {
    Meta {
        rule_id: Some(rule.parse().unwrap()),
        op_id: Some("op".parse().unwrap()),
        instance_id: 0,
    }
}

pub(crate) struct Home {
    folder: tempfile::TempDir,
    pub(crate) settings: Portable,
}

impl Home {
    /// Limits that no healthy test reaches; tests that wait for one set it low.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("plugins/portable")).unwrap();
        let settings = Portable {
            send_timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(30),
            command_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(30),
            ack_timeout: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
            restart_delay_min: Duration::from_millis(10),
            restart_delay_max: Duration::from_millis(50),
            restart_limit: 3,
            settle: Duration::from_millis(50),
            guard: env!("CARGO_BIN_EXE_mangrove").into(),
            // Mostly it is the test itself that speaks for a plugin.
            peers: "user".to_owned(),
            checkpoint_interval: Duration::from_millis(100),
            ..Config::new(folder.path().to_owned()).portable
        };
        Self { folder, settings }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn plugin_folder(&self, name: &str) -> PathBuf {
        self.path().join("plugins/portable").join(name)
    }

    /// Puts a plugin into its folder: a manifest with these fields, and the program `run`.
    pub(crate) fn add(&self, name: &str, language: &str, fields: &str, program: &str) {
        self.add_at(&self.plugin_folder(name), name, language, fields, program);
    }

    /// The same in another place.
    pub(crate) fn add_at(&self, folder: &Path, name: &str, language: &str, fields: &str, program: &str) {
        std::fs::create_dir_all(folder).unwrap();
        let manifest = manifest(language, fields);
        std::fs::write(folder.join(format!("{name}.json")), manifest).unwrap();
        std::fs::write(folder.join("run"), program).unwrap();
        std::fs::set_permissions(folder.join("run"), PermissionsExt::from_mode(0o755)).unwrap();
    }

    pub(crate) async fn start(&self) -> Host {
        show_log();
        let config = Config {
            portable: self.settings.clone(),
            ..Config::new(self.path().to_owned())
        };
        let path = self.path().join("data/states.redb");
        let (states, keeper) = States::start(&path, self.settings.checkpoint_interval)
            .await
            .unwrap();
        let manager = Manager::start(&config, states.clone(), CancellationToken::new())
            .await
            .unwrap();
        Host {
            plugins: manager.handle(),
            states,
            manager,
            keeper,
        }
    }
}

/// A test that fails shows what its host has logged.
fn show_log() {
    // The first of this process stays.
    let _set = tracing_subscriber::fmt()
        .with_test_writer()
        .with_env_filter("mangrove=debug")
        .try_init();
}

pub(crate) fn manifest(language: &str, fields: &str) -> String {
    format!(r#"{{"version":"1.0","language":"{language}","executable":"run",{fields}}}"#)
}

pub(crate) struct Host {
    pub(crate) plugins: Handle,
    pub(crate) states: States,
    manager: Manager,
    keeper: Keeper,
}

impl Host {
    pub(crate) fn status(&self, name: &str) -> Status {
        self.plugins.get(name).expect("the plugin is known").status
    }

    /// Looks at every change of any status, until there is what is looked for.
    pub(crate) async fn look<T>(&self, what: &str, mut look: impl FnMut(&Handle) -> Option<T>) -> T {
        let mut changes = self.plugins.status_changes();
        within(what, async {
            loop {
                changes.mark_unchanged();
                if let Some(found) = look(&self.plugins) {
                    return found;
                }
                changes.changed().await.expect("the host lives");
            }
        })
        .await
    }

    /// Waits until the plugin's status is as wanted.
    pub(crate) async fn until(&self, what: &str, name: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        self.look(what, |_| Some(self.status(name)).filter(|status| wanted(status)))
            .await
    }

    pub(crate) async fn running(&self, name: &str) -> Status {
        self.until("the plugin to run", name, |status| {
            status.status == State::Running
        })
        .await
    }

    /// Waits until a process of the plugin has written such a line.
    pub(crate) async fn heard(&self, what: &str, name: &str, wanted: impl Fn(&str) -> bool) {
        let (written, mut coming) = self.plugins.follow_output(name).expect("the plugin is known");
        if written.iter().any(|line| wanted(&line.text)) {
            return;
        }
        within(what, async {
            while !wanted(&coming.recv().await.unwrap().text) {}
        })
        .await;
    }

    /// Waits until the `install.sh` of a package has written a line.
    pub(crate) async fn script_begun(&self, name: &str) {
        let (written, mut coming) = self
            .look("the script", |plugins| plugins.follow_output(name))
            .await;
        if written.is_empty() {
            let line = within("the script's first line", coming.recv()).await;
            line.expect("the script lives");
        }
    }

    /// Waits for a process other than `old`, and speaks for it.
    pub(crate) async fn next_peer(&self, name: &str, old: Option<u32>) -> Peer {
        self.look("another process", |plugins| {
            let pid = plugins.get(name)?.status.pid?;
            (Some(pid) != old).then_some(())
        })
        .await;
        Peer::control(name).await
    }

    pub(crate) async fn shutdown(self) {
        within("the plugins to stop", self.manager.shutdown()).await;
        within("the states", self.keeper.shutdown()).await;
    }
}
