//! Plugins from the outside: real processes, real sockets, and the host's `plugin::Handle`.
//!
//! | module | what plays the plugin |
//! |---|---|
//! | `control`, `channels` | a process that only sleeps, with a scripted peer in the test on its sockets |
//! | `native` | the same, in our own contract |
//! | `instances` | the same, on the Python SDK: several processes of one plugin |
//! | `operate` | the same, stopped and started by hand |
//! | `folder`, `install` | the same, in folders and zips that are good, broken or hostile, from near and far |
//! | `watch` | the same, in folders and zips that come, change and go |
//! | `copies` | the same, copied, unpacked and checked out by the real tools; unreadable, read-only, linked |
//! | `guard` | processes that try to get away, and strangers |
//! | `environment` | the same, in Python with an environment of its own, built by the real tools |
//! | `sdk` | an unmodified plugin on published releases of the `ekuiper` package |
//! | `swap`, `supervision` | the same, and the example `car`, replaced, killed and stopped in their tracks under load |

mod channels;
mod control;
mod copies;
mod environment;
mod folder;
mod guard;
mod home;
mod install;
mod instances;
mod load;
mod native;
mod operate;
mod peer;
mod sdk;
mod supervision;
mod swap;
mod watch;
