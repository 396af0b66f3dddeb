//! Downloads from a server that says what each test tells it to.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use testkit::within;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const LIMITS: Limits = Limits {
    size: 1000,
    connect: Duration::from_secs(30),
    idle: Duration::from_secs(30),
    total: Duration::from_secs(50),
};

/// An authority, and a certificate of a server that it has signed, as PEM.
struct Certificates {
    authority: String,
    server: String,
    key: Vec<u8>,
}

fn certificates(name: &str) -> Certificates {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = authority.self_signed(&key).unwrap();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new([name.to_owned()]).unwrap();
    Certificates {
        authority: certificate.pem(),
        server: server.signed_by(&key, &issuer).unwrap().pem(),
        key: key.serialize_der(),
    }
}

fn acceptor(certificates: &Certificates) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(certificates.server.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::try_from(certificates.key.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A server in the test. Dropped, it is gone.
struct Server {
    address: String,
    /// How each request began.
    requests: tokio::sync::mpsc::Receiver<String>,
    _tasks: JoinSet<()>,
}

/// Gives each connection the next of `answers`, and then the last one again and again.
async fn serve(answers: &[&[u8]], tls: Option<TlsAcceptor>) -> Server {
    let answers: Vec<Vec<u8>> = answers.iter().map(|answer| answer.to_vec()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (seen, requests) = tokio::sync::mpsc::channel(64);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream: Box<dyn Stream> = match &tls {
                None => Box::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => continue,
                },
            };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            seen.send(head.lines().next().unwrap().to_owned()).await.unwrap();
            // The client may hang up when it has seen enough.
            let _ = stream
                .write_all(answers.get(number).or(answers.last()).unwrap())
                .await;
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut [0]).await;
        }
    });
    Server {
        address,
        requests,
        _tasks: tasks,
    }
}

async fn fetched(url: &str, ca_file: Option<&Path>, limits: Limits) -> Result<Vec<u8>, DownloadError> {
    let kept = tempfile::NamedTempFile::new().unwrap();
    let mut file = tokio::fs::File::from_std(kept.reopen().unwrap());
    let sum = within(
        "the download",
        fetch(parse(url).unwrap(), ca_file, &mut file, limits),
    )
    .await?;
    let bytes = std::fs::read(kept.path()).unwrap();
    assert_eq!(sum, Checksum::of(&bytes));
    Ok(bytes)
}

/// The refusal of what a server answers, without its address.
async fn refusal(answer: &[u8], limits: Limits) -> String {
    let server = serve(&[answer], None).await;
    let url = format!("http://{}/car.zip?token=secret", server.address);
    let error = fetched(&url, None, limits).await.unwrap_err();
    let text = with_sources(&error);
    assert!(!text.contains("secret"), "{text}");
    text.replace(&server.address, "HOST")
}

#[test]
fn only_plain_http_and_https_urls_are_taken() {
    for url in ["http://h/x", "https://h:1/x.zip?a=b", "http://[::1]:80/"] {
        assert!(parse(url).is_some(), "{url}");
    }
    for url in [
        "ftp://h/x",
        "http:///x",
        "h/x",
        "http://u:p@h/x",
        "http://h h/",
        "https://",
        "",
    ] {
        assert!(parse(url).is_none(), "{url}");
    }
}

#[test]
fn redirections_lead_where_the_standard_says() {
    let base: Uri = "https://h:8/a/b.zip?q".parse().unwrap();
    for (location, expected) in [
        ("http://o/x", Some("http://o/x")),
        ("//o/x", Some("https://o/x")),
        ("/x?y", Some("https://h:8/x?y")),
        ("c.zip#part", Some("https://h:8/a/c.zip")),
        ("?r", Some("https://h:8/a/b.zip?r")),
        ("", None),
        ("file:///etc/passwd", None),
        ("javascript://x", None),
    ] {
        let resolved = resolve(&base, location).map(|uri| uri.to_string());
        assert_eq!(resolved.as_deref(), expected, "{location:?}");
    }
}

#[tokio::test]
async fn a_file_arrives_whole_over_redirections() {
    let moved = b"HTTP/1.1 302 Found\r\nlocation: /b/next.zip?x=1\r\ncontent-length: 0\r\n\r\n";
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let mut server = serve(&[moved, b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"], None).await;
    let url = format!("http://{}/a/car.zip?token=t", server.address);
    assert_eq!(fetched(&url, None, LIMITS).await.unwrap(), b"abc");
    assert_eq!(
        server.requests.recv().await.unwrap(),
        "GET /a/car.zip?token=t HTTP/1.1"
    );
    assert_eq!(
        server.requests.recv().await.unwrap(),
        "GET /b/next.zip?x=1 HTTP/1.1"
    );
    let server = serve(&[chunked], None).await;
    let url = format!("http://{}", server.address);
    assert_eq!(fetched(&url, None, LIMITS).await.unwrap(), b"abcde");
}

#[tokio::test]
async fn what_a_server_does_wrong_is_said() {
    for (answer, expected) in [
        (
            &b"HTTP/1.1 404 Not Found\r\n\r\n"[..],
            "http://HOST/car.zip is answered with 404 Not Found",
        ),
        (b"HTTP/1.1 302 Found\r\n\r\n", "answered with 302 Found"),
        (
            b"HTTP/1.1 302 Found\r\nlocation: ftp://x/y\r\n\r\n",
            "redirected to \"ftp://x/y\"; expected",
        ),
        (
            b"HTTP/1.1 302 Found\r\nlocation: /again\r\n\r\n",
            "redirected more than 5 times",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n",
            "more than 1000 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
            "the answer of HOST cannot be read",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the answer of HOST cannot be read"),
        (b"", "the answer of HOST cannot be read"),
    ] {
        let text = refusal(answer, LIMITS).await;
        assert!(text.contains(expected), "expected {expected:?}: {text}");
    }
    // More than it may be, without saying so before.
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![0; 5000]].concat();
    assert_eq!(refusal(&endless, LIMITS).await, "it has more than 1000 bytes");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let short = Duration::from_millis(20);
    let idle = Limits {
        idle: short,
        ..LIMITS
    };
    let error = fetched(&url, None, idle).await.unwrap_err();
    assert!(
        error.to_string().ends_with("took longer than 20ms to answer"),
        "{error}"
    );
    let total = Limits {
        total: short,
        ..LIMITS
    };
    let error = fetched(&url, None, total).await.unwrap_err();
    assert!(
        error.to_string().ends_with("20ms over the whole download"),
        "{error}"
    );
    // TLS is never answered either.
    let connect = Limits {
        connect: short,
        ..LIMITS
    };
    let error = fetched(&url.replace("http", "https"), None, connect)
        .await
        .unwrap_err();
    assert!(error.to_string().ends_with("20ms over the connection"), "{error}");
}

#[tokio::test]
async fn a_download_that_is_given_up_hangs_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut fetching = Box::pin(fetched(&url, None, LIMITS));
    let mut stream = tokio::select! {
        _ = &mut fetching => panic!("there is nothing to fetch"),
        accepted = listener.accept() => accepted.unwrap().0,
    };
    drop(fetching);
    within("the end", stream.read_to_end(&mut Vec::new()))
        .await
        .unwrap();
}

#[tokio::test]
async fn only_certificates_of_a_known_authority_are_trusted() {
    let certificates = certificates("localhost");
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
    let server = serve(&[answer], Some(acceptor(&certificates))).await;
    let url = format!("https://{}/", server.address.replace("127.0.0.1", "localhost"));
    let error = fetched(&url, None, LIMITS).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &certificates.authority).unwrap();
    assert_eq!(fetched(&url, Some(&ca_file), LIMITS).await.unwrap(), b"abc");
    // The certificate is for another name.
    let error = fetched(&format!("https://{}/", server.address), Some(&ca_file), LIMITS)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");

    for broken in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        std::fs::write(&ca_file, broken).unwrap();
        let error = fetched(&url, Some(&ca_file), LIMITS).await.unwrap_err();
        assert!(matches!(error, DownloadError::Authorities { .. }), "{error}");
    }
}

#[tokio::test]
async fn what_began_with_tls_never_goes_on_without() {
    let certificates = certificates("localhost");
    let open = serve(&[b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"], None).await;
    let moved = format!(
        "HTTP/1.1 301 Moved\r\nlocation: http://{}/x?key=k\r\n\r\n",
        open.address
    );
    let server = serve(&[moved.as_bytes()], Some(acceptor(&certificates))).await;
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &certificates.authority).unwrap();
    let url = format!("https://{}/", server.address.replace("127.0.0.1", "localhost"));
    let error = fetched(&url, Some(&ca_file), LIMITS).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "it is redirected from https to http://{}/x, where anybody could change it on its way",
            open.address
        )
    );
}
