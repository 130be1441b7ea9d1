//! The bounded run on the stable toolchain: seeds, pieces of seeds, and mutations of seeds. The same inputs each time.

#![expect(
    clippy::unwrap_used,
    reason = "an error here is the test's failure, and the line says which"
)]

mod layout;
mod mutation;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;

use mutation::Mutations;
use zyven_fuzz_targets::{Target, target};

/// Mutations per target: about a second of an unoptimised build.
const MUTATIONS: usize = 30_000;

/// The folder that cargo-fuzz works in.
fn fuzz_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The seeds of a target, in a fixed order.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = fuzz_folder().join("seeds").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Runs a target on one input, and names the input if a property is broken.
fn check(target: Target, input: &[u8]) {
    let checked = panic::catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    assert!(
        checked.is_ok(),
        "{} fails for b\"{}\"",
        target.name,
        input.escape_ascii()
    );
}

fn run(name: &str) {
    let target = target(name);
    let seeds = seeds(name);
    assert!(seeds.len() >= 3, "{name} has seeds");
    for seed in &seeds {
        check(target, seed);
        for cut in 0..seed.len().min(512) {
            check(target, &seed[..cut]);
            check(target, &seed[cut..]);
        }
    }
    for input in Mutations::of(&seeds).take(MUTATIONS) {
        check(target, &input);
    }
}

#[test]
fn an_endpoints_url_means_the_same_to_everybody() {
    run("endpoint_url");
}

#[test]
fn an_authority_means_the_same_to_registration_and_proxy() {
    run("authority");
}

#[test]
fn a_list_of_blocks_opens_no_more_than_it_shows() {
    run("cidr_list");
}

#[test]
fn no_address_that_is_special_is_public_and_no_metadata_service_is_ever_open() {
    run("address");
}

#[test]
fn a_connect_head_is_all_of_what_was_read() {
    run("connect_head");
}

#[test]
fn a_proxys_answer_means_the_same_however_it_arrives() {
    run("proxy_answer");
}

#[test]
fn an_accepted_payload_is_json_for_every_reader() {
    run("payload");
}

#[test]
fn a_view_link_allows_what_was_sealed_or_nothing() {
    run("view_link");
}
