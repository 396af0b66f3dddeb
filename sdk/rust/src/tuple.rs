//! Owns what a source sends: one object, encoded once and for all by whoever makes it.

use mangrove_protocol::Object;
use serde::Serialize;
use serde_json::Value;

use crate::Result;

/// What a source sends: one JSON object, and what is to be said about it. It holds the text of the JSON, which goes to
/// the host as it is.
///
/// ```
/// use mangrove_sdk::{Result, Tuple};
/// use serde::Serialize;
/// use serde_json::json;
///
/// #[derive(Serialize)]
/// struct Reading<'a> {
///     sensor: &'a str,
///     celsius: f64,
/// }
///
/// # fn main() -> Result {
/// let reading = Reading { sensor: "roof", celsius: 21.5 };
/// let tuple = Tuple::new(&reading)?.with_meta(&json!({"topic": "weather"}))?.with_offset(&4711)?;
/// assert_eq!(tuple.as_json(), r#"{"sensor":"roof","celsius":21.5}"#);
/// assert_eq!(tuple.message()["celsius"], 21.5);
/// # Ok(()) }
/// ```
///
/// JSON that is there already needs no tree of values: `Tuple::new` takes serde_json's `RawValue`, which checks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuple {
    message: String,
    meta: Option<String>,
    offset: Option<Value>,
}

impl Tuple {
    /// A tuple without metadata, of anything that serialises into a JSON object.
    ///
    /// # Errors
    /// `message` doesn't serialise, or into something else than an object.
    pub fn new(message: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(Self {
            message: object(message)?,
            meta: None,
            offset: None,
        })
    }

    /// The same tuple with this metadata, such as a topic; SQL reads it with `meta()`.
    ///
    /// # Errors
    /// `meta` doesn't serialise, or into something else than an object.
    pub fn with_meta(self, meta: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(Self {
            meta: Some(object(meta)?),
            ..self
        })
    }

    /// The same tuple with what lets the source go on behind it: a source that is started again gets it, or a later one,
    /// from [`Context::offset`](crate::Context::offset).
    ///
    /// # Errors
    /// `offset` doesn't serialise.
    pub fn with_offset(self, offset: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(Self {
            offset: Some(serde_json::to_value(offset)?),
            ..self
        })
    }

    /// Its fields as they go to the host.
    pub fn as_json(&self) -> &str {
        &self.message
    }

    /// Its metadata as they go to the host, if it has any.
    pub fn meta_as_json(&self) -> Option<&str> {
        self.meta.as_deref()
    }

    /// Its fields, read back: for tests.
    pub fn message(&self) -> Object {
        read(&self.message)
    }

    /// Its metadata, read back: for tests. Empty if it has none.
    pub fn meta(&self) -> Object {
        self.meta.as_deref().map(read).unwrap_or_default()
    }

    /// What lets the source go on behind it.
    pub fn offset(&self) -> Option<&Value> {
        self.offset.as_ref()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn from_parts(message: Object, meta: Option<Object>, offset: Option<Value>) -> Self {
        Self {
            message: Value::Object(message).to_string(),
            meta: meta.map(|meta| Value::Object(meta).to_string()),
            offset,
        }
    }

    pub(crate) fn take_offset(&mut self) -> Option<Value> {
        self.offset.take()
    }
}

/// The empty object.
impl Default for Tuple {
    fn default() -> Self {
        Self::from(Object::new())
    }
}

impl From<Object> for Tuple {
    fn from(message: Object) -> Self {
        Self {
            message: Value::Object(message).to_string(),
            meta: None,
            offset: None,
        }
    }
}

/// Only objects are tuples, and only they begin with a brace.
pub(crate) fn is_object(json: &[u8]) -> bool {
    json.first() == Some(&b'{')
}

pub(crate) fn no_object(json: &str) -> String {
    format!("a tuple is a JSON object; this serialises as {json:.100}")
}

fn object(value: &(impl Serialize + ?Sized)) -> Result<String> {
    let json = serde_json::to_string(value)?;
    if is_object(json.as_bytes()) {
        Ok(json)
    } else {
        Err(no_object(&json).into())
    }
}

/// What was written as an object is one.
fn read(json: &str) -> Object {
    serde_json::from_str(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use serde_json::value::RawValue;

    #[test]
    fn only_objects_are_tuples() {
        let tuple = Tuple::new(&json!({"a": 1})).unwrap();
        assert_eq!(tuple.message()["a"], 1);
        let error = Tuple::new(&7).unwrap_err().to_string();
        assert_eq!(error, "a tuple is a JSON object; this serialises as 7");
        assert!(tuple.with_meta(&["list"]).is_err());
    }

    #[test]
    fn what_is_said_about_a_tuple_stays_with_it() {
        let tuple = Tuple::default().with_offset("page 7").unwrap();
        let tuple = tuple.with_meta(&json!({"topic": "t"})).unwrap();
        assert_eq!(tuple.offset(), Some(&json!("page 7")));
        assert_eq!(
            (tuple.meta()["topic"].as_str(), tuple.as_json()),
            (Some("t"), "{}")
        );
        assert_eq!(Tuple::default().meta(), Object::new());
    }

    #[test]
    fn json_that_is_there_is_taken_as_it_is() {
        let raw: &RawValue = serde_json::from_str(r#" {"a" : [1, 2]} "#).unwrap();
        assert_eq!(Tuple::new(raw).unwrap().as_json(), r#"{"a" : [1, 2]}"#);
    }
}
