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
