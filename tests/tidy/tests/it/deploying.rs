//! What Zyven is installed with speaks of settings that exist. More is checked by scripts/check-deploy.sh.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::tree::{files, read, root, shown};

const CONFIGURATION: &str = "docs/operations/configuration.md";
/// Read before any other setting, so not in the table of them.
const CONFIG_FILE: &str = "ZYVEN_CONFIG_FILE";

/// Names of settings in a text; what stands for several of them (`ZYVEN_…`) is none.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("ZYVEN_") && !word.ends_with('_'))
}

/// First cells of the tables in the configuration's documentation.
fn documented(configuration: &str) -> BTreeSet<&str> {
    configuration
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("ZYVEN_"))
        .chain([CONFIG_FILE])
        .collect()
}

fn installations() -> Vec<PathBuf> {
    let mut found = vec![root().join("compose.yaml"), root().join("Dockerfile")];
    for extension in ["yaml", "service", "socket", "target", "conf"] {
        found.extend(files("deploy", extension));
    }
    found
}

#[test]
fn every_setting_that_an_installation_names_is_documented() {
    let configuration = read(&root().join(CONFIGURATION));
    let documented = documented(&configuration);
    assert!(documented.len() > 50, "only {} settings", documented.len());
    let mut named = 0;
    for path in installations() {
        for name in names(&read(&path)) {
            named += 1;
            assert!(
                documented.contains(name),
                "{} names {name}, which {CONFIGURATION} does not know",
                shown(&path)
            );
        }
    }
    assert!(named > 25, "only {named} mentions");
}
