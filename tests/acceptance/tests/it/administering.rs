//! What an operator does with `zyven admin`, in words and in JSON.

use serde_json::{Value, json};

use crate::stack::{PATIENCE, Spread, Stack};

async fn admin(stack: &Stack, arguments: &[&str]) -> String {
    let arguments = [&["admin"], arguments].concat();
    stack.binary.run(arguments, PATIENCE).await.expect_success()
}

async fn document(stack: &Stack, arguments: &[&str]) -> Value {
    let said = admin(stack, &[arguments, &["--json"]].concat()).await;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
}

#[tokio::test]
async fn tenants_are_made_listed_limited_and_checked() {
    let stack = Stack::start(Spread::OneProcess).await;
    let made = document(&stack, &["create-tenant", "Example Ltd"]).await;
    let tenant = made["tenant_id"].as_str().expect("an id");
    for named in [tenant, "Example Ltd"] {
        let key = document(&stack, &["create-key", named]).await;
        assert_eq!(key["tenant_id"], tenant, "{key}");
    }

    let refused = |arguments: &'static [&'static str], complaint: String| {
        let stack = &stack;
        async move {
            let arguments = [&["admin"], arguments].concat();
            let refused = stack.binary.run(arguments, PATIENCE).await;
            assert!(!refused.status.success(), "{refused:?}");
            assert!(refused.stderr.contains(&complaint), "{refused:?}");
        }
    };
    let rule = "must have 1 to 200 characters".to_owned();
    refused(&["create-tenant", ""], rule).await;
    let told = format!("there is a tenant named \"Example Ltd\" already: {tenant};");
    refused(&["create-tenant", "Example Ltd"], told).await;
    for _ in 0..2 {
        admin(&stack, &["create-tenant", "Twins", "--again"]).await;
    }
    let told = "several tenants are named \"Twins\", name one by its id: ten_".to_owned();
    refused(&["create-key", "Twins"], told).await;

    let rates = ["--events-per-second", "50", "--requests-per-second", "0"];
    let limited = document(&stack, &[&["limit-tenant", tenant], &rates[..]].concat()).await;
    let told = json!({ "tenant_id": tenant, "events_per_second": 50, "requests_per_second": 0 });
    assert_eq!(limited, told);
    let listed = document(&stack, &["tenants"]).await;
    let listed = listed["data"].as_array().expect("a list");
    let shown = listed.iter().find(|one| one["id"] == tenant);
    let shown = shown.unwrap_or_else(|| panic!("{listed:?}"));
    assert_eq!(shown["name"], "Example Ltd");
    assert_eq!(
        (&shown["events_per_second"], &shown["requests_per_second"]),
        (&json!(50), &json!(0))
    );
    let table = admin(&stack, &["tenants"]).await;
    let line = table.lines().find(|line| line.starts_with(tenant));
    let words: Vec<&str> = line.expect("a line").split_whitespace().collect();
    assert_eq!(words[2..], ["50", "no", "limit", "Example", "Ltd"]);
    let one = document(&stack, &["tenants", "--limit", "1"]).await;
    assert_eq!(one["data"].as_array().map(Vec::len), Some(1));

    let back = [
        "--events-per-second",
        "default",
        "--requests-per-second",
        "default",
    ];
    let said = admin(
        &stack,
        &[&["limit-tenant", "Example Ltd"], &back[..]].concat(),
    )
    .await;
    assert!(said.contains("events    default per second"), "{said}");

    let check = document(&stack, &["check"]).await;
    assert_eq!(check["breaches"], json!([]));
    let rotated = document(&stack, &["rotate-master-key"]).await;
    assert_eq!(rotated["outdated"], 0);
    assert_eq!(rotated["master_keys"], check["master_keys"]);
    let migrated = stack.binary.run(["migrate", "--json"], PATIENCE).await;
    let migrated: Value = serde_json::from_str(&migrated.expect_success()).expect("JSON");
    assert_eq!(migrated, json!({ "applied": [] }));
}

#[tokio::test]
async fn a_tenant_that_is_not_there_and_a_rate_that_is_none_are_named() {
    let stack = Stack::start(Spread::OneProcess).await;
    let nobody = zyven_domain::id::TenantId::new().to_string();
    for (tenant, rate, complaint) in [
        ("Nobody", "1", "there is no tenant named \"Nobody\""),
        (&nobody, "1", nobody.as_str()),
        (&nobody, "fast", "must be 0 to 1000000, or \"default\""),
        (&nobody, "1000001", "must be 0 to 1000000, or \"default\""),
    ] {
        let arguments = [
            "admin",
            "limit-tenant",
            tenant,
            "--events-per-second",
            rate,
            "--requests-per-second",
            "default",
        ];
        let refused = stack.binary.run(arguments, PATIENCE).await;
        assert!(!refused.status.success(), "{refused:?}");
        assert!(refused.stderr.contains(complaint), "{refused:?}");
    }
}
