//! The source `udp`: JSON datagrams, each an object or an array of objects.

use std::net::SocketAddr;

use mangrove_sdk::{Context, Object, Output, Result, Source, Tuple, Value};
use serde::Deserialize;
use serde_json::json;
use tokio::net::UdpSocket;

/// The largest datagram that UDP can carry, in bytes.
const MAX_DATAGRAM: usize = 65_535;

pub(crate) struct Udp {
    socket: UdpSocket,
}

#[derive(Deserialize)]
pub(crate) struct Config {
    /// Where to listen; without it the stream's `DATASOURCE` says it.
    address: Option<String>,
}

impl Source for Udp {
    type Config = Config;

    async fn open(data_source: String, config: Config, _: &Context) -> Result<Self> {
        let address = config.address.unwrap_or(data_source);
        if address.is_empty() {
            return Err("no address: expected \"address\" in the conf key or as DATASOURCE".into());
        }
        let socket = UdpSocket::bind(&address)
            .await
            .map_err(|error| format!("cannot listen at {address:?}: {error}"))?;
        Ok(Self { socket })
    }

    async fn run(self, output: Output, context: Context) -> Result {
        context
            .until_cancelled(self.receive(&output))
            .await
            .unwrap_or(Ok(()))
    }
}

impl Udp {
    async fn receive(self, output: &Output) -> Result {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let (len, peer) = self.socket.recv_from(&mut buffer).await?;
            let datagram = buffer.get(..len).unwrap_or_default();
            match read(datagram) {
                Ok(messages) => {
                    for message in messages {
                        output.send(Tuple::from(message).with_meta(&meta(peer))?).await?;
                    }
                }
                Err(error) => output.report(format!("a datagram from {peer}: {error}")).await?,
            }
        }
    }
}

fn meta(peer: SocketAddr) -> Value {
    json!({ "peer": peer.to_string() })
}

fn read(datagram: &[u8]) -> Result<Vec<Object>> {
    match serde_json::from_slice(datagram) {
        Ok(Value::Object(object)) => Ok(vec![object]),
        Ok(Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::Object(object) => Ok(object),
                other => Err(format!("expected an array of objects; it holds {other}").into()),
            })
            .collect(),
        Ok(other) => Err(format!("expected an object or an array of objects, found {other}").into()),
        Err(error) => Err(format!("expected JSON: {error}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mangrove_sdk::testing;

    #[test]
    fn objects_and_arrays_of_objects_are_read() {
        assert_eq!(read(br#"{"a":1}"#).unwrap().len(), 1);
        assert_eq!(read(br#"[{"a":1},{"a":2}]"#).unwrap().len(), 2);
        for bad in [&b"[1]"[..], b"7", b"", b"{\"a\":", b"\xff"] {
            assert!(read(bad).is_err(), "{bad:?} was read");
        }
    }

    #[tokio::test]
    async fn datagrams_become_tuples_and_malformed_ones_errors() {
        let context = testing::context();
        let config = Config { address: None };
        let source = Udp::open("127.0.0.1:0".to_owned(), config, &context)
            .await
            .unwrap();
        let address = source.socket.local_addr().unwrap();
        let (output, mut sent) = testing::output(8);
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let test = async {
            peer.send_to(br#"{"speed":30}"#, address).await.unwrap();
            let tuple = sent.recv().await.unwrap().unwrap();
            assert_eq!(tuple.message()["speed"], 30);
            assert_eq!(tuple.meta()["peer"], peer.local_addr().unwrap().to_string());
            peer.send_to(b"nope", address).await.unwrap();
            let error = sent.recv().await.unwrap().unwrap_err();
            assert!(error.contains("expected JSON"), "{error}");
            // An error is not the end.
            peer.send_to(br#"{"speed":31}"#, address).await.unwrap();
            assert_eq!(sent.recv().await.unwrap().unwrap().message()["speed"], 31);
            context.cancellation().cancel();
        };
        let (result, ()) = tokio::join!(source.run(output, context.clone()), test);
        result.unwrap();
    }

    #[tokio::test]
    async fn an_address_is_needed_and_named_when_it_is_wrong() {
        let open = |data_source: &str| {
            let data_source = data_source.to_owned();
            async move {
                let opened = Udp::open(data_source, Config { address: None }, &testing::context()).await;
                opened.err().unwrap().to_string()
            }
        };
        assert!(open("").await.contains("no address"));
        assert!(open("not an address").await.contains("\"not an address\""));
    }
}
