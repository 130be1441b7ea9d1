//! A target exists for both runners.

use std::collections::BTreeSet;
use std::fs;

use zyven_fuzz_targets::TARGETS;

use crate::fuzz_folder;

#[test]
fn every_target_has_seeds_and_a_program_of_its_own() {
    let names: BTreeSet<String> = TARGETS
        .iter()
        .map(|target| target.name.to_owned())
        .collect();
    assert_eq!(names.len(), TARGETS.len());
    let listed = |folder: &str| -> BTreeSet<String> {
        fs::read_dir(fuzz_folder().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(listed("seeds"), names);
    assert_eq!(listed("fuzz_targets"), names);
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    for name in &names {
        let program =
            fs::read_to_string(fuzz_folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("target(\"{name}\")")), "{name}");
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name}"
        );
    }
}
