//! Owns the fields of a tuple as the text in which they came, until somebody looks into them. Most tuples are looked into
//! for a column or two, or not at all: what nobody asks for is never built.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::Object;

/// Text with more brackets than this is read at once: a reader may not follow it, and then refuse everything that came
/// with it. `serde_json` follows 128 levels.
const BRACKETS: usize = 127;

/// The fields of a tuple. Cheap to clone while nobody has looked into them.
#[derive(Clone, Debug)]
pub struct Fields(Form);

#[derive(Clone, Debug)]
enum Form {
    /// One valid JSON object.
    Text(Bytes),
    Object(Object),
}

impl Fields {
    /// Takes the text of one valid JSON object, which begins with its brace. A slice of a larger message keeps all of the
    /// message in memory.
    ///
    /// # Errors
    /// Not every reader of JSON could read it: it nests too deep, or has half a surrogate pair in it.
    pub(crate) fn from_text(text: Bytes) -> Result<Self, serde_json::Error> {
        // Both are decided by a look at the bytes, wrong only in that it reads some texts that need not be read.
        let brackets = text.iter().filter(|byte| **byte | 0x20 == b'{').count();
        let has_code = || text.windows(2).any(|pair| pair == br"\u");
        if brackets > BRACKETS || (text.contains(&b'\\') && has_code()) {
            return serde_json::from_slice(&text).map(|object| Self(Form::Object(object)));
        }
        Ok(Self(Form::Text(text)))
    }

    /// All fields.
    ///
    /// # Errors
    /// A number is out of the range of what can be computed with.
    pub fn into_object(self) -> Result<Object, serde_json::Error> {
        match self.0 {
            Form::Text(text) => serde_json::from_slice(&text),
            Form::Object(object) => Ok(object),
        }
    }

    /// The fields that are wanted, and maybe others.
    ///
    /// # Errors
    /// As [`Fields::into_object`], for those that are wanted.
    pub fn select(self, is_wanted: impl Fn(&str) -> bool) -> Result<Object, serde_json::Error> {
        match self.0 {
            Form::Text(text) => {
                serde_json::Deserializer::from_slice(&text).deserialize_map(Selection(is_wanted))
            }
            Form::Object(object) => Ok(object),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Form::Text(text) => {
                let inside = text.strip_prefix(b"{").and_then(|text| text.strip_suffix(b"}"));
                inside.is_some_and(|inside| inside.trim_ascii().is_empty())
            }
            Form::Object(object) => object.is_empty(),
        }
    }

    /// Appends them as the text of an object.
    pub fn write(&self, buffer: &mut Vec<u8>) {
        match &self.0 {
            Form::Text(text) => buffer.extend_from_slice(text),
            // A tree of JSON values does not fail to be written.
            Form::Object(object) => serde_json::to_writer(buffer, object).unwrap_or_default(),
        }
    }

    /// The same once more, if nobody has looked into it yet.
    pub fn unread(&self) -> Option<Self> {
        match &self.0 {
            Form::Text(_) => Some(self.clone()),
            Form::Object(_) => None,
        }
    }

    /// The same, without what else is in memory for the sake of its text.
    #[must_use]
    pub fn detached(self) -> Self {
        match self.0 {
            Form::Text(text) => Self(Form::Text(Bytes::copy_from_slice(&text))),
            Form::Object(_) => self,
        }
    }
}

impl From<Object> for Fields {
    fn from(object: Object) -> Self {
        Self(Form::Object(object))
    }
}

/// None.
impl Default for Fields {
    fn default() -> Self {
        Self::from(Object::new())
    }
}

/// As the objects that they stand for.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Form::Text(one), Form::Text(other)) if one == other => true,
            _ => match (self.clone().into_object(), other.clone().into_object()) {
                (Ok(one), Ok(other)) => one == other,
                _ => false,
            },
        }
    }
}

/// Reads the fields of an object that are wanted, and skips the others.
struct Selection<W>(W);

impl<'de, W: Fn(&str) -> bool> Visitor<'de> for Selection<W> {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Object, A::Error> {
        let mut object = Object::new();
        while let Some(name) = fields.next_key_seed(Name(&self.0))? {
            match name {
                Some(name) => {
                    object.insert(name, fields.next_value()?);
                }
                None => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(object)
    }
}

/// The name of a field, if it is wanted.
struct Name<'a, W>(&'a W);

impl<'de, W: Fn(&str) -> bool> DeserializeSeed<'de> for Name<'_, W> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<W: Fn(&str) -> bool> Visitor<'_> for Name<'_, W> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok((self.0)(name).then(|| name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn fields(text: &'static str) -> Fields {
        Fields::from_text(Bytes::from_static(text.as_bytes())).unwrap()
    }

    fn written(fields: &Fields) -> String {
        let mut buffer = Vec::new();
        fields.write(&mut buffer);
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn text_stays_as_it_came_until_it_is_read() {
        let text = r#"{ "b" : 1.00, "a":"x\n" }"#;
        assert_eq!(written(&fields(text)), text);
        assert_eq!(written(&fields(text).detached()), text);
        let object = fields(text).into_object().unwrap();
        assert_eq!(written(&Fields::from(object)), r#"{"b":1.0,"a":"x\n"}"#);
    }

    #[test]
    fn only_what_is_wanted_is_built() {
        let text = r#"{"a":1,"b":{"c":[1e999]},"a":2}"#;
        let picked = fields(text).select(|name| name == "a").unwrap();
        assert_eq!(Value::Object(picked), json!({ "a": 2 }));
        assert!(fields(text).select(|name| name == "b").is_err());
        assert!(fields(text).into_object().is_err());
    }

    #[test]
    fn no_fields_are_seen_without_reading() {
        assert!(fields("{}").is_empty() && fields("{ \n}").is_empty());
        assert!(!fields(r#"{"a":1}"#).is_empty());
    }

    #[test]
    fn what_not_every_reader_can_read_is_refused() {
        let deep = |levels| format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert!(Fields::from_text(deep(126).into()).is_ok());
        assert!(Fields::from_text(deep(200).into()).is_err());
        assert!(Fields::from_text(Bytes::from_static(br#"{"a":"\ud800"}"#)).is_err());
        assert!(Fields::from_text(Bytes::from_static(br#"{"a":"\ud83d\ude00"}"#)).is_ok());
        // Many brackets, but not deep.
        assert!(Fields::from_text(format!(r#"{{"a":[{}[]]}}"#, "[],".repeat(300)).into()).is_ok());
    }

    proptest! {
        #[test]
        fn a_selection_is_a_part_of_the_whole(object in proptest::collection::btree_map(".{0,3}", any::<i64>(), 0..6)) {
            let text = json!(object).to_string();
            let fields = Fields::from_text(text.into()).unwrap();
            let whole = fields.clone().into_object().unwrap();
            prop_assert_eq!(Value::Object(fields.clone().select(|_| true).unwrap()), Value::Object(whole.clone()));
            for name in object.keys() {
                let picked = fields.clone().select(|other| other == name).unwrap();
                prop_assert_eq!(picked.get(name), whole.get(name));
            }
        }
    }
}
