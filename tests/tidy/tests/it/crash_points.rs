//! Crash points are passed somewhere, and tried.

use crate::tree::{files, read, root};

/// Variant and name of each point.
fn points() -> Vec<(String, String)> {
    let source = read(&root().join("shared/crash-points/src/lib.rs"));
    let points = source.lines().filter_map(|line| {
        let (variant, rest) = line.trim().split_once(" = \"")?;
        let name = rest.strip_suffix("\",")?;
        Some((variant.to_owned(), name.to_owned()))
    });
    points.collect()
}

/// All sources below `folders`, but those that define the points.
fn text_of(folders: &[&str]) -> String {
    let sources = folders.iter().flat_map(|folder| files(folder, "rs"));
    sources
        .filter(|path| !path.starts_with(root().join("shared/crash-points")))
        .map(|path| read(&path))
        .collect()
}

/// Once: of a passage it has to be known where it was.
#[test]
fn every_crash_point_is_in_the_code_once() {
    let points = points();
    assert!(
        points.len() >= 10,
        "only {} points were found",
        points.len()
    );
    let sources = text_of(&["services", "shared"]);
    for (variant, _) in points {
        let call = format!("CrashPoint::{variant}.reached()");
        assert_eq!(sources.matches(&call).count(), 1, "{variant}");
    }
}

#[test]
fn every_crash_point_is_tried_by_a_test() {
    let tests = text_of(&["tests/chaos"]);
    for (_, name) in points() {
        assert!(tests.contains(&format!("\"{name}")), "no test tries {name}");
    }
}
