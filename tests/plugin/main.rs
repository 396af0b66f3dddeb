//! Plugins from the outside: real processes, real sockets, and the host's `plugin::Handle`.
//!
//! | module | what plays the plugin |
//! |---|---|
//! | `control`, `channels` | a process that only sleeps, with a scripted peer in the test on its sockets |
//! | `folder` | the same, in folders and zips that are good, broken or hostile |
//! | `guard` | processes that try to get away, and strangers |
//! | `sdk` | an unmodified plugin on published releases of the `ekuiper` package |
//! | `swap`, `supervision` | the same, and the example `car`, replaced, killed and stopped in their tracks under load |

mod channels;
mod control;
mod folder;
mod guard;
mod home;
mod load;
mod peer;
mod sdk;
mod supervision;
mod swap;
