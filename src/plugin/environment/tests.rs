//! Environments, built by a stand-in for Python that takes no time; the real tools are tried in
//! `tests/plugin`.

use super::*;
use std::os::unix::fs::PermissionsExt;

/// Makes what `python -m venv` makes, and counts the calls of both steps. `pip install` fails as `fail` says.
const FAKE: &str = r#"#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
case "$2" in
  venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  pip) if grep -q impossible requirements.txt; then echo "no matching distribution" >&2; exit 1; fi ;;
esac
"#;

struct World {
    home: tempfile::TempDir,
    folder: PathBuf,
    settings: Portable,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("car");
        std::fs::create_dir(&folder).unwrap();
        let python = home.path().join("python");
        std::fs::write(&python, FAKE).unwrap();
        std::fs::set_permissions(&python, PermissionsExt::from_mode(0o755)).unwrap();
        let settings = Portable {
            python_bin: python.display().to_string(),
            ..crate::plugin::test_settings()
        };
        Self {
            home,
            folder,
            settings,
        }
    }

    fn require(&self, text: &str) {
        std::fs::write(self.folder.join(REQUIREMENTS), text).unwrap();
    }

    fn plan(&self) -> Option<Build> {
        plan(&manifest("venv"), &self.folder, &self.settings).unwrap()
    }

    async fn build(&self) -> Result<(), String> {
        let built = build(self.plan().unwrap(), &self.settings, run).await;
        built.map_err(|error| error.to_string())
    }

    /// The environments and the link that there are.
    fn found(&self) -> Vec<String> {
        let entries = self.folder.read_dir().unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("venv")).collect()
    }

    fn interpreter(&self) -> PathBuf {
        interpreter(&self.folder).unwrap()
    }
}

async fn run(launch: Launch) -> Result<(), ScriptError> {
    let mut command = std::process::Command::new(&launch.program);
    command.args(&launch.args).current_dir(&launch.folder);
    let ended = command.output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    match ended.status.code() {
        Some(0) => Ok(()),
        code => Err(ScriptError::Failed {
            ending: format!("exit code {code:?}"),
            said: script::Said::last(said.lines()),
        }),
    }
}

fn manifest(tool: &str) -> Manifest {
    let json = format!(
        r#"{{"version":"1","language":"python","executable":"x","sources":["s"],"virtualEnvType":"{tool}","env":"e"}}"#
    );
    Manifest::parse(&"car".parse().unwrap(), json.as_bytes()).unwrap()
}

#[tokio::test]
async fn it_is_built_once_and_again_when_the_requirements_change() {
    let world = World::new();
    assert!(interpreter(&world.folder).is_none());
    world.require("a");
    world.build().await.unwrap();
    assert!(world.plan().is_none());
    let first = world.interpreter();
    assert!(first.starts_with(&world.folder) && first.is_file());

    world.require("b");
    world.build().await.unwrap();
    let second = world.interpreter();
    assert_ne!(first, second);
    // A process may still run in the one before; with the third, the first is gone.
    assert!(first.is_file());
    world.require("c");
    world.build().await.unwrap();
    assert!(!first.exists() && second.is_file());
    // Back to one that is still there: nothing to build.
    world.require("b");
    assert!(world.plan().is_none());
    assert_eq!(world.interpreter(), second);
}

#[tokio::test]
async fn a_build_that_fails_changes_nothing() {
    let world = World::new();
    world.require("a");
    world.build().await.unwrap();
    let (before, python) = (world.found(), world.interpreter());
    world.require("impossible");
    assert_eq!(
        world.build().await.unwrap_err(),
        "its Python environment cannot be built: pip install: exit code Some(1); it said last: no matching distribution"
    );
    assert_eq!((world.found(), world.interpreter()), (before, python));

    let none = World::new();
    none.require("impossible");
    none.build().await.unwrap_err();
    assert!(none.found().is_empty());
}

#[tokio::test]
async fn half_an_environment_and_one_whose_interpreter_is_gone_are_built_again() {
    let world = World::new();
    let place = world.plan().unwrap().place();
    std::fs::create_dir_all(place.join("bin")).unwrap();
    std::fs::write(place.join("bin/python"), "").unwrap();
    std::fs::write(place.join("rest"), "").unwrap();
    world.build().await.unwrap();
    assert!(!place.join("rest").exists() && world.plan().is_none());
    std::fs::remove_file(place.join("bin/python")).unwrap();
    assert!(world.plan().is_some());
}

#[test]
fn the_authors_own_is_used_as_it_is() {
    for name in ["venv", ".venv"] {
        let world = World::new();
        world.require("a");
        let python = world.folder.join(name).join("bin/python");
        // Without an interpreter it is none.
        std::fs::create_dir_all(python.parent().unwrap()).unwrap();
        assert!(world.plan().is_some());
        std::fs::write(&python, "").unwrap();
        assert!(world.plan().is_none());
        assert_eq!(world.interpreter(), python);
    }
}

#[tokio::test]
async fn a_folder_without_an_interpreter_makes_room() {
    let world = World::new();
    std::fs::create_dir_all(world.folder.join("venv/bin")).unwrap();
    world.build().await.unwrap();
    assert!(world.folder.join("venv/bin/python").is_file());
}

#[test]
fn others_need_none() {
    let world = World::new();
    let plan = |manifest: &Manifest| plan(manifest, &world.folder, &world.settings).unwrap();
    assert!(plan(&manifest("conda")).is_none());
    assert!(plan(&manifest("")).is_none());
    assert!(plan(&manifest("uv")).is_some());
    let list = world.folder.join(REQUIREMENTS);
    symlink("/etc/passwd", list).unwrap();
    let error = super::plan(&manifest("uv"), &world.folder, &world.settings).unwrap_err();
    assert!(
        error.to_string().contains("leads out of the plugin's folder"),
        "{error}"
    );
}

#[tokio::test]
async fn an_update_carries_it_along_and_back() {
    let world = World::new();
    world.require("a");
    world.build().await.unwrap();
    let before = world.found();
    let new = world.home.path().join("new");
    std::fs::create_dir(&new).unwrap();
    std::fs::write(new.join(REQUIREMENTS), "a").unwrap();
    carry(&world.folder, &new).unwrap();
    assert!(world.found().is_empty());
    assert!(plan(&manifest("venv"), &new, &world.settings).unwrap().is_none());
    carry(&new, &world.folder).unwrap();
    assert_eq!(world.found(), before);
    assert!(world.plan().is_none());
}
