//! Owns the ipc addresses of the channels, which the published SDKs fix.

use crate::name::{OpId, PluginName, RuleId, SymbolName};

/// The longest path of an ipc socket, in bytes: what `sockaddr_un` holds less its closing zero.
pub const MAX_PATH_LEN: usize = 107;

/// The folder that the published SDKs have fixed.
const FOLDER: &str = "/tmp";

/// An ipc address whose path would not fit into a socket address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the socket path {path:?} has {} bytes; at most {MAX_PATH_LEN} fit: use shorter names", path.len())]
pub struct AddressTooLong {
    /// The path, without `ipc://`.
    pub path: String,
}

/// The control channel of a plugin: the host listens as rep, the plugin dials as req.
///
/// # Errors
/// The path does not fit into a socket address.
pub fn control(plugin: &PluginName) -> Result<String, AddressTooLong> {
    ipc(format!("{FOLDER}/plugin_{plugin}.ipc"))
}

/// The data channel of one use of a source (the host listens as pull) or of a sink (the plugin listens as
/// pull).
///
/// # Errors
/// The path does not fit into a socket address.
pub fn data(rule: &RuleId, op: &OpId, instance: u32) -> Result<String, AddressTooLong> {
    ipc(format!("{FOLDER}/{rule}_{op}_{instance}.ipc"))
}

/// The acknowledgements of one use of a sink: the host listens as pull, the plugin dials as push.
///
/// # Errors
/// The path does not fit into a socket address.
pub fn acknowledgements(rule: &RuleId, op: &OpId, instance: u32) -> Result<String, AddressTooLong> {
    ipc(format!("{FOLDER}/{rule}_{op}_{instance}_ack.ipc"))
}

/// The channel of a function: the host listens as rep, the plugin dials as req.
///
/// # Errors
/// The path does not fit into a socket address.
pub fn function(symbol: &SymbolName) -> Result<String, AddressTooLong> {
    ipc(format!("{FOLDER}/func_{symbol}.ipc"))
}

fn ipc(path: String) -> Result<String, AddressTooLong> {
    if path.len() > MAX_PATH_LEN {
        Err(AddressTooLong { path })
    } else {
        Ok(format!("ipc://{path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_the_sdks_dial() {
        assert_eq!(
            control(&"car".parse().unwrap()).unwrap(),
            "ipc:///tmp/plugin_car.ipc"
        );
        assert_eq!(
            function(&"rank".parse().unwrap()).unwrap(),
            "ipc:///tmp/func_rank.ipc"
        );
        let (rule, op) = ("rule1".parse().unwrap(), "op1".parse().unwrap());
        assert_eq!(data(&rule, &op, 0).unwrap(), "ipc:///tmp/rule1_op1_0.ipc");
        assert_eq!(
            acknowledgements(&rule, &op, 0).unwrap(),
            "ipc:///tmp/rule1_op1_0_ack.ipc"
        );
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused_with_its_length() {
        let (rule, op) = ("r".repeat(60).parse().unwrap(), "o".repeat(60).parse().unwrap());
        let error = data(&rule, &op, 0).unwrap_err();
        assert!(
            error.to_string().contains("has 132 bytes; at most 107 fit"),
            "{error}"
        );
    }
}
