//! The `memory` source and sink: topics inside of this host, for rules that feed rules.
//!
//! Topics have levels parted by `/`; a subscription may hold the wildcards `+` (one level) and, at its end,
//! `#` (any number of levels). A publisher waits while a subscription is full, so back-pressure goes from rule
//! to rule; a rule that reads the topic which it writes can therefore wait for itself.

use std::sync::{Arc, Mutex, PoisonError};

use mangrove_protocol::{Fields, Object};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::Tuple;

/// The topics of a host.
#[derive(Default)]
pub(crate) struct Hub {
    subscribers: Mutex<Vec<Subscriber>>,
}

struct Subscriber {
    filter: TopicFilter,
    queue: mpsc::Sender<Tuple>,
}

/// The properties of a memory source's conf key.
#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SourceConfig {
    /// Messages that wait for the rule before publishers wait too.
    buffer_length: usize,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self { buffer_length: 1024 }
    }
}

/// The properties of a memory action.
#[derive(Deserialize)]
pub(crate) struct SinkConfig {
    topic: Option<String>,
}

/// Why a topic cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TopicError {
    #[error("the topic is missing; expected text such as \"devices/result\"")]
    Missing,
    #[error("the topic {0:?} has a wildcard that is not a whole level; '#' may only be the last one")]
    Wildcard(String),
    #[error("\"bufferLength\" is 0; expected at least 1")]
    NoBuffer,
}

/// A source's end of a topic.
pub(crate) struct Subscription {
    queue: mpsc::Receiver<Tuple>,
}

/// A sink's end of a topic.
pub(crate) struct Publisher {
    hub: Arc<Hub>,
    topic: String,
}

impl Hub {
    /// Subscribes to `topic`, which may hold wildcards.
    pub(crate) fn subscribe(&self, topic: &str, config: SourceConfig) -> Result<Subscription, TopicError> {
        if config.buffer_length == 0 {
            return Err(TopicError::NoBuffer);
        }
        let filter = TopicFilter::parse(topic)?;
        let (sender, queue) = mpsc::channel(config.buffer_length);
        self.with_subscribers(|subscribers| {
            subscribers.push(Subscriber {
                filter,
                queue: sender,
            });
        });
        Ok(Subscription { queue })
    }

    /// A sink's end of the topic that its action names.
    pub(crate) fn publisher(self: &Arc<Self>, config: SinkConfig) -> Result<Publisher, TopicError> {
        let topic = config
            .topic
            .filter(|topic| !topic.is_empty())
            .ok_or(TopicError::Missing)?;
        if topic.contains(['+', '#']) {
            return Err(TopicError::Wildcard(topic));
        }
        Ok(Publisher {
            hub: self.clone(),
            topic,
        })
    }

    /// Those whose source was closed are forgotten on the way.
    fn with_subscribers<T>(&self, act: impl FnOnce(&mut Vec<Subscriber>) -> T) -> T {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        act(&mut subscribers)
    }
}

impl Subscription {
    /// Cancel safe.
    pub(super) async fn recv(&mut self) -> Option<Tuple> {
        self.queue.recv().await
    }
}

impl Publisher {
    pub(crate) async fn publish(&self, message: &Fields) {
        let queues: Vec<_> = self.hub.with_subscribers(|subscribers| {
            subscribers
                .iter()
                .filter(|s| s.filter.matches(&self.topic))
                .map(|s| s.queue.clone())
                .collect()
        });
        // By itself: in a queue it may wait for long, and not all that it came with need to be kept as long.
        let message = message.clone().detached();
        for queue in queues {
            let meta = Object::from_iter([("topic".to_owned(), Value::from(self.topic.as_str()))]);
            // A subscription that was closed meanwhile wants nothing any more.
            let _closed = queue
                .send(Tuple {
                    message: message.clone(),
                    meta: Some(Box::new(meta)),
                })
                .await;
        }
    }
}

/// The topics that a subscription wants.
#[derive(Debug)]
struct TopicFilter {
    levels: Vec<String>,
}

impl TopicFilter {
    fn parse(topic: &str) -> Result<Self, TopicError> {
        if topic.is_empty() {
            return Err(TopicError::Missing);
        }
        let levels: Vec<String> = topic.split('/').map(str::to_owned).collect();
        let last = levels.len() - 1;
        let bad = |(place, level): (usize, &String)| {
            level.len() > 1 && level.contains(['+', '#']) || level == "#" && place != last
        };
        if levels.iter().enumerate().any(bad) {
            return Err(TopicError::Wildcard(topic.to_owned()));
        }
        Ok(Self { levels })
    }

    fn matches(&self, topic: &str) -> bool {
        let mut wanted = self.levels.iter();
        for level in topic.split('/') {
            match wanted.next().map(String::as_str) {
                Some("#") => return true,
                Some("+") => {}
                Some(text) if text == level => {}
                _ => return false,
            }
        }
        // `a/#` also means `a` itself.
        matches!(wanted.next().map(String::as_str), None | Some("#"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_mqtt() {
        let matches = |filter: &str, topic| TopicFilter::parse(filter).unwrap().matches(topic);
        assert!(matches("a/b", "a/b"));
        assert!(!matches("a/b", "a"));
        assert!(!matches("a/b", "a/b/c"));
        assert!(matches("a/+/c", "a/b/c"));
        assert!(!matches("a/+", "a/b/c"));
        assert!(matches("a/#", "a/b/c"));
        assert!(matches("a/#", "a"));
        assert!(matches("#", "a/b"));
    }

    #[test]
    fn misplaced_wildcards_and_empty_topics_are_refused() {
        for topic in ["a/#/b", "a/b#", "a+/b"] {
            assert_eq!(
                TopicFilter::parse(topic).unwrap_err(),
                TopicError::Wildcard(topic.to_owned())
            );
        }
        assert_eq!(TopicFilter::parse("").unwrap_err(), TopicError::Missing);
        let hub = Arc::new(Hub::default());
        let wild = SinkConfig {
            topic: Some("a/+".to_owned()),
        };
        assert!(matches!(hub.publisher(wild), Err(TopicError::Wildcard(_))));
    }

    #[tokio::test]
    async fn a_publisher_reaches_each_matching_subscription_with_the_topic_as_meta() {
        let hub = Arc::new(Hub::default());
        let mut all = hub.subscribe("cars/#", SourceConfig::default()).unwrap();
        let mut other = hub.subscribe("bikes", SourceConfig::default()).unwrap();
        let publisher = hub
            .publisher(SinkConfig {
                topic: Some("cars/red".to_owned()),
            })
            .unwrap();
        publisher
            .publish(&Object::from_iter([("n".to_owned(), Value::from(1))]).into())
            .await;
        let tuple = all.recv().await.unwrap();
        assert_eq!(
            (
                &tuple.message.into_object().unwrap()["n"],
                &tuple.meta.unwrap()["topic"]
            ),
            (&Value::from(1), &Value::from("cars/red"))
        );
        assert!(other.queue.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_full_subscription_holds_the_publisher_and_a_closed_one_does_not() {
        let hub = Arc::new(Hub::default());
        let subscription = hub.subscribe("t", SourceConfig { buffer_length: 1 }).unwrap();
        let publisher = hub
            .publisher(SinkConfig {
                topic: Some("t".to_owned()),
            })
            .unwrap();
        publisher.publish(&Fields::default()).await;
        let message = Fields::default();
        let mut second = std::pin::pin!(publisher.publish(&message));
        assert!(
            poll_once(second.as_mut()).await.is_none(),
            "the queue of one took two"
        );
        drop(subscription);
        second.await;
    }

    /// Polls once: `None` while pending.
    async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match future.as_mut().poll(cx) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
