//! The models and the code say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use zyven_model::bridge::{self, NOT_MODELLED, Place, STATEMENTS};
use zyven_model::delivery::actions::Answer;
use zyven_model::delivery::state::{Kind, Work};
use zyven_model::{delivery, hand_over};

fn read(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// With single spaces only, so that how lines are broken does not matter.
fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// From how it begins to where an item of its kind ends.
fn item<'a>(source: &'a str, place: &Place) -> &'a str {
    let begin = source
        .find(place.item)
        .unwrap_or_else(|| panic!("{} has no `{}`", place.file, place.item));
    let item = &source[begin..];
    let is_statement = place.item.starts_with("const ");
    let ends: &[&str] = match place.file.rsplit('.').next() {
        Some("lua") => &["\nend\n"],
        Some("sql") => &["\n    $$;"],
        _ if is_statement => &["\";\n", ");\n"],
        _ => &["\n    }\n", "\n}\n"],
    };
    let end = ends.iter().filter_map(|end| item.find(end)).min();
    &item[..end.unwrap_or_else(|| panic!("{} does not end", place.item))]
}

fn places() -> Vec<Place> {
    let work = Work {
        delivery: 0,
        seq: 0,
        generation: 0,
    };
    let kinds = [
        Kind::Claim,
        Kind::Unclaim,
        Kind::Deliver,
        Kind::Retry,
        Kind::Bury,
        Kind::Release,
    ];
    let runs = kinds.map(|kind| delivery::Action::Run(0, kind, Answer::Arrives));
    let others = [
        delivery::Action::Offer(0, work),
        delivery::Action::Begin(0),
        delivery::Action::EndLease(work),
        delivery::Action::GiveBack(0),
        delivery::Action::Abandon(0),
        delivery::Action::Accept(0),
        delivery::Action::CrashPostgres,
        delivery::Action::Replay(0),
        delivery::Action::Cancel(work),
    ];
    let delivering = runs.into_iter().chain(others);
    let handing_over = [
        hand_over::Action::Begin(0),
        hand_over::Action::Draw(0),
        hand_over::Action::Accept(0),
        hand_over::Action::Publish(0),
        hand_over::Action::HandOver,
        hand_over::Action::LoseConnection,
        hand_over::Action::RecordWatermark,
        hand_over::Action::Sweep,
        hand_over::Action::RelayStarts,
        hand_over::Action::DropStale(0),
        hand_over::Action::CrashPostgres,
    ];
    let mut places: Vec<Place> = delivering
        .flat_map(bridge::of_delivering)
        .copied()
        .collect();
    places.extend(handing_over.into_iter().flat_map(bridge::of_handing_over));
    places
}

#[test]
fn every_step_of_the_models_stands_for_code_that_says_the_same() {
    for place in places() {
        let source = read(place.file);
        let text = in_one_line(item(&source, &place));
        let mut rest = text.as_str();
        for said in place.says {
            let found = rest.find(said).unwrap_or_else(|| {
                panic!(
                    "`{}` in {} no longer says `{said}` (in this order):\n{text}",
                    place.item, place.file
                )
            });
            rest = &rest[found + said.len()..];
        }
    }
}

/// A function may be replaced by a later migration; the model must speak of the last one.
#[test]
fn functions_of_the_database_are_those_of_the_latest_migration() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sql/migrations");
    let mut migrations: Vec<String> = fs::read_dir(folder)
        .expect("the migrations")
        .map(|file| {
            file.expect("a file")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    migrations.sort();
    for place in places() {
        let Some(named) = place.file.strip_prefix("sql/migrations/") else {
            continue;
        };
        let defines = |file: &&String| {
            let source = read(&format!("sql/migrations/{file}"));
            let mut lines = source.lines();
            lines.any(|line| line.starts_with("CREATE ") && line.contains(place.item))
        };
        let latest = migrations.iter().rfind(defines);
        assert_eq!(latest.map(String::as_str), Some(named), "{}", place.item);
    }
}

#[test]
fn every_statement_of_the_protocol_has_its_step() {
    let modelled: BTreeSet<&str> = places()
        .iter()
        .filter_map(|place| place.item.strip_prefix("const ")?.split(':').next())
        .chain(NOT_MODELLED.iter().map(|(name, _)| *name))
        .collect();
    let mut statements = 0;
    for file in STATEMENTS {
        for line in read(file).lines() {
            let name = (line.strip_prefix("const ")).and_then(|rest| rest.split_once(": &str ="));
            if let Some((name, _)) = name {
                statements += 1;
                assert!(
                    modelled.contains(name),
                    "{file}: {name} is neither a step of a model nor listed as none"
                );
            }
        }
    }
    assert!(statements >= 15, "only {statements} statements were found");
}
