//! What the proxy answers when it opens no tunnel. Spoken by the proxy, understood by the dispatcher.

use std::fmt;
use std::str::FromStr;

use crate::retry::{FailureKind, Outcome, RefusalReason};

/// The header that carries an [`EgressReason`] on every answer but 200.
pub const EGRESS_REASON_HEADER: &str = "x-zyven-egress-reason";

/// Why the proxy opened no tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EgressReason {
    /// The request was not CONNECT.
    MethodNotAllowed,
    /// The credential is missing or wrong.
    CredentialInvalid,
    /// The request was not HTTP/1.1, or had bytes behind its head.
    HeadMalformed,
    /// The head was larger than the proxy reads.
    HeadTooLarge,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The target is not `host:port` as [`super::Authority`] has it.
    AuthorityInvalid,
    /// Zyven does not deliver to this name.
    DeniedHost,
    /// Zyven does not deliver to this port.
    DeniedPort,
    /// The target's address, or one of its addresses, must not be reached.
    DeniedIp,
    /// The name does not exist or has no address.
    DnsNotFound,
    /// The name servers gave no usable answer.
    DnsFailed,
    /// The name servers did not answer in time.
    DnsTimeout,
    /// No address accepted the connection.
    ConnectFailed,
    /// No address accepted the connection in time.
    ConnectTimeout,
    /// The proxy has as many tunnels as it may, or no resources left.
    Overloaded,
    /// The host has as many tunnels as one host may.
    HostBusy,
}

impl EgressReason {
    /// Every reason.
    pub const ALL: [Self; 16] = [
        Self::MethodNotAllowed,
        Self::CredentialInvalid,
        Self::HeadMalformed,
        Self::HeadTooLarge,
        Self::HeadTimeout,
        Self::AuthorityInvalid,
        Self::DeniedHost,
        Self::DeniedPort,
        Self::DeniedIp,
        Self::DnsNotFound,
        Self::DnsFailed,
        Self::DnsTimeout,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::Overloaded,
        Self::HostBusy,
    ];

    /// The name in the header, in logs and on counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "method_not_allowed",
            Self::CredentialInvalid => "credential_invalid",
            Self::HeadMalformed => "head_malformed",
            Self::HeadTooLarge => "head_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::AuthorityInvalid => "authority_invalid",
            Self::DeniedHost => "denied_host",
            Self::DeniedPort => "denied_port",
            Self::DeniedIp => "denied_ip",
            Self::DnsNotFound => "dns_not_found",
            Self::DnsFailed => "dns_failed",
            Self::DnsTimeout => "dns_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::Overloaded => "overloaded",
            Self::HostBusy => "host_busy",
        }
    }

    /// The HTTP status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::HeadMalformed | Self::AuthorityInvalid => 400,
            Self::DeniedHost | Self::DeniedPort | Self::DeniedIp => 403,
            Self::MethodNotAllowed => 405,
            Self::CredentialInvalid => 407,
            Self::HeadTimeout => 408,
            Self::HeadTooLarge => 431,
            Self::DnsNotFound | Self::DnsFailed | Self::ConnectFailed => 502,
            Self::Overloaded | Self::HostBusy => 503,
            Self::DnsTimeout | Self::ConnectTimeout => 504,
        }
    }

    /// What the answer means for the attempt: policy refuses for good, the endpoint's name or host
    /// fails like any other, and trouble between dispatcher and proxy is not the endpoint's fault.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::DeniedHost | Self::DeniedPort | Self::DeniedIp => {
                Outcome::Refused(RefusalReason::EgressDenied)
            }
            Self::AuthorityInvalid => Outcome::Refused(RefusalReason::InvalidUrl),
            Self::DnsNotFound | Self::DnsFailed | Self::DnsTimeout => {
                Outcome::Failed(FailureKind::Dns)
            }
            Self::ConnectFailed | Self::ConnectTimeout => Outcome::Failed(FailureKind::Connect),
            Self::MethodNotAllowed
            | Self::CredentialInvalid
            | Self::HeadMalformed
            | Self::HeadTooLarge
            | Self::HeadTimeout
            | Self::Overloaded
            | Self::HostBusy => Outcome::Unsent,
        }
    }
}

impl fmt::Display for EgressReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The header's value is none of the known reasons: a proxy of another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an egress reason known to this version")]
pub struct UnknownEgressReason;

impl FromStr for EgressReason {
    type Err = UnknownEgressReason;

    fn from_str(text: &str) -> Result<Self, UnknownEgressReason> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or(UnknownEgressReason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_header() {
        for reason in EgressReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
        }
        assert_eq!("".parse::<EgressReason>(), Err(UnknownEgressReason));
    }

    #[test]
    fn only_the_endpoints_own_faults_spend_an_attempt() {
        for reason in EgressReason::ALL {
            let spends_none = reason.outcome() == Outcome::Unsent;
            let infrastructure = matches!(reason.status(), 405 | 407 | 408 | 431 | 503)
                || reason == EgressReason::HeadMalformed;
            assert_eq!(spends_none, infrastructure, "{reason}");
        }
    }
}
