//! `zyven admin storage`: how much room things take.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Value, json};
use zyven_runtime::config::Source;
use zyven_store::TableStorage;

use crate::{Failure, admin};

pub(crate) async fn show(as_json: bool) -> Result<(), Failure> {
    let mut source = Source::from_environment();
    let retention = zyven_relay::event_retention(&mut source);
    source.finish()?;
    let retention = retention.unwrap_or_default();
    let tables = admin::open_store()?.storage(retention).await;
    let tables = tables.map_err(Failure::other)?;
    if as_json {
        let tables: Vec<Value> = tables.iter().map(document).collect();
        let answer = json!({ "event_retention_s": retention.as_secs(), "tables": tables });
        println!("{answer}");
        return Ok(());
    }
    println!(
        "{:<20} {:>11} {:>11} {:>11} {:>12} {:>11}  days",
        "table", "rows about", "bytes", "indexes", "bytes a day", "expired"
    );
    for table in &tables {
        println!(
            "{:<20} {:>11} {:>11} {:>11} {:>12} {:>11}  {}",
            table.what,
            table
                .rows_about
                .map_or("unknown".to_owned(), |rows| rows.to_string()),
            size(table.table_bytes),
            size(table.index_bytes),
            table.bytes_per_day.map_or("–".to_owned(), size),
            size(table.expired_bytes),
            days(table.days),
        );
    }
    println!();
    println!(
        "events and finished deliveries are kept for {} days (ZYVEN_RELAY_EVENT_RETENTION)",
        retention.as_secs() / 86_400
    );
    match next_freed(&tables) {
        Some((at, bytes)) => println!(
            "next: {} are freed after {}",
            size(bytes),
            at.format("%Y-%m-%d %H:%M UTC")
        ),
        None => println!("nothing is dated yet: no partition has been made"),
    }
    let needed = tables.iter().map(|table| table.needed_days).max();
    if let Some(days @ 1..) = needed {
        println!(
            "{days} expired days stay, because unfinished deliveries need them (zyven.stuck, zyven.backlog)"
        );
    }
    Ok(())
}

/// The next day that goes, with its partitions of all tables.
fn next_freed(tables: &[TableStorage]) -> Option<(DateTime<Utc>, u64)> {
    let next = tables.iter().filter_map(|table| table.next_freed);
    let at = next.clone().map(|(at, _)| at).min()?;
    let bytes = next.filter(|(when, _)| *when == at).map(|(_, bytes)| bytes);
    Some((at, bytes.sum()))
}

fn document(table: &TableStorage) -> Value {
    json!({
        "table": table.what,
        "partitions": table.partitions,
        "oldest_day": table.days.map(|(oldest, _)| oldest),
        "newest_day": table.days.map(|(_, newest)| newest),
        "rows_about": table.rows_about,
        "table_bytes": table.table_bytes,
        "index_bytes": table.index_bytes,
        "bytes_per_day": table.bytes_per_day,
        "expired_bytes": table.expired_bytes,
        "needed_days": table.needed_days,
        "next_freed_at": table.next_freed.map(|(at, _)| at),
        "next_freed_bytes": table.next_freed.map(|(_, bytes)| bytes),
    })
}

fn days(days: Option<(NaiveDate, NaiveDate)>) -> String {
    days.map_or(String::new(), |(oldest, newest)| {
        format!("{oldest} to {newest}")
    })
}

/// With the unit in which it has at most four digits.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut rest = bytes;
    let mut unit = 0;
    while rest >= 10_000 && unit + 1 < UNITS.len() {
        rest /= 1024;
        unit += 1;
    }
    format!("{rest} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_at_most_four_digits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (9_999, "9999 B"),
            (10_000, "9 KiB"),
            (50 * 1024 * 1024, "50 MiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
