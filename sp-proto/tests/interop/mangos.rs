//! mangos, the Go implementation, driven by the same commands as pynng.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::meeting::{Kind, Peer};
use crate::python::Pynng;
use crate::scripted::{self, name};

/// The program in `mangos/`.
pub(crate) struct Mangos(PathBuf);

impl Mangos {
    pub(crate) fn find() -> Option<Self> {
        testkit::go(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/mangos")).map(Self)
    }
}

impl Peer for Mangos {
    fn command(&self, kind: Kind, listen: bool, address: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.args([name(kind), if listen { "listen" } else { "dial" }, address]);
        command
    }
}

#[tokio::test]
async fn mangos_in_every_pattern_direction_and_transport() {
    let Some(mangos) = Mangos::find() else { return };
    scripted::every_way(&mangos).await;
}

#[tokio::test]
async fn mangos_and_pynng_talk_through_our_devices() {
    let (Some(mangos), Some(python)) = (Mangos::find(), Pynng::find()) else {
        return;
    };
    scripted::through_devices(&mangos, &python).await;
    scripted::through_devices(&python, &mangos).await;
}
