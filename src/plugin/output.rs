//! Owns what a plugin's processes have said last on their standard output and error: a bounded number of
//! bounded lines, which survive the process. Every line also goes to whoever follows, and into the host's log
//! unless there are too many for that. The instances of a plugin have one such memory between them; each knows what
//! it has said last itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use mangrove_protocol::native::control::{Level, Log};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::broadcast;

use super::throttle::Throttle;

/// The longest line that is kept, in bytes; the rest of a longer one is cut.
const MAX_LINE: usize = 4096;

/// How many lines a slow follower may be behind before it misses the oldest.
const BEHIND: usize = 256;

/// How many lines of one plugin go into the host's log at once, and per second after that.
const BURST: u32 = 200;
const PER_SECOND: u32 = 50;

/// Which of its two outputs a process wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Neither: it told the host over its control channel.
    Log,
}

/// One line of a process.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was read.
    pub at: SystemTime,
    /// Where it was written to.
    pub stream: Stream,
    /// The line, without its end; cut when it was too long.
    pub text: String,
}

/// The last lines of a plugin, as one of its instances writes them.
#[derive(Debug)]
pub(super) struct Output {
    shared: Arc<Shared>,
    /// What this one has written last to standard error, and when.
    last_error: Mutex<Option<(SystemTime, String)>>,
}

#[derive(Debug)]
struct Shared {
    plugin: String,
    most: usize,
    lines: Mutex<VecDeque<Line>>,
    followers: broadcast::Sender<Line>,
    throttle: Mutex<Throttle>,
}

impl Output {
    /// Keeps at most `most` lines.
    pub(super) fn new(plugin: &str, most: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                plugin: plugin.to_owned(),
                most,
                lines: Mutex::default(),
                followers: broadcast::channel(BEHIND).0,
                throttle: Mutex::new(Throttle::new(BURST, PER_SECOND, Instant::now())),
            }),
            last_error: Mutex::default(),
        }
    }

    /// The same lines, as another instance writes them.
    pub(super) fn beside(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            last_error: Mutex::default(),
        }
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        self.lock().iter().cloned().collect()
    }

    /// The last lines, and every one after them.
    pub(super) fn replay(&self) -> (Vec<Line>, broadcast::Receiver<Line>) {
        let lines = self.lock();
        (lines.iter().cloned().collect(), self.shared.followers.subscribe())
    }

    /// The last line with something in it that was written to standard error since `since`.
    pub(super) fn last_error(&self, since: SystemTime) -> Option<String> {
        let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .filter(|(at, _)| *at >= since)
            .map(|(_, text)| text.clone())
    }

    /// Reads `from` until its end. A process that writes without end is read without end; nothing grows.
    pub(super) async fn follow(&self, stream: Stream, from: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        let mut cut = false;
        loop {
            let piece = match reader.fill_buf().await {
                Ok([]) => break,
                Ok(piece) => piece,
                Err(error) => {
                    tracing::debug!(plugin = self.shared.plugin, "its output cannot be read: {error}");
                    break;
                }
            };
            let end = piece.iter().position(|byte| *byte == b'\n');
            let text = &piece[..end.unwrap_or(piece.len())];
            let room = MAX_LINE - line.len();
            line.extend_from_slice(&text[..text.len().min(room)]);
            cut |= text.len() > room;
            let used = text.len() + usize::from(end.is_some());
            reader.consume(used);
            if end.is_some() {
                self.push(stream, &line, cut);
                line.clear();
                cut = false;
            }
        }
        if !line.is_empty() {
            self.push(stream, &line, cut);
        }
    }

    /// What the plugin, or one of its symbols, has to say.
    pub(super) fn say(&self, symbol: Option<&str>, said: &Log) {
        let mut text = match symbol {
            Some(symbol) => format!("{symbol}: {}", said.message),
            None => said.message.clone(),
        };
        for (name, value) in &said.fields {
            text.push_str(&format!(" {name}={value}"));
        }
        self.tell(said.level, &text);
    }

    /// The plugin broke the contract.
    pub(super) fn say_broken(&self, how: &str) {
        self.tell(Level::Warn, &format!("the contract was broken: {how}"));
    }

    fn tell(&self, level: Level, text: &str) {
        let cut = text.floor_char_boundary(MAX_LINE);
        let mut kept = text[..cut].replace('\n', " ");
        if cut < text.len() {
            kept.push('…');
        }
        if self.may_log() {
            let plugin = &self.shared.plugin;
            match level {
                Level::Trace => tracing::trace!(plugin, "{kept}"),
                Level::Debug => tracing::debug!(plugin, "{kept}"),
                Level::Info => tracing::info!(plugin, "{kept}"),
                Level::Warn => tracing::warn!(plugin, "{kept}"),
                Level::Error => tracing::error!(plugin, "{kept}"),
            }
        }
        let level = match level {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        self.keep(Stream::Log, format!("{level}: {kept}"));
    }

    fn push(&self, stream: Stream, line: &[u8], cut: bool) {
        let mut text = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
        if cut {
            text.push('…');
        }
        if self.may_log() {
            let plugin = &self.shared.plugin;
            let name = if stream == Stream::Stdout {
                "stdout"
            } else {
                "stderr"
            };
            tracing::info!(plugin, "{name}: {text}");
        }
        self.keep(stream, text);
    }

    fn keep(&self, stream: Stream, text: String) {
        let line = Line {
            at: SystemTime::now(),
            stream,
            text,
        };
        if stream == Stream::Stderr && !line.text.trim().is_empty() {
            let said = Some((line.at, line.text.trim().to_owned()));
            *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = said;
        }
        let most = self.shared.most;
        let mut lines = self.lock();
        if lines.len() >= most {
            lines.pop_front();
        }
        if most > 0 {
            lines.push_back(line.clone());
        }
        // Under the lock, so that all see the same order. Mostly nobody follows.
        let _unfollowed = self.shared.followers.send(line);
    }

    /// Whether there is room in the host's log.
    fn may_log(&self) -> bool {
        let allowed = {
            let mut throttle = self
                .shared
                .throttle
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            throttle.take(Instant::now())
        };
        let Some(left_out) = allowed else {
            return false;
        };
        let plugin = &self.shared.plugin;
        if left_out > 0 {
            tracing::warn!(plugin, "{left_out} lines of its output were left out here");
        }
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Line>> {
        self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(most: usize, bytes: &[u8]) -> Vec<String> {
        let output = Output::new("car", most);
        output.follow(Stream::Stderr, bytes).await;
        output.lines().into_iter().map(|line| line.text).collect()
    }

    #[tokio::test]
    async fn only_the_last_lines_are_kept() {
        assert_eq!(lines(2, b"a\nb\r\n\nlast").await, ["", "last"]);
        assert!(lines(0, b"a\n").await.is_empty());
    }

    #[tokio::test]
    async fn followers_see_every_line_even_those_that_are_not_kept() {
        let output = Output::new("car", 0);
        let (_, mut follower) = output.replay();
        output.follow(Stream::Stdout, b"a\nb".as_slice()).await;
        assert_eq!(follower.recv().await.unwrap().text, "a");
        assert_eq!(follower.recv().await.unwrap().text, "b");
    }

    #[tokio::test]
    async fn a_replay_begins_with_what_is_kept_and_goes_on_with_what_comes() {
        let output = Output::new("car", 8);
        output.follow(Stream::Stdout, b"one\n".as_slice()).await;
        let (kept, mut rest) = output.replay();
        assert_eq!(kept[0].text, "one");
        output.follow(Stream::Stdout, b"two\n".as_slice()).await;
        assert_eq!((kept.len(), rest.recv().await.unwrap().text.as_str()), (1, "two"));
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut() {
        let long = vec![b'x'; MAX_LINE * 100];
        let kept = lines(8, &[long.as_slice(), b"\nnext\n"].concat()).await;
        assert_eq!(kept[0].chars().count(), MAX_LINE + 1);
        assert_eq!(kept[1], "next");
    }

    #[tokio::test]
    async fn the_last_error_is_the_one_of_this_process() {
        let output = Output::new("car", 8);
        output
            .follow(Stream::Stderr, b"ValueError: no\n \n".as_slice())
            .await;
        output.follow(Stream::Stdout, b"hello\n".as_slice()).await;
        assert_eq!(
            output.last_error(SystemTime::UNIX_EPOCH).unwrap(),
            "ValueError: no"
        );
        let other = output.beside();
        assert_eq!(other.last_error(SystemTime::UNIX_EPOCH), None);
        assert_eq!(other.lines().len(), 3);
        let later = SystemTime::now() + std::time::Duration::from_secs(1);
        assert_eq!(output.last_error(later), None);
    }
}
