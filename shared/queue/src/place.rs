//! What the URL says: one server, Sentinels that know it, or nodes of a cluster.

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates,
};

use crate::QueueError;

/// How to write them.
pub(crate) const FORMS: &str = "must be redis://[user:password@]host:port[/database], redis+sentinel://[user:password@]host:port,host:port/service[/database] or redis+cluster://[user:password@]host:port,host:port; rediss… for TLS";

/// Whose certificates are believed, and which one is shown. Only for URLs that begin with `rediss`.
#[derive(Clone, Default)]
pub struct Tls {
    /// Authorities, as PEM; the system's if there are none.
    pub authorities_pem: Option<Vec<u8>>,
    /// A certificate to show, and its key, as PEM.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// Where Redis is. `server` has everything but the address.
#[derive(Clone)]
pub(crate) enum Place {
    /// There, and nowhere else.
    Server(ConnectionInfo),
    /// Where the Sentinels say.
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        service: String,
        server: ConnectionInfo,
    },
    /// On the node that has the slot.
    Cluster {
        seeds: Vec<(String, u16)>,
        server: ConnectionInfo,
    },
}

/// The port of a Redis whose URL names none.
const REDIS_PORT: u16 = 6379;
/// The port of a Sentinel whose URL names none.
const SENTINEL_PORT: u16 = 26379;

impl Place {
    pub(crate) fn parse(url: &str, tls: &Tls) -> Result<Self, QueueError> {
        let wrong = || QueueError::Configuration(FORMS, None);
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (scheme, kind) = match scheme.split_once('+') {
            None => (scheme, None),
            Some((scheme, kind)) => (scheme, Some(kind)),
        };
        if !matches!(scheme, "redis" | "rediss") {
            return Err(wrong());
        }
        let (user, rest) = match rest.rsplit_once('@') {
            None => ("", rest),
            Some((user, rest)) => (user, rest),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let make = |user: &str, host: &str, port, database: &str| {
            let at = if user.is_empty() { "" } else { "@" };
            let port = if has_port(host) {
                String::new()
            } else {
                format!(":{port}")
            };
            let url = format!("{scheme}://{user}{at}{host}{port}/{database}");
            read(&url, tls)
        };
        let all = |user: &str, port| -> Result<Vec<ConnectionInfo>, QueueError> {
            hosts
                .split(',')
                .map(|host| make(user, host.trim(), port, ""))
                .collect()
        };
        match kind {
            None if query.is_empty() && !hosts.contains(',') => {
                Ok(Self::Server(make(user, hosts, REDIS_PORT, path)?))
            }
            Some("sentinel") => {
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                let sentinel_user = match query.split_once('=') {
                    None if query.is_empty() => "",
                    Some(("sentinel", credential)) => credential,
                    _ => return Err(wrong()),
                };
                if service.is_empty() {
                    return Err(wrong());
                }
                let sentinels = all(sentinel_user, SENTINEL_PORT)?;
                let first = hosts.split(',').next().unwrap_or_default();
                Ok(Self::Sentinel {
                    sentinels,
                    service: service.to_owned(),
                    server: make(user, first.trim(), REDIS_PORT, database)?,
                })
            }
            Some("cluster") if path.is_empty() && query.is_empty() => {
                let nodes = all(user, REDIS_PORT)?;
                Ok(Self::Cluster {
                    seeds: nodes.iter().filter_map(address).collect(),
                    server: nodes.into_iter().next().ok_or_else(wrong)?,
                })
            }
            _ => Err(wrong()),
        }
    }
}

/// The same connection to another address.
pub(crate) fn moved(server: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.trim_matches(['[', ']']).to_owned();
    let address = match server.addr() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    server.clone().set_addr(address)
}

/// Host and port of a server that has some.
pub(crate) fn address(server: &ConnectionInfo) -> Option<(String, u16)> {
    match server.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host.clone(), *port))
        }
        _ => None,
    }
}

fn has_port(host: &str) -> bool {
    match host.rsplit_once(']') {
        Some((_, after)) => after.starts_with(':'), // an IPv6 address
        None => host.contains(':'),
    }
}

/// Reads the URL of one server.
fn read(url: &str, tls: &Tls) -> Result<ConnectionInfo, QueueError> {
    let parsed = redis::parse_redis_url(url)
        .filter(|url| url.has_host() && url.fragment().is_none() && url.query().is_none());
    let wrong = |error| QueueError::Configuration(FORMS, error);
    if parsed.is_none() {
        return Err(wrong(None));
    }
    let info = url
        .into_connection_info()
        .map_err(|error| wrong(Some(error)))?;
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Ok(info);
    }
    let certificates = TlsCertificates {
        client_tls: tls
            .identity_pem
            .clone()
            .map(|(client_cert, client_key)| ClientTlsConfig {
                client_cert,
                client_key,
            }),
        root_cert: tls.authorities_pem.clone(),
    };
    match Client::build_with_tls(info, certificates) {
        Ok(client) => Ok(client.get_connection_info().clone()),
        Err(error) => Err(QueueError::Configuration(
            "the certificates or the key for Redis cannot be read",
            Some(error),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Place, QueueError> {
        Place::parse(url, &Tls::default())
    }

    fn user(server: &ConnectionInfo) -> (Option<&str>, Option<&str>, i64) {
        let redis = server.redis_settings();
        (redis.username(), redis.password(), redis.db())
    }

    #[test]
    fn one_server_has_a_user_and_a_database() {
        let Ok(Place::Server(server)) = parse("redis://ann:s%40cret@redis.example:7000/3") else {
            panic!("a server");
        };
        assert_eq!(address(&server), Some(("redis.example".to_owned(), 7000)));
        assert_eq!(user(&server), (Some("ann"), Some("s@cret"), 3));
        let Ok(Place::Server(server)) = parse("redis://localhost") else {
            panic!("a server");
        };
        assert_eq!(address(&server), Some(("localhost".to_owned(), 6379)));
    }

    #[test]
    fn sentinels_have_a_service_and_credentials_of_their_own() {
        let url = "redis+sentinel://:secret@one:1,two,[::1]:3/main/2?sentinel=guard:word";
        let Ok(Place::Sentinel {
            sentinels,
            service,
            server,
        }) = parse(url)
        else {
            panic!("Sentinels");
        };
        assert_eq!(service, "main");
        let addresses: Vec<_> = sentinels.iter().filter_map(address).collect();
        let expected = [("one", 1), ("two", 26379), ("::1", 3)];
        assert_eq!(
            addresses,
            expected.map(|(host, port)| (host.to_owned(), port))
        );
        assert_eq!(user(&sentinels[0]), (Some("guard"), Some("word"), 0));
        assert_eq!(user(&server), (None, Some("secret"), 2));
        assert_eq!(
            address(&moved(&server, "elsewhere", 9)),
            Some(("elsewhere".to_owned(), 9))
        );
        assert_eq!(user(&moved(&server, "elsewhere", 9)), user(&server));
    }

    #[test]
    fn a_cluster_has_seeds_and_no_database() {
        let Ok(Place::Cluster { seeds, server }) = parse("rediss+cluster://u:p@a:1,b:2,c") else {
            panic!("a cluster");
        };
        let expected = [("a", 1), ("b", 2), ("c", 6379)];
        assert_eq!(seeds, expected.map(|(host, port)| (host.to_owned(), port)));
        assert_eq!(user(&server), (Some("u"), Some("p"), 0));
        assert!(matches!(
            moved(&server, "d", 4).addr(),
            ConnectionAddr::TcpTls { .. }
        ));
        assert!(parse("redis+cluster://a:1/3").is_err());
    }

    #[test]
    fn what_is_none_of_the_forms_is_refused() {
        for url in [
            "",
            "localhost:6379",
            "postgres://localhost",
            "redis://",
            "redis://a,b",
            "redis://a:port",
            "redis://a/x",
            "redis://a?x=1",
            "redis+unix://a",
            "redis+sentinel://a:1",
            "redis+sentinel://a:1,/main",
            "redis+sentinel://a:1/main/x",
            "redis+sentinel://a:1/main?other=1",
            "redis+cluster://",
            "redis+cluster://a,,b",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
        let wrong = Tls {
            authorities_pem: Some(b"-----BEGIN CERTIFICATE-----\nAAAA".to_vec()),
            identity_pem: None,
        };
        assert!(Place::parse("rediss://a", &wrong).is_err());
    }
}
