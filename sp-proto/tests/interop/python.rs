//! pynng, the binding of nng that the published Python SDK stands on.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::meeting::{Kind, Peer};
use crate::scripted::{self, name};

/// A Python interpreter that has pynng.
pub(crate) struct Pynng(PathBuf);

impl Pynng {
    pub(crate) fn find() -> Option<Self> {
        // The release decides which pynng comes with it.
        testkit::python("2.4.2").map(Self)
    }
}

impl Peer for Pynng {
    fn command(&self, kind: Kind, listen: bool, address: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/peer.py");
        let mut command = Command::new(&self.0);
        command
            .arg("-u")
            .arg(script)
            .args([name(kind), if listen { "listen" } else { "dial" }, address]);
        command
    }
}

#[tokio::test]
async fn pynng_in_every_pattern_direction_and_transport() {
    let Some(python) = Pynng::find() else { return };
    scripted::every_way(&python).await;
}

#[tokio::test]
async fn pynng_talks_to_pynng_through_our_devices() {
    let Some(python) = Pynng::find() else { return };
    scripted::through_devices(&python, &python).await;
}
