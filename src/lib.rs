//! Mangrove: a streaming rule host whose sources, sinks and functions are portable plugins.
//!
//! The binary `mangrove` is a thin shell around this library. [`app`] puts the parts together; each of them is
//! reached through its handle only, and no arrow points back:
//!
//! | module | what it owns | may use |
//! |---|---|---|
//! | [`app`] | the order in which parts come up and go down | all |
//! | [`api`] | REST: routes, bodies, status codes | the handles of `plugin` and `rule` |
//! | [`author`] | what authors of plugins make: new projects, packages | `config`, `plugin` |
//! | [`check`] | the conformance kit | `config`, `plugin` |
//! | [`cli`] | the command line | `app`, `author`, `check`, `config` |
//! | [`config`] | settings and conf keys | |
//! | [`rule`] | streams, rules, running graphs | `plugin::Handle`, `sql`, `io`, `store`, `config` |
//! | [`plugin`] | plugin folders, processes, channels | `config` |
//! | [`sql`] | parse, plan, evaluate (pure) | `function` |
//! | `function` | the built-in functions (pure) | |
//! | `io` | the built-in sources and sinks | |
//! | [`store`] | the embedded store | |

pub mod api;
pub mod app;
pub mod author;
pub mod check;
pub mod cli;
pub mod config;
pub mod plugin;
pub mod rule;
pub mod sql;
pub mod store;

mod function;
mod io;
