//! What is measured, and what it should reach.

/// One kind of traffic.
pub(super) struct Cell {
    /// As `spperf` has it: `thr` push to pull, one way; `lat` pair ping-pong; `rr` req/rep; `ctx:N` so many
    /// requests in flight together; `pub` pub to sub; `fan` push to many.
    pub(super) mode: &'static str,
    pub(super) transport: &'static str,
    /// Of each message, in bytes.
    pub(super) size: usize,
    /// At least so many times the rate of this peer.
    pub(super) targets: &'static [(&'static str, f64)],
}

impl Cell {
    pub(super) fn name(&self) -> String {
        format!("{}.{}.{}", self.mode, self.transport, self.size)
    }

    pub(super) fn unit(&self) -> &'static str {
        if self.child_begins() || self.mode == "fan" {
            "messages/s"
        } else {
            "round trips/s"
        }
    }

    /// Whether the first message comes from the dialing side: one way, the parent receives and measures; there
    /// and back, it asks.
    pub(super) fn child_begins(&self) -> bool {
        matches!(self.mode, "thr" | "pub")
    }
}

const fn cell(
    mode: &'static str,
    transport: &'static str,
    size: usize,
    targets: &'static [(&'static str, f64)],
) -> Cell {
    Cell {
        mode,
        transport,
        size,
        targets,
    }
}

pub(super) const CELLS: &[Cell] = &[
    cell("thr", "ipc", 64, &[("libzmq", 2.5)]),
    cell("thr", "tcp", 64, &[("libzmq", 1.4)]),
    cell("thr", "ipc", 1024, &[("libzmq", 3.5)]),
    cell("thr", "tcp", 1024, &[("libzmq", 3.5)]),
    cell("thr", "ipc", 16_384, &[("raw64", 0.85)]),
    cell("thr", "tcp", 16_384, &[("raw64", 0.85)]),
    cell("thr", "ipc", 1_048_576, &[("raw1", 0.85)]),
    cell("thr", "tcp", 1_048_576, &[("raw1", 0.85)]),
    cell("lat", "ipc", 64, &[("raw1", 0.8), ("nanomsg", 1.5), ("nng", 2.0)]),
    cell(
        "lat",
        "tcp",
        64,
        &[("raw1", 0.85), ("nanomsg", 1.5), ("nng", 2.0)],
    ),
    cell("rr", "ipc", 256, &[("raw1", 0.7), ("nanomsg", 1.4)]),
    cell("rr", "tcp", 256, &[("raw1", 0.85), ("nanomsg", 1.4)]),
    cell("ctx:64", "ipc", 256, &[("nng", 1.0), ("mangos", 1.0)]),
    cell("ctx:64", "tcp", 256, &[("nng", 1.0), ("mangos", 1.0)]),
    cell(
        "pub",
        "ipc",
        64,
        &[("libzmq", 1.0), ("nanomsg", 1.0), ("nng", 1.0)],
    ),
    cell(
        "pub",
        "tcp",
        64,
        &[("libzmq", 1.0), ("nanomsg", 1.0), ("nng", 1.0)],
    ),
];

/// sp-proto with another library, at least so many times the rate of that library with itself.
pub(super) const MIXED: f64 = 1.0;

/// One push socket with 1,000 pull peers, against the same with one.
pub(super) const FAN: &[Cell] = &[
    cell("fan", "ipc", 64, &[("one peer", 0.5)]),
    cell("fan", "tcp", 64, &[("one peer", 0.5)]),
];

/// The most resident memory that an idle pipe of a thousand may take, in bytes.
pub(super) const IDLE_PIPE: f64 = 16.0 * 1024.0;
