//! A client certificate is looked at when it is registered: a mistake that only a handshake would show
//! costs deliveries.

use chrono::{DateTime, Utc};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use x509_parser::parse_x509_certificate;
use zyven_domain::credential::{ClientCertificate, SecretText};

use crate::fields::Members;
use crate::openapi::schema::{Schema, object, text};

/// Longest chain, in bytes of PEM.
const CERTIFICATE_BYTES_MAX: usize = 32 * 1024;
/// Longest key, in bytes of PEM: RSA with 8,192 bits needs 6.5 KiB.
const KEY_BYTES_MAX: usize = 16 * 1024;
/// Most certificates of a chain.
const CHAIN_MAX: usize = 10;
/// Longest subject that is shown, in characters.
const SUBJECT_CHARS_MAX: usize = 200;

/// A certificate that fits its key and is valid today.
pub(super) struct CheckedCertificate {
    pub(super) certificate: ClientCertificate,
    /// JSON of what may be shown.
    pub(super) shown: String,
}

/// What a certificate says of itself.
#[derive(Debug)]
struct Described {
    subject: String,
    fingerprint: String,
    not_after: DateTime<Utc>,
}

/// Reads `certificate_pem` and `private_key_pem`.
pub(super) fn read(members: &mut Members<'_>, now: DateTime<Utc>) -> Option<CheckedCertificate> {
    let chain = members.required("certificate_pem", |pem| {
        let chain = chain(pem)?;
        let described = describe(&chain[0], now)?;
        Ok::<_, String>((pem.to_owned(), chain, described))
    });
    let key = members.required("private_key_pem", |pem| {
        Ok::<_, String>((SecretText::new(pem), key(pem)?))
    });
    let (certificate_pem, chain, described) = chain?;
    let (private_key_pem, key) = key?;
    members.checked("private_key_pem", fits(chain, key))?;
    Some(CheckedCertificate {
        certificate: ClientCertificate {
            certificate_pem,
            private_key_pem,
            not_after_s: described.not_after.timestamp(),
        },
        shown: json!({
            "subject": described.subject,
            "fingerprint_sha256": described.fingerprint,
            "not_after": described.not_after,
        })
        .to_string(),
    })
}

/// The members that [`read`] reads.
pub(super) fn described() -> Schema {
    object()
        .required(
            "certificate_pem",
            text()
                .chars(1..=CERTIFICATE_BYTES_MAX)
                .about("The certificate, then those up to its authority."),
        )
        .required(
            "private_key_pem",
            text()
                .chars(1..=KEY_BYTES_MAX)
                .about("Its key, not encrypted."),
        )
        .about("Shown in the TLS handshake; needs an `https` URL. `null` removes it.")
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if pem.len() > CERTIFICATE_BYTES_MAX {
        return Err(format!("must have at most {CERTIFICATE_BYTES_MAX} bytes"));
    }
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("is not PEM: {error}"))?;
    match chain.len() {
        0 => Err("holds no certificate".to_owned()),
        1..=CHAIN_MAX => Ok(chain),
        _ => Err(format!("must hold at most {CHAIN_MAX} certificates")),
    }
}

fn describe(leaf: &CertificateDer<'_>, now: DateTime<Utc>) -> Result<Described, String> {
    let (_, parsed) = parse_x509_certificate(leaf)
        .map_err(|_| "begins with something that is no X.509 certificate".to_owned())?;
    let time = |time: &x509_parser::time::ASN1Time| {
        DateTime::from_timestamp(time.timestamp(), 0)
            .ok_or_else(|| "has a validity that no clock reaches".to_owned())
    };
    let not_before = time(&parsed.validity().not_before)?;
    let not_after = time(&parsed.validity().not_after)?;
    if now >= not_after {
        return Err(format!("expired at {}", not_after.to_rfc3339()));
    }
    if now < not_before {
        return Err(format!("is not valid before {}", not_before.to_rfc3339()));
    }
    let digest = Sha256::digest(leaf);
    Ok(Described {
        subject: parsed
            .subject()
            .to_string()
            .chars()
            .take(SUBJECT_CHARS_MAX)
            .collect(),
        fingerprint: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        not_after,
    })
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, String> {
    if pem.len() > KEY_BYTES_MAX {
        return Err(format!("must have at most {KEY_BYTES_MAX} bytes"));
    }
    if pem.contains("ENCRYPTED") {
        return Err(
            "must not be encrypted: Zyven encrypts what it keeps, and cannot ask for a passphrase"
                .to_owned(),
        );
    }
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)".to_owned())
}

fn fits(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), &'static str> {
    let key = ring::default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| {
            "is of a kind that is not supported: it must be RSA of 2,048 to 8,192 bits, ECDSA on P-256 or P-384, or \
                 Ed25519"
        })?;
    CertifiedKey::new(chain, key)
        .keys_match()
        .map_err(|_| "does not belong to the certificate")
}
