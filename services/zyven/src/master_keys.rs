//! Rotating master keys while everything runs: every envelope is sealed anew with the first key.
//!
//! Nothing is locked. An envelope is replaced if it is still the one that was read; who changes a
//! secret meanwhile wins. Stopped at any moment, a rotation has done what it has done, and the next
//! one goes on with the rest.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;
use zyven_domain::secret_box::{KeyRing, NONCE_BYTES, key_id};
use zyven_store::{EnvelopeTable, ResealedEnvelope, Store, StoredEnvelope};

use crate::Failure;
use crate::admin::random;

/// Most passes over all envelopes. The second one finds what an ingest with an old configuration has
/// sealed during the first; if there is still something after the third, one is running.
const PASSES_MAX: usize = 3;
/// How an envelope is counted that is none.
const NO_ENVELOPE: &str = "(not an envelope)";

/// What keys envelopes are sealed with.
#[derive(Default)]
pub(crate) struct Survey {
    by_key: BTreeMap<String, u64>,
    /// Not as the ring's first key seals now.
    outdated: u64,
}

#[derive(Default)]
struct Pass {
    replaced: u64,
    /// Changed by somebody else between reading and replacing.
    overtaken: u64,
    unopened: u64,
}

/// Seals everything anew that is not as the ring's first key seals now.
pub(crate) async fn rotate(store: &Store, ring: &KeyRing) -> Result<(), Failure> {
    for pass in 1..=PASSES_MAX {
        let mut done = Pass::default();
        for table in EnvelopeTable::ALL {
            walk(store, table, async |page| {
                reseal(store, ring, table, page, &mut done).await
            })
            .await?;
        }
        eprintln!(
            "pass {pass}: {} envelopes sealed anew, {} changed meanwhile, {} cannot be opened",
            done.replaced, done.overtaken, done.unopened
        );
        if done.replaced == 0 && done.overtaken == 0 {
            break;
        }
    }
    Ok(())
}

/// Says which keys are still needed; fails if it is any but the first.
pub(crate) async fn report(store: &Store, ring: &KeyRing, json: bool) -> Result<(), Failure> {
    let survey = survey(store, Some(ring)).await?;
    let id = ring.sealing_key_id();
    if json {
        let report = json!({ "sealing_key": id, "master_keys": survey.document(), "outdated": survey.outdated });
        println!("{report}");
    } else {
        survey.print();
        if survey.outdated == 0 {
            println!("every envelope is sealed with {id}; other keys may be removed");
        }
    }
    match survey.outdated {
        0 => Ok(()),
        outdated => Err(Failure::Plain(format!(
            "{outdated} envelopes are not sealed with {id}, or not as this version seals"
        ))),
    }
}

/// Counts envelopes by the key they are sealed with. Needs no key, hence the option.
pub(crate) async fn survey(store: &Store, ring: Option<&KeyRing>) -> Result<Survey, Failure> {
    let mut survey = Survey::default();
    for table in EnvelopeTable::ALL {
        walk(store, table, async |page: Vec<StoredEnvelope>| {
            for StoredEnvelope { envelope, .. } in &page {
                let id = key_id(envelope).unwrap_or(NO_ENVELOPE);
                *survey.by_key.entry(id.to_owned()).or_default() += 1;
                survey.outdated += u64::from(ring.is_some_and(|ring| !ring.is_current(envelope)));
            }
            Ok(())
        })
        .await?;
    }
    Ok(survey)
}

impl Survey {
    /// How many envelopes each key has sealed.
    pub(crate) fn document(&self) -> Value {
        json!(self.by_key)
    }

    /// One line for each key.
    pub(crate) fn print(&self) {
        for (id, envelopes) in &self.by_key {
            println!("master key {id}: {envelopes} envelopes");
        }
    }
}

async fn walk(
    store: &Store,
    table: EnvelopeTable,
    mut visit: impl AsyncFnMut(Vec<StoredEnvelope>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after = Uuid::nil();
    loop {
        let page = store
            .envelopes_after(table, after)
            .await
            .map_err(Failure::other)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.place.row;
        visit(page).await?;
    }
}

async fn reseal(
    store: &Store,
    ring: &KeyRing,
    table: EnvelopeTable,
    page: Vec<StoredEnvelope>,
    done: &mut Pass,
) -> Result<(), Failure> {
    let mut resealed = Vec::new();
    for found in page {
        if ring.is_current(&found.envelope) {
            continue;
        }
        match ring.open(&found.envelope, &found.place) {
            Ok(plain) => resealed.push(ResealedEnvelope {
                envelope: ring.seal(&plain, &found.place, random::<NONCE_BYTES>()?),
                found,
            }),
            Err(error) => {
                eprintln!("{} {}: {error}", table.as_str(), found.place.row);
                done.unopened += 1;
            }
        }
    }
    if resealed.is_empty() {
        return Ok(());
    }
    let replaced = store
        .replace_envelopes(table, &resealed)
        .await
        .map_err(Failure::other)?;
    done.replaced += replaced;
    done.overtaken += resealed.len() as u64 - replaced;
    eprintln!(
        "{}: {} envelopes sealed anew",
        table.as_str(),
        done.replaced
    );
    Ok(())
}
