//! TLS over tcp: what users say about certificates, and the handshake.

use crate::transport::TcpTarget;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// What TLS is to know: `tls+tcp://` and `wss://`, listeners and dialers of one socket alike. TLS 1.2 and 1.3.
///
/// A dialer needs `authorities`, a listener needs an `identity`; certificates are those of
/// [rustls](https://docs.rs/rustls): X.509 version 3 with the name in the subject alternative names, and an
/// authority is not accepted as a server.
///
/// ```
/// use sp_proto::{Push, SocketOptions, TlsAuthorities, TlsError, TlsOptions};
///
/// fn secure_push(authority: &[u8]) -> Result<Push, TlsError> {
///     let tls = TlsOptions { authorities: TlsAuthorities::from_pem(authority)?, ..Default::default() };
///     Ok(Push::with_options(SocketOptions { tls, ..Default::default() }))
/// }
/// assert!(secure_push(b"no certificate").is_err());
/// ```
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Our certificate and its key. A listener needs one; a dialer shows it to a listener that asks. Default
    /// none.
    pub identity: Option<TlsIdentity>,
    /// Who must have signed the peer's certificate. Default nobody.
    pub authorities: TlsAuthorities,
    /// Listeners only: whether dialers must show a certificate. Default [`ClientAuth::None`].
    pub client_auth: ClientAuth,
    /// Dialers only: the name that the listener's certificate must have. Default `None`, the host of the address.
    pub server_name: Option<String>,
    /// Dialers only: talk to whoever answers, whatever its certificate. Whoever is in between can then read and
    /// change everything. Default `false`.
    pub insecure: bool,
}

/// Whether a listener asks for certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// It does not ask.
    #[default]
    None,
    /// It asks, lets those in who have none, and refuses those whose certificate is wrong.
    Optional,
    /// It refuses everybody without a right one.
    Required,
}

/// Why a text holds no certificates or no key that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// It is no PEM, or a part of it is none.
    #[error("the {what} cannot be read: {reason}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Why it was not found.
        reason: String,
    },
    /// There is PEM, but no certificate in it.
    #[error("there is no certificate in the PEM")]
    NoCertificate,
    /// A certificate or key is of a kind that is not supported, or they do not belong together.
    #[error("the certificate or its key cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// A certificate chain with the private key of its first certificate.
#[derive(Clone)]
pub struct TlsIdentity(Arc<CertifiedKey>);

impl TlsIdentity {
    /// Reads a chain, our own certificate first, and its key (PKCS #8, PKCS #1 or SEC 1), both as PEM.
    ///
    /// # Errors
    /// They cannot be read, or do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Pem {
            what: "private key",
            reason: error.to_string(),
        })?;
        let chain = certificates(chain)?;
        CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map(|certified| Self(Arc::new(certified)))
            .map_err(TlsError::Unusable)
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsIdentity")
    }
}

/// Authorities whose signature on a certificate is trusted.
#[derive(Clone)]
pub struct TlsAuthorities(Arc<RootCertStore>);

impl TlsAuthorities {
    /// Reads the certificates of the authorities from PEM.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn from_pem(authorities: &[u8]) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates(authorities)? {
            store.add(certificate).map_err(TlsError::Unusable)?;
        }
        Ok(Self(Arc::new(store)))
    }
}

impl Default for TlsAuthorities {
    fn default() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }
}

impl fmt::Debug for TlsAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsAuthorities({})", self.0.len())
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem {
            what: "certificates",
            reason: error.to_string(),
        })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    Ok(certificates)
}

/// The options of one socket, and the sessions of its dialers.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    options: TlsOptions,
    /// Made with the first dial. With one for each, no session could be resumed.
    client: OnceLock<Arc<ClientConfig>>,
}

impl From<TlsOptions> for Arc<Tls> {
    fn from(options: TlsOptions) -> Self {
        Self::new(Tls {
            options,
            client: OnceLock::new(),
        })
    }
}

/// One end of a handshake that is to come.
#[derive(Clone)]
pub(crate) enum Side {
    Dialer(Arc<ClientConfig>, ServerName<'static>),
    Listener(Arc<ServerConfig>),
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dialer(..) => "Dialer",
            Self::Listener(_) => "Listener",
        })
    }
}

impl Tls {
    pub(super) fn dialer(&self, target: &TcpTarget) -> io::Result<Side> {
        let name = match (&self.options.server_name, &target.host) {
            (Some(name), _) | (None, Some(name)) => name.as_str(),
            (None, None) => "localhost",
        };
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| unusable(format!("{name:?} is no name that a certificate can have")))?;
        let config = match self.client.get() {
            Some(config) => Arc::clone(config),
            None => {
                let made = self.client_config()?;
                // Another dialer may have been faster.
                Arc::clone(self.client.get_or_init(|| made))
            }
        };
        Ok(Side::Dialer(config, name))
    }

    fn client_config(&self) -> io::Result<Arc<ClientConfig>> {
        let options = &self.options;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = if options.insecure {
            let anybody = Arc::new(Anybody(provider()));
            builder.dangerous().with_custom_certificate_verifier(anybody)
        } else if options.authorities.0.is_empty() {
            return Err(unusable(
                "dialing with TLS needs `TlsOptions::authorities`".to_owned(),
            ));
        } else {
            builder.with_root_certificates(Arc::clone(&options.authorities.0))
        };
        let config = match &options.identity {
            Some(identity) => builder.with_client_cert_resolver(resolver(identity)),
            None => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }

    pub(super) fn listener(&self) -> io::Result<Side> {
        let options = &self.options;
        let needs = |what: &str| unusable(format!("listening with TLS needs `TlsOptions::{what}`"));
        let identity = options.identity.as_ref().ok_or_else(|| needs("identity"))?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let authorities = Arc::clone(&options.authorities.0);
        if options.client_auth != ClientAuth::None && authorities.is_empty() {
            return Err(needs("authorities` with its `client_auth"));
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider());
        let builder = match options.client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::Optional => builder.with_client_cert_verifier(
                verifier
                    .allow_unauthenticated()
                    .build()
                    .map_err(io::Error::other)?,
            ),
            ClientAuth::Required => {
                builder.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
            }
        };
        Ok(Side::Listener(Arc::new(
            builder.with_cert_resolver(resolver(identity)),
        )))
    }
}

impl Side {
    /// The handshake.
    pub(super) async fn open(self, stream: TcpStream) -> io::Result<Box<TlsStream<TcpStream>>> {
        let stream = match self {
            Self::Dialer(config, name) => TlsConnector::from(config).connect(name, stream).await?.into(),
            Self::Listener(config) => TlsAcceptor::from(config).accept(stream).await?.into(),
        };
        Ok(Box::new(stream))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn resolver(identity: &TlsIdentity) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(Arc::clone(&identity.0)))
}

fn unusable(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// Believes every certificate, as the user asked for; that the peer has its key is checked all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::HandshakeKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_dialer_that_comes_back_resumes_its_session() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pem = made.cert.pem();
        let tls = Arc::<Tls>::from(TlsOptions {
            identity: Some(
                TlsIdentity::from_pem(pem.as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap(),
            ),
            authorities: TlsAuthorities::from_pem(pem.as_bytes()).unwrap(),
            ..Default::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let target = TcpTarget {
            host: Some("localhost".to_owned()),
            port: at.port(),
        };
        let side = tls.listener().unwrap();
        for expected in [
            HandshakeKind::Full,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
        ] {
            let dial = async {
                let stream = TcpStream::connect(at).await.unwrap();
                let mut stream = tls.dialer(&target).unwrap().open(stream).await.unwrap();
                // The ticket comes before the first byte.
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
                stream.get_ref().1.handshake_kind()
            };
            let accept = async {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = side.clone().open(stream).await.unwrap();
                stream.write_all(b"x").await.unwrap();
                stream.flush().await.unwrap();
                stream
            };
            let (kind, _stream) = tokio::join!(dial, accept);
            assert_eq!(kind, Some(expected));
        }
    }
}
