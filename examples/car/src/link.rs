//! The function `link`: joins its arguments as text.
//!
//! The contract gives functions no configuration, so the separator comes from the process's environment
//! (`CAR_LINK_SEPARATOR`), which the manifest's `environment` sets.

use mangrove_sdk::{Context, Function, Result, Value};

pub(crate) struct Link {
    separator: String,
}

impl Link {
    pub(crate) fn from_environment() -> Self {
        Self {
            separator: std::env::var("CAR_LINK_SEPARATOR").unwrap_or_default(),
        }
    }
}

impl Function for Link {
    fn validate(&self, args: &[Value]) -> Result {
        if args.is_empty() {
            return Err("link takes at least one argument".into());
        }
        Ok(())
    }

    async fn exec(&self, args: Vec<Value>, _: &Context) -> Result<Value> {
        let parts: Vec<String> = args.iter().filter(|arg| !arg.is_null()).map(text).collect();
        Ok(parts.join(&self.separator).into())
    }
}

/// A text as it is, everything else as JSON.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mangrove_sdk::testing;
    use serde_json::json;

    #[tokio::test]
    async fn arguments_are_joined_and_nulls_left_out() {
        let link = Link {
            separator: "-".to_owned(),
        };
        let args = vec![
            json!("a"),
            json!(1),
            json!(null),
            json!(2.5),
            json!(true),
            json!({"b": [1]}),
        ];
        let linked = link.exec(args, &testing::context()).await.unwrap();
        assert_eq!(linked, r#"a-1-2.5-true-{"b":[1]}"#);
    }

    #[test]
    fn an_argument_is_needed() {
        let link = Link {
            separator: String::new(),
        };
        assert!(link.validate(&[]).is_err());
        assert!(link.validate(&[json!("a")]).is_ok());
    }
}
