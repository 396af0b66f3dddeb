//! Owns how plugins' symbols keep state: what may be asked of whoever stores it, and the limits. What is stored
//! where is for the store; the sessions ask.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use mangrove_protocol::manifest::SymbolKind;
use mangrove_protocol::name::{PluginName, RuleId, SymbolName};
use mangrove_protocol::native::{MAX_KEY_LEN, MAX_KEYS, MAX_VALUE_LEN};
use serde_json::{Number, Value};

/// Whose state it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The plugin.
    pub plugin: PluginName,
    /// The kind of the symbol.
    pub kind: SymbolKind,
    /// The symbol.
    pub symbol: SymbolName,
    /// The rule; the state goes with it.
    pub rule: RuleId,
}

/// Why something was not kept; the text goes to the plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A key that is none.
    #[error("the key has {0} bytes; expected 1 to {MAX_KEY_LEN}")]
    Key(usize),
    /// A value that is too large.
    #[error("the value has {0} bytes; at most {MAX_VALUE_LEN} are kept")]
    Value(usize),
    /// Too many keys.
    #[error("there are {MAX_KEYS} keys already; delete some")]
    Full,
    /// Not a number that can be added to.
    #[error("the value of {0:?} is {1}, to which nothing can be added; expected a number")]
    NotANumber(String, String),
    /// The store does not work.
    #[error("the store: {0}")]
    Store(String),
}

/// Where symbols keep state. Calls do not wait for the disk: what is told here survives the plugin's process at
/// once, and the host's as the store says.
pub trait States: fmt::Debug + Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// The store does not work.
    fn get(&self, scope: &Scope, key: &str) -> Result<Option<Value>, StateError>;

    /// Sets a key; the caller has checked the lengths.
    ///
    /// # Errors
    /// There are too many keys, or the store does not work.
    fn put(&self, scope: &Scope, key: &str, value: Value) -> Result<(), StateError>;

    /// Forgets a key, whether it is there or not.
    ///
    /// # Errors
    /// The store does not work.
    fn delete(&self, scope: &Scope, key: &str) -> Result<(), StateError>;

    /// Adds to a number, at once: [`sum`] says how. A missing key counts as 0. Returns the new number.
    ///
    /// # Errors
    /// What is there is no number, there are too many keys, or the store does not work.
    fn add(&self, scope: &Scope, key: &str, by: &Number) -> Result<Number, StateError>;

    /// Where a source goes on. `place` tells the rule's uses of it apart.
    fn offset(&self, scope: &Scope, place: &str) -> Option<Value>;

    /// Keeps where a source goes on.
    ///
    /// # Errors
    /// The store does not work.
    fn commit(&self, scope: &Scope, place: &str, offset: &Value) -> Result<(), StateError>;
}

/// `before + by`: as integers when both are, and the sum is one that fits; else with a fraction.
///
/// # Errors
/// `before` is no number, or the sum is none.
pub fn sum(key: &str, before: Option<&Value>, by: &Number) -> Result<Number, StateError> {
    let none = || StateError::NotANumber(key.to_owned(), before.unwrap_or(&Value::Null).to_string());
    let zero = Number::from(0);
    let before = match before {
        None | Some(Value::Null) => &zero,
        Some(Value::Number(number)) => number,
        Some(_) => return Err(none()),
    };
    if let (Some(before), Some(by)) = (before.as_i64(), by.as_i64())
        && let Some(sum) = before.checked_add(by)
    {
        return Ok(sum.into());
    }
    let (before, by) = (before.as_f64().ok_or_else(none)?, by.as_f64().ok_or_else(none)?);
    Number::from_f64(before + by).ok_or_else(none)
}

/// Checks a key.
///
/// # Errors
/// Its length.
pub(super) fn check_key(key: &str) -> Result<(), StateError> {
    match key.len() {
        1..=MAX_KEY_LEN => Ok(()),
        other => Err(StateError::Key(other)),
    }
}

/// Checks a value. Only one that may be too long is measured.
///
/// # Errors
/// Its length.
pub(super) fn check_value(value: &Value) -> Result<(), StateError> {
    let length = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        value => serde_json::to_vec(value).map_or(usize::MAX, |json| json.len()),
    };
    if length > MAX_VALUE_LEN {
        return Err(StateError::Value(length));
    }
    Ok(())
}

/// States that live as long as the host.
#[derive(Debug, Default)]
pub struct Volatile {
    scopes: Mutex<BTreeMap<Scope, BTreeMap<String, Value>>>,
    offsets: Mutex<BTreeMap<(Scope, String), Value>>,
}

impl Volatile {
    fn change<T>(
        &self,
        scope: &Scope,
        key: &str,
        change: impl FnOnce(Option<&Value>) -> Result<(Value, T), StateError>,
    ) -> Result<T, StateError> {
        let mut scopes = super::lock(&self.scopes);
        let keys = scopes.entry(scope.clone()).or_default();
        let before = keys.get(key);
        if before.is_none() && keys.len() >= MAX_KEYS {
            return Err(StateError::Full);
        }
        let (value, result) = change(before)?;
        keys.insert(key.to_owned(), value);
        Ok(result)
    }
}

impl States for Volatile {
    fn get(&self, scope: &Scope, key: &str) -> Result<Option<Value>, StateError> {
        let scopes = super::lock(&self.scopes);
        Ok(scopes.get(scope).and_then(|keys| keys.get(key)).cloned())
    }

    fn put(&self, scope: &Scope, key: &str, value: Value) -> Result<(), StateError> {
        self.change(scope, key, |_| Ok((value, ())))
    }

    fn delete(&self, scope: &Scope, key: &str) -> Result<(), StateError> {
        if let Some(keys) = super::lock(&self.scopes).get_mut(scope) {
            keys.remove(key);
        }
        Ok(())
    }

    fn add(&self, scope: &Scope, key: &str, by: &Number) -> Result<Number, StateError> {
        self.change(scope, key, |before| {
            let sum = sum(key, before, by)?;
            Ok((Value::Number(sum.clone()), sum))
        })
    }

    fn offset(&self, scope: &Scope, place: &str) -> Option<Value> {
        super::lock(&self.offsets)
            .get(&(scope.clone(), place.to_owned()))
            .cloned()
    }

    fn commit(&self, scope: &Scope, place: &str, offset: &Value) -> Result<(), StateError> {
        super::lock(&self.offsets).insert((scope.clone(), place.to_owned()), offset.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scope(rule: &str) -> Scope {
        Scope {
            plugin: "car".parse().unwrap(),
            kind: SymbolKind::Function,
            symbol: "rank".parse().unwrap(),
            rule: rule.parse().unwrap(),
        }
    }

    #[test]
    fn a_missing_key_counts_as_nothing() {
        let states = Volatile::default();
        let (one, two) = (scope("r1"), scope("r2"));
        assert_eq!(states.add(&one, "n", &2.into()).unwrap(), 2.into());
        assert_eq!(states.add(&one, "n", &(-5).into()).unwrap(), (-3).into());
        assert_eq!(states.get(&one, "n").unwrap(), Some(json!(-3)));
        assert_eq!(states.get(&two, "n").unwrap(), None);
        states.delete(&one, "n").unwrap();
        assert_eq!(states.get(&one, "n").unwrap(), None);
    }

    #[test]
    fn numbers_that_do_not_fit_become_fractions_and_texts_are_no_numbers() {
        let half = Number::from_f64(0.5).unwrap();
        assert_eq!(sum("n", Some(&json!(1)), &half).unwrap().to_string(), "1.5");
        let most = json!(i64::MAX);
        assert!(sum("n", Some(&most), &1.into()).unwrap().is_f64());
        let error = sum("n", Some(&json!("x")), &1.into()).unwrap_err();
        assert!(error.to_string().contains("expected a number"), "{error}");
        let endless = Number::from_f64(f64::MAX).unwrap();
        assert!(sum("n", Some(&json!(f64::MAX)), &endless).is_err());
    }

    #[test]
    fn keys_and_values_are_limited() {
        assert!(check_key("").is_err() && check_key(&"k".repeat(257)).is_err());
        assert!(check_key(&"k".repeat(256)).is_ok());
        assert!(check_value(&json!("x".repeat(MAX_VALUE_LEN))).is_err());
        assert!(check_value(&json!("x".repeat(MAX_VALUE_LEN - 2))).is_ok());
        let states = Volatile::default();
        for key in 0..MAX_KEYS {
            states.put(&scope("r"), &key.to_string(), Value::Null).unwrap();
        }
        assert_eq!(
            states.put(&scope("r"), "more", Value::Null),
            Err(StateError::Full)
        );
        states.put(&scope("r"), "7", json!(1)).unwrap();
    }
}
