//! Websockets (RFC 6455) as far as SP uses them: the upgrade from HTTP/1.1, and messages in frames.

mod frame;
mod upgrade;

pub use frame::{Control, FrameKind, Role, WebSocketDecoder, WebSocketError, encode_header, mask};
pub use upgrade::{
    HEAD_MAX, UpgradeError, UpgradeRequest, accept_upgrade, check_upgrade, refuse_upgrade, request_upgrade,
};
