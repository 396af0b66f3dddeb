//! Owns the fields of a tuple as the text in which they came, until somebody looks into them. Most tuples are looked into
//! for a column or two, or not at all: what nobody asks for is never built.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::Object;

/// Text with more brackets than this is read at once: a reader may not follow it, and then refuse everything that came
/// with it. `serde_json` follows 128 levels.
const BRACKETS: usize = 127;

/// The fields of a tuple. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fields(Form);

#[derive(Clone, Debug)]
enum Form {
    /// One valid JSON object.
    Text(Bytes),
    Object(Arc<Object>),
}

impl Fields {
    /// Takes the text of one valid JSON object, which begins with its brace. A slice of a larger message keeps all of the
    /// message in memory.
    ///
    /// # Errors
    /// Not every reader of JSON could read it: it nests too deep, or has half a surrogate pair in it.
    pub fn from_text(text: Bytes) -> Result<Self, serde_json::Error> {
        if needs_reading(&text) {
            let object: Object = serde_json::from_slice(&text)?;
            return Ok(object.into());
        }
        Ok(Self(Form::Text(text)))
    }

    /// All fields.
    ///
    /// # Errors
    /// A number is out of the range of what can be computed with.
    pub fn object(&self) -> Result<Arc<Object>, serde_json::Error> {
        match &self.0 {
            Form::Text(text) => serde_json::from_slice(text).map(Arc::new),
            Form::Object(object) => Ok(Arc::clone(object)),
        }
    }

    /// As [`Fields::object`], for whoever wants to change them.
    ///
    /// # Errors
    /// As [`Fields::object`].
    pub fn into_object(self) -> Result<Object, serde_json::Error> {
        match self.0 {
            Form::Text(text) => serde_json::from_slice(&text),
            Form::Object(object) => Ok(Arc::unwrap_or_clone(object)),
        }
    }

    /// Some of the fields: `slot` says at which of the `count` places the field of a name is wanted, if it is. `None` where
    /// there is no such field.
    ///
    /// # Errors
    /// As [`Fields::object`], for those that are wanted.
    pub fn pick(
        &self,
        count: usize,
        slot: impl Fn(&str) -> Option<usize>,
    ) -> Result<Vec<Option<Value>>, serde_json::Error> {
        let mut picked = vec![None; count];
        match &self.0 {
            Form::Text(text) => {
                let picking = Picking {
                    slot,
                    picked: &mut picked,
                };
                serde_json::Deserializer::from_slice(text).deserialize_map(picking)?;
            }
            Form::Object(object) => {
                for (name, value) in object.iter() {
                    if let Some(place) = slot(name).and_then(|slot| picked.get_mut(slot)) {
                        *place = Some(value.clone());
                    }
                }
            }
        }
        Ok(picked)
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
            Form::Object(object) => serde_json::to_writer(buffer, &**object).unwrap_or_default(),
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

/// Whether only reading it tells if every reader can. One look at the bytes, wrong only in that it is true of some texts
/// that need not be read.
fn needs_reading(text: &[u8]) -> bool {
    let mut brackets = 0;
    for at in memchr::memchr3_iter(b'{', b'[', b'\\', text) {
        match text.get(at..) {
            Some([b'\\', b'u', ..]) => return true,
            Some([b'\\', ..]) | None => {}
            Some(_) => brackets += 1,
        }
    }
    brackets > BRACKETS
}

impl From<Object> for Fields {
    fn from(object: Object) -> Self {
        Arc::new(object).into()
    }
}

impl From<Arc<Object>> for Fields {
    fn from(object: Arc<Object>) -> Self {
        Self(Form::Object(object))
    }
}

/// None.
impl Default for Fields {
    fn default() -> Self {
        Self(Form::Text(Bytes::from_static(b"{}")))
    }
}

/// As the objects that they stand for.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Form::Text(one), Form::Text(other)) if one == other => true,
            _ => match (self.object(), other.object()) {
                (Ok(one), Ok(other)) => one == other,
                _ => false,
            },
        }
    }
}

/// Reads the fields of an object that are wanted, and skips the others.
struct Picking<'a, S> {
    slot: S,
    picked: &'a mut [Option<Value>],
}

impl<'de, S: Fn(&str) -> Option<usize>> Visitor<'de> for Picking<'_, S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(slot) = fields.next_key_seed(Name(&self.slot))? {
            match slot.and_then(|slot| self.picked.get_mut(slot)) {
                Some(place) => *place = Some(fields.next_value()?),
                None => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Where a field is wanted, by its name.
struct Name<'a, S>(&'a S);

impl<'de, S: Fn(&str) -> Option<usize>> DeserializeSeed<'de> for Name<'_, S> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<S: Fn(&str) -> Option<usize>> Visitor<'_> for Name<'_, S> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok((self.0)(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

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
        let pick = |wanted: &[&str]| {
            let slot = |name: &str| wanted.iter().position(|wanted| *wanted == name);
            fields(text).pick(wanted.len(), slot)
        };
        assert_eq!(pick(&["c", "a"]).unwrap(), [None, Some(json!(2))]);
        assert!(pick(&["b"]).is_err());
        assert!(fields(text).object().is_err());
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
            let whole = fields.object().unwrap();
            let read = Fields::from(whole.as_ref().clone());
            for name in object.keys() {
                let slot = |other: &str| (other == name).then_some(0);
                prop_assert_eq!(&fields.pick(1, slot).unwrap(), &[whole.get(name).cloned()]);
                prop_assert_eq!(read.pick(1, slot).unwrap(), fields.pick(1, slot).unwrap());
            }
        }
    }
}
