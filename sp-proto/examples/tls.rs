//! Both ends show a certificate, and a stranger is turned away. The authority is made on the spot; a real one
//! signs elsewhere and keeps its key.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sp_proto::{ClientAuth, DialError, Pair, SocketOptions, TlsAuthorities, TlsIdentity, TlsOptions};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// What one end needs: a certificate in the name of `name`, and whom to trust.
    fn options(&self, name: &str) -> anyhow::Result<SocketOptions> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([name.to_owned()])?.signed_by(&key, &self.0)?;
        let identity = TlsIdentity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())?;
        Ok(SocketOptions {
            tls: TlsOptions {
                identity: Some(identity),
                authorities: TlsAuthorities::from_pem(self.0.pem().as_bytes())?,
                client_auth: ClientAuth::Required,
                ..Default::default()
            },
            ..Default::default()
        })
    }
}

pub(crate) async fn run() -> anyhow::Result<()> {
    let (ours, theirs) = (Authority::new()?, Authority::new()?);
    let server = Pair::with_options(ours.options("localhost")?);
    let address = server.listen("tls+tcp://localhost:0").await?.address;

    let stranger = Pair::with_options(theirs.options("stranger")?);
    match stranger.dial(&address).await {
        Err(error @ DialError::Tls { .. }) => println!("a stranger: {:#}", anyhow::Error::new(error)),
        other => anyhow::bail!("expected a refusal, found {other:?}"),
    }

    let client = Pair::with_options(ours.options("client")?);
    client.dial(&address).await?;
    client.send("nobody else reads this").await?;
    let message = server.recv().await?;
    println!("the client: {}", String::from_utf8_lossy(&message));
    assert_eq!(message.as_bytes(), b"nobody else reads this");
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}
