//! Owns the home folders of the cases, the packages of the plugin, and names that nobody else on this machine has:
//! the addresses that plugins dial lie in `/tmp`, the same for every host.

use std::fmt;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use async_zip::base::write::ZipFileWriter;
use async_zip::{Compression, ZipEntryBuilder};
use rustix::fs::{CWD, RenameFlags};
use serde_json::json;

use super::processes::MARK;
use super::records::Records;
use crate::command::cargo;
use crate::host::Launch;

/// Plugins are made to fail again and again here: they are started again soon and never given up.
const SETTINGS: &str = "\
portable:
  restartDelayMin: 20
  restartDelayMax: 250
  restartLimit: 1000000
  ackTimeout: 30000
  logLines: 100
";

/// What the plugins of a case speak. One program speaks either: the host's setting decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contract {
    Own,
    EKuiper,
}

impl Contract {
    fn setting(self) -> &'static str {
        match self {
            Self::Own => "  contract: both\n",
            Self::EKuiper => "  contract: ekuiper\n",
        }
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::EKuiper => "ekuiper",
        })
    }
}

/// What runs.
pub(super) struct Programs {
    host: PathBuf,
    plugin: PathBuf,
    /// Held until the end: one at a time in this checkout.
    _lock: File,
}

impl Programs {
    /// Builds the plugin, and the host unless there is one: for development, or as they ship.
    pub(super) fn build(for_development: bool, host: Option<PathBuf>) -> Result<Self> {
        let target = testkit::target_folder();
        let path = target.join("soak.lock");
        let lock = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        lock.try_lock()
            .context("a soak is already running in this checkout")?;
        let mut build = cargo();
        build
            .current_dir(crate::workspace_folder()?)
            .args(["build", "--package", "chaos"]);
        if host.is_none() {
            build.args(["--package", "mangrove"]);
        }
        if !for_development {
            build.arg("--release");
        }
        println!("Building the host and the plugin; the first time this takes some minutes.");
        let status = build.status().context("cannot run cargo")?;
        ensure!(status.success(), "the host or the plugin does not build");
        let programs = target.join(if for_development { "debug" } else { "release" });
        Ok(Self {
            host: host.unwrap_or_else(|| programs.join("mangrove")),
            plugin: programs.join("chaos"),
            _lock: lock,
        })
    }
}

/// One case's home folder.
pub(super) struct Home {
    folder: PathBuf,
    host: PathBuf,
    plugin: PathBuf,
    /// With which all names begin.
    prefix: String,
    pub(super) contract: Contract,
}

/// A plugin to be made of the program.
#[derive(Clone, Debug)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: u32,
    /// Whether it starts a process that leaves its session.
    pub(super) child: bool,
    /// How long it takes to start, milliseconds.
    pub(super) delay: u32,
    /// Whether its process ends at once.
    pub(super) useless: bool,
    /// Whether its manifest is wrong.
    pub(super) broken: bool,
}

impl Home {
    /// An empty home folder for this case, with more `settings` of the section `portable`.
    pub(super) fn lay_out(
        case: &str,
        contract: Contract,
        settings: &str,
        programs: &Programs,
    ) -> Result<Self> {
        let folder = testkit::target_folder()
            .join("soak")
            .join(format!("{case}-{contract}"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let home = Self {
            folder,
            host: programs.host.clone(),
            plugin: programs.plugin.clone(),
            prefix: format!("soak{}", std::process::id()),
            contract,
        };
        for folder in [home.portable(), home.stage(), home.folder.join("records")] {
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        write(
            &home.folder.join("etc/mangrove.yaml"),
            &format!("{SETTINGS}{}{settings}", contract.setting()),
        )?;
        Ok(home)
    }

    /// A name that only this run has.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// With which all names of this run begin.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A plugin of this run.
    pub(super) fn package(&self, name: &str) -> Package {
        Package {
            name: self.name(name),
            version: 1,
            child: false,
            delay: 0,
            useless: false,
            broken: false,
        }
    }

    pub(super) fn records(&self) -> Records {
        Records::at(self.folder.join("records"))
    }

    pub(super) fn launch(&self) -> Launch {
        Launch {
            program: self.host.clone(),
            home: self.folder.clone(),
            rest: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            log: self.log(),
            environment: vec![(MARK.to_owned(), self.prefix.clone())],
        }
    }

    /// Where the host listens for plugins of its own contract.
    pub(super) fn run(&self) -> PathBuf {
        self.folder.join("data/run")
    }

    /// Where the host's log goes.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("mangrove.log")
    }

    /// Where the plugin of this name lies.
    pub(super) fn installed(&self, name: &str) -> PathBuf {
        self.portable().join(name)
    }

    /// Lays the package out beside the host's folder, on the same file system.
    pub(super) fn prepare(&self, package: &Package) -> Result<PathBuf> {
        let folder = self.stage().join(&package.name);
        for (name, text) in self.files(package) {
            write(&folder.join(name), &text)?;
        }
        Ok(folder)
    }

    /// The package's folder appears at once.
    pub(super) fn drop_in(&self, package: &Package) -> Result<()> {
        let folder = self.prepare(package)?;
        rename(&folder, &self.installed(&package.name))
    }

    /// The plugin's folder disappears at once.
    pub(super) fn take_out(&self, name: &str) -> Result<()> {
        let gone = self.stage().join(format!("{name}.gone"));
        if gone.exists() {
            std::fs::remove_dir_all(&gone).with_context(|| format!("cannot remove {}", gone.display()))?;
        }
        rename(&self.installed(name), &gone)
    }

    /// The package's folder takes the place of the one that is there, at once.
    pub(super) fn exchange(&self, package: &Package) -> Result<()> {
        let folder = self.prepare(package)?;
        let installed = self.installed(&package.name);
        rustix::fs::renameat_with(CWD, &folder, CWD, &installed, RenameFlags::EXCHANGE)
            .with_context(|| format!("cannot exchange {}", installed.display()))
    }

    /// The package's files are laid over those that are there, one after another, as `rsync` does.
    pub(super) fn lay_over(&self, package: &Package) -> Result<()> {
        for (name, text) in self.files(package) {
            write(&self.installed(&package.name).join(name), &text)?;
        }
        Ok(())
    }

    /// The package as a zip.
    pub(super) async fn zip(&self, package: &Package) -> Result<PathBuf> {
        let mut zip = ZipFileWriter::new(Vec::new());
        for (name, text) in self.files(package) {
            let entry = ZipEntryBuilder::new(name.into(), Compression::Deflate).unix_permissions(0o755);
            zip.write_entry_whole(entry, text.as_bytes())
                .await
                .context("cannot pack the plugin")?;
        }
        let bytes = zip.close().await.context("cannot pack the plugin")?;
        let path = self.stage().join(format!("{}.zip", package.name));
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The manifest comes last: with it the folder is whole. The program's version changes with the manifest's.
    fn files(&self, package: &Package) -> [(String, String); 2] {
        let Package { name, version, .. } = package;
        let mut environment = json!({
            "CHAOS_NAME": name,
            "CHAOS_FOLDER": self.folder.join("records"),
            "RUST_LOG": "warn",
            "CHAOS_DELAY": package.delay.to_string(),
        });
        if package.child {
            environment["CHAOS_CHILD"] = "1".into();
        }
        if package.useless {
            environment["CHAOS_USELESS"] = "1".into();
        }
        let mut manifest = json!({
            "version": version.to_string(),
            "language": "rust",
            "executable": "run",
            "sources": [format!("{name}_source")],
            "sinks": [format!("{name}_sink")],
            "functions": [format!("{name}_function")],
            "environment": environment,
        });
        if package.broken {
            manifest["nonsense"] = true.into();
        }
        let program = format!(
            "#!/bin/sh\n# version {version}\nexec '{}' \"$@\"\n",
            self.plugin.display()
        );
        [
            ("run".to_owned(), program),
            (format!("{name}.json"), manifest.to_string()),
        ]
    }

    fn portable(&self) -> PathBuf {
        self.folder.join("plugins/portable")
    }

    fn stage(&self) -> PathBuf {
        self.folder.join("stage")
    }
}

/// Writes a file so that nobody sees half of it; executable, which does no harm.
fn write(path: &Path, text: &str) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(what)?;
    }
    let draft = path.with_extension("tmp");
    std::fs::write(&draft, text).with_context(what)?;
    std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o755)).with_context(what)?;
    std::fs::rename(&draft, path).with_context(what)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}
