//! Owns the settings of a plugin's process.

use std::time::Duration;

use sp_proto::SocketOptions;

/// Settings of a plugin's process. The defaults suit nearly every plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// eKuiper's contract only: an idle channel shakes hands again after this long, so that both ends know that the
    /// other is there. 5 s.
    pub keep_alive: Duration,
    /// The process ends when it has not reached its host for this long. 30 s.
    pub host_timeout: Duration,
    /// How long a symbol that was asked to stop may take; then it is dropped. At most three quarters of the time that
    /// the host gives. 2 s.
    pub stop_grace: Duration,
    /// How long an answer or an acknowledgement may wait until the host takes it. The host says it when it starts
    /// the process (`sendTimeout`), otherwise 1 s. Tuples of sources have no such limit: they wait.
    pub send_timeout: Duration,
    /// Tuples that a source may send ahead of the host, on top of what the sockets hold; at most 1 MiB of them. 2048.
    pub source_queue: usize,
    /// Messages that the host may send ahead of a sink, on top of what the system's buffers hold. 64.
    pub sink_queue: usize,
    /// Calls of one function that may wait for something at the same time; more begin when one of them is done. 4096.
    pub calls: usize,
    /// The largest message that is accepted from the host, in bytes; 0 = no limit. 64 MiB.
    pub max_message: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            host_timeout: Duration::from_secs(30),
            stop_grace: Duration::from_secs(2),
            send_timeout: Duration::from_secs(1),
            source_queue: 2048,
            sink_queue: 64,
            calls: 4096,
            max_message: 64 * 1024 * 1024,
        }
    }
}

impl Options {
    /// For a socket whose sends wait for ever.
    pub(crate) fn socket(&self) -> SocketOptions {
        SocketOptions {
            recv_max_size: self.max_message,
            recv_queue: self.sink_queue,
            send_timeout: None,
            recv_timeout: None,
            resend_time: None,
            // A source is to be held up soon after its host.
            send_queue_bytes: 512 * 1024,
            // A host that is started again should not be kept waiting.
            reconnect_max: Duration::from_secs(1),
            linger: self.stop_grace,
            ..SocketOptions::default()
        }
    }

    /// For a socket that carries answers, which are worth nothing when they come too late.
    pub(crate) fn answering_socket(&self) -> SocketOptions {
        SocketOptions {
            send_timeout: Some(self.send_timeout),
            ..self.socket()
        }
    }
}
