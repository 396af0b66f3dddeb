//! The function: gives its argument back.

use mangrove_sdk::{Context, Function, Result, Value};

pub(crate) struct Same;

impl Function for Same {
    async fn exec(&self, args: Vec<Value>, _: &Context) -> Result<Value> {
        args.into_iter()
            .next()
            .ok_or_else(|| "no argument; expected one".into())
    }
}
