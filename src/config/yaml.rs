//! Owns how a YAML file of the home folder is read: bounded, in one dialect, with errors that name file, line
//! and column. It does not know what the files mean; the parent module and `conf_key` do.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// The largest file that is read, in bytes.
const MAX_SIZE: u64 = 1024 * 1024;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum YamlError {
    /// It is there and cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Larger than 1 MiB.
    #[error("{} has more than {MAX_SIZE} bytes, the most that is read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not YAML, or not of the expected shape.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected, with line and column.
        message: String,
    },
}

/// Reads the file; `None` if there is none. An empty file is what `T` makes of null.
///
/// # Errors
/// The file is there and cannot be read, is too large, or is not what `T` expects.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, YamlError> {
    let failed = |source| YamlError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    // One byte more than allowed, so that a file that is too large shows.
    file.take(MAX_SIZE + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(YamlError::TooLarge {
            path: path.to_owned(),
        });
    }
    parse(path, &text).map(Some)
}

/// Only `true` and `false` are booleans, as for eKuiper: `on` and `yes` stay text.
fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, YamlError> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| YamlError::Content {
        path: path.to_owned(),
        message: error.render_with_formatter(&serde_saphyr::UserMessageFormatter),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn what_cannot_be_read_is_told_from_what_is_not_there() {
        let folder = tempfile::TempDir::new().unwrap();
        assert!(read::<Value>(&folder.path().join("none")).unwrap().is_none());
        let error = read::<Value>(folder.path()).unwrap_err();
        assert!(matches!(error, YamlError::Read { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let size = usize::try_from(MAX_SIZE).unwrap();
        std::fs::write(file.path(), " ".repeat(size)).unwrap();
        assert!(read::<Value>(file.path()).unwrap().unwrap().is_null());
        std::fs::write(file.path(), " ".repeat(size + 1)).unwrap();
        let error = read::<Value>(file.path()).unwrap_err();
        assert!(matches!(error, YamlError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn a_few_lines_that_stand_for_a_billion_and_deep_nesting_are_refused() {
        let path = Path::new("bomb.yaml");
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(parse::<Value>(path, &bomb).is_err());
        assert!(parse::<Value>(path, &"[".repeat(100_000)).is_err());
    }
}
