//! The example plugin `car`: one file per symbol, each with its tests.
//!
//! | symbol | file | what it does |
//! |---|---|---|
//! | source `json` | [`json`] | sends the items of its conf key in turn |
//! | source `udp` | [`udp`] | receives JSON datagrams |
//! | source `sync` | [`sync`] | follows a JSON-lines file as it grows |
//! | sink `command` | [`command`] | runs a command with each result on its standard input |
//! | function `link` | [`link`] | joins its arguments |
//! | function `rank` | [`rank`] | finds a value's position in a list |

mod command;
mod json;
mod lines;
mod link;
mod rank;
mod sync;
mod udp;

use mangrove_sdk::{Plugin, RunError};

#[tokio::main]
async fn main() -> Result<(), RunError> {
    Plugin::new("car")
        .source::<json::Json>("json")
        .source::<udp::Udp>("udp")
        .source::<sync::Sync>("sync")
        .sink::<command::Command>("command")
        .function("link", link::Link::from_environment())
        .function("rank", rank::Rank::from_environment())
        .run()
        .await
}
