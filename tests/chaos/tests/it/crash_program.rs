//! Crash points are in one program and not in the other.

use zyven_testkit::Binary;

use crate::crash_scene::PATIENCE;

/// The names and settings, as they would be found in a program's bytes.
const TRACES: [&str; 4] = [
    "ZYVEN_CRASH_POINT",
    "ZYVEN_FREEZE_POINT",
    "ingest.before_commit",
    "settle.after_delivered",
];

fn contains(program: &Binary, text: &str) -> bool {
    let bytes = std::fs::read(program.path()).expect("a program");
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[test]
fn the_program_that_is_run_contains_no_crash_point() {
    let (program, with_crash_points) = (Binary::find(), Binary::find_with_crash_points());
    for trace in TRACES {
        assert!(!contains(&program, trace), "{trace}");
        assert!(contains(&with_crash_points, trace), "{trace}");
    }
}

#[tokio::test]
async fn the_program_that_is_run_has_no_setting_for_crash_points() {
    let refused = Binary::find()
        .with("ZYVEN_CRASH_POINT", "relay.after_push:1")
        .run(["egress"], PATIENCE)
        .await;
    assert_eq!(refused.status.code(), Some(64), "{}", refused.stderr);
    let mistake = "ZYVEN_CRASH_POINT is not a setting";
    assert!(refused.stderr.contains(mistake), "{}", refused.stderr);
}

#[tokio::test]
async fn an_unknown_crash_point_is_refused_with_the_names_of_all() {
    for (name, value) in [
        ("ZYVEN_CRASH_POINT", "relay.after_pushing:1"),
        ("ZYVEN_CRASH_POINT", "relay.after_push:0"),
        ("ZYVEN_FREEZE_POINT", "relay.after_push:"),
    ] {
        let refused = Binary::find_with_crash_points()
            .with(name, value)
            .run(["egress"], PATIENCE)
            .await;
        assert_eq!(refused.status.code(), Some(64), "{}", refused.stderr);
        for known in [name, "ingest.before_commit", "settle.after_released"] {
            assert!(
                refused.stderr.contains(known),
                "{known}: {}",
                refused.stderr
            );
        }
    }
}
