//! Mangrove: a streaming rule host whose sources, sinks and functions are portable plugins.
//!
//! Each part is reached through its handle only, and no arrow points back:
//!
//! | module | what it owns | may use |
//! |---|---|---|
//! | [`config`] | settings and conf keys | |
//! | [`rule`] | streams, rules, running graphs | `plugin::Handle`, `sql`, `io`, `store`, `config` |
//! | [`plugin`] | plugin folders, processes, channels | `config` |
//! | [`sql`] | parse, plan, evaluate (pure) | `function` |
//! | `function` | the built-in functions (pure) | |
//! | `io` | the built-in sources and sinks | |
//! | [`store`] | the embedded store | |

pub mod config;
pub mod plugin;
pub mod rule;
pub mod sql;
pub mod store;

mod function;
mod io;
