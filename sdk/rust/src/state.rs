//! Owns what a symbol remembers: values by key, for each symbol and rule, kept where the symbol runs for.
//!
//! Who keeps them is a [`Store`]: the host, or [`Memory`] where there is none that does.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use mangrove_protocol::native::control::StateOperation;
use mangrove_protocol::native::{MAX_KEY_LEN, MAX_KEYS, MAX_VALUE_LEN};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Number as JsonNumber, Value};

use crate::erased::BoxFuture;

/// What a symbol remembers, for one rule: values by key. It survives the plugin's process, and the host's.
///
/// Keys have 1 to 256 bytes, values at most 1 MiB of JSON, and there are at most 10,000 keys per symbol and rule. It goes
/// when its rule is deleted. A host that speaks eKuiper's contract keeps no state: there it lasts as long as the process.
///
/// ```
/// use mangrove_sdk::{Context, Function, Result, Value};
///
/// /// How often it was called in a rule.
/// struct Calls;
///
/// impl Function for Calls {
///     async fn exec(&self, _: Vec<Value>, context: &Context) -> Result<Value> {
///         let calls: u64 = context.state().add("calls", 1).await?;
///         Ok(calls.into())
///     }
/// }
/// ```
#[derive(Clone)]
pub struct State {
    store: Arc<dyn Store>,
}

/// Why a state was not read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The key is empty or too long.
    #[error("the key {key:.64?} has {} bytes; expected 1 to {MAX_KEY_LEN}", key.len())]
    Key {
        /// The key.
        key: String,
    },
    /// The value is too long.
    #[error("the value of {key:?} has {found} bytes; at most {MAX_VALUE_LEN} are kept")]
    TooLong {
        /// Its key.
        key: String,
        /// Its length as JSON, in bytes.
        found: usize,
    },
    /// The value can't be written as JSON, or is not of the type that was asked for.
    #[error("the value of {key:?} is not of this type")]
    Type {
        /// Its key.
        key: String,
        /// What serde says.
        source: serde_json::Error,
    },
    /// Whoever keeps the state refused.
    #[error("{0}")]
    Refused(String),
    /// The host has not answered in time, so that nobody knows whether it was changed.
    #[error("the host has not answered within {0:?}")]
    TimedOut(std::time::Duration),
    /// The connection to the host broke.
    #[error("the connection to the host is gone")]
    Gone,
}

/// The numbers that [`State::add`] adds.
pub trait Number: Serialize + DeserializeOwned + Send + private::Sealed {}

mod private {
    pub trait Sealed {}
}

macro_rules! numbers {
    ($($number:ty)*) => { $(
        impl Number for $number {}
        impl private::Sealed for $number {}
    )* };
}
numbers!(i32 i64 u32 u64 f64);

/// Keeps the state of one symbol in one rule.
pub(crate) trait Store: Send + Sync {
    fn request<'a>(
        &'a self,
        key: &'a str,
        operation: StateOperation,
    ) -> BoxFuture<'a, Result<Value, StateError>>;
}

impl State {
    pub(crate) fn new(store: impl Store + 'static) -> Self {
        Self {
            store: Arc::new(store),
        }
    }

    /// The value of a key; `None`: it has none.
    ///
    /// # Errors
    /// The value is not of this type, or whoever keeps it could not be asked.
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StateError> {
        let value = self.request(key, StateOperation::Get).await?;
        typed(key, value)
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// The value can't be written as JSON, is too long, or there are too many keys.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the value may be set or not.
    pub async fn put(&self, key: &str, value: &(impl Serialize + Sync + ?Sized)) -> Result<(), StateError> {
        let value = encode(key, value)?;
        self.request(key, StateOperation::Put(value)).await?;
        Ok(())
    }

    /// Removes a key and its value; it need not be there.
    ///
    /// # Errors
    /// Whoever keeps it could not be asked.
    ///
    /// # Cancel safety
    /// As [`State::put`].
    pub async fn delete(&self, key: &str) -> Result<(), StateError> {
        self.request(key, StateOperation::Delete).await?;
        Ok(())
    }

    /// Adds to a number and returns the new one; a key that isn't there counts as 0.
    ///
    /// # Errors
    /// The value is no number, or the sum doesn't fit into this type.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it may be added or not.
    pub async fn add<N: Number>(&self, key: &str, by: N) -> Result<N, StateError> {
        let by = match encode(key, &by)? {
            Value::Number(by) => by,
            _ => return Err(StateError::Refused("only finite numbers can be added".to_owned())),
        };
        let sum = self.request(key, StateOperation::Add(by)).await?;
        serde_json::from_value(sum).map_err(|source| wrong_type(key, source))
    }

    async fn request(&self, key: &str, operation: StateOperation) -> Result<Value, StateError> {
        check(key, &operation)?;
        self.store.request(key, operation).await
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

fn wrong_type(key: &str, source: serde_json::Error) -> StateError {
    StateError::Type {
        key: key.to_owned(),
        source,
    }
}

fn encode(key: &str, value: &(impl Serialize + ?Sized)) -> Result<Value, StateError> {
    serde_json::to_value(value).map_err(|source| wrong_type(key, source))
}

fn typed<T: DeserializeOwned>(key: &str, value: Value) -> Result<Option<T>, StateError> {
    match value {
        Value::Null => Ok(None),
        value => serde_json::from_value(value)
            .map(Some)
            .map_err(|source| wrong_type(key, source)),
    }
}

fn check(key: &str, operation: &StateOperation) -> Result<(), StateError> {
    if key.is_empty() || key.len() > MAX_KEY_LEN {
        return Err(StateError::Key { key: key.to_owned() });
    }
    if let StateOperation::Put(value) = operation {
        let found = match value {
            // Mostly short: not worth writing it only to see how long it is.
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            value => value.to_string().len(),
        };
        if found > MAX_VALUE_LEN {
            let key = key.to_owned();
            return Err(StateError::TooLong { key, found });
        }
    }
    Ok(())
}

/// States of a process, where no host keeps them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    scopes: Arc<Mutex<HashMap<Scope, BTreeMap<String, Value>>>>,
}

/// Whose state it is: a symbol, and the rule that it runs for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) symbol: String,
    pub(crate) rule: String,
}

/// One scope of a [`Memory`].
pub(crate) struct MemoryStore {
    pub(crate) memory: Memory,
    pub(crate) scope: Scope,
}

impl Store for MemoryStore {
    fn request<'a>(
        &'a self,
        key: &'a str,
        operation: StateOperation,
    ) -> BoxFuture<'a, Result<Value, StateError>> {
        Box::pin(async move {
            self.memory
                .request(&self.scope, key, operation)
                .map_err(StateError::Refused)
        })
    }
}

impl Memory {
    pub(crate) fn request(
        &self,
        scope: &Scope,
        key: &str,
        operation: StateOperation,
    ) -> Result<Value, String> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let values = scopes.entry(scope.clone()).or_default();
        let is_new = !values.contains_key(key);
        let new = match operation {
            StateOperation::Get => return Ok(values.get(key).cloned().unwrap_or_default()),
            StateOperation::Delete => {
                values.remove(key);
                return Ok(Value::Null);
            }
            StateOperation::Put(value) => value,
            StateOperation::Add(by) => Value::Number(sum(key, values.get(key), &by)?),
        };
        if is_new && values.len() >= MAX_KEYS {
            return Err(format!(
                "there are {MAX_KEYS} keys already, as many as there may be"
            ));
        }
        values.insert(key.to_owned(), new.clone());
        Ok(new)
    }
}

/// Whole numbers stay whole.
fn sum(key: &str, value: Option<&Value>, by: &JsonNumber) -> Result<JsonNumber, String> {
    let number = match value {
        None | Some(Value::Null) => return Ok(by.clone()),
        Some(Value::Number(number)) => number,
        Some(other) => return Err(format!("the value of {key:?} is {other:.100}; expected a number")),
    };
    let whole = number
        .as_i64()
        .zip(by.as_i64())
        .and_then(|(a, b)| a.checked_add(b));
    if let Some(sum) = whole {
        return Ok(sum.into());
    }
    let sum = number.as_f64().zip(by.as_f64()).map(|(a, b)| a + b);
    sum.and_then(JsonNumber::from_f64)
        .ok_or_else(|| format!("the value of {key:?} would be no finite number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(memory: &Memory, rule: &str) -> State {
        State::new(MemoryStore {
            memory: memory.clone(),
            scope: Scope {
                symbol: "s".to_owned(),
                rule: rule.to_owned(),
            },
        })
    }

    #[tokio::test]
    async fn values_belong_to_their_rule_and_keep_their_type() {
        let memory = Memory::default();
        let (one, two) = (state(&memory, "one"), state(&memory, "two"));
        one.put("seen", &vec!["a", "b"]).await.unwrap();
        assert_eq!(two.get::<Value>("seen").await.unwrap(), None);
        assert_eq!(
            one.get::<Vec<String>>("seen").await.unwrap(),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        assert!(matches!(
            one.get::<u64>("seen").await,
            Err(StateError::Type { .. })
        ));
        one.delete("seen").await.unwrap();
        assert_eq!(one.get::<Value>("seen").await.unwrap(), None);
    }

    #[tokio::test]
    async fn counters_begin_at_0_and_stay_whole() {
        let state = state(&Memory::default(), "r");
        assert_eq!(state.add("n", 2_u64).await.unwrap(), 2);
        assert_eq!(state.add("n", -3_i64).await.unwrap(), -1);
        assert!(matches!(
            state.add("n", 0_u64).await,
            Err(StateError::Type { .. })
        ));
        assert_eq!(state.add("n", 0.5).await.unwrap(), -0.5);
        state.put("text", "seven").await.unwrap();
        let error = state.add("text", 1_i64).await.unwrap_err().to_string();
        assert_eq!(error, "the value of \"text\" is \"seven\"; expected a number");
        assert!(state.add("n", f64::NAN).await.is_err());
    }

    #[tokio::test]
    async fn keys_and_values_have_their_limits() {
        let state = state(&Memory::default(), "r");
        assert!(matches!(
            state.get::<Value>("").await,
            Err(StateError::Key { .. })
        ));
        let long = "k".repeat(MAX_KEY_LEN + 1);
        assert!(matches!(state.put(&long, &1).await, Err(StateError::Key { .. })));
        let large = "x".repeat(MAX_VALUE_LEN - 1);
        assert!(matches!(
            state.put("k", &large).await,
            Err(StateError::TooLong { .. })
        ));
        for number in 0..MAX_KEYS {
            state.put(&number.to_string(), &json!(number)).await.unwrap();
        }
        assert!(matches!(state.put("more", &1).await, Err(StateError::Refused(_))));
        state.put("7", &1).await.unwrap();
    }
}
