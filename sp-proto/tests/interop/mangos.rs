//! mangos, the Go implementation, driven by the same commands as pynng.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sp_proto::{Pair1, Rep, Req, Respondent, SocketOptions, Surveyor};
use testkit::Process;
use tokio::process::Command;

use crate::cats::text;
use crate::meeting::{Kind, Peer, Socket};
use crate::python::Pynng;
use crate::scripted::{self, name, patient};

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
        // How Go, and so mangos, writes the names without files.
        let address = address.replace("abstract://", "ipc://@");
        command.args([name(kind), if listen { "listen" } else { "dial" }, &address]);
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

/// A device of theirs between two sockets of ours.
struct Device {
    process: Process,
    near: String,
    far: String,
    _folder: tempfile::TempDir,
}

impl Device {
    async fn start(mangos: &Mangos, kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [near, far] = ["near", "far"].map(|side| format!("ipc://{}", folder.path().join(side).display()));
        let mut command = Command::new(&mangos.0);
        command.args(["device", name(kind), &near, &far]);
        let mut process = Process::spawn(command);
        process.line("its start", |line| line == "ready").await;
        Self {
            process,
            near,
            far,
            _folder: folder,
        }
    }

    fn connect(&self, near: &impl Socket, far: &impl Socket) {
        near.dial_at(&self.near);
        far.dial_at(&self.far);
    }
}

#[tokio::test]
async fn requests_pass_a_device_of_mangos() {
    let Some(mangos) = Mangos::find() else { return };
    let mut device = Device::start(&mangos, Kind::Req).await;
    let (req, rep) = (Req::new(), Rep::new());
    device.connect(&req, &rep);
    let conversation = async {
        for round in 0..5 {
            let answer = async {
                let request = rep.recv().await.unwrap();
                let reply = format!("re: {}", text(request.body()));
                request.reply(reply).await.unwrap();
            };
            let (reply, ()) = tokio::join!(req.request(round.to_string()), answer);
            assert_eq!(text(&reply.unwrap()), format!("re: {round}"));
        }
    };
    device.process.during("a conversation", conversation).await;
}

#[tokio::test]
async fn surveys_pass_a_device_of_mangos() {
    let Some(mangos) = Mangos::find() else { return };
    let mut device = Device::start(&mangos, Kind::Surveyor).await;
    let (surveyor, respondent) = (Surveyor::with_options(patient()), Respondent::new());
    device.connect(&surveyor, &respondent);
    let conversation = async {
        // A survey is lost while somebody is not connected yet.
        let (mut survey, request) = loop {
            let survey = surveyor.survey("?").await.unwrap();
            let heard = tokio::time::timeout(Duration::from_millis(50), respondent.recv());
            if let Ok(request) = heard.await {
                break (survey, request.unwrap());
            }
        };
        assert_eq!(text(request.body()), "?");
        // One of the earlier surveys may have come late; its response is dropped, and the next one answered.
        request.reply("!").await.unwrap();
        let response = loop {
            tokio::select! {
                response = survey.recv() => break response.unwrap(),
                request = respondent.recv() => request.unwrap().reply("!").await.unwrap(),
            }
        };
        assert_eq!(text(&response), "!");
    };
    device.process.during("a conversation", conversation).await;
}

#[tokio::test]
async fn hops_are_counted_through_a_device_of_mangos() {
    let Some(mangos) = Mangos::find() else { return };
    let mut device = Device::start(&mangos, Kind::Pair1).await;
    let strict = SocketOptions {
        ttl: 1,
        ..SocketOptions::default()
    };
    let (left, right) = (Pair1::new(), Pair1::with_options(strict));
    device.connect(&left, &right);
    let conversation = async {
        right.send("one device is fine").await.unwrap();
        assert_eq!(text(&left.recv().await.unwrap()), "one device is fine");
        left.send("and here one too many").await.unwrap();
        while right.stats().dropped.too_many_hops == 0 {
            tokio::task::yield_now().await;
        }
    };
    device.process.during("a conversation", conversation).await;
}
