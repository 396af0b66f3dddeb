//! The sample plugin of each SDK, made ready as its README says, or a recorded skip.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::foreign::{NPM_LIMITS, is_npm_offline};

use crate::plugins::{copy, example};

/// A plugin that has every kind of symbol.
pub(crate) struct Sample {
    /// The plugin; the language is also what its symbols' names end in.
    language: &'static str,
    lay: fn(&Path) -> Option<()>,
}

pub(crate) const RUST: Sample = Sample {
    language: "rust",
    lay: rust,
};
pub(crate) const PYTHON: Sample = Sample {
    language: "python",
    lay: python,
};
pub(crate) const GO: Sample = Sample {
    language: "go",
    lay: go,
};
pub(crate) const NODE: Sample = Sample {
    language: "node",
    lay: node,
};

impl Sample {
    /// The plugin's name.
    pub(crate) fn name(&self) -> String {
        format!("samples-{}", self.language)
    }

    /// The name of one of its symbols.
    pub(crate) fn symbol(&self, kind: &str) -> String {
        format!("{kind}_{}", self.language)
    }

    /// A home folder with the plugin in it; `None` where its language is not installed.
    pub(crate) fn home(&self) -> Option<TempDir> {
        let home = TempDir::new().unwrap();
        let name = self.name();
        let folder = home.path().join("plugins/portable").join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = format!("{name}.json");
        copy(&example(&name).join(&manifest), &folder.join(&manifest));
        (self.lay)(&folder)?;
        Some(home)
    }
}

fn rust(folder: &Path) -> Option<()> {
    copy(
        &testkit::built("samples-rust", "samples-rust"),
        &folder.join("samples-rust"),
    );
    Some(())
}

/// With the SDK from its folder instead of a wheel, which takes long to install.
fn python(folder: &Path) -> Option<()> {
    testkit::program("python3")?;
    for name in ["main.py", "counter.py", "keep.py", "functions.py"] {
        copy(&example("samples-python").join(name), &folder.join(name));
    }
    let path = folder.join("samples-python.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let manifest_fields = manifest.as_object_mut().unwrap();
    manifest_fields.remove("virtualEnvType");
    manifest_fields.insert(
        "environment".to_owned(),
        json!({"PYTHONPATH": root().join("sdk/python/src")}),
    );
    std::fs::write(path, manifest.to_string()).unwrap();
    Some(())
}

fn go(folder: &Path) -> Option<()> {
    copy(&testkit::go(&example("samples-go"))?, &folder.join("samples-go"));
    Some(())
}

fn node(folder: &Path) -> Option<()> {
    static MADE: OnceLock<Mutex<Option<Option<TempDir>>>> = OnceLock::new();
    let made = MADE.get_or_init(Mutex::default);
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    let made = made.get_or_insert_with(|| {
        let checkout = fresh_node_sdk()?;
        let (sdk, sample) = (
            checkout.path().join("sdk/node"),
            checkout.path().join("examples/samples-node"),
        );
        copy_all(&example("samples-node"), &sample);
        for (folder, words) in [
            (&sdk, "ci"),
            (&sample, "ci"),
            (&sample, "run build"),
            (&sample, "prune --omit=dev"),
        ] {
            npm(folder, words)?;
        }
        Some(checkout)
    });
    let sample = made.as_ref()?.path().join("examples/samples-node");
    copy(&sample.join("server.mjs"), &folder.join("server.mjs"));
    for part in ["dist", "node_modules"] {
        copy_tree(&sample.join(part), &folder.join(part));
    }
    copy(&sample.join("package.json"), &folder.join("package.json"));
    Some(())
}

/// A folder with the Node SDK in `sdk/node` as it is in a fresh checkout, with nothing built; `None` without npm.
pub(crate) fn fresh_node_sdk() -> Option<TempDir> {
    testkit::program("node")?;
    testkit::program("npm")?;
    let checkout = TempDir::new().unwrap();
    copy_all(&root().join("sdk/node"), &checkout.path().join("sdk/node"));
    Some(checkout)
}

/// Runs npm; `None`, which is recorded, when it reaches no registry.
pub(crate) fn npm(folder: &Path, words: &str) -> Option<()> {
    let mut command = Command::new("npm");
    command
        .args(words.split(' '))
        .args(["--no-audit", "--no-fund"])
        .args(NPM_LIMITS)
        .current_dir(folder);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && is_npm_offline(&said) {
        testkit::skip(&format!("npm {words}"), "npm reaches no registry");
        return None;
    }
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "npm {words}: {told}{said}");
    Some(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Copies a folder of sources, without what was built there.
fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == "node_modules" || name == "dist" {
            continue;
        }
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &to.join(name)),
            false => copy(&entry.path(), &to.join(name)),
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let (path, to) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.unwrap().file_name()),
        );
        match path.is_dir() {
            true => copy_tree(&path, &to),
            false => copy(&path, &to),
        }
    }
}
