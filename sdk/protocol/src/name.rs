//! Owns the names that may become part of a path or of a socket address, and their rule.
//!
//! A plugin, a symbol, a rule and an operator all end up in file names under `/tmp` and under the home
//! folder, so one rule holds for all: 1 to [`MAX_LEN`] characters out of letters, digits, `_`, `-` and `.`,
//! and not starting with a dot (which also rules out `.` and `..`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// The most characters (all ASCII, so also bytes) of a name.
pub const MAX_LEN: usize = 64;

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    #[error("a name is empty; expected 1 to {MAX_LEN} letters, digits, '_', '-' or '.'")]
    Empty,
    /// Longer than [`MAX_LEN`].
    #[error("the name {start:?}… has {len} bytes; at most {MAX_LEN} are allowed")]
    TooLong {
        /// How it begins.
        start: String,
        /// Its length in bytes.
        len: usize,
    },
    /// A character that could leave the folder or break an address.
    #[error("the name {name:?} contains {found:?}; allowed are letters, digits, '_', '-' and '.'")]
    Character {
        /// The whole text.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// Hidden files and the two special folders.
    #[error("the name {name:?} starts with a dot")]
    LeadingDot {
        /// The whole text.
        name: String,
    },
}

/// Checks the rule of this module.
///
/// # Errors
/// The first thing that is wrong with `text`.
pub fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_LEN {
        return Err(NameError::TooLong {
            start: text.chars().take(16).collect(),
            len: text.len(),
        });
    }
    if let Some(found) = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.'))
    {
        return Err(NameError::Character {
            name: text.to_owned(),
            found,
        });
    }
    if text.starts_with('.') {
        return Err(NameError::LeadingDot {
            name: text.to_owned(),
        });
    }
    Ok(())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

names! {
    /// The name of a plugin, of its folder and of its manifest.
    PluginName,
    /// The name of a source, a sink or a function that a plugin defines.
    SymbolName,
    /// The id of a rule.
    RuleId,
    /// The id of one operator of a rule.
    OpId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_would_leave_a_folder_are_refused() {
        for text in [
            "", ".", "..", "../car", "a/b", "a\\b", "a b", "a\0", "ä", ".hidden", "a\n",
        ] {
            assert!(text.parse::<PluginName>().is_err(), "{text:?} was accepted");
        }
        assert!("x".repeat(MAX_LEN + 1).parse::<PluginName>().is_err());
    }

    #[test]
    fn the_error_names_the_text_and_the_character() {
        let error = "car/../etc".parse::<PluginName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the name \"car/../etc\" contains '/'; allowed are letters, digits, '_', '-' and '.'"
        );
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_plain_path_component(text in any::<String>()) {
            if check(&text).is_ok() {
                let path = std::path::Path::new(&text);
                prop_assert_eq!(path.components().count(), 1);
                prop_assert_eq!(path.file_name().and_then(|n| n.to_str()), Some(text.as_str()));
            }
        }

        #[test]
        fn ordinary_names_are_accepted(text in "[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}") {
            prop_assert!(check(&text).is_ok());
        }
    }
}
