//! Ports on which something other than HTTP is at home.
//!
//! A POST to one of these can be understood as commands by a service that reads line by line. The list
//! is the Fetch standard's "bad ports" together with databases, brokers and remote administration. It
//! is a list of what is closed, not of what is open: customers run receivers on every other port.

use super::TargetError;

/// Sorted.
#[rustfmt::skip]
const NON_WEB_PORTS: &[u16] = &[
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 88, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 138, 139, 143, 161, 162, 179, 389, 427, 445,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 631, 636, 873, 989,
    990, 992, 993, 995,
    1080, 1433, 1434, 1521, 1719, 1720, 1723, 2049, 2181, 2375, 2376, 2379, 2380, 3128, 3268, 3269, 3306,
    3389, 3659, 4045, 4190, 4369, 5060, 5061, 5432, 5433, 5671, 5672, 5900, 5985, 5986, 6000, 6379, 6380,
    6432, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 7000, 7001, 9042, 9092, 9093, 9300, 10050,
    10051, 10080, 10250, 10255, 11211, 11300, 26257, 26379, 27017, 27018, 27019, 28015, 33060,
];

/// Whether the port is known for a service that does not speak HTTP.
pub fn is_non_web_port(port: u16) -> bool {
    NON_WEB_PORTS.binary_search(&port).is_ok()
}

pub(super) fn check(port: u16) -> Result<(), TargetError> {
    if is_non_web_port(port) {
        return Err(TargetError::NonWebPort(port));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_so_that_the_search_finds_everything() {
        assert!(NON_WEB_PORTS.is_sorted());
        for port in [22, 25, 5432, 6379, 11211, 27017] {
            assert!(is_non_web_port(port), "{port}");
        }
        for port in [80, 443, 3000, 8000, 8080, 8443, 9000, 47090] {
            assert!(!is_non_web_port(port), "{port}");
        }
    }
}
