//! Owns how a package is fetched over http and https. Trusts no server: the size, the number of redirections
//! and every wait are bounded, and what has begun with TLS never goes on without. Knows nothing of plugins;
//! the installation drives it.
//!
//! Everything here is async, so an installation that is given up, or a host that stops, ends a download at
//! once. One connection per request; no proxy is asked, whatever the environment says.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header;
use hyper::http::uri::Scheme;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::causes::with_sources;
use super::checksum::{Checksum, Hasher};

/// The most redirections that are followed.
const MAX_REDIRECTS: usize = 5;

/// How much of a download may take how long, and how large it may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The whole file, bytes.
    pub(super) size: u64,
    /// For a connection, with TLS.
    pub(super) connect: Duration,
    /// Until the server answers, and between two pieces of the file.
    pub(super) idle: Duration,
    /// For all of it.
    pub(super) total: Duration,
}

/// Why a package could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The file of `portable.caFile`.
    #[error("the file of portable.caFile, {}, cannot be used: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection, or none that can be trusted.
    #[error("cannot connect to {host}: {source}")]
    Connect {
        /// The server.
        host: String,
        /// What the system or TLS says.
        source: io::Error,
    },
    /// What came is not http, or it ended early.
    #[error("the answer of {host} cannot be read: {}", with_sources(.source))]
    Http {
        /// The server.
        host: String,
        /// What is wrong.
        source: hyper::Error,
    },
    /// The server has no such file, or does not give it away.
    #[error("{url} is answered with {status}")]
    Status {
        /// Where it was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// Redirected without end.
    #[error("it is redirected more than {MAX_REDIRECTS} times")]
    Redirects,
    /// Redirected to where nobody can go.
    #[error("it is redirected to {location:?}; expected an http:// or https:// URL")]
    Location {
        /// What the server says, cut when it is long.
        location: String,
    },
    /// Redirected from https to http.
    #[error("it is redirected from https to {url}, where anybody could change it on its way")]
    Downgrade {
        /// Where to.
        url: String,
    },
    /// Larger than a package may be.
    #[error("it has more than {limit} bytes")]
    TooLarge {
        /// The limit, bytes.
        limit: u64,
    },
    /// The server is too slow.
    #[error("{host} took longer than {limit:?} {over}")]
    TimedOut {
        /// The server.
        host: String,
        /// What took so long.
        over: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// A file of this machine.
    #[error("it cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The host's own disk.
    #[error("cannot write what was fetched: {0}")]
    Write(#[source] io::Error),
}

/// Whether the URL is one that [`fetch`] takes.
pub(super) fn parse(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let is_http = uri.scheme() == Some(&Scheme::HTTP) || uri.scheme() == Some(&Scheme::HTTPS);
    // A password would end in logs.
    let has_password = uri.authority()?.as_str().contains('@');
    (is_http && !has_password && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

/// Fetches `url` into `file`. `ca_file` holds authorities beside the well-known ones.
///
/// # Cancel safety
/// The connection is closed when the future is dropped; what was written stays.
pub(super) async fn fetch(
    url: Uri,
    ca_file: Option<&Path>,
    file: &mut tokio::fs::File,
    limits: Limits,
) -> Result<Checksum, DownloadError> {
    let over = TimedOut {
        host: host(&url),
        over: "over the whole download",
        limit: limits.total,
    };
    over.wait(follow(url, ca_file, file, limits)).await?
}

async fn follow(
    mut url: Uri,
    ca_file: Option<&Path>,
    file: &mut tokio::fs::File,
    limits: Limits,
) -> Result<Checksum, DownloadError> {
    let tls = Arc::new(client_config(ca_file).await?);
    for _ in 0..=MAX_REDIRECTS {
        let (answer, connection) = get(&url, &tls, limits).await?;
        let status = answer.status();
        if status == StatusCode::OK {
            return save(answer, connection, &host(&url), file, limits).await;
        }
        let location = answer.headers().get(header::LOCATION);
        let Some(location) = location.filter(|_| is_redirect(status)) else {
            return Err(DownloadError::Status {
                url: shown(&url),
                status,
            });
        };
        let location = String::from_utf8_lossy(location.as_bytes());
        let next = resolve(&url, &location).ok_or_else(|| DownloadError::Location {
            location: location.chars().take(200).collect(),
        })?;
        if is_https(&url) && !is_https(&next) {
            return Err(DownloadError::Downgrade { url: shown(&next) });
        }
        url = next;
    }
    Err(DownloadError::Redirects)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn is_https(url: &Uri) -> bool {
    url.scheme() == Some(&Scheme::HTTPS)
}

/// Where `location`, which may be relative, leads from `base`.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    if location.contains("://") {
        return parse(location);
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if location.starts_with("//") {
        return parse(&format!("{scheme}:{location}"));
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = match location {
        "" => return None,
        path if path.starts_with('/') => path.to_owned(),
        query if query.starts_with('?') => format!("{}{query}", base.path()),
        path => format!("{folder}/{path}"),
    };
    parse(&format!("{scheme}://{authority}{path}"))
}

fn host(url: &Uri) -> String {
    url.authority().map(ToString::to_string).unwrap_or_default()
}

/// Without the query, which may hold a secret.
fn shown(url: &Uri) -> String {
    format!(
        "{}://{}{}",
        url.scheme_str().unwrap_or_default(),
        host(url),
        url.path()
    )
}

/// What is being waited for, and how long.
struct TimedOut {
    host: String,
    over: &'static str,
    limit: Duration,
}

impl TimedOut {
    async fn wait<F: Future>(self, future: F) -> Result<F::Output, DownloadError> {
        let Self { host, over, limit } = self;
        let waited = tokio::time::timeout(limit, future).await;
        waited.map_err(|_| DownloadError::TimedOut { host, over, limit })
    }
}

async fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, DownloadError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = ca_file {
        let refused = |reason: String| DownloadError::Authorities {
            path: path.to_owned(),
            reason,
        };
        let pem = tokio::fs::read(path)
            .await
            .map_err(|error| refused(error.to_string()))?;
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| refused(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| refused(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(refused("it holds no certificate in PEM".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| DownloadError::Connect {
        host: "any host".to_owned(),
        source: io::Error::other(error),
    })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The task that reads and writes a connection. Dropped: the connection is closed.
type Connection = JoinSet<()>;

async fn get(
    url: &Uri,
    tls: &Arc<ClientConfig>,
    limits: Limits,
) -> Result<(Response<Incoming>, Connection), DownloadError> {
    let connecting = TimedOut {
        host: host(url),
        over: "over the connection",
        limit: limits.connect,
    };
    let stream = connecting.wait(connect(url, tls)).await?;
    let stream = stream.map_err(|source| DownloadError::Connect {
        host: host(url),
        source,
    })?;
    let answering = TimedOut {
        host: host(url),
        over: "to answer",
        limit: limits.idle,
    };
    let answer = answering.wait(ask(url, stream)).await?;
    answer.map_err(|source| DownloadError::Http {
        host: host(url),
        source,
    })
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(url: &Uri, tls: &Arc<ClientConfig>) -> io::Result<Box<dyn Stream>> {
    let name = url.host().unwrap_or_default();
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_u16().unwrap_or(if is_https(url) { 443 } else { 80 });
    let stream = TcpStream::connect((name.as_str(), port)).await?;
    if !is_https(url) {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
    Ok(Box::new(stream))
}

async fn ask(url: &Uri, stream: Box<dyn Stream>) -> hyper::Result<(Response<Incoming>, Connection)> {
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = JoinSet::new();
    connection.spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!("the connection of a download: {error}");
        }
    });
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    let headers = request.headers_mut();
    if let Ok(host) = host(url).parse() {
        headers.insert(header::HOST, host);
    }
    let agent = concat!("mangrove/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, header::HeaderValue::from_static(agent));
    let answer = sender.send_request(request).await?;
    Ok((answer, connection))
}

/// Reads the whole body. The size that the server promises is only believed when it is too large.
async fn save(
    answer: Response<Incoming>,
    connection: Connection,
    host: &str,
    file: &mut tokio::fs::File,
    limits: Limits,
) -> Result<Checksum, DownloadError> {
    let too_large = || DownloadError::TooLarge { limit: limits.size };
    let mut body = answer.into_body();
    if body.size_hint().lower() > limits.size {
        return Err(too_large());
    }
    let mut hasher = Hasher::default();
    let mut size = 0;
    loop {
        let waiting = TimedOut {
            host: host.to_owned(),
            over: "to send the next piece",
            limit: limits.idle,
        };
        let Some(frame) = waiting.wait(body.frame()).await? else {
            break;
        };
        let frame = frame.map_err(|source| DownloadError::Http {
            host: host.to_owned(),
            source,
        })?;
        let Ok(piece) = frame.into_data() else { continue };
        size += piece.len() as u64;
        if size > limits.size {
            return Err(too_large());
        }
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(DownloadError::Write)?;
    }
    file.flush().await.map_err(DownloadError::Write)?;
    drop(connection);
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests;
