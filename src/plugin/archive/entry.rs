//! Owns which entries of an archive are allowed. Pure.

use unicode_normalization::UnicodeNormalization;

/// The longest name of an entry, in bytes.
const MAX_NAME: usize = 512;

/// The longest name of one file or folder, in bytes, that file systems take.
const MAX_COMPONENT: usize = 255;

/// The most folders in a name.
const MAX_DEPTH: usize = 32;

/// The high byte of "made by" of archives whose attributes hold a unix mode.
const UNIX: u16 = 3;
const MACOS: u16 = 19;

const MODE_KIND: u32 = 0o170_000;
const MODE_FILE: u32 = 0o100_000;
const MODE_FOLDER: u32 = 0o040_000;
const MODE_EXECUTE: u32 = 0o111;

/// What an entry becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    /// A file that may be executed.
    Program,
}

/// An entry that may be unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Plain components joined by `/`, without one at the end.
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// Why an entry is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Not in UTF-8.
    #[error("its name is not UTF-8")]
    Encoding,
    /// Nothing there.
    #[error("its name is empty")]
    Empty,
    /// Too long for a path.
    #[error("its name has {len} bytes; at most {MAX_NAME} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A part of it is too long for a file system.
    #[error("a part of its name has {len} bytes; at most {MAX_COMPONENT} are allowed")]
    LongComponent {
        /// Its length in bytes.
        len: usize,
    },
    /// Too many folders.
    #[error("it lies {depth} folders deep; at most {MAX_DEPTH} are allowed")]
    TooDeep {
        /// How many.
        depth: usize,
    },
    /// Starts at the root, or at a drive.
    #[error("its name is absolute")]
    Absolute,
    /// `.`, `..` or an empty component.
    #[error("its name has the component {0:?}")]
    Component(String),
    /// A backslash, a colon or a control character, which mean something to some system.
    #[error("its name contains {0:?}")]
    Character(char),
    /// A link, a device, a pipe or a socket.
    #[error("it is neither a file nor a folder (unix mode {0:o})")]
    Special(u32),
    /// The same name twice, or two that are the same for some file systems.
    #[error("its name is there twice, or differs from another only in case or in how accents are encoded")]
    Twice,
    /// Its bytes are also those of something else.
    #[error("it overlaps another entry or the directory")]
    Overlaps,
    /// Another entry, a file, would have to be a folder for this one.
    #[error("it lies inside of a file")]
    InsideFile,
    /// Needs a password.
    #[error("it is encrypted")]
    Encrypted,
    /// Lies beyond 4 GiB.
    #[error("it begins beyond the first 4 GiB of the package")]
    Offset,
}

impl Entry {
    /// Checks an entry by its name, and by the kind that its attributes tell.
    pub(super) fn check(raw_name: &[u8], made_by: u16, attributes: u32) -> Result<Self, EntryError> {
        if raw_name.len() > MAX_NAME {
            return Err(EntryError::TooLong { len: raw_name.len() });
        }
        let name = std::str::from_utf8(raw_name).map_err(|_| EntryError::Encoding)?;
        if name.is_empty() {
            return Err(EntryError::Empty);
        }
        if name.starts_with('/') || name.as_bytes().get(1) == Some(&b':') {
            return Err(EntryError::Absolute);
        }
        if let Some(found) = name.chars().find(|c| matches!(c, '\\' | ':') || c.is_control()) {
            return Err(EntryError::Character(found));
        }
        let (name, is_folder) = match name.strip_suffix('/') {
            Some(name) => (name, true),
            None => (name, false),
        };
        if let Some(component) = name.split('/').find(|part| matches!(*part, "" | "." | "..")) {
            return Err(EntryError::Component(component.to_owned()));
        }
        if let Some(long) = name.split('/').find(|part| part.len() > MAX_COMPONENT) {
            return Err(EntryError::LongComponent { len: long.len() });
        }
        let depth = name.split('/').count();
        if depth > MAX_DEPTH {
            return Err(EntryError::TooDeep { depth });
        }
        // The unix mode is looked at whatever system the archive claims to be made on: to lie costs nothing.
        // Other systems leave these bits zero.
        let mode = attributes >> 16;
        let kind = match (mode & MODE_KIND, is_folder) {
            (0 | MODE_FOLDER, true) => Kind::Folder,
            (0 | MODE_FILE, false) if is_unix(made_by) && mode & MODE_EXECUTE != 0 => Kind::Program,
            (0 | MODE_FILE, false) => Kind::File,
            _ => return Err(EntryError::Special(mode)),
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
        })
    }
}

/// The same text for all names that some file system takes for one.
pub(super) fn fold(name: &str) -> String {
    name.nfd().flat_map(char::to_lowercase).nfc().collect()
}

fn is_unix(made_by: u16) -> bool {
    matches!(made_by >> 8, UNIX | MACOS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MADE_ON_UNIX: u16 = UNIX << 8;

    fn refusal(name: &str) -> EntryError {
        Entry::check(name.as_bytes(), MADE_ON_UNIX, 0).unwrap_err()
    }

    #[test]
    fn names_that_lead_out_or_mean_something_elsewhere_are_refused() {
        assert_eq!(refusal("/etc/passwd"), EntryError::Absolute);
        assert_eq!(refusal("C:/x"), EntryError::Absolute);
        assert_eq!(refusal("../x"), EntryError::Component("..".to_owned()));
        assert_eq!(refusal("a/../../x"), EntryError::Component("..".to_owned()));
        assert_eq!(refusal("a/./x"), EntryError::Component(".".to_owned()));
        assert_eq!(refusal("a//x"), EntryError::Component(String::new()));
        assert_eq!(refusal("a\\..\\x"), EntryError::Character('\\'));
        assert_eq!(refusal("a\0x"), EntryError::Character('\0'));
        assert_eq!(refusal("file:stream"), EntryError::Character(':'));
        assert_eq!(refusal(""), EntryError::Empty);
        assert_eq!(refusal("//"), EntryError::Absolute);
        assert_eq!(refusal(&"x".repeat(600)), EntryError::TooLong { len: 600 });
        assert_eq!(
            refusal(&format!("a/{}/b", "x".repeat(256))),
            EntryError::LongComponent { len: 256 }
        );
        assert_eq!(refusal(&"a/".repeat(40)), EntryError::TooDeep { depth: 40 });
        assert_eq!(Entry::check(b"\xff", MADE_ON_UNIX, 0), Err(EntryError::Encoding));
    }

    #[test]
    fn the_unix_mode_tells_links_devices_and_programs() {
        let check = |name: &str, mode: u32| Entry::check(name.as_bytes(), MADE_ON_UNIX, mode << 16);
        assert_eq!(check("x", 0o120_777), Err(EntryError::Special(0o120_777)));
        for special in [0o060_644, 0o020_644, 0o010_644, 0o140_644] {
            assert_eq!(check("x", special), Err(EntryError::Special(special)));
        }
        assert_eq!(check("x", 0o100_755).unwrap().kind, Kind::Program);
        assert_eq!(check("x", 0o100_644).unwrap().kind, Kind::File);
        assert_eq!(check("x/", 0o040_755).unwrap().kind, Kind::Folder);
        // A folder by its name and a file by its mode, or the other way round, is a trick.
        assert!(check("x/", 0o100_644).is_err());
        assert!(check("x", 0o040_755).is_err());
    }

    #[test]
    fn twins_fold_to_the_same_text() {
        for (one, other) in [
            ("Car", "cAR"),
            ("\u{e9}t\u{e9}", "E\u{301}te\u{301}"),
            ("\u{212a}", "k"),
        ] {
            assert_eq!(fold(one), fold(other), "{one:?} {other:?}");
        }
        assert_ne!(fold("e"), fold("\u{e9}"));
    }

    #[test]
    fn a_link_is_a_link_whatever_system_made_it() {
        assert!(Entry::check(b"x", 0, 0o120_777 << 16).is_err());
    }

    proptest! {
        #[test]
        fn what_is_allowed_stays_inside(name in "[a./\\\\:\u{2044}\u{301}-]{0,24}") {
            if let Ok(entry) = Entry::check(name.as_bytes(), MADE_ON_UNIX, 0) {
                let inside = std::path::Path::new(&entry.name)
                    .components()
                    .all(|part| matches!(part, std::path::Component::Normal(_)));
                prop_assert!(inside && !entry.name.is_empty());
                // Or the parts of a name and of its folded form would not belong together.
                prop_assert_eq!(fold(&entry.name).matches('/').count(), entry.name.matches('/').count());
            }
        }
    }
}
