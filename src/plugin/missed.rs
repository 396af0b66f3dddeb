//! Owns what stands for events of a socket that came too fast to be followed: the difference between the pipes that
//! whoever follows them knows of, and those that there are. Pure; asked on [`Event::Missed`].

use sp_proto::{Event, PipeId, PipeInfo};

/// What has become of the pipes since the events that were missed. Events that still wait may say it once more.
pub(super) fn events(known: impl IntoIterator<Item = PipeId>, now: Vec<PipeInfo>) -> Vec<Event> {
    let mut added = now;
    let mut events = Vec::new();
    for pipe in known {
        let place = added.iter().position(|info| info.id == pipe);
        match place {
            Some(place) => drop(added.swap_remove(place)),
            None => events.push(Event::PipeRemoved {
                pipe,
                reason: "more happened to its connections than could be followed".to_owned(),
                is_orderly: false,
            }),
        }
    }
    added.sort_unstable_by_key(|info| info.id);
    events.extend(added.into_iter().map(Event::PipeAdded));
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_gone_is_removed_and_what_is_new_is_added_in_its_order() {
        let (pull, pushes) = (sp_proto::Pull::new(), [(); 4].map(|()| sp_proto::Push::new()));
        let mut seen = pull.events();
        let address = format!("inproc://missed-{}", std::process::id());
        pull.listen(&address).await.unwrap();
        for push in &pushes {
            push.dial(&address).await.unwrap();
        }
        let mut infos = Vec::new();
        while infos.len() < 4 {
            infos.extend(match seen.recv().await.unwrap() {
                Event::PipeAdded(info) => Some(info),
                _ => None,
            });
        }
        infos.sort_unstable_by_key(|info| info.id);
        let [gone, stays, first, second] = infos.try_into().unwrap();
        let now = vec![second.clone(), first.clone(), stays.clone()];
        let told = events([gone.id, stays.id], now);
        assert!(
            matches!(
                told.as_slice(),
                [Event::PipeRemoved { pipe, .. }, Event::PipeAdded(one), Event::PipeAdded(two)]
                    if (*pipe, one.id, two.id) == (gone.id, first.id, second.id)
            ),
            "{told:?}"
        );
        assert!(events([stays.id], vec![stays.clone()]).is_empty());
    }
}
