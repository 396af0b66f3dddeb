//! Which process a source runs in, and what becomes of it when that goes.

use futures_util::future::join_all;
use mangrove::plugin::{ChannelError, Source, State, Status};
use serde_json::json;
use testkit::within;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Answer, SCRIPT, answer, context, scene, scene_of};

/// Where the next tuple comes from: instance, process and number. News of the process are passed over.
async fn tuple(source: &mut Source) -> Answer {
    within("a tuple", async {
        loop {
            match source.recv().await.expect("the source goes on") {
                Ok(tuple) => {
                    let message = tuple.message.into_object().unwrap();
                    let field = |name: &str| message[name].as_u64().unwrap();
                    return (field("instance"), field("pid"), field("n"));
                }
                Err(ChannelError::Down { .. } | ChannelError::Closed { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

/// A rule that takes whatever a source brings.
pub(super) struct Reading {
    task: JoinSet<Source>,
    stop: watch::Sender<bool>,
    last: watch::Receiver<Answer>,
}

impl Reading {
    pub(super) fn start(mut source: Source) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let (read, last) = watch::channel((0, 0, 0));
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                tokio::select! {
                    _ = stopped.changed() => return source,
                    next = tuple(&mut source) => read.send_replace(next),
                };
            }
        });
        Self { task, stop, last }
    }

    /// Waits for a tuple of this instance and process.
    pub(super) async fn until(&mut self, instance: u32, pid: u32) {
        let is_wanted = |last: &Answer| (last.0, last.1) == (instance.into(), pid.into());
        within("a tuple of the process", self.last.wait_for(is_wanted))
            .await
            .unwrap();
    }

    pub(super) async fn close(mut self) {
        self.stop.send_replace(true);
        let source = within("the reader's end", self.task.join_next()).await;
        source.unwrap().unwrap().close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_run_where_there_are_fewest_and_stay_with_their_instance() {
    let Some(scene) = scene(2).await else { return };
    let (mut first, mut second) = (scene.source().await, scene.source().await);
    let (of_first, of_second) = (tuple(&mut first).await, tuple(&mut second).await);
    assert_eq!((of_first.0, of_second.0), (0, 1));
    // Its instance comes back, and with it the source; the other one notices nothing.
    let old = scene.kill(1);
    let mut last = of_second.2;
    let came_back = loop {
        let (instance, pid, n) = tuple(&mut second).await;
        assert_eq!(instance, 1);
        if pid != u64::from(old) {
            break pid;
        }
        assert_eq!(n, last + 1);
        last = n;
    };
    assert_eq!(came_back, u64::from(scene.pids()[&1]));
    let mut n = of_first.2;
    for _ in 0..50 {
        let (instance, pid, next) = tuple(&mut first).await;
        assert_eq!((instance, pid, next), (0, of_first.1, n + 1));
        n = next;
    }
    // The place of one that is closed is free again.
    first.close().await;
    let mut third = scene.source().await;
    assert_eq!(tuple(&mut third).await.0, 0);
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_instance_is_given_up_waits_until_the_plugin_is_started() {
    let fails = "WHO[0] == 1 and os.path.exists(\"HOME/bad\") and sys.exit(\"told to fail\")\n\nplugin = ";
    let script = SCRIPT.replace("plugin = ", fails);
    assert_ne!(script, SCRIPT);
    let Some(scene) = scene_of(2, 2, &script).await else {
        return;
    };
    let function = scene.function_in(2).await;
    let (first, mut second) = (scene.source().await, scene.source().await);
    assert_eq!(tuple(&mut second).await.0, 1);
    std::fs::write(scene.home.path().join("bad"), "").unwrap();
    scene.kill(1);
    let failed = |status: &Status| status.status == State::Failed;
    let status = scene.host.until("it to be given up", &scene.name, failed).await;
    let (begin, last) = (
        "1 of 2 instances run; instance 1 is failed",
        "it said last: told to fail",
    );
    assert!(
        status.err_msg.starts_with(begin) && status.err_msg.contains(last),
        "{}",
        status.err_msg
    );
    // The other one takes all that comes.
    let mut third = scene.source().await;
    assert_eq!(tuple(&mut third).await.0, 0);
    for n in 0..20_u64 {
        let value = function.exec(vec![json!(n)], context()).await.unwrap().unwrap();
        assert_eq!((answer(&value).0, answer(&value).2), (0, n));
    }
    std::fs::remove_file(scene.home.path().join("bad")).unwrap();
    // They read, as rules do, so that the other instance can let go of its old process.
    let mut readings = [first, second, third].map(Reading::start);
    within("the start", scene.host.plugins.start(&scene.name))
        .await
        .unwrap();
    let pids = scene.pids();
    for (reading, instance) in readings.iter_mut().zip([0, 1, 0]) {
        reading.until(instance, pids[&instance]).await;
    }
    join_all(readings.map(Reading::close)).await;
    scene.host.shutdown().await;
}
