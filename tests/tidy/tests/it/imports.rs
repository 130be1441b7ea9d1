//! Who may import whom. An edge that is not listed here is a decision somebody has to make.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{files, read, shown};

/// Crate → what of ours it may depend on. Everything may use the testkit in its tests.
const ALLOWED: [(&str, &[&str]); 13] = [
    ("zyven-domain", &[]),
    // Nothing at all in the program that is run; see ADR 0025.
    ("zyven-crash-points", &[]),
    ("zyven-runtime", &[]),
    ("zyven-store", &["zyven-crash-points", "zyven-domain"]),
    ("zyven-queue", &["zyven-domain"]),
    ("zyven-testkit", &["zyven-domain"]),
    (
        "zyven-ingest",
        &[
            "zyven-crash-points",
            "zyven-domain",
            "zyven-runtime",
            "zyven-store",
            // For explanations, which do without it; see ADR 0032.
            "zyven-queue",
        ],
    ),
    ("zyven-egress", &["zyven-domain", "zyven-runtime"]),
    // A client: the API is all it has.
    ("zyven-cli", &["zyven-domain", "zyven-runtime"]),
    // It asks the API; see ADR 0034.
    ("zyven-console", &["zyven-domain", "zyven-runtime"]),
    (
        "zyven-relay",
        &[
            "zyven-crash-points",
            "zyven-domain",
            "zyven-runtime",
            "zyven-store",
            "zyven-queue",
        ],
    ),
    (
        "zyven-dispatcher",
        &[
            "zyven-crash-points",
            "zyven-domain",
            "zyven-runtime",
            "zyven-store",
            "zyven-queue",
        ],
    ),
    (
        "zyven",
        &[
            "zyven-cli",
            "zyven-console",
            "zyven-crash-points",
            "zyven-domain",
            "zyven-runtime",
            "zyven-store",
            "zyven-queue",
            "zyven-ingest",
            "zyven-relay",
            "zyven-dispatcher",
            "zyven-egress",
        ],
    ),
];

/// What the pure centre may not depend on, however convenient.
const EFFECTS: [&str; 9] = [
    "tokio",
    "tokio-postgres",
    "deadpool-postgres",
    "bb8-redis",
    "redis",
    "reqwest",
    "hyper",
    "axum",
    "tracing",
];

fn manifests() -> BTreeMap<String, toml::Table> {
    ["shared", "services"]
        .iter()
        .flat_map(|folder| files(folder, "toml"))
        .filter(|path| path.ends_with("Cargo.toml"))
        .map(|path| {
            let manifest: toml::Table = read(&path)
                .parse()
                .unwrap_or_else(|error| panic!("{}: {error}", shown(&path)));
            let name = manifest["package"]["name"]
                .as_str()
                .expect("a name")
                .to_owned();
            (name, manifest)
        })
        .collect()
}

fn dependencies(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    manifest
        .get(section)
        .and_then(toml::Value::as_table)
        .map(|table| table.keys().cloned().collect())
        .unwrap_or_default()
}

#[test]
fn crates_import_only_what_they_may() {
    let manifests = manifests();
    let listed: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let found: BTreeSet<&str> = manifests.keys().map(String::as_str).collect();
    assert_eq!(found, listed, "every crate is listed here");
    for (name, allowed) in ALLOWED {
        let ours = dependencies(&manifests[name], "dependencies")
            .into_iter()
            .filter(|dependency| dependency.starts_with("zyven"));
        for dependency in ours {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn the_pure_centre_has_no_effects() {
    let domain = dependencies(&manifests()["zyven-domain"], "dependencies");
    for effect in EFFECTS {
        assert!(
            !domain.contains(effect),
            "zyven-domain must not depend on {effect}"
        );
    }
}

#[test]
fn services_never_meet_even_in_tests_except_where_a_test_needs_the_real_neighbour() {
    // A dispatcher without its proxy sends nothing, so its tests start the real one.
    // A console without an API shows nothing.
    let permitted = [
        ("zyven-dispatcher", "zyven-egress"),
        ("zyven-console", "zyven-ingest"),
    ];
    let services = [
        "zyven-ingest",
        "zyven-relay",
        "zyven-dispatcher",
        "zyven-egress",
        "zyven-console",
    ];
    let manifests = manifests();
    for name in services {
        for dependency in dependencies(&manifests[name], "dev-dependencies") {
            assert!(
                !services.contains(&dependency.as_str())
                    || permitted.contains(&(name, dependency.as_str())),
                "{name} must not depend on {dependency} in its tests"
            );
        }
    }
}
