use super::*;
use std::net::SocketAddr;

const MEANING: &str = "what it means";

fn mistakes(source: &Source) -> Vec<String> {
    match source.finish_strict() {
        Ok(()) => Vec::new(),
        Err(error) => error.mistakes().iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn values_defaults_and_absences() {
    let mut source = Source::from_pairs([("ZYVEN_A", " 127.0.0.1:1 "), ("ZYVEN_E", "  ")]);
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    assert_eq!(source.value("ZYVEN_A", MEANING, None), Some(address));
    assert_eq!(source.value("ZYVEN_B", MEANING, Some("7")), Some(7_u16));
    // Empty counts as unset.
    assert_eq!(source.value("ZYVEN_E", MEANING, Some("7")), Some(7_u16));
    assert_eq!(source.optional::<u16>("ZYVEN_C", MEANING), Some(None));
    assert_eq!(
        source.value("ZYVEN_D", MEANING, Some("")),
        Some(String::new())
    );
    assert_eq!(mistakes(&source), [""; 0]);
}

#[test]
fn every_mistake_is_reported_with_its_setting_and_rule() {
    let mut source = Source::from_pairs([
        ("ZYVEN_PORT", "70000"),
        ("ZYVEN_SIZE", "65"),
        ("ZYVEN_WAIT", "15"),
        ("ZYVEN_BODY", "2MiB"),
        ("ZYVEN_FLAG", "yes"),
        ("ZYVEN_PEERS", "127.0.0.1:1, relay"),
    ]);
    assert_eq!(source.value::<u16>("ZYVEN_PORT", MEANING, None), None);
    assert_eq!(
        source.value_in("ZYVEN_SIZE", MEANING, Some("8"), 1..=64),
        None
    );
    assert_eq!(source.duration("ZYVEN_WAIT", MEANING, Some("1s")), None);
    assert_eq!(
        source.bytes_in("ZYVEN_BODY", MEANING, None, 1024..=1024 * 1024),
        None
    );
    assert_eq!(source.bool("ZYVEN_FLAG", MEANING, Some("false")), None);
    assert_eq!(
        source.list::<SocketAddr>("ZYVEN_PEERS", MEANING, None),
        None
    );
    assert_eq!(source.value::<String>("ZYVEN_URL", MEANING, None), None);
    source.mistake("ZYVEN_A", "excludes ZYVEN_B");
    let expected = "\
8 settings are wrong:
  ZYVEN_PORT: \"70000\" is not accepted: number too large to fit in target type
  ZYVEN_SIZE: must be 1 to 64, not \"65\"
  ZYVEN_WAIT: must be a whole number with a unit: ms, s, m, h or d, such as 15s, not \"15\"
  ZYVEN_BODY: must be 1KiB to 1MiB, not \"2MiB\"
  ZYVEN_FLAG: must be true or false, not \"yes\"
  ZYVEN_PEERS: \"127.0.0.1:1, relay\" is not accepted: \"relay\": invalid socket address syntax
  ZYVEN_URL: is required: what it means
  ZYVEN_A: excludes ZYVEN_B";
    assert_eq!(source.finish().unwrap_err().to_string(), expected);
}

#[test]
fn ranges_include_both_ends() {
    for (text, expected) in [("0", None), ("1", Some(1)), ("64", Some(64)), ("65", None)] {
        let mut source = Source::from_pairs([("ZYVEN_N", text)]);
        let read = source.value_in("ZYVEN_N", MEANING, None, 1..=64);
        assert_eq!(read, expected, "{text}");
    }
    let range = Duration::from_secs(1)..=Duration::from_secs(60);
    for (text, expected) in [
        ("999ms", None),
        ("1s", Some(1)),
        ("1m", Some(60)),
        ("61s", None),
    ] {
        let mut source = Source::from_pairs([("ZYVEN_D", text)]);
        let read = source.duration_in("ZYVEN_D", MEANING, None, range.clone());
        assert_eq!(read, expected.map(Duration::from_secs), "{text}");
    }
}

#[test]
fn lists_ignore_blanks_and_empty_items() {
    for (text, expected) in [("", vec![]), ("1", vec![1]), (" 1, 2 ,,3, ", vec![1, 2, 3])] {
        let mut source = Source::from_pairs([("ZYVEN_L", text)]);
        assert_eq!(
            source.list("ZYVEN_L", MEANING, Some("")),
            Some(expected),
            "{text}"
        );
    }
}

/// A parser that does what it should not: it quotes.
struct Quoting;

impl FromStr for Quoting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Err(format!("cannot use {text}"))
    }
}

#[test]
fn a_secret_is_never_echoed() {
    let secret = "hunter2-hunter2";
    let mut source = Source::from_pairs([("ZYVEN_PASSWORD", secret), ("ZYVEN_TOKEN", secret)]);
    assert!(
        source
            .secret::<Quoting>("ZYVEN_PASSWORD", MEANING, None)
            .is_none()
    );
    assert!(
        source
            .optional_secret::<u64>("ZYVEN_TOKEN", MEANING)
            .is_none()
    );
    let error = source.finish().unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 settings are wrong:\n  ZYVEN_PASSWORD: is not accepted\n  \
         ZYVEN_TOKEN: is not accepted: invalid digit found in string"
    );
    assert!(!format!("{source:?} {error:?}").contains("hunter2"));
}

#[test]
fn an_unknown_name_is_a_mistake_with_a_suggestion() {
    let mut source = Source::from_pairs([
        ("ZYVEN_INGEST_LISTN", "127.0.0.1:1"),
        ("ZYVEN_LOCAL_PORT_BASE", "47000"),
        ("ZYVEN_QUUX", "hunter2"),
    ]);
    source.value::<SocketAddr>("ZYVEN_INGEST_LISTEN", MEANING, Some("127.0.0.1:8080"));
    source.know(["ZYVEN_LOCAL_PORT_BASE"]);
    assert_eq!(source.finish(), Ok(()));
    assert_eq!(
        mistakes(&source),
        [
            "ZYVEN_INGEST_LISTN: is not a setting; did you mean ZYVEN_INGEST_LISTEN?",
            "ZYVEN_QUUX: is not a setting",
        ]
    );
}

#[test]
fn settings_are_remembered_once_in_the_order_read() {
    let mut source = Source::from_pairs([("", ""); 0]);
    for _service in 0..2 {
        source.secret::<String>("ZYVEN_URL", "where", None);
        source.value_in("ZYVEN_N", "how many", Some("8"), 1..=64);
    }
    let remembered: Vec<_> = source
        .settings()
        .iter()
        .map(|setting| (setting.name, setting.fallback, setting.rule.as_deref()))
        .collect();
    assert_eq!(
        remembered,
        [
            (FILE_VARIABLE, Fallback::Absent, None),
            ("ZYVEN_URL", Fallback::Required, None),
            ("ZYVEN_N", Fallback::Value("8"), Some("1 to 64")),
        ]
    );
    // Both services miss it; it is one mistake.
    assert_eq!(mistakes(&source), ["ZYVEN_URL: is required: where"]);
}

#[test]
#[should_panic(expected = "declared twice, differently")]
fn two_services_must_agree_on_a_setting() {
    let mut source = Source::from_pairs([("", ""); 0]);
    source.value::<u16>("ZYVEN_N", "how many", Some("8"));
    source.value::<u16>("ZYVEN_N", "how many", Some("9"));
}
