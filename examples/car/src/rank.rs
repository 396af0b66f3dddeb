//! The function `rank`: the position of a value in a list, from 1; null when it isn't there.
//!
//! `rank(value)` looks into the configured list, `rank(value, list)` into an array, `rank(value, a, b, …)` into the
//! other arguments. The contract gives functions no configuration, so the list comes from the process's environment
//! (`CAR_RANK`, separated by commas), which the manifest's `environment` sets.

use mangrove_sdk::{Context, Function, Result, Value};

use crate::link::text;

pub(crate) struct Rank {
    configured: Vec<Value>,
}

impl Rank {
    pub(crate) fn from_environment() -> Self {
        Self::of(&std::env::var("CAR_RANK").unwrap_or_default())
    }

    fn of(list: &str) -> Self {
        Self {
            configured: list
                .split(',')
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .map(Value::from)
                .collect(),
        }
    }
}

impl Function for Rank {
    fn validate(&self, args: &[Value]) -> Result {
        match args {
            [] => Err("rank takes a value and, unless CAR_RANK has a list, what to look for it in".into()),
            [_] if self.configured.is_empty() => Err(
                "rank(value) needs a list in CAR_RANK; expected rank(value, list) or rank(value, a, b, …)"
                    .into(),
            ),
            _ => Ok(()),
        }
    }

    async fn exec(&self, args: Vec<Value>, _: &Context) -> Result<Value> {
        let (value, list) = match args.as_slice() {
            [] => return Err("rank takes at least one argument".into()),
            [value] => (value, self.configured.as_slice()),
            [value, Value::Array(list)] => (value, list.as_slice()),
            [value, list @ ..] => (value, list),
        };
        let position = list.iter().position(|item| same(item, value));
        Ok(position.map_or(Value::Null, |index| (index + 1).into()))
    }
}

/// Numbers by their value (1 is 1.0), everything else by its text (`"1"` is 1).
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => text(a) == text(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mangrove_sdk::testing;
    use serde_json::json;

    async fn rank(args: Value) -> Value {
        let args = args.as_array().unwrap().clone();
        Rank::of("low, medium,high")
            .exec(args, &testing::context())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn positions_count_from_1() {
        assert_eq!(rank(json!(["low"])).await, 1);
        assert_eq!(rank(json!(["high"])).await, 3);
        assert_eq!(rank(json!(["b", "a", "b", "b"])).await, 2);
        assert_eq!(rank(json!([2, [1.0, 2.0]])).await, 2);
        assert_eq!(rank(json!(["2", 1, 2])).await, 2);
        assert_eq!(rank(json!(["x"])).await, Value::Null);
        assert_eq!(rank(json!(["x", []])).await, Value::Null);
    }

    #[test]
    fn without_a_configured_list_there_must_be_one() {
        let bare = Rank::of(" , ");
        assert!(bare.validate(&[]).is_err());
        assert!(
            bare.validate(&[json!("a")])
                .unwrap_err()
                .to_string()
                .contains("CAR_RANK")
        );
        assert!(bare.validate(&[json!("a"), json!("b")]).is_ok());
        assert!(Rank::of("a").validate(&[json!("a")]).is_ok());
    }
}
