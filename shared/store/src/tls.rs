//! Knowing PostgreSQL by its certificate, where the URL asks for TLS.
//!
//! `sslmode=require` and `sslmode=verify-full` mean the same here: the connection is encrypted, and the certificate is checked
//! with the host's name and an authority. libpq's `require` checks nothing, so whoever stands in between can read along;
//! there is no way to ask for that. Without either, connections are not encrypted.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::StoreError;

/// Whose certificates are believed, and which one is shown. Only for URLs that ask for TLS.
#[derive(Clone, Default)]
pub struct DatabaseTls {
    /// Authorities, as PEM; the system's if there are none.
    pub authorities_pem: Option<Vec<u8>>,
    /// A certificate to show, and its key, as PEM.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// What connections are encrypted with, if the URL wants them to be.
pub(crate) fn connector(
    url: &Config,
    tls: &DatabaseTls,
) -> Result<Option<MakeRustlsConnect>, StoreError> {
    if url.get_ssl_mode() != SslMode::Require {
        return match (&tls.authorities_pem, &tls.identity_pem) {
            (None, None) => Ok(None),
            _ => Err(StoreError::Tls(
                "the URL must have sslmode=require or sslmode=verify-full, as there are files for TLS",
            )),
        };
    }
    let mut roots = RootCertStore::empty();
    match &tls.authorities_pem {
        Some(pem) => {
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|_| AUTHORITIES)?;
            }
        }
        None => {
            // What of it cannot be read is not believed.
            let known = rustls_native_certs::load_native_certs().certs;
            roots.add_parsable_certificates(known);
        }
    }
    if roots.is_empty() {
        return Err(AUTHORITIES);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows the usual versions")
        .with_root_certificates(roots);
    let mut config = match &tls.identity_pem {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| IDENTITY)?;
            config
                .with_client_auth_cert(certificates(certificate)?, key)
                .map_err(|_| IDENTITY)?
        }
    };
    // A server that is spoken to in TLS from the first byte on insists on it (sslnegotiation=direct).
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Some(MakeRustlsConnect::new(config)))
}

const AUTHORITIES: StoreError =
    StoreError::Tls("there is no certificate authority to check PostgreSQL's certificate with");
const IDENTITY: StoreError =
    StoreError::Tls("the certificate to show and its key must be PEM, and belong together");

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| StoreError::Tls("a file of certificates is not PEM"))
}
