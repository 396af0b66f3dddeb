//! Who is trusted over TLS and who is not, and peers that do not speak it.
#![cfg(feature = "tls")]
#![allow(missing_docs)]

mod support;

use sp_proto::{
    ClientAuth, DialError, EndpointOptions, ListenError, Pull, Push, SocketOptions, TlsAuthorities, TlsError,
    TlsIdentity, TlsOptions,
};
use std::error::Error;
use std::time::Duration;
use support::tls::Certificates;
use support::{bounded, peer_refused, pipe_added};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn with(tls: TlsOptions) -> SocketOptions {
    SocketOptions {
        tls,
        ..Default::default()
    }
}

/// A pull socket, and where it listens.
async fn pull(tls: TlsOptions) -> (Pull, String) {
    let pull = Pull::with_options(with(tls));
    let at = pull.listen("tls+tcp://127.0.0.1:0").await.unwrap();
    (pull, at.address)
}

/// The error with its causes.
fn told(error: &DialError) -> String {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

async fn arrives(push: &Push, pull: &Pull) {
    push.send("secret").await.unwrap();
    assert_eq!(&pull.recv().await.unwrap()[..], b"secret");
}

#[tokio::test]
async fn endpoints_of_one_socket_have_certificates_of_their_own() {
    bounded(async {
        let parts = [Certificates::new(), Certificates::new()];
        let own = |part: &Certificates| EndpointOptions {
            tls: Some(part.options()),
            ..Default::default()
        };
        let (pull, push) = (Pull::new(), Push::new());
        let mut addresses = Vec::new();
        for part in &parts {
            let at = pull
                .listen_with("tls+tcp://127.0.0.1:0", own(part))
                .await
                .unwrap();
            let dialed = push.dial_with(&at.address, own(part)).await.unwrap();
            arrives(&push, &pull).await;
            push.close_endpoint(dialed.id).await;
            addresses.push(at.address);
        }
        let error = push.dial_with(&addresses[0], own(&parts[1])).await.unwrap_err();
        assert!(matches!(error, DialError::Tls { .. }), "{error:?}");
        let error = push.dial(&addresses[0]).await.unwrap_err();
        assert!(told(&error).contains("authorities"), "{}", told(&error));
    })
    .await;
}

#[tokio::test]
async fn a_dialer_talks_only_to_whom_its_authorities_have_signed() {
    bounded(async {
        let (ours, strangers) = (Certificates::new(), Certificates::new());
        let (pull, address) = pull(strangers.options()).await;
        let mut events = pull.events();
        let push = Push::with_options(with(ours.options()));
        let error = push.dial(&address).await.unwrap_err();
        assert!(matches!(error, DialError::Tls { .. }), "{error:?}");
        assert!(
            told(&error).contains("invalid peer certificate"),
            "{}",
            told(&error)
        );
        assert!(
            peer_refused(&mut events)
                .await
                .contains("the TLS handshake failed")
        );

        let insecure = TlsOptions {
            insecure: true,
            ..Default::default()
        };
        let push = Push::with_options(with(insecure));
        push.dial(&address).await.unwrap();
        assert!(
            pipe_added(&mut events)
                .await
                .peer_address
                .starts_with("tls+tcp://127.0.0.1:")
        );
        arrives(&push, &pull).await;
    })
    .await;
}

#[tokio::test]
async fn the_certificate_must_have_the_name_that_was_dialed_or_said() {
    bounded(async {
        let certificates = Certificates::new();
        let (pull, address) = pull(certificates.options()).await;
        let named = |name: &str| {
            Push::with_options(with(TlsOptions {
                server_name: Some(name.to_owned()),
                ..certificates.options()
            }))
        };
        let error = named("example.org").dial(&address).await.unwrap_err();
        assert!(told(&error).contains("not valid for name"), "{}", told(&error));
        let error = named("no name").dial(&address).await.unwrap_err();
        assert!(
            told(&error).contains("no name that a certificate can have"),
            "{}",
            told(&error)
        );
        let push = named("localhost");
        push.dial(&address).await.unwrap();
        arrives(&push, &pull).await;
    })
    .await;
}

#[tokio::test]
async fn a_listener_lets_in_whom_it_trusts() {
    bounded(async {
        let (certificates, strangers) = (Certificates::new(), Certificates::new());
        let nobody = TlsOptions {
            authorities: certificates.authorities(),
            ..Default::default()
        };
        let stranger = TlsOptions {
            identity: Some(strangers.identity()),
            ..nobody.clone()
        };
        for (client_auth, dialer, welcome) in [
            (ClientAuth::None, nobody.clone(), true),
            (ClientAuth::None, stranger.clone(), true),
            (ClientAuth::Optional, nobody.clone(), true),
            (ClientAuth::Optional, stranger.clone(), false),
            (ClientAuth::Optional, certificates.options(), true),
            (ClientAuth::Required, nobody, false),
            (ClientAuth::Required, stranger, false),
            (ClientAuth::Required, certificates.options(), true),
        ] {
            let (pull, address) = pull(TlsOptions {
                client_auth,
                ..certificates.options()
            })
            .await;
            let mut events = pull.events();
            let push = Push::with_options(with(dialer));
            let dialed = push.dial(&address).await;
            assert_eq!(dialed.is_ok(), welcome, "{client_auth:?}: {dialed:?}");
            if welcome {
                arrives(&push, &pull).await;
            } else {
                let reason = peer_refused(&mut events).await;
                assert!(reason.contains("the TLS handshake failed"), "{reason}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_missing_is_named() {
    bounded(async {
        let certificates = Certificates::new();
        let listen = async |tls| match Pull::with_options(with(tls))
            .listen("tls+tcp://127.0.0.1:0")
            .await
        {
            Err(ListenError::Io { source, .. }) => source.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(
            listen(TlsOptions::default())
                .await
                .contains("`TlsOptions::identity`")
        );
        let blind = TlsOptions {
            identity: Some(certificates.identity()),
            client_auth: ClientAuth::Required,
            ..Default::default()
        };
        assert!(listen(blind).await.contains("`TlsOptions::authorities`"));
        let error = Push::new().dial("tls+tcp://127.0.0.1:9").await.unwrap_err();
        assert!(
            told(&error).contains("`TlsOptions::authorities`"),
            "{}",
            told(&error)
        );
    })
    .await;
}

#[test]
fn pem_that_is_none_is_refused_with_its_reason() {
    let certificates = Certificates::new();
    let other = Certificates::new();
    let (certificate, key) = (certificates.certificate.as_bytes(), certificates.key.as_bytes());
    let identity = |chain, key| TlsIdentity::from_pem(chain, key).unwrap_err();
    assert!(matches!(identity(b"nothing", key), TlsError::NoCertificate));
    assert!(
        identity(certificate, b"nothing")
            .to_string()
            .contains("the private key cannot be read")
    );
    let broken = b"-----BEGIN CERTIFICATE-----\nno base64!\n-----END CERTIFICATE-----\n";
    assert!(
        identity(broken, key)
            .to_string()
            .contains("the certificates cannot be read")
    );
    assert!(matches!(
        identity(certificate, other.key.as_bytes()),
        TlsError::Unusable(_)
    ));
    assert!(matches!(
        TlsAuthorities::from_pem(key),
        Err(TlsError::NoCertificate)
    ));
    assert_eq!(
        format!("{:?}", certificates.identity()),
        "TlsIdentity",
        "the key is not printed"
    );
}

#[tokio::test]
async fn strangers_to_tls_are_refused_and_keep_nobody_out() {
    bounded(async {
        let certificates = Certificates::new();
        let hasty = SocketOptions {
            handshake_timeout: Duration::from_millis(200),
            ..with(certificates.options())
        };
        let pull = Pull::with_options(hasty);
        let address = pull.listen("tls+tcp://127.0.0.1:0").await.unwrap().address;
        let mut events = pull.events();
        let host = address.strip_prefix("tls+tcp://").unwrap();
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0SP\0\0\x50\0\0", &[0xff; 4096]] {
            let mut stream = TcpStream::connect(host).await.unwrap();
            stream.write_all(garbage).await.unwrap();
            let reason = peer_refused(&mut events).await;
            assert!(reason.contains("the TLS handshake failed"), "{reason}");
            // An alert may come before the end.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        // One says nothing, one begins a record and stops.
        let silent = TcpStream::connect(host).await.unwrap();
        assert!(
            peer_refused(&mut events)
                .await
                .contains("did not greet within 200ms")
        );
        let mut slow = TcpStream::connect(host).await.unwrap();
        slow.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        assert!(
            peer_refused(&mut events)
                .await
                .contains("did not greet within 200ms")
        );
        drop((silent, slow));
        let push = Push::with_options(with(certificates.options()));
        push.dial(&address).await.unwrap();
        arrives(&push, &pull).await;

        let plain = Pull::new();
        let at = plain.listen("tcp://127.0.0.1:0").await.unwrap();
        let mut events = plain.events();
        let error = push.dial(&format!("tls+{}", at.address)).await.unwrap_err();
        assert!(matches!(error, DialError::Tls { .. }), "{error:?}");
        assert!(peer_refused(&mut events).await.contains("does not speak SP"));
    })
    .await;
}

#[tokio::test]
async fn both_ends_write_much_at_once() {
    bounded(async {
        let certificates = Certificates::new();
        let pair = || sp_proto::Pair::with_options(with(certificates.options()));
        let (left, right) = (pair(), pair());
        let at = left.listen("tls+tcp://127.0.0.1:0").await.unwrap();
        right.dial(&at.address).await.unwrap();
        let talk = async |pair: &sp_proto::Pair| {
            let send = async {
                for number in 0..20_u8 {
                    pair.send(vec![number; 1 << 20]).await.unwrap();
                }
            };
            let receive = async {
                for number in 0..20_u8 {
                    assert!(pair.recv().await.unwrap()[..] == vec![number; 1 << 20]);
                }
            };
            tokio::join!(send, receive);
        };
        tokio::join!(talk(&left), talk(&right));
    })
    .await;
}
