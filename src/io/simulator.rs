//! The `simulator` source: messages from its configuration, at its pace, with eKuiper's properties.

use std::time::Duration;

use mangrove_protocol::Object;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Tuple;

/// The properties of its conf key.
#[derive(Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// The messages, sent one by one: a list of objects, or one object. Without it one that shows something, so
    /// that a stream of this source works with no file at all.
    data: Data,
    /// Milliseconds from one message to the next; 0 = as fast as the rule takes them.
    interval: u64,
    /// Whether to begin again after the last one.
    #[serde(rename = "loop")]
    repeat: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: Data::One(sample()),
            interval: 1000,
            repeat: true,
        }
    }
}

fn sample() -> Object {
    let reading = [("temperature", 22.5), ("humidity", 50.0)];
    reading
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Data {
    Many(Vec<Object>),
    One(Object),
}

pub(crate) struct Simulator {
    messages: Vec<Object>,
    next: usize,
    repeat: bool,
    /// `None`: no pause.
    pace: Option<Interval>,
}

impl Simulator {
    pub(super) fn open(config: Config) -> Result<Self, &'static str> {
        let messages = match config.data {
            Data::Many(messages) => messages,
            Data::One(message) => vec![message],
        };
        if messages.is_empty() {
            return Err("\"data\" is empty; expected an object or a list of objects");
        }
        let pace = (config.interval > 0).then(|| {
            let mut pace = interval(Duration::from_millis(config.interval));
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        Ok(Self {
            messages,
            next: 0,
            repeat: config.repeat,
            pace,
        })
    }

    /// Cancel safe: the position moves only once the pause is over.
    pub(super) async fn recv(&mut self) -> Option<Tuple> {
        let message = self.messages.get(self.next)?;
        match &mut self.pace {
            Some(pace) => {
                pace.tick().await;
            }
            // Without a pause nothing else here gives way to other tasks.
            None => tokio::task::coop::consume_budget().await,
        }
        let tuple = Tuple {
            message: message.clone().into(),
            meta: None,
        };
        self.next += 1;
        if self.repeat && self.next == self.messages.len() {
            self.next = 0;
        }
        Some(tuple)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn open(config: Value) -> Result<Simulator, &'static str> {
        Simulator::open(serde_json::from_value(config).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn messages_come_in_turn_and_begin_again() {
        let mut simulator = open(json!({"data": [{"n": 1}, {"n": 2}], "interval": 10})).unwrap();
        for expected in [1, 2, 1] {
            assert_eq!(
                simulator.recv().await.unwrap().message.into_object().unwrap()["n"],
                expected
            );
        }
    }

    #[tokio::test]
    async fn without_loop_it_ends() {
        let mut simulator = open(json!({"data": {"n": 1}, "interval": 0, "loop": false})).unwrap();
        assert!(simulator.recv().await.is_some());
        assert!(simulator.recv().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_interval_is_the_pause_between_two_messages() {
        let mut simulator = open(json!({"data": {"n": 1}, "interval": 250})).unwrap();
        let start = tokio::time::Instant::now();
        for _ in 0..5 {
            simulator.recv().await;
        }
        // Virtual time: the first comes at once.
        assert_eq!(start.elapsed(), Duration::from_millis(1000));
    }

    #[tokio::test]
    async fn without_a_configuration_it_sends_a_sample() {
        let sent = open(json!({})).unwrap().recv().await.unwrap();
        assert_eq!(sent.message.into_object().unwrap()["temperature"], 22.5);
    }

    #[test]
    fn no_data_is_refused() {
        assert!(open(json!({"data": [], "interval": 0})).is_err());
    }
}
