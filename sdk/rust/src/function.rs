//! Owns what an author implements to be called inside SQL.

use serde_json::Value;

use crate::{Context, Result};

/// Is called inside SQL. One value serves all rules; calls may come at the same time, so it takes `&self`.
///
/// ```
/// use mangrove_sdk::{Context, Function, Result, Value};
///
/// struct Shout;
///
/// impl Function for Shout {
///     fn validate(&self, args: &[Value]) -> Result {
///         if args.len() == 1 { Ok(()) } else { Err("shout takes one argument".into()) }
///     }
///
///     async fn exec(&self, args: Vec<Value>, _: &Context) -> Result<Value> {
///         let text = args.first().and_then(Value::as_str).ok_or("shout takes a text")?;
///         Ok(text.to_uppercase().into())
///     }
/// }
/// ```
pub trait Function: Send + Sync + 'static {
    /// Checks a call when a rule is created. A column arrives as its SQL text: what can be checked is mostly
    /// how many arguments there are.
    ///
    /// # Errors
    /// Why the rule is to be refused.
    fn validate(&self, args: &[Value]) -> Result {
        let _ = args;
        Ok(())
    }

    /// Whether it works on groups. Then each argument is the list of that column's values in the group.
    fn is_aggregate(&self) -> bool {
        false
    }

    /// Calls it. `Value::Null` is a result as well. The host waits for it only so long, and when the plugin has to
    /// stop the future is dropped where it waits.
    ///
    /// A panic counts as an error of this call.
    ///
    /// # Errors
    /// Why there is no result; the rule sees it.
    fn exec(&self, args: Vec<Value>, context: &Context) -> impl Future<Output = Result<Value>> + Send;
}
