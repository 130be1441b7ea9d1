//! A certificate authority that exists for one test.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

/// A certificate authority made for one test. Clients trust it by [`TestCa::certificate_pem`].
pub struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    /// A new authority with a new key.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "every call makes another key, which a default should not"
    )]
    pub fn new() -> TestCa {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names, no mistake");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("ring makes keys");
        let issuer =
            CertifiedIssuer::self_signed(parameters, key).expect("a key signs its own certificate");
        TestCa { issuer }
    }

    /// The authority's certificate.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.issuer.pem()
    }

    /// The authority's certificate.
    #[must_use]
    pub fn certificate_der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A server's configuration with a fresh certificate for these names and addresses, HTTP/1.1 only.
    ///
    /// # Panics
    ///
    /// When a name is neither a DNS name nor an address.
    #[must_use]
    pub fn server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.certify(&parameters(names), nobody())
    }

    /// The same with a certificate that has expired long ago.
    ///
    /// # Panics
    ///
    /// When a name is neither a DNS name nor an address.
    #[must_use]
    pub fn expired_server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        let mut parameters = parameters(names);
        parameters.not_before = date_time_ymd(2001, 1, 1);
        parameters.not_after = date_time_ymd(2002, 1, 1);
        self.certify(&parameters, nobody())
    }

    /// Like [`TestCa::server_config`], for a server that wants a certificate of this authority from its
    /// clients.
    ///
    /// # Panics
    ///
    /// When a name is neither a DNS name nor an address.
    #[must_use]
    pub fn strict_server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.certificate_der())
            .expect("an authority's certificate");
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .expect("there is an authority");
        self.certify(&parameters(names), verifier)
    }

    /// A certificate for a server that is not ours, as files: names and addresses.
    ///
    /// # Panics
    ///
    /// When a name is neither a DNS name nor an address.
    #[must_use]
    pub fn server_certificate(&self, names: &[&str]) -> TestCertificate {
        self.issue(&parameters(names))
    }

    /// A certificate for a client of this name, valid for the years from the first to the last, both
    /// included.
    ///
    /// # Panics
    ///
    /// When the years are none of a calendar.
    #[must_use]
    pub fn client_certificate(&self, name: &str, years: (i32, i32)) -> TestCertificate {
        let mut parameters = parameters(&[]);
        parameters
            .distinguished_name
            .push(DnType::CommonName, name.to_owned());
        parameters.not_before = date_time_ymd(years.0, 1, 1);
        parameters.not_after = date_time_ymd(years.1, 12, 31);
        self.issue(&parameters)
    }

    fn issue(&self, parameters: &CertificateParams) -> TestCertificate {
        let key = KeyPair::generate().expect("ring makes keys");
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .expect("the authority signs");
        TestCertificate {
            certificate_pem: certificate.pem(),
            private_key_pem: key.serialize_pem(),
            certificate_der: certificate.der().clone(),
        }
    }

    fn certify(
        &self,
        parameters: &CertificateParams,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("ring makes keys");
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .expect("the authority signs");
        serving(
            vec![certificate.der().clone(), self.certificate_der()],
            &key,
            verifier,
        )
    }
}

/// A server's configuration with a certificate that nobody but itself has signed.
///
/// # Panics
///
/// When a name is neither a DNS name nor an address.
#[must_use]
pub fn self_signed_server_config(names: &[&str]) -> Arc<ServerConfig> {
    let key = KeyPair::generate().expect("ring makes keys");
    let certificate = parameters(names)
        .self_signed(&key)
        .expect("a key signs its own certificate");
    serving(vec![certificate.der().clone()], &key, nobody())
}

fn parameters(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    CertificateParams::new(names).unwrap_or_else(|error| panic!("not a name: {error}"))
}

/// Asks clients for nothing.
fn nobody() -> Arc<dyn ClientCertVerifier> {
    WebPkiClientVerifier::no_client_auth()
}

fn serving(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("key and certificate belong together");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct TestCertificate {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key.
    pub private_key_pem: String,
    /// The certificate.
    pub certificate_der: CertificateDer<'static>,
}

impl std::fmt::Debug for TestCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestCa").finish_non_exhaustive()
    }
}
