//! What operators write by hand: what is taken for what, and what they are told (migration 0023).

use zyven_domain::id::TenantId;
use zyven_domain::retry::DeadLetterReason;

use crate::fixture::{Fixture, TOKEN};
use crate::operating::{one, refusal};

#[tokio::test]
async fn every_reason_of_a_dead_letter_can_be_asked_for() {
    let fixture = Fixture::new().await;
    for reason in DeadLetterReason::ALL {
        let asked = format!(
            "SELECT zyven.check_filter(dead_reason => '{}')",
            reason.as_str()
        );
        one(&fixture, &asked).await;
    }
}

#[tokio::test]
async fn a_filter_fits_an_endpoint_of_its_tenant_only() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let stranger = TenantId::new();
    fixture
        .sql
        .execute(
            "INSERT INTO zyven.tenants (id, name) VALUES ($1, 'stranger')",
            &[&stranger.uuid()],
        )
        .await
        .expect("a stranger");
    let ask = |tenant| format!("SELECT zyven.check_filter('{tenant}', '{endpoint}')");
    one(&fixture, &ask(fixture.tenant)).await;
    let told = refusal(&fixture, &ask(stranger)).await;
    assert!(told.contains("is not of tenant"), "{told}");
}

#[tokio::test]
async fn what_somebody_writes_is_a_number_a_moment_or_a_word_or_is_told_what_it_must_be() {
    let fixture = Fixture::new().await;
    for (asked, shown) in [
        ("given_number('ROWS', '1', 1, 100)", "1"),
        ("given_number('ROWS', '100', 1, 100)", "100"),
        ("given_number('RATE', '0.5', 0.1, 100)", "0.5"),
        ("given_number('ROWS', NULL, 1, 100)", ""),
        ("given_go('yes')", "t"),
        ("given_go('no')", "f"),
        (
            "given_moment('SINCE', '24h') = now() - interval '24 hours'",
            "t",
        ),
        (
            "given_moment('SINCE', '3 days') = now() - interval '3 days'",
            "t",
        ),
        (
            "given_moment('SINCE', '1 hour ago') = now() - interval '1 hour'",
            "t",
        ),
        (
            "given_moment('SINCE', '-24h') = now() - interval '24 hours'",
            "t",
        ),
        (
            "given_moment('SINCE', '2026-11-28 09:00+00') = '2026-11-28 09:00+00'",
            "t",
        ),
        ("given_moment('SINCE', '-infinity')", "-infinity"),
    ] {
        let asked = format!("SELECT zyven.{asked}");
        assert_eq!(one(&fixture, &asked).await, shown, "{asked}");
    }
    for (asked, rule) in [
        (
            "given_number('ROWS', '0', 1, 100)",
            "ROWS must be a number from 1 to 100, not \"0\"",
        ),
        ("given_number('ROWS', '101', 1, 100)", "not \"101\""),
        ("given_number('ROWS', '-1', 1, 100)", "not \"-1\""),
        ("given_number('ROWS', 'abc', 1, 100)", "not \"abc\""),
        ("given_go('maybe')", "GO must be yes"),
        ("given_moment('SINCE', '10')", "SINCE must be a time"),
        (
            "given_moment('SINCE', '2026-13-01')",
            "SINCE must be a time",
        ),
        ("given_moment('SINCE', 'soon')", "SINCE must be a time"),
        (
            "given_moment('SINCE', '99999999999 years')",
            "SINCE must be a time",
        ),
        (
            "known('ep_', 'evt', 'dlv')",
            "it must be \"evt_\" or \"dlv_\" followed by 32 hexadecimal digits",
        ),
        ("known(NULL, 'evt')", "is not an id"),
        (
            "known(zyven.typed_id('dlv', zyven.uuid_v7()), 'evt', 'dlv')",
            "there is no event or delivery dlv_",
        ),
    ] {
        let told = refusal(&fixture, &format!("SELECT zyven.{asked}")).await;
        assert!(told.contains(rule), "{asked}: {told}");
    }
}

#[tokio::test]
async fn what_there_is_is_known_by_its_id_of_either_form() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let event = fixture.event("a", None);
    let seqs = fixture.accepted(&event).await;
    let delivery = fixture.claim_one(seqs[0], TOKEN).await.delivery_id;
    for (id, uuid, kind) in [
        (fixture.tenant.to_string(), fixture.tenant.uuid(), "ten"),
        (endpoint.to_string(), endpoint.uuid(), "ep"),
        (event.id.to_string(), event.id.uuid(), "evt"),
        (delivery.to_string(), delivery.uuid(), "dlv"),
    ] {
        for form in [id, uuid.to_string()] {
            let asked = format!("SELECT zyven.known('{form}', 'evt', '{kind}')");
            assert_eq!(one(&fixture, &asked).await, uuid.to_string());
        }
    }
}
