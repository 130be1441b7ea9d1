//! Documents that point into the tree point to something.

use crate::tree::{files, read, root, shown};

fn documents() -> Vec<(String, String)> {
    let mut documents = files("docs", "md");
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        documents.push(root().join(name));
    }
    documents
        .iter()
        .map(|path| (shown(path), read(path)))
        .collect()
}

/// Targets of Markdown links that are neither addresses nor anchors.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .map(|target| target.split('#').next().unwrap_or(target))
}

#[test]
fn every_link_leads_somewhere() {
    for (document, text) in documents() {
        let folder = root().join(&document);
        let folder = folder.parent().expect("a document is in a folder");
        for target in links(&text) {
            assert!(folder.join(target).exists(), "{document} links to {target}");
        }
    }
}

/// Paths in backticks, such as `shared/store/src/claim.rs`, exist.
#[test]
fn every_path_that_is_named_exists() {
    const TOP: [&str; 9] = [
        "services/",
        "shared/",
        "sql/",
        "scripts/",
        "docs/",
        "tests/",
        "benches/",
        "monitoring/",
        "deploy/",
    ];
    for (document, text) in documents() {
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = TOP.iter().any(|top| quoted.starts_with(top))
                && !quoted.contains(['*', '{', '<', ' ', '…']);
            let path = quoted.split("::").next().unwrap_or(quoted);
            if is_path {
                assert!(root().join(path).exists(), "{document} names {path}");
            }
        }
    }
}

/// A guarantee names the tests that hold it; each of them is a function in the tree.
#[test]
fn every_test_that_guarantees_cite_exists() {
    let guarantees = read(&root().join("docs/guarantees.md"));
    let tests: String = ["services", "shared", "tests"]
        .iter()
        .flat_map(|folder| files(folder, "rs"))
        .map(|path| read(&path))
        .collect();
    let mut cited = 0;
    for quoted in guarantees.split('`').skip(1).step_by(2) {
        let is_test = quoted.split('_').count() >= 4
            && quoted
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if is_test {
            cited += 1;
            assert!(
                tests.contains(&format!("fn {quoted}(")),
                "docs/guarantees.md cites the test {quoted}, which does not exist"
            );
        }
    }
    assert!(cited >= 10, "docs/guarantees.md cites only {cited} tests");
}

/// Each decision has a number of its own, is listed, and says what it decided, why, and at what price.
#[test]
fn decisions_are_numbered_and_complete() {
    let decisions: Vec<_> = files("docs/adr", "md")
        .into_iter()
        .filter(|path| !path.ends_with("README.md"))
        .collect();
    assert!(!decisions.is_empty());
    let list = read(&root().join("docs/adr/README.md"));
    let mut numbers = std::collections::BTreeSet::new();
    for path in &decisions {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        let number = name.split('-').next().unwrap_or("");
        let is_number = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
        assert!(is_number && numbers.insert(number), "{name}");
        assert!(list.contains(&format!("]({name})")), "{name} is not listed");
        let text = read(path);
        for heading in ["## Context", "## Decision", "## Consequences"] {
            assert!(text.contains(heading), "{name} lacks \"{heading}\"");
        }
    }
}
