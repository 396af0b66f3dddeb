//! Owns what stands for events of a socket that came too fast to be followed: the difference between the pipes that
//! whoever follows them knows of, and those that there are. Pure; asked on [`sp_proto::Event::Missed`].

use sp_proto::{PipeId, PipeInfo};

/// What has become of the pipes since the events that were missed. Events that still wait may say it once more.
#[derive(Debug)]
pub(super) struct Missed {
    pub(super) removed: Vec<PipeId>,
    /// The oldest first.
    pub(super) added: Vec<PipeInfo>,
}

pub(super) fn changes(known: impl IntoIterator<Item = PipeId>, now: Vec<PipeInfo>) -> Missed {
    let (mut added, mut removed) = (now, Vec::new());
    for pipe in known {
        let place = added.iter().position(|info| info.id == pipe);
        match place {
            Some(place) => drop(added.swap_remove(place)),
            None => removed.push(pipe),
        }
    }
    added.sort_unstable_by_key(|info| info.id);
    Missed { removed, added }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sp_proto::Event;

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
        let Missed { removed, added } = changes([gone.id, stays.id], now);
        let added: Vec<_> = added.iter().map(|info| info.id).collect();
        assert_eq!((removed, added), (vec![gone.id], vec![first.id, second.id]));
        let Missed { removed, added } = changes([stays.id], vec![stays.clone()]);
        assert!(removed.is_empty() && added.is_empty());
    }
}
