//! Mangrove: a streaming rule host whose sources, sinks and functions are portable plugins.
//!
//! Each part is reached through its handle only, and no arrow points back:
//!
//! | module | what it owns | may use |
//! |---|---|---|
//! | [`config`] | settings and conf keys | |
//! | [`plugin`] | plugin folders, processes, channels | `config` |
//! | [`sql`] | parse, plan, evaluate (pure) | `function` |
//! | `function` | the built-in functions (pure) | |
//! | [`store`] | the embedded store | |

pub mod config;
pub mod plugin;
pub mod sql;
pub mod store;

mod function;
