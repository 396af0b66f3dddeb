//! Which process answers a call, and what becomes of the calls of one that goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mangrove::plugin::{CallError, Function, State};
use serde_json::json;
use testkit::within;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Answer, answer, context, scene, until_answered_by};

/// Four callers, each of which makes one call after the other.
pub(super) struct Callers {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    done: watch::Receiver<usize>,
    broken: Arc<AtomicUsize>,
}

impl Callers {
    pub(super) fn start(function: &Function) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (count, done) = watch::channel(0);
        let broken = Arc::<AtomicUsize>::default();
        let mut tasks = JoinSet::new();
        for caller in 0..4_u64 {
            let (function, stopped) = (function.clone(), stopped.clone());
            let (count, broken) = (count.clone(), Arc::clone(&broken));
            tasks.spawn(async move {
                let mut n = caller;
                while !*stopped.borrow() {
                    let calls = (0..8).map(|at| vec![json!(n + 4 * at)]).collect();
                    let outcomes = function.exec_many(calls, &context()).await;
                    assert_eq!(outcomes.len(), 8);
                    for outcome in outcomes {
                        match outcome {
                            Ok(value) => assert_eq!(answer(&value.unwrap()).2, n),
                            Err(CallError::Disconnected { .. }) => {
                                broken.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => panic!("{error}"),
                        }
                        n += 4;
                    }
                    count.send_modify(|count| *count += 8);
                }
            });
        }
        Self {
            tasks,
            stop,
            done,
            broken,
        }
    }

    /// Waits for so many more outcomes.
    pub(super) async fn more(&self, calls: usize) {
        let mut done = self.done.clone();
        let wanted = *done.borrow() + calls;
        within("calls", done.wait_for(|done| *done >= wanted))
            .await
            .unwrap();
    }

    /// How many calls were in a process that ended.
    pub(super) async fn finish(mut self) -> usize {
        self.stop.send_replace(true);
        within("the callers' end", async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        })
        .await;
        self.broken.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_spread_over_all_instances_and_come_back_in_order() {
    let Some(scene) = scene(3).await else { return };
    let function = scene.function_in(3).await;
    let calls = (0..300_u64).map(|n| vec![json!(n)]).collect();
    let outcomes = within("the calls", function.exec_many(calls, &context())).await;
    let answers: Vec<Answer> = outcomes
        .into_iter()
        .map(|outcome| answer(&outcome.unwrap().unwrap()))
        .collect();
    assert!(answers.iter().map(|(.., n)| *n).eq(0..300));
    let seen: BTreeMap<u32, u32> = answers
        .iter()
        .map(|(instance, pid, _)| (u32::try_from(*instance).unwrap(), u32::try_from(*pid).unwrap()))
        .collect();
    assert_eq!(seen, scene.pids());
    for instance in 0..3 {
        let share = answers.iter().filter(|(at, ..)| *at == instance).count();
        assert!((50..150).contains(&share), "instance {instance} has had {share}");
    }
    within("the question", function.validate(vec![json!(1)]))
        .await
        .unwrap();
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_answer_holds_nobody_else_up() {
    let Some(scene) = scene(2).await else { return };
    let function = scene.function_in(2).await;
    let gate = scene.home.path().join("gate");
    let held = function.clone();
    let args = vec![json!(0), json!(gate)];
    let mut holding = JoinSet::new();
    let (begun, mut beginning) = watch::channel(());
    holding.spawn(async move {
        begun.send_replace(());
        held.exec(args, context()).await
    });
    within("the first call", beginning.changed()).await.unwrap();
    // One may have gone where the first one is about to be put; then it waits for the gate, too.
    let mut pids = Vec::new();
    let mut waiting = JoinSet::new();
    for n in 0..200_u64 {
        let function = function.clone();
        waiting.spawn(async move { function.exec(vec![json!(n)], context()).await });
        if n > 0 {
            let outcome = within("an answer", waiting.join_next()).await.unwrap();
            pids.push(answer(&outcome.unwrap().unwrap().unwrap()).1);
        }
    }
    std::fs::write(&gate, "").unwrap();
    let held = within("the first call's answer", holding.join_next())
        .await
        .unwrap();
    let (_, pid, n) = answer(&held.unwrap().unwrap().unwrap());
    // The first ones may have been quicker than the one with the gate.
    assert!(n == 0 && !pids[100..].contains(&pid));
    scene.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_when_an_instance_is_killed_and_it_comes_back() {
    let Some(scene) = scene(3).await else { return };
    let function = scene.function_in(3).await;
    let callers = Callers::start(&function);
    callers.more(200).await;
    for (round, victim) in [2, 0].into_iter().enumerate() {
        let old = scene.kill(victim);
        let known = scene.host.until("it to be missed", &scene.name, |status| {
            status.status == State::Restarting || status.instances[victim as usize].restarts > 0
        });
        let status = known.await;
        if status.status == State::Restarting {
            let begin = format!("2 of 3 instances run; instance {victim} is restarting");
            assert!(status.err_msg.starts_with(&begin), "{}", status.err_msg);
        }
        callers.more(200).await;
        let status = scene
            .host
            .until("it to run again", &scene.name, |status| {
                status.status == State::Running && status.instances[victim as usize].restarts == 1
            })
            .await;
        assert_eq!(
            (status.err_msg.as_str(), status.restarts),
            ("", u32::try_from(round).unwrap() + 1)
        );
        let new = scene.pids()[&victim];
        assert_ne!(new, old);
        until_answered_by(&function, |seen| {
            seen.get(&u64::from(victim)) == Some(&u64::from(new))
        })
        .await;
    }
    // No more than were in the two processes.
    let broken = callers.finish().await;
    assert!(broken <= 2 * 4 * 8, "{broken}");
    scene.host.shutdown().await;
}
