//! A new version takes over in all processes, in more of them, or in fewer.

use futures_util::future::join_all;
use mangrove::plugin::{State, Status};
use serde_json::json;

use super::functions::Callers;
use super::sources::Reading;
use super::{SCRIPT, answer, context, scene, until_answered_by};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_in_every_instance_without_an_error() {
    let Some(scene) = scene(3).await else { return };
    let function = scene.function_in(3).await;
    let mut readings = [
        Reading::start(scene.source().await),
        Reading::start(scene.source().await),
    ];
    let callers = Callers::start(&function);
    callers.more(200).await;
    let before = scene.pids();
    scene.update("2.0", 3, SCRIPT).await.unwrap();
    let status = scene.host.running(&scene.name).await;
    assert!(
        status
            .instances
            .iter()
            .all(|one| one.version == "2.0" && one.restarts == 0)
    );
    let after = scene.pids();
    assert!(after.len() == 3 && after.values().all(|pid| before.values().all(|old| old != pid)));
    until_answered_by(&function, |seen| seen.len() == 3).await;
    for (instance, reading) in (0..).zip(&mut readings) {
        reading.until(instance, after[&instance]).await;
    }
    // One that does not start changes nothing anywhere.
    let refused = scene.update("3.0", 3, "import nothing_of_this_name\n").await;
    assert!(refused.unwrap_err().contains("nothing_of_this_name"));
    assert_eq!(scene.pids(), after);
    callers.more(200).await;
    assert_eq!(callers.finish().await, 0);
    join_all(readings.map(Reading::close)).await;
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_may_have_more_instances_or_fewer() {
    let Some(scene) = scene(1).await else { return };
    let shown = serde_json::to_value(scene.status()).unwrap();
    assert_eq!(shown.get("instances"), None);
    let function = scene.function().await;
    let callers = Callers::start(&function);
    let mut first = Reading::start(scene.source().await);
    scene.update("2.0", 2, SCRIPT).await.unwrap();
    until_answered_by(&function, |seen| seen.len() == 2).await;
    let mut second = Reading::start(scene.source().await);
    second.until(1, scene.pids()[&1]).await;
    // What runs in the one that is too many goes on there; nothing new does.
    scene.update("3.0", 1, SCRIPT).await.unwrap();
    assert_eq!(scene.status().instances[1].version, "3.0");
    second.until(1, scene.pids()[&1]).await;
    for _ in 0..20 {
        let value = function.exec(vec![json!(7)], context()).await.unwrap().unwrap();
        assert_eq!(answer(&value).0, 0);
    }
    first.until(0, scene.pids()[&0]).await;
    first.close().await;
    second.close().await;
    let alone = |status: &Status| status.instances.is_empty() && status.status == State::Running;
    scene.host.until("the other's end", &scene.name, alone).await;
    assert_eq!(callers.finish().await, 0);
    scene.host.shutdown().await;
}
