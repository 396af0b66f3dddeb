//! Owns what is known of one folder or zip over time: when it last looked different, and whether it is still.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::plugin::fingerprint::Fingerprint;
use crate::plugin::inspect::{Unfit, Whole};

/// What is known of the looks at one name. Gone is a look, too.
pub(super) type Print = Option<Fingerprint>;

/// One folder or zip over time.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) now: Print,
    pub(super) since: Instant,
    /// Two looks were far enough apart and the same.
    pub(super) is_still: bool,
    /// What is in it, since it is still.
    pub(super) inspected: Option<Result<Whole, Unfit>>,
}

/// When a look was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) settle: Duration,
}

/// Notes a look. `age`: how long it has looked like this already, as far as that is known.
pub(super) fn observe(
    seen: &mut BTreeMap<String, Seen>,
    name: &str,
    look: Print,
    age: Duration,
    taken: Taken,
) {
    match seen.get_mut(name) {
        Some(seen) if seen.now == look => seen.is_still |= taken.began >= seen.since + taken.settle,
        _ => {
            let changed = Seen {
                now: look,
                since: taken.ended.checked_sub(age).unwrap_or(taken.ended),
                is_still: age >= taken.settle,
                inspected: None,
            };
            seen.insert(name.to_owned(), changed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_millis(500);

    fn print(size: u32) -> Print {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size.into()).unwrap();
        let found = file.as_file().metadata().unwrap();
        Some(crate::plugin::fingerprint::of_file(file.path(), &found))
    }

    #[test]
    fn what_grows_is_never_still_however_long_it_takes() {
        let (start, mut seen) = (Instant::now(), BTreeMap::new());
        let mut look = |at: u32, print: Print, age: Duration| {
            let began = start + Duration::from_millis(at.into());
            let taken = Taken {
                began,
                ended: began + Duration::from_millis(1),
                settle: SETTLE,
            };
            observe(&mut seen, "car", print, age, taken);
            seen["car"].is_still
        };
        for piece in 0..100 {
            assert!(!look(piece * 400, print(piece), Duration::ZERO), "{piece}");
        }
        let whole = print(100);
        assert!(!look(40_000, whole, Duration::ZERO));
        // From the end of the look that found it to the beginning of the one that finds the same.
        assert!(!look(40_500, whole, Duration::ZERO));
        assert!(look(40_501, whole, Duration::ZERO));
        // Gone is a look, too, and so is its return.
        assert!(!look(41_000, None, Duration::ZERO));
        assert!(look(42_000, None, Duration::ZERO));
        assert!(!look(43_000, whole, Duration::ZERO));
        // When nothing was seen before, the file system's word has to do.
        assert!(look(44_000, print(7), SETTLE));
    }
}
