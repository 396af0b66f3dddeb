//! Owns new projects: a source, a sink and a function with a test, in each language that has an SDK. The texts lie in
//! `templates/` and are part of this program. Nothing is ever overwritten.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mangrove_protocol::name::{self, PluginName};

use super::{AuthorError, io_error};

/// A language that has an SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Rust.
    Rust,
    /// Python, from 3.9 on.
    Python,
    /// Go.
    Go,
    /// TypeScript, for Node.
    Typescript,
}

/// A project that is wanted.
#[derive(Clone, Debug)]
pub struct Project<'a> {
    /// The plugin's name.
    pub name: &'a str,
    /// Its language.
    pub language: Language,
    /// In which folder its own is made.
    pub parent: &'a Path,
    /// The folder of the language's SDK; by default the released one.
    pub sdk: Option<&'a Path>,
}

/// A file, by its path in the project, and its text. In both, what is in double braces is replaced.
type File = (&'static str, &'static str);

macro_rules! files {
    ($($path:literal: $from:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../templates/", $from)))),+]
    };
}

const COMMON: &[File] = files! {
    "{{name}}.json": "manifest.json",
    "check.json": "check.json",
    "sources/{{symbol}}_numbers.yaml": "conf_key.yaml",
    "README.md": "readme.md",
    ".gitignore": "gitignore",
};

const RUST: &[File] = files! {
    "Cargo.toml": "rust/Cargo.toml",
    "src/main.rs": "rust/src/main.rs",
    "src/numbers.rs": "rust/src/numbers.rs",
    "src/lines.rs": "rust/src/lines.rs",
    "src/shout.rs": "rust/src/shout.rs",
};

const PYTHON: &[File] = files! {
    "main.py": "python/main.py",
    "test_main.py": "python/test_main.py",
    "requirements.txt": "python/requirements.txt",
};

const GO: &[File] = files! {
    "go.mod": "go/go.mod",
    "main.go": "go/main.go",
    "numbers.go": "go/numbers.go",
    "lines.go": "go/lines.go",
    "shout.go": "go/shout.go",
    "main_test.go": "go/main_test.go",
};

const TYPESCRIPT: &[File] = files! {
    "package.json": "typescript/package.json",
    "tsconfig.json": "typescript/tsconfig.json",
    "src/main.ts": "typescript/src/main.ts",
    "src/plugin.ts": "typescript/src/plugin.ts",
    "src/plugin.test.ts": "typescript/src/plugin.test.ts",
};

impl Language {
    fn files(self) -> &'static [File] {
        match self {
            Self::Rust => RUST,
            Self::Python => PYTHON,
            Self::Go => GO,
            Self::Typescript => TYPESCRIPT,
        }
    }

    /// As it is written.
    fn title(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::Go => "Go",
            Self::Typescript => "TypeScript",
        }
    }

    /// What builds and tests a project.
    pub fn build(self) -> &'static [&'static str] {
        match self {
            Self::Rust => &["cargo test", "cargo build --release"],
            Self::Python => &["python3 -m unittest"],
            Self::Go => &["go mod tidy", "go test ./...", "go build"],
            // A copy of the SDK, since a package holds no links.
            Self::Typescript => &["npm install --install-links", "npm test"],
        }
    }
}

/// What stands for what in the texts.
fn values(project: &Project<'_>, sdk: Option<&str>) -> Vec<(&'static str, String)> {
    let Project { name, language, .. } = project;
    let version = env!("CARGO_PKG_VERSION");
    let (run, dependency) = match (language, sdk) {
        (Language::Rust, None) => (
            executable("rust", &format!("target/release/{name}")),
            format!(r#"version = "{version}""#),
        ),
        (Language::Rust, Some(path)) => (
            executable("rust", &format!("target/release/{name}")),
            format!(r#"path = "{path}""#),
        ),
        (Language::Python, None) => (
            executable("python", "main.py") + "\n  \"virtualEnvType\": \"venv\",",
            String::new(),
        ),
        (Language::Python, Some(path)) => {
            let environment = format!("\n  \"environment\": {{ \"PYTHONPATH\": \"{path}/src\" }},");
            (executable("python", "main.py") + &environment, String::new())
        }
        (Language::Go, _) => (executable("go", name), String::new()),
        (Language::Typescript, None) => (executable("node", "dist/main.js"), format!("^{version}")),
        (Language::Typescript, Some(path)) => (executable("node", "dist/main.js"), format!("file:{path}")),
    };
    let replace = sdk.map(|path| format!("\nreplace mangrove.invalid/sdk/go => {path}\n"));
    let mut build = String::new();
    for line in language.build() {
        // With the SDK from a folder, Python has to be told where it is.
        let place = sdk.filter(|_| *language == Language::Python);
        let place = place
            .map(|path| format!("PYTHONPATH={path}/src "))
            .unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(build, "{place}{line}");
    }
    vec![
        ("name", (*name).to_owned()),
        ("symbol", name.replace('-', "_")),
        ("language", language.title().to_owned()),
        ("version", version.to_owned()),
        ("run", run),
        ("sdk", dependency),
        ("replace", replace.unwrap_or_default()),
        ("build", build.trim_end().to_owned()),
    ]
}

fn executable(language: &str, program: &str) -> String {
    format!("  \"language\": \"{language}\",\n  \"executable\": \"{program}\",")
}

fn fill(text: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(text.to_owned(), |text, (key, value)| {
        text.replace(&format!("{{{{{key}}}}}"), value)
    })
}

/// A name that can be a plugin's, a package's in every language, and the beginning of a name in SQL.
fn check_name(text: &str) -> Result<(), AuthorError> {
    let wrong = |reason: String| AuthorError::Name {
        name: text.to_owned(),
        reason,
    };
    text.parse::<PluginName>()
        .map_err(|error| wrong(error.to_string()))?;
    // The symbols are named after it.
    if text.len() + "_numbers".len() > name::MAX_LEN {
        return Err(wrong(format!(
            "expected at most {} characters",
            name::MAX_LEN - 8
        )));
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let ends = text.ends_with(['-', '_']);
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.chars().all(fits) || ends {
        let expected = "expected a small letter, and then small letters, digits, '-' and '_'";
        return Err(wrong(expected.to_owned()));
    }
    // Words that mean something to compilers and package managers.
    const TAKEN: [&str; 9] = [
        "test", "core", "std", "alloc", "main", "lib", "build", "deps", "mangrove",
    ];
    if TAKEN.contains(&text) {
        return Err(wrong("it means something else to compilers".to_owned()));
    }
    Ok(())
}

/// The SDK's folder as the texts can hold it.
fn sdk_path(sdk: &Path) -> Result<String, AuthorError> {
    let path = sdk.canonicalize().map_err(io_error("find the SDK", sdk))?;
    let text = path
        .to_str()
        .filter(|text| !text.contains(['"', '\\', '{', '}', ' ', '\n']));
    text.map(str::to_owned).ok_or_else(|| AuthorError::Name {
        name: path.display().to_string(),
        reason: "a path with quotes, braces or spaces cannot be written into every project file".to_owned(),
    })
}

/// Makes a project in a new folder, which it returns. Blocking.
///
/// # Errors
/// The name or the SDK's path is none, the folder is there, or the system refuses. What was made before stays.
pub fn create(project: &Project<'_>) -> Result<PathBuf, AuthorError> {
    check_name(project.name)?;
    let sdk = project.sdk.map(sdk_path).transpose()?;
    let values = values(project, sdk.as_deref());
    let folder = project.parent.join(project.name);
    std::fs::create_dir_all(project.parent).map_err(io_error("make", project.parent))?;
    match std::fs::create_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(AuthorError::Exists(folder));
        }
        made => made.map_err(io_error("make", &folder))?,
    }
    for (path, text) in COMMON.iter().chain(project.language.files()) {
        let path = folder.join(fill(path, &values));
        let parent = path.parent().unwrap_or(&folder);
        std::fs::create_dir_all(parent).map_err(io_error("make", parent))?;
        let text = fill(text, &values);
        std::fs::write(&path, text.trim_end().to_owned() + "\n").map_err(io_error("write", &path))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mangrove_protocol::manifest::Manifest;

    const LANGUAGES: [Language; 4] = [
        Language::Rust,
        Language::Python,
        Language::Go,
        Language::Typescript,
    ];

    #[test]
    fn every_language_has_a_whole_project() {
        for sdk in [None, Some(Path::new("/tmp"))] {
            for language in LANGUAGES {
                let home = tempfile::tempdir().unwrap();
                let project = Project {
                    name: "my-plugin_2",
                    language,
                    parent: home.path(),
                    sdk,
                };
                let folder = create(&project).unwrap();
                let manifest = std::fs::read(folder.join("my-plugin_2.json")).unwrap();
                let manifest = Manifest::parse(&"my-plugin_2".parse().unwrap(), &manifest).unwrap();
                assert_eq!(manifest.sources[0].as_str(), "my_plugin_2_numbers");
                let mut pending = vec![folder.clone()];
                while let Some(path) = pending.pop() {
                    for entry in path.read_dir().unwrap() {
                        let path = entry.unwrap().path();
                        match path.is_dir() {
                            true => pending.push(path),
                            false => {
                                let text = std::fs::read_to_string(&path).unwrap();
                                assert!(!text.contains("{{"), "{}: {text}", path.display());
                            }
                        }
                    }
                }
                assert!(
                    matches!(create(&project), Err(AuthorError::Exists(_))),
                    "nothing is overwritten"
                );
            }
        }
    }

    #[test]
    fn names_fit_every_language() {
        for name in ["car", "my-plugin", "a1_b"] {
            check_name(name).unwrap();
        }
        for name in [
            "",
            "Car",
            "1car",
            "a.b",
            "../x",
            "a b",
            "-a",
            "a-",
            "test",
            "ä",
            &"x".repeat(60),
        ] {
            assert!(
                matches!(check_name(name), Err(AuthorError::Name { .. })),
                "{name}"
            );
        }
    }
}
