//! A function: a text in capital letters.

use mangrove_sdk::{Context, Function, Result, Value};

pub struct Shout;

impl Function for Shout {
    fn validate(&self, args: &[Value]) -> Result {
        if args.len() == 1 { Ok(()) } else { Err("it takes 1 argument".into()) }
    }

    async fn exec(&self, args: Vec<Value>, _: &Context) -> Result<Value> {
        let text = args.first().and_then(Value::as_str).ok_or("it takes a text")?;
        Ok(text.to_uppercase().into())
    }
}
