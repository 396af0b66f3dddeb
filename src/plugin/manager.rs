//! Owns the plugins' coming up and going down: makes what all share, cleans up after a host that was killed, has
//! the folder watched, and ends everything in order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::handle::Handle;
use super::reconcile::Reconciler;
use super::remote::Remote;
use super::shared::{Shared, blocking};
use super::staging;
use crate::config::Config;
use crate::store::States;

/// What ending a process may take beyond its grace, until the host no longer waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The owner of all plugins: watches, starts, supervises.
pub struct Manager {
    shared: Arc<Shared>,
}

impl Manager {
    /// Looks at `<home>/plugins/portable`, starts what lies there in the background, and follows its changes
    /// from then on. A bad plugin is refused and stops nothing else.
    ///
    /// # Errors
    /// The folder cannot be made or read, or there is no private folder for sockets.
    pub async fn start(config: &Config, states: States, shutdown: CancellationToken) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(config, states, shutdown).await?);
        // Beside the plugins is where older hosts have made what they installed.
        for folder in [Some(&*shared.portable), shared.portable.parent()]
            .into_iter()
            .flatten()
        {
            let folder = folder.to_owned();
            match blocking(move || staging::clean(&folder)).await {
                Ok(stuck) => {
                    for stuck in stuck {
                        shared.bar(stuck.plugin.as_str(), stuck.reason).await;
                    }
                }
                Err(error) => tracing::warn!("cannot remove what an installation has left: {error}"),
            }
        }
        shared.remove_departed_settings().await;
        let reconciler = Reconciler::start(Arc::clone(&shared)).await?;
        shared.tasks.spawn(reconciler.run(shared.shutdown()));
        shared.tasks.spawn(Arc::clone(&shared).retry_tried());
        Ok(Self { shared })
    }

    /// All that the rest of the host may do with plugins.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Stops every process, all at the same time: SIGTERM, the grace, SIGKILL. Returns when they have ended.
    pub async fn shutdown(self) {
        self.shared.end();
        let limit = self.shared.settings.stop_grace + PATIENCE;
        if tokio::time::timeout(limit, self.shared.tasks.wait())
            .await
            .is_err()
        {
            let workers = self.shared.workers();
            let is_late = |remote: &Remote| {
                let others = remote.instances.others();
                let mut all = std::iter::once(remote).chain(others.values());
                all.any(|remote| !remote.requests.is_closed())
            };
            let late = workers.values().filter(|remote| is_late(remote));
            let late: Vec<&str> = late.map(|remote| remote.plugin.as_str()).collect();
            tracing::error!(
                "these plugins have not ended within {limit:?}: {}",
                late.join(", ")
            );
        }
    }
}
