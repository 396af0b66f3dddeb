//! Owns the error type of symbols' code, and how an error with its causes becomes one line of text.

/// What the code of a symbol fails with: any error at all, so that `?` works on everything, and so does
/// `Err("no such file".into())`.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The result of a symbol's code.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// The error and its causes, separated by colons. A cause that the text before it already repeats is left out.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the valve is stuck")]
    struct Stuck(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot steer: {0}")]
    struct Steer(#[source] Stuck);

    #[test]
    fn causes_are_told_once() {
        let error = Steer(Stuck(std::io::Error::other("no power")));
        assert_eq!(describe(&error), "cannot steer: the valve is stuck: no power");
    }
}
