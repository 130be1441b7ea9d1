//! TLS between dispatcher and endpoint, inside the tunnel: the proxy sees ciphertext.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use uuid::Uuid;
use zyven_domain::credential::ClientCertificate;
use zyven_domain::retry::FailureKind;

use super::failure::Failure;

/// Why the file of further authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read, or is not PEM.
    #[error("could not read certificates from {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// It holds something that is no authority's certificate.
    #[error("certificate {number} in {} cannot be trusted", path.display())]
    Untrustable {
        /// The file.
        path: PathBuf,
        /// Position in the file, from 1.
        number: usize,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// It holds no certificate.
    #[error("there is no certificate in {}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// What a dispatcher shows in the name of one endpoint.
pub(crate) struct Identity {
    /// The credential it is.
    pub(super) id: Uuid,
    pub(super) connector: TlsConnector,
}

/// Whom the dispatcher trusts: Mozilla's authorities and those in a file.
pub(super) struct Trust(Arc<RootCertStore>);

impl Trust {
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        if let Some(path) = ca_file {
            add_authorities(&mut roots, path)?;
        }
        Ok(Self(Arc::new(roots)))
    }

    /// A connector that shows no certificate.
    pub(super) fn anonymous(&self) -> TlsConnector {
        connector(self.builder().with_no_client_auth())
    }

    /// What shows this certificate. Sessions are resumed within it alone: the store of tickets is a
    /// configuration's own.
    pub(super) fn identity(
        &self,
        id: Uuid,
        certificate: &ClientCertificate,
    ) -> Result<Identity, IdentityError> {
        let chain = CertificateDer::pem_slice_iter(certificate.certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| IdentityError::Certificate)?;
        let key = certificate.private_key_pem.expose().as_bytes();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::Key)?;
        let config = self
            .builder()
            .with_client_auth_cert(chain, key)
            .map_err(IdentityError::Unusable)?;
        Ok(Identity {
            id,
            connector: connector(config),
        })
    }

    fn builder(&self) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks the default versions")
            .with_root_certificates(Arc::clone(&self.0))
    }
}

/// Why a client certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("the client certificate is not PEM")]
    Certificate,
    #[error("the key of the client certificate is not PEM")]
    Key,
    #[error("the client certificate cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// Offers HTTP/1.1 only.
fn connector(mut config: ClientConfig) -> TlsConnector {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let unreadable = |source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut number = 0;
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        number += 1;
        roots
            .add(certificate.map_err(unreadable)?)
            .map_err(|source| TlsError::Untrustable {
                path: path.to_owned(),
                number,
                source,
            })?;
    }
    if number == 0 {
        return Err(TlsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(())
}

pub(super) async fn secure(
    connector: &TlsConnector,
    name: ServerName<'static>,
    tunnel: TcpStream,
) -> Result<TlsStream<TcpStream>, Failure> {
    connector
        .connect(name, tunnel)
        .await
        .map_err(|error| Failure::failed(FailureKind::Tls, describe(&error)))
}

fn describe(error: &io::Error) -> String {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(reason) => format!("the TLS handshake failed: {reason}"),
        None => "the connection ended amid the TLS handshake".to_owned(),
    }
}
