//! What comes from outside: variables, the file they name, and the log that goes out again.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use zyven_runtime::config::Source;
use zyven_runtime::telemetry;

use crate::child::{Part, plays};

/// A file in the build's own folder for temporary things, removed in the end.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(name: &str, contents: impl AsRef<[u8]>) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, contents).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn name(source: &mut Source, setting: &'static str) -> String {
    source.value(setting, "name", Some("default")).unwrap()
}

#[test]
#[ignore = "a part of the test below"]
fn part_that_prints_its_settings() {
    if !plays() {
        return;
    }
    let mut source = Source::from_environment();
    let both = name(&mut source, "ZYVEN_BOTH");
    let file = name(&mut source, "ZYVEN_FILE");
    let neither = name(&mut source, "ZYVEN_NEITHER");
    println!("{both} {file} {neither}");
    let error = source.finish_strict().unwrap_err();
    for mistake in error.mistakes() {
        println!("{mistake}");
    }
}

#[tokio::test]
async fn the_environment_beats_the_file_and_the_file_beats_the_default() {
    let contents = "ZYVEN_BOTH=file\nZYVEN_FILE=\"from the file\"\nZYVEN_FIEL=x\nPORT=1\n";
    let file = TemporaryFile::new("settings", contents);
    let environment = [
        ("ZYVEN_CONFIG_FILE", file.path()),
        ("ZYVEN_BOTH", "environment"),
        ("OTHER", "is none of ours"),
    ];
    let mut part = Part::start("environment::part_that_prints_its_settings", &environment);
    part.says("environment from the file default").await;
    part.says("PORT: is not a setting").await;
    part.says("ZYVEN_FIEL: is not a setting; did you mean ZYVEN_FILE?")
        .await;
    assert_eq!(part.ends().await.0, Some(0));
}

#[test]
fn a_file_that_cannot_be_used_is_a_mistake() {
    let not_text = TemporaryFile::new("not-text", [0xff, 0xfe]);
    let large = TemporaryFile::new("large", vec![b'\n'; 1024 * 1024 + 1]);
    let names_another = TemporaryFile::new("names-another", "ZYVEN_CONFIG_FILE=/etc/passwd\n");
    for (path, expected) in [
        (
            "/nowhere/zyven.env",
            "cannot read /nowhere/zyven.env: No such file",
        ),
        (not_text.path(), "is not UTF-8"),
        (large.path(), "is larger than 1048576 bytes"),
        (names_another.path(), "cannot be set in the file it names"),
    ] {
        let mut source = Source::from_pairs([("ZYVEN_LOG", "info")]);
        source.add_file(path.as_ref());
        let error = source.finish().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
#[ignore = "a part of the test below"]
fn part_that_logs() {
    if !plays() {
        return;
    }
    let mut source = Source::from_environment();
    let config = telemetry::Config::read(&mut source).unwrap();
    telemetry::init(&config).unwrap();
    assert!(telemetry::init(&config).is_err(), "it is on already");
    tracing::info!(delivery.id = "dlv_1", duration_ms = 5, "delivered");
    tracing::debug!("not at this level");
    let _ = std::thread::spawn(|| panic!("for {}", "a reason")).join();
}

#[tokio::test]
async fn the_log_is_json_on_standard_error() {
    let part = Part::start("environment::part_that_logs", &[("ZYVEN_LOG", "info")]);
    let (code, stderr) = part.ends().await;
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<Value> = stderr
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let [delivered, panicked] = lines.as_slice() else {
        panic!("{stderr}");
    };
    assert_eq!(delivered["level"], "INFO");
    assert_eq!(delivered["message"], "delivered");
    assert_eq!(delivered["delivery.id"], "dlv_1");
    assert_eq!(delivered["duration_ms"], 5);
    assert_eq!(panicked["level"], "ERROR");
    assert_eq!(panicked["panic.message"], "for a reason");
    assert!(
        panicked["panic.location"]
            .as_str()
            .unwrap()
            .contains("environment.rs")
    );
}

#[tokio::test]
async fn the_log_can_be_text() {
    let environment = [("ZYVEN_LOG", "debug"), ("ZYVEN_LOG_FORMAT", "text")];
    let part = Part::start("environment::part_that_logs", &environment);
    let (_, stderr) = part.ends().await;
    assert!(
        stderr.contains(" INFO it::environment: delivered delivery.id=\"dlv_1\" duration_ms=5")
    );
    assert!(stderr.contains("not at this level"));
    assert!(!stderr.contains('\u{1b}'), "no colours in a pipe");
}

#[test]
fn a_wrong_filter_or_format_is_a_mistake() {
    let mut source =
        Source::from_pairs([("ZYVEN_LOG", "loud=very=much"), ("ZYVEN_LOG_FORMAT", "xml")]);
    assert_eq!(telemetry::Config::read(&mut source), None);
    let error = source.finish_strict().unwrap_err().to_string();
    assert!(
        error.contains("ZYVEN_LOG: must be a level or levels by module"),
        "{error}"
    );
    assert!(
        error.contains("ZYVEN_LOG_FORMAT: must be json or text, not \"xml\""),
        "{error}"
    );
}
