//! Owns the functions on objects.

use mangrove_protocol::Object;
use serde_json::{Value, json};

use super::value::{array, as_text, object, wrong};
use super::{Args, Builtin, Failure, Kind, OnNull};

const ONE: &[Kind] = &[Kind::Any];
const TWO: &[Kind] = &[Kind::Any, Kind::Any];

pub(super) const FUNCTIONS: &[Builtin] = &[
    Builtin::new("erase", TWO, |args| keep(args, |is_named| !is_named)),
    Builtin::new("items", ONE, |args| {
        Ok(object(args, 0)?
            .iter()
            .map(|(key, value)| json!([key, value]))
            .collect())
    })
    .grows(),
    Builtin::new("keys", ONE, |args| {
        Ok(object(args, 0)?.keys().cloned().map(Value::String).collect())
    }),
    Builtin::new("kvpair_array_to_obj", ONE, from_pairs),
    Builtin::new("obj_to_kvpair_array", ONE, |args| {
        Ok(object(args, 0)?
            .iter()
            .map(|(key, value)| json!({ "key": key, "value": value }))
            .collect())
    })
    .grows(),
    Builtin::new("object", TWO, from_keys_and_values).grows(),
    Builtin::new("object_concat", TWO, concat)
        .variadic()
        .on_null(OnNull::Call)
        .grows(),
    Builtin::new("object_construct", TWO, construct)
        .variadic()
        .optional(2)
        .on_null(OnNull::Call)
        .grows(),
    Builtin::new("object_pick", TWO, |args| keep(args, |is_named| is_named)).variadic(),
    Builtin::new("object_size", ONE, |args| Ok(object(args, 0)?.len().into()))
        .on_null(OnNull::Zero)
        .integer(),
    Builtin::new("values", ONE, |args| {
        Ok(object(args, 0)?.values().cloned().collect())
    }),
    Builtin::new("zip", ONE, zip),
];

/// The fields that are named by the arguments after the first, or those that are not.
fn keep(args: Args<'_, '_>, wanted: fn(bool) -> bool) -> Result<Value, Failure> {
    let mut names: Vec<&str> = Vec::new();
    for (index, arg) in args.iter().enumerate().skip(1) {
        let expected = "a text or an array of texts";
        match &**arg {
            Value::String(name) => names.push(name),
            Value::Array(elements) => {
                for element in elements {
                    names.push(element.as_str().ok_or_else(|| wrong(index, arg, expected))?);
                }
            }
            _ => return Err(wrong(index, arg, expected)),
        }
    }
    let fields = object(args, 0)?
        .iter()
        .filter(|(key, _)| wanted(names.contains(&key.as_str())));
    Ok(Value::Object(
        fields.map(|(key, value)| (key.clone(), value.clone())).collect(),
    ))
}

fn concat(args: Args<'_, '_>) -> Result<Value, Failure> {
    let mut all = Object::new();
    for (index, arg) in args.iter().enumerate().filter(|(_, arg)| !arg.is_null()) {
        let fields = arg.as_object().ok_or_else(|| wrong(index, arg, "an object"))?;
        all.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    Ok(all.into())
}

/// `object_construct(key, value, …)`; what has no key is left out.
fn construct(args: Args<'_, '_>) -> Result<Value, Failure> {
    let mut fields = Object::new();
    for (index, pair) in args.chunks(2).enumerate() {
        let [key, value] = pair else {
            return Err(wrong(2 * index, &pair[0], "a key and a value after it"));
        };
        if !key.is_null() {
            fields.insert(as_text(key).into_owned(), Value::clone(value));
        }
    }
    Ok(fields.into())
}

fn from_keys_and_values(args: Args<'_, '_>) -> Result<Value, Failure> {
    let (keys, values) = (array(args, 0)?, array(args, 1)?);
    if keys.len() != values.len() {
        return Err(wrong(1, &args[1], "as many values as there are keys"));
    }
    let mut fields = Object::new();
    for (key, value) in keys.iter().zip(values) {
        let key = key
            .as_str()
            .ok_or_else(|| wrong(0, &args[0], "an array of texts"))?;
        fields.insert(key.to_owned(), value.clone());
    }
    Ok(fields.into())
}

fn from_pairs(args: Args<'_, '_>) -> Result<Value, Failure> {
    let expected = "an array of objects with a key and a value";
    let mut fields = Object::new();
    for pair in array(args, 0)? {
        let (Some(key), Some(value)) = (pair.get("key").and_then(Value::as_str), pair.get("value")) else {
            return Err(wrong(0, &args[0], expected));
        };
        fields.insert(key.to_owned(), value.clone());
    }
    Ok(fields.into())
}

/// `zip([[key, value], …])`
fn zip(args: Args<'_, '_>) -> Result<Value, Failure> {
    let mut fields = Object::new();
    for entry in array(args, 0)?.iter().filter(|entry| !entry.is_null()) {
        match entry.as_array().map(Vec::as_slice) {
            Some([Value::String(key), value]) => fields.insert(key.clone(), value.clone()),
            _ => return Err(wrong(0, &args[0], "an array of pairs of a text and a value")),
        };
    }
    Ok(fields.into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_failures};

    #[test]
    fn results() {
        check(&[
            ("erase", r#"[{"a": 1, "b": 2}, "a"]"#, r#"{"b":2}"#),
            ("erase", r#"[{"a": 1, "b": 2, "c": 3}, ["a", "c"]]"#, r#"{"b":2}"#),
            ("items", r#"[{"a": 1, "b": 2}]"#, r#"[["a",1],["b",2]]"#),
            ("items", "[{}]", "null"),
            ("keys", r#"[{"b": 1, "a": 2}]"#, r#"["b","a"]"#),
            (
                "kvpair_array_to_obj",
                r#"[[{"key": "a", "value": 1}]]"#,
                r#"{"a":1}"#,
            ),
            (
                "obj_to_kvpair_array",
                r#"[{"a": 1}]"#,
                r#"[{"key":"a","value":1}]"#,
            ),
            ("object", r#"[["a", "b"], [1, 2]]"#, r#"{"a":1,"b":2}"#),
            (
                "object_concat",
                r#"[{"a": 1}, null, {"b": 2}, {"b": 3}]"#,
                r#"{"a":1,"b":3}"#,
            ),
            (
                "object_construct",
                r#"["a", 1, null, 2, "b", null]"#,
                r#"{"a":1,"b":null}"#,
            ),
            ("object_construct", "[]", "{}"),
            (
                "object_pick",
                r#"[{"a": 1, "b": 2, "c": 3}, "c", "a"]"#,
                r#"{"a":1,"c":3}"#,
            ),
            ("object_pick", r#"[{"a": 1, "b": 2}, ["b", "x"]]"#, r#"{"b":2}"#),
            ("object_size", r#"[{"a": 1}]"#, "1"),
            ("object_size", "[null]", "0"),
            ("values", r#"[{"b": 1, "a": 2}]"#, "[1,2]"),
            ("zip", r#"[[["a", 1], null, ["b", 2]]]"#, r#"{"a":1,"b":2}"#),
        ]);
    }

    #[test]
    fn failures() {
        check_failures(&[
            (
                "erase",
                r#"[{"a": 1}, 5]"#,
                "argument 2 is the number 5, expected a text or an array of texts",
            ),
            ("keys", "[5]", "argument 1 is the number 5, expected an object"),
            (
                "object",
                r#"[["a"], [1, 2]]"#,
                "argument 2 is an array of 2, expected as many values as there are keys",
            ),
            (
                "object_concat",
                r#"[{}, 1]"#,
                "argument 2 is the number 1, expected an object",
            ),
            (
                "object_construct",
                r#"["a", 1, "b"]"#,
                "argument 3 is the text \"b\", expected a key and a value after it",
            ),
            (
                "zip",
                "[[1]]",
                "argument 1 is an array of 1, expected an array of pairs of a text and a value",
            ),
        ]);
    }
}
