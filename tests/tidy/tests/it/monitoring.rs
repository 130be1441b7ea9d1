//! Alert rules and dashboard speak of metrics that exist, and the documentation lists every alert.

use std::collections::BTreeSet;

use crate::tree::{files, read, root};

const METRICS: &str = "docs/operations/metrics.md";
/// What Prometheus adds to the name of a histogram.
const SUFFIXES: [&str; 3] = ["_bucket", "_count", "_sum"];

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("zyven_") || word.starts_with("process_"))
        .map(|name| {
            let plain = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
            plain.unwrap_or(name)
        })
}

#[test]
fn every_metric_that_is_watched_is_documented() {
    let documented = read(&root().join(METRICS));
    let documented: BTreeSet<&str> = names(&documented).collect();
    let mut watched = 0;
    for path in [files("monitoring", "yaml"), files("monitoring", "json")].concat() {
        for name in names(&read(&path)) {
            watched += 1;
            assert!(documented.contains(name), "{}: {name}", path.display());
        }
    }
    assert!(watched > 50, "only {watched} mentions");
}

#[test]
fn every_alert_is_documented_and_every_documented_alert_exists() {
    let rules = read(&root().join("monitoring/prometheus/alerts.yaml"));
    let alerts: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let documented = read(&root().join(METRICS));
    let told: BTreeSet<&str> = documented
        .split('`')
        .filter(|word| word.starts_with("Zyven") && !word.contains(' '))
        .collect();
    assert!(!alerts.is_empty());
    assert_eq!(alerts, told);
}
