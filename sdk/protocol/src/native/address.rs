//! Owns where a data channel is: an address of a `start` command, in which `*` stands for the host that the
//! plugin's own control channel leads to.

/// The address to dial. `address` is what `start` says, `control` what the plugin has dialled for its control
/// channel.
///
/// ```
/// use mangrove_protocol::native::address::resolve;
///
/// assert_eq!(resolve("tcp://*:40113", "tcp://10.0.0.5:7081"), "tcp://10.0.0.5:40113");
/// assert_eq!(resolve("tls+tcp://*:40113", "tls+tcp://[::1]:7081"), "tls+tcp://[::1]:40113");
/// assert_eq!(resolve("ipc:///run/7.ipc", "ipc:///run/1.ipc"), "ipc:///run/7.ipc");
/// ```
pub fn resolve(address: &str, control: &str) -> String {
    match address.split_once("://*:") {
        Some((scheme, port)) => match host(control) {
            Some(host) => format!("{scheme}://{host}:{port}"),
            None => address.to_owned(),
        },
        None => address.to_owned(),
    }
}

/// The host part of `tcp://host:port`, brackets of an IPv6 address included.
fn host(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once("://")?;
    let (host, _) = rest.rsplit_once(':')?;
    Some(host).filter(|host| !host.is_empty() && !host.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_without_a_host_to_stand_for_stays() {
        assert_eq!(resolve("tcp://*:1", "ipc:///a/b.ipc"), "tcp://*:1");
        assert_eq!(resolve("tcp://*:1", "nonsense"), "tcp://*:1");
        assert_eq!(resolve("nonsense", "tcp://a:1"), "nonsense");
    }
}
