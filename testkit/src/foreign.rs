//! Owns the foreign peers that tests talk to: programs of the distribution, Python environments with the
//! published SDK, Go programs, and this workspace's own binaries. Finds or prepares them; what the machine
//! cannot give is a recorded skip. `cargo verify` prepares everything beforehand, a plain `cargo test` on
//! first use.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::lock::exclusive_at;
use crate::skip::skip;

/// Set by `cargo verify` once it has prepared what the machine allows, so that what failed there isn't tried
/// again by each test.
pub const PREPARED: &str = "TESTKIT_PREPARED";

/// The program `name` on the `PATH`, or a recorded skip.
pub fn program(name: &str) -> Option<PathBuf> {
    let found = find_program(name);
    if found.is_none() {
        skip(name, "not installed");
    }
    found
}

/// The program `name` on the `PATH`; records nothing.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The interpreter of a Python environment that has this release of the `ekuiper` package and `pynng`, or a
/// recorded skip. The first use downloads the packages, which can take a minute.
pub fn python(ekuiper: &str) -> Option<PathBuf> {
    static KNOWN: Mutex<Option<HashMap<String, Result<PathBuf, String>>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let result = known
        .get_or_insert_default()
        .entry(ekuiper.to_owned())
        .or_insert_with(|| {
            let may_install = std::env::var_os(PREPARED).is_none();
            prepare_python(ekuiper, may_install)
        });
    match result {
        Ok(interpreter) => Some(interpreter.clone()),
        Err(why) => {
            skip(&format!("python with ekuiper {ekuiper}"), why);
            None
        }
    }
}

/// The interpreter of the environment for this release of `ekuiper`; makes the environment if it isn't there
/// and `may_install`.
///
/// # Errors
/// The reason why there is none, in one line.
pub fn prepare_python(ekuiper: &str, may_install: bool) -> Result<PathBuf, String> {
    let environments = environments()?;
    let _lock = exclusive_at(&environments.join("python.lock"));
    let folder = environments.join(format!("python-ekuiper-{ekuiper}"));
    let interpreter = folder.join("bin/python");
    if imports(&interpreter) {
        return Ok(interpreter);
    }
    if !may_install {
        return Err("not prepared".to_owned());
    }
    install(&folder, &[format!("ekuiper=={ekuiper}").as_str(), "pynng"])?;
    if imports(&interpreter) {
        Ok(interpreter)
    } else {
        Err(format!(
            "{} cannot import ekuiper and pynng",
            interpreter.display()
        ))
    }
}

/// The interpreter of the Python environment `name` with what the file `requirements` asks for; makes it anew
/// if that has changed and `may_install`.
///
/// # Errors
/// The reason why there is none, in one line.
pub fn prepare_environment(name: &str, requirements: &Path, may_install: bool) -> Result<PathBuf, String> {
    prepare(None, name, requirements, may_install)
}

/// The same on a Python of this version, as `3.9`: the machine's own, or one that `uv` finds or downloads.
///
/// # Errors
/// The reason why there is none, in one line.
pub fn prepare_environment_of(
    version: &str,
    name: &str,
    requirements: &Path,
    may_install: bool,
) -> Result<PathBuf, String> {
    prepare(Some(version), name, requirements, may_install)
}

fn prepare(
    version: Option<&str>,
    name: &str,
    requirements: &Path,
    may_install: bool,
) -> Result<PathBuf, String> {
    let environments = environments()?;
    let _lock = exclusive_at(&environments.join("python.lock"));
    let folder = environments.join(name);
    let interpreter = folder.join("bin/python");
    let wanted = std::fs::read(requirements)
        .map_err(|error| format!("cannot read {}: {error}", requirements.display()))?;
    // Written last, so that half of an environment is none.
    let made_of = folder.join("made-of.txt");
    let made = std::fs::read(&made_of).is_ok_and(|made| made == wanted);
    if made && run(Command::new(&interpreter).arg("--version")).is_ok() {
        return Ok(interpreter);
    }
    if !may_install {
        return Err("not prepared".to_owned());
    }
    let packages = ["--requirement".as_ref(), requirements.as_os_str()];
    install_on(version, &folder, &packages)?;
    std::fs::write(&made_of, wanted)
        .map_err(|error| format!("cannot write {}: {error}", made_of.display()))?;
    Ok(interpreter)
}

/// Where the environments lie.
fn environments() -> Result<PathBuf, String> {
    let folder = target_folder().join("testkit");
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    Ok(folder)
}

/// Makes a Python environment in `folder` anew, with these packages.
fn install<S: AsRef<OsStr>>(folder: &Path, packages: &[S]) -> Result<(), String> {
    install_on(None, folder, packages)
}

fn install_on<S: AsRef<OsStr>>(version: Option<&str>, folder: &Path, packages: &[S]) -> Result<(), String> {
    match (make(version, folder), version) {
        (Err(reason), Some(version)) => {
            make_by_uv(version, folder).map_err(|error| format!("{reason}; {error}"))?;
        }
        (made, _) => made?,
    }
    run(Command::new(folder.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(packages))
}

fn make(version: Option<&str>, folder: &Path) -> Result<(), String> {
    let name = format!("python{}", version.unwrap_or("3"));
    let base = find_program(&name).ok_or_else(|| format!("{name} is not installed"))?;
    clear(folder)?;
    run(Command::new(base)
        // What pyenv lays on the path runs only the version that it is told.
        .envs(version.map(|version| ("PYENV_VERSION", version)))
        .args(["-m", "venv"])
        .arg(folder))
}

fn make_by_uv(version: &str, folder: &Path) -> Result<(), String> {
    let uv = find_program("uv").map_or_else(|| downloaded_uv(true), Ok)?;
    clear(folder)?;
    run(Command::new(uv)
        .args(["venv", "--quiet", "--no-project", "--seed", "--python", version])
        .arg(folder))
}

/// Removes half of an earlier attempt, or an environment whose base interpreter is gone.
fn clear(folder: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The program `uv`: the machine's own, or one that is downloaded on first use; or a recorded skip.
pub fn uv() -> Option<PathBuf> {
    let may_install = std::env::var_os(PREPARED).is_none();
    match prepare_uv(may_install) {
        Ok(program) => Some(program),
        Err(why) => {
            skip("uv", &why);
            None
        }
    }
}

/// The program `uv`; downloads it if the machine has none and `may_install`.
///
/// # Errors
/// The reason why there is none, in one line.
pub fn prepare_uv(may_install: bool) -> Result<PathBuf, String> {
    if let Some(program) = find_program("uv") {
        return Ok(program);
    }
    let environments = environments()?;
    let _lock = exclusive_at(&environments.join("python.lock"));
    downloaded_uv(may_install)
}

/// For who has the lock of the environments.
fn downloaded_uv(may_install: bool) -> Result<PathBuf, String> {
    let folder = environments()?.join("uv");
    let program = folder.join("bin/uv");
    if program.is_file() {
        return Ok(program);
    }
    if !may_install {
        return Err("not prepared".to_owned());
    }
    install(&folder, &["uv"])?;
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("there is no {}", program.display()))
    }
}

/// The program of the Go module in `source`, built on first use; or a recorded skip. The first build
/// downloads the modules that it needs.
pub fn go(source: &Path) -> Option<PathBuf> {
    static KNOWN: Mutex<Option<HashMap<PathBuf, Result<PathBuf, String>>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let result = known
        .get_or_insert_default()
        .entry(source.to_owned())
        .or_insert_with(|| {
            let may_download = std::env::var_os(PREPARED).is_none();
            prepare_go(source, may_download)
        });
    match result {
        Ok(program) => Some(program.clone()),
        Err(why) => {
            skip(&format!("the Go program {}", source.display()), why);
            None
        }
    }
}

/// The program of the Go module in `source`, built again if that has changed; downloads modules if it
/// `may_download`.
///
/// # Errors
/// The reason why there is none, in one line.
pub fn prepare_go(source: &Path, may_download: bool) -> Result<PathBuf, String> {
    let go = find_program("go").ok_or("go is not installed")?;
    let name = source
        .file_name()
        .ok_or_else(|| format!("{} has no name", source.display()))?;
    let folder = target_folder().join("testkit").join("go");
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    let _lock = exclusive_at(&folder.join("build.lock"));
    let program = folder.join(name);
    let mut build = Command::new(go);
    build
        .current_dir(source)
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".");
    if !may_download {
        build.env("GOPROXY", "off");
    }
    run(&mut build)?;
    Ok(program)
}

/// Whether this is what npm says when it reaches no registry, and not that the packages are wrong.
pub fn is_npm_offline(said: &str) -> bool {
    let codes = ["EAI_AGAIN", "ECONNREFUSED", "ENOTFOUND", "ETIMEDOUT"];
    // The second is that of npm 9 and older.
    ["npm error network", "npm ERR! network"]
        .iter()
        .any(|sign| said.contains(sign))
        || codes.iter().any(|code| said.contains(&format!("code {code}")))
}

/// What makes npm give up soon where no registry answers.
pub const NPM_LIMITS: [&str; 2] = ["--fetch-retries=1", "--fetch-timeout=60000"];

fn imports(interpreter: &Path) -> bool {
    Command::new(interpreter)
        .args(["-c", "import ekuiper, pynng"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().display().to_string();
    let output = command
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    Err(format!("{name} failed: {}", last.unwrap_or("no output")))
}

/// A binary of this workspace, built on first use in the profile of the running test. (Cargo builds only the
/// binaries of the package under test.)
///
/// # Panics
/// When it doesn't build.
pub fn built(package: &str, binary: &str) -> PathBuf {
    static BUILT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let folder = profile_folder();
    let path = folder.join(binary);
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if built.contains(&path) {
        return path;
    }
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace_folder())
        .args([
            "build",
            "--package",
            package,
            "--bin",
            binary,
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target_folder())
        .output()
        .unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    assert!(
        output.status.success(),
        "{package} does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    built.push(path.clone());
    path
}

/// Cargo's target folder, where the running program was built.
///
/// # Panics
/// When the running program isn't in one.
pub fn target_folder() -> PathBuf {
    let folder = profile_folder();
    folder.parent().map_or(folder.clone(), Path::to_owned)
}

fn profile_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_else(|error| panic!("who am I? {error}"));
    // Test programs lie in `deps` (or `examples`) inside it, others directly.
    program
        .ancestors()
        .skip(1)
        .find(|folder| {
            let name = folder.file_name().and_then(|name| name.to_str());
            !matches!(name, Some("deps" | "examples"))
        })
        .map(Path::to_owned)
        .unwrap_or_else(|| panic!("{} is in no target folder", program.display()))
}

fn workspace_folder() -> PathBuf {
    let testkit = Path::new(env!("CARGO_MANIFEST_DIR"));
    testkit.parent().unwrap_or(testkit).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(find_program("cargo").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }

    #[test]
    fn the_target_folder_holds_the_running_test() {
        let program = std::env::current_exe().unwrap();
        assert!(program.starts_with(target_folder()));
        assert!(program.starts_with(profile_folder()));
        assert_eq!(profile_folder().parent(), Some(target_folder().as_path()));
    }

    #[test]
    fn npm_without_a_network_is_told_from_wrong_packages() {
        assert!(is_npm_offline(
            "npm ERR! code ENOTFOUND\nnpm ERR! network request failed"
        ));
        assert!(is_npm_offline("npm error code EAI_AGAIN"));
        assert!(!is_npm_offline("npm error code E404\nnpm error 404 Not Found"));
    }

    #[test]
    fn a_failed_command_gives_its_last_line() {
        let error = run(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 1"])).unwrap_err();
        assert_eq!(error, "sh failed: one");
        let error = run(&mut Command::new("no-such-program-anywhere")).unwrap_err();
        assert!(
            error.starts_with("cannot run no-such-program-anywhere"),
            "{error}"
        );
    }
}
