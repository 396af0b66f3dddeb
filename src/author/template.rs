//! Owns new projects: a source, a sink and a function with a test, in each language that has an SDK. The texts lie in
//! `templates/` and are part of this program. Nothing is ever overwritten.

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
    /// The folder of the language's SDK, which has no release; by default that of the checkout in which the program lies.
    pub sdk: Option<&'a Path>,
}

/// A project that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its folder.
    pub folder: PathBuf,
    /// The commands that build and test it, in its folder.
    pub build: Vec<String>,
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
    ".npmrc": "typescript/npmrc",
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

    /// The folder of its SDK in a checkout's `sdk/`, a file there, and what stands in that file.
    fn sdk(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Rust => ("rust", "Cargo.toml", "name = \"mangrove-sdk\""),
            Self::Python => ("python", "pyproject.toml", "name = \"mangrove-sdk\""),
            Self::Go => ("go", "go.mod", "module mangrove.invalid/sdk/go"),
            Self::Typescript => ("node", "package.json", "\"name\": \"mangrove-sdk\""),
        }
    }

    /// Blocking.
    fn is_sdk(self, folder: &Path) -> bool {
        let (_, file, text) = self.sdk();
        std::fs::read_to_string(folder.join(file)).is_ok_and(|found| found.contains(text))
    }

    /// What builds and tests a project, with the SDK in this folder.
    fn build(self, sdk: &str) -> Vec<String> {
        let lines: &[&str] = match self {
            Self::Rust => &["cargo test", "cargo build --release"],
            Self::Python => return vec![format!("PYTHONPATH={sdk}/src python3 -m unittest")],
            Self::Go => &["go mod tidy", "go test ./...", "go build"],
            // A checkout holds no built SDK.
            Self::Typescript => {
                return vec![
                    format!("npm ci --prefix {sdk}"),
                    "npm install".into(),
                    "npm test".into(),
                ];
            }
        };
        lines.iter().map(|line| (*line).to_owned()).collect()
    }
}

/// What stands for what in the texts.
fn values(project: &Project<'_>, sdk: &str) -> Vec<(&'static str, String)> {
    let Project { name, language, .. } = project;
    let run = match language {
        Language::Rust => executable("rust", &format!("target/release/{name}")),
        Language::Python => {
            let environment = format!("\n  \"environment\": {{ \"PYTHONPATH\": \"{sdk}/src\" }},");
            executable("python", "main.py") + &environment
        }
        Language::Go => executable("go", name),
        Language::Typescript => executable("node", "dist/main.js"),
    };
    vec![
        ("name", (*name).to_owned()),
        ("symbol", name.replace('-', "_")),
        ("language", language.title().to_owned()),
        ("run", run),
        ("sdk", sdk.to_owned()),
        ("build", language.build(sdk).join("\n")),
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

/// The SDK of the checkout in which `program` lies, as one that was built there does.
fn sdk_around(program: &Path, language: Language) -> Option<PathBuf> {
    let mut folders = program
        .ancestors()
        .map(|folder| folder.join("sdk").join(language.sdk().0));
    folders.find(|folder| language.is_sdk(folder))
}

/// The SDK's folder as the texts can hold it.
fn sdk_path(project: &Project<'_>) -> Result<String, AuthorError> {
    let language = project.language;
    let (folder, file, _) = language.sdk();
    let around = || {
        let program = std::env::current_exe().and_then(|program| program.canonicalize());
        program.ok().and_then(|program| sdk_around(&program, language))
    };
    let sdk = project.sdk.map(Path::to_owned).or_else(around);
    let sdk = sdk.ok_or(AuthorError::NoSdk { folder })?;
    let path = sdk.canonicalize().map_err(io_error("find the SDK", &sdk))?;
    if !language.is_sdk(&path) {
        let language = language.title();
        return Err(AuthorError::Sdk { path, language, file });
    }
    let text = path
        .to_str()
        .filter(|text| !text.contains(['"', '\'', '\\', '{', '}', '$', ' ', '\n']));
    text.map(str::to_owned).ok_or_else(|| AuthorError::Name {
        name: path.display().to_string(),
        reason: "a path with quotes, braces or spaces cannot be written into every project file".to_owned(),
    })
}

/// Makes a project in a new folder. Blocking.
///
/// # Errors
/// The name is none, there is no SDK, the folder is there, or the system refuses. What was made before stays.
pub fn create(project: &Project<'_>) -> Result<Made, AuthorError> {
    check_name(project.name)?;
    let sdk = sdk_path(project)?;
    let values = values(project, &sdk);
    std::fs::create_dir_all(project.parent).map_err(io_error("make", project.parent))?;
    let folder = project.parent.join(project.name);
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
    let build = project.language.build(&sdk);
    Ok(Made { folder, build })
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
        for language in LANGUAGES {
            let home = tempfile::tempdir().unwrap();
            let sdk = sdk(language);
            let project = Project {
                name: "my-plugin_2",
                language,
                parent: home.path(),
                sdk: Some(sdk.as_path()),
            };
            let Made { folder, build } = create(&project).unwrap();
            let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
            assert!(readme.contains(&build.join("\n")), "{readme}");
            let manifest = std::fs::read(folder.join("my-plugin_2.json")).unwrap();
            let manifest = Manifest::parse(&"my-plugin_2".parse().unwrap(), &manifest).unwrap();
            assert_eq!(manifest.sources[0].as_str(), "my_plugin_2_numbers");
            let mut all = String::new();
            let mut pending = vec![folder.clone()];
            while let Some(path) = pending.pop() {
                for entry in path.read_dir().unwrap() {
                    let path = entry.unwrap().path();
                    match path.is_dir() {
                        true => pending.push(path),
                        false => {
                            let text = std::fs::read_to_string(&path).unwrap();
                            assert!(!text.contains("{{"), "{}: {text}", path.display());
                            all += &text;
                        }
                    }
                }
            }
            assert!(
                all.contains(sdk.to_str().unwrap()),
                "it has the SDK from nowhere: {all}"
            );
            assert!(
                matches!(create(&project), Err(AuthorError::Exists(_))),
                "nothing is overwritten"
            );
        }
    }

    fn sdk(language: Language) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("sdk")
            .join(language.sdk().0)
    }

    #[test]
    fn an_sdk_is_taken_from_the_checkout_around_the_program_or_has_to_be_told() {
        let home = tempfile::tempdir().unwrap();
        let nowhere = home.path().join("bin/mangrove");
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debug/mangrove");
        for language in LANGUAGES {
            assert_eq!(sdk_around(&nowhere, language), None);
            assert_eq!(sdk_around(&built, language), Some(sdk(language)));
            let project = Project {
                name: "car",
                language,
                parent: home.path(),
                sdk: Some(home.path()),
            };
            let error = create(&project).unwrap_err();
            assert!(matches!(error, AuthorError::Sdk { .. }), "{error}");
            assert!(!home.path().join("car").exists());
        }
        let said = AuthorError::NoSdk { folder: "go" }.to_string();
        assert!(said.contains("--sdk") && said.contains("sdk/go"), "{said}");
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
