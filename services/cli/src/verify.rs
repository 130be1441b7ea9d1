//! `zyven verify`: would a receiver take this request for one of Zyven's?

use std::path::PathBuf;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use serde::Serialize;
use zyven_domain::signature::{PublicKey, Unverified, VerifyingKey, verify};
use zyven_runtime::config::parse_duration;

use crate::failure::Failure;
use crate::output::{GOOD, Output, paint};
use crate::{access, input, listen};

// A request as it arrived. The secret comes from ZYVEN_SECRET or a file, never from the command line, which everybody on
// this machine can read.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// File with the raw body; "-": standard input
    #[arg(default_value = "-")]
    body: PathBuf,
    /// The header webhook-id
    #[arg(long, value_name = "TEXT")]
    id: String,
    /// The header webhook-timestamp
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    timestamp: i64,
    /// The header webhook-signature
    #[arg(long, value_name = "TEXT")]
    signature: String,
    /// File with the secret, whsec_…; by default ZYVEN_SECRET
    #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
    secret_file: Option<PathBuf>,
    /// Public key, whpk_…, of an endpoint that signs with ed25519
    #[arg(long, value_name = "KEY")]
    public_key: Option<PublicKey>,
    /// How far the timestamp may be off, as receivers check it
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = parse_duration)]
    tolerance: Duration,
}

/// What a program is told.
#[derive(Serialize)]
struct Verdict {
    verified: bool,
    reason: Option<String>,
    age_s: i64,
}

pub(crate) fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    let key = key(args)?;
    let body = input::read(&args.body)?;
    let age = Utc::now().timestamp().saturating_sub(args.timestamp);
    let reason = judge(args, &key, &body, age).err();
    if output.is_json() {
        output.document(&Verdict {
            verified: reason.is_none(),
            reason: reason.clone(),
            age_s: age,
        })?;
        return reason.map_or(Ok(()), |_| Err(Failure::Said));
    }
    match reason {
        None => output.line(format!(
            "{}: signed with this key {age} s ago",
            paint(GOOD, "verified")
        )),
        Some(reason) => Err(Failure::Failed(format!("not verified: {reason}"))),
    }
}

fn key(args: &Args) -> Result<VerifyingKey, Failure> {
    if let Some(key) = args.public_key {
        return Ok(VerifyingKey::Public(key));
    }
    let secret = match &args.secret_file {
        Some(file) => Some(listen::secret_in(file)?),
        None => access::secret()?,
    };
    let missing = "say with which secret: ZYVEN_SECRET, --secret-file or --public-key";
    secret
        .map(VerifyingKey::Shared)
        .ok_or_else(|| Failure::Usage(missing.to_owned()))
}

/// The reason why a receiver would refuse, as a sentence.
fn judge(args: &Args, key: &VerifyingKey, body: &[u8], age_s: i64) -> Result<(), String> {
    let signed = |body: &[u8]| verify(key, &args.id, args.timestamp, body, &args.signature);
    signed(body).map_err(|why| match why {
        Unverified::OtherScheme { .. } => {
            format!("{why}; --signature is the header's whole text, such as v1,… (v1a,… goes with --public-key)")
        }
        Unverified::Wrong { wanted } if !has_complete_signature(&args.signature, wanted) => {
            let digits = signature_digits(wanted);
            format!("--signature has no complete {wanted} signature: one is {wanted}, and {digits} characters of base64")
        }
        Unverified::Wrong { .. } => {
            let without = body.strip_suffix(b"\n").map(|body| body.strip_suffix(b"\r").unwrap_or(body));
            match without {
                Some(body) if signed(body).is_ok() => {
                    "the body ends with a line break that was not sent".to_owned()
                }
                _ => format!("{why}; the body has to be the raw bytes, not JSON that was read and written again"),
            }
        }
    })?;
    let tolerance = TimeDelta::from_std(args.tolerance).unwrap_or(TimeDelta::MAX);
    if age_s.unsigned_abs() > tolerance.num_seconds().unsigned_abs() {
        let way = if age_s < 0 { "ahead" } else { "ago" };
        return Err(format!(
            "the signature is right, but the timestamp is {} s {way}, more than {} s",
            age_s.unsigned_abs(),
            tolerance.num_seconds()
        ));
    }
    Ok(())
}

/// Characters of a signature in base64: of 32 bytes (HMAC-SHA256) or of 64 (Ed25519).
fn signature_digits(scheme: &str) -> usize {
    if scheme == "v1a" { 88 } else { 44 }
}

/// True if one of the signatures in the header could be of this scheme.
fn has_complete_signature(header: &str, scheme: &str) -> bool {
    let mut signatures = header.split(' ').filter_map(|one| one.split_once(','));
    signatures.any(|(version, encoded)| {
        let is_digit =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        version == scheme
            && encoded.len() == signature_digits(scheme)
            && encoded.bytes().all(is_digit)
    })
}

fn seconds(text: &str) -> Result<i64, &'static str> {
    text.parse()
        .map_err(|_| "must be seconds since 1970, such as 1764000000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_complete_if_it_has_all_its_characters() {
        let whole = "A".repeat(43) + "=";
        for (header, is_complete) in [
            (format!("v1,{whole}"), true),
            (format!("v1,abc v1,{whole}"), true),
            (format!("v1,{}", &whole[1..]), false),
            (format!("v1,{whole}="), false),
            (format!("v1,{}é", &whole[2..]), false),
            (format!("v1a,{whole}"), false),
            ("v1,abc".to_owned(), false),
        ] {
            assert_eq!(
                has_complete_signature(&header, "v1"),
                is_complete,
                "{header}"
            );
        }
        let longer = format!("v1a,{}==", "A".repeat(86));
        assert!(has_complete_signature(&longer, "v1a"));
    }

    #[test]
    fn a_timestamp_is_seconds() {
        assert_eq!(seconds("-1"), Ok(-1));
        for bad in ["2026-01-31T12:00:00Z", "", "1.5"] {
            assert!(
                seconds(bad).is_err_and(|rule| rule.contains("seconds since 1970")),
                "{bad}"
            );
        }
    }
}
