//! The results, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::latency::Percentiles;
use super::machine::Machine;
use super::outcome::{Figures, Outcome};
use super::plan::Plan;

/// The scenario that shows what a dead endpoint does to a healthy one, and the one to compare it with.
const DEAD: &str = "open-100-dead";
const ALONE: &str = "open-100";

/// Other programs that use more disturb what is measured.
const OTHER_CORES_QUIET: f64 = 0.1;

/// Everything, as JSON shows it.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    started_at: String,
    machine: &'a Machine,
    /// All rounds of each scenario together.
    results: Vec<Entry<'a>>,
    /// Each round on its own, in the order they were run; empty if there was one.
    rounds: Vec<Entry<'a>>,
    /// Arrival p99 of a healthy endpoint beside a dead one, divided by the same without.
    dead_to_alone_p99: Option<f64>,
}

#[derive(Serialize)]
struct Entry<'a> {
    plan: &'a Plan,
    rounds: u32,
    #[serde(flatten)]
    figures: Figures,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        started_at: String,
        machine: &'a Machine,
        results: &'a [Outcome],
        rounds: &'a [Outcome],
    ) -> Self {
        Self {
            started_at,
            machine,
            results: results.iter().map(Entry::of).collect(),
            rounds: rounds.iter().map(Entry::of).collect(),
            dead_to_alone_p99: dead_to_alone(results),
        }
    }

    /// One line for each scenario.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![HEADINGS.map(str::to_owned)];
        rows.extend(self.results.iter().map(Entry::row));
        let mut text = aligned(&rows);
        text.push_str("\nLatencies: p50 / p90 / p99 / max, from the moment a request should be sent. CPU: whole stack, without this program.\n");
        if let Some(ratio) = self.dead_to_alone_p99 {
            let _ = writeln!(
                text,
                "Arrival p99 beside a dead endpoint: {ratio:.2} × alone."
            );
        }
        for entry in &self.results {
            entry.remarks(&mut text);
        }
        text
    }

    /// What each process took.
    pub(super) fn process_table(&self) -> String {
        let mut rows =
            vec![["scenario", "process", "CPU-s", "CPU-s/1,000", "MiB max"].map(str::to_owned)];
        for Entry { plan, figures, .. } in &self.results {
            for member in &figures.processes {
                let events = figures.counts.acknowledged + figures.dead_acknowledged;
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52 events")]
                let per_1000 = member
                    .cpu_s
                    .filter(|_| events > 0)
                    .map(|cpu_s| cpu_s * 1_000.0 / events as f64);
                rows.push([
                    plan.name.clone(),
                    member.name.clone(),
                    number(member.cpu_s, 2),
                    number(per_1000, 4),
                    (member.memory_bytes_max >> 20).to_string(),
                ]);
            }
        }
        aligned(&rows)
    }
}

const HEADINGS: [&str; 11] = [
    "scenario",
    "events/s",
    "deliveries/s",
    "ack ms",
    "arrival ms",
    "CPU-s/1,000",
    "cores",
    "bench CPU-s/1,000",
    "missing",
    "twice",
    "altered",
];

impl<'a> Entry<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        Self {
            plan: &outcome.plan,
            rounds: outcome.rounds,
            figures: outcome.figures(),
        }
    }

    fn row(&self) -> [String; HEADINGS.len()] {
        let figures = &self.figures;
        [
            self.plan.name.clone(),
            number(figures.events_per_s, 0),
            number(figures.deliveries_per_s, 0),
            latencies(figures.ack),
            latencies(figures.arrival),
            number(figures.cpu_s_per_1000_events, 3),
            number(figures.stack_cores, 3),
            number(figures.bench_cpu_s_per_1000_events, 3),
            figures.counts.missing.to_string(),
            figures.counts.duplicates.to_string(),
            figures.counts.altered.to_string(),
        ]
    }

    /// What a reader of the figures must know.
    fn remarks(&self, text: &mut String) {
        let Figures {
            counts, retry, lag, ..
        } = &self.figures;
        let mut remark = |line: String| {
            let _ = writeln!(text, "{}: {line}", self.plan.name);
        };
        if let Some(cores) = self
            .figures
            .other_cores
            .filter(|cores| *cores > OTHER_CORES_QUIET)
        {
            remark(format!(
                "other programs kept {cores:.2} cores busy meanwhile"
            ));
        }
        if self.figures.refused > 0 {
            remark(format!(
                "{} events were turned away (429 or 5xx)",
                self.figures.refused
            ));
        }
        if self.figures.unanswered > 0 {
            remark(format!("{} events got no answer", self.figures.unanswered));
        }
        if !self.figures.is_drained {
            remark("not everything had arrived when patience was at its end".to_owned());
        }
        if let Some(retry) = retry {
            remark(format!(
                "{} first attempts were answered 503; tried again after {}",
                counts.failed_on_purpose,
                latencies(Some(*retry))
            ));
        }
        if self.figures.dead_acknowledged > 0 {
            remark(format!(
                "beside {} events for the dead endpoint",
                self.figures.dead_acknowledged
            ));
        }
        if let Some(lag) = lag.filter(|lag| lag.p99_ms > 1.0) {
            remark(format!(
                "the generator itself was late by {}; its latencies include that",
                latencies(Some(lag))
            ));
        }
    }
}

fn dead_to_alone(results: &[Outcome]) -> Option<f64> {
    let p99 = |name| {
        let outcome = results.iter().find(|outcome| outcome.plan.name == name)?;
        Some(outcome.figures().arrival?.p99_ms)
    };
    Some(p99(DEAD)? / p99(ALONE)?)
}

fn latencies(percentiles: Option<Percentiles>) -> String {
    percentiles.map_or_else(
        || "–".to_owned(),
        |percentiles| {
            let Percentiles {
                p50_ms,
                p90_ms,
                p99_ms,
                max_ms,
            } = percentiles;
            [p50_ms, p90_ms, p99_ms, max_ms]
                .map(three_digits)
                .join(" / ")
        },
    )
}

/// As many decimals as mean something.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        ..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

/// Columns as wide as they must be: the first to the left, the others to the right.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::outcome::example;
    use super::*;

    fn machine() -> Machine {
        Machine {
            cores: 2,
            processor: None,
            memory_mib: Some(24_000),
            kernel: None,
            zyven: "0.1.0".to_owned(),
            commit: None,
            servers: Vec::new(),
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_scenario_in_aligned_columns() {
        let (machine, results) = (machine(), [example("short"), example("a-longer-name")]);
        let table = Report::new("now".to_owned(), &machine, &results, &[]).table();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("scenario       events/s"), "{table}");
        assert!(lines[1].starts_with("short              1000"), "{table}");
        assert!(lines[2].contains("1.00 / 1.00 / 1.00 / 1.00"), "{table}");
        let ends: Vec<usize> = lines[..3].iter().map(|line| line.chars().count()).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{table}");
    }

    #[test]
    fn a_dead_endpoint_is_compared_with_the_same_load_alone() {
        let mut dead = example(DEAD);
        dead.passed
            .accounts
            .arrival
            .record(std::time::Duration::from_millis(6));
        let results = [example(ALONE), dead];
        let ratio = dead_to_alone(&results).expect("both are there");
        assert!((ratio - 2.0).abs() < 0.01, "{ratio}");
        assert_eq!(dead_to_alone(&results[..1]), None);
    }

    #[test]
    fn json_names_machine_plan_and_figures() {
        let (machine, results) = (machine(), [example("one")]);
        let report = Report::new("2026-01-17T10:00:00Z".to_owned(), &machine, &results, &[]);
        let json = serde_json::to_value(report).expect("JSON");
        assert_eq!(json["machine"]["cores"], 2);
        let entry = &json["results"][0];
        assert_eq!(entry["plan"]["load"]["connections"], 32);
        assert_eq!(entry["plan"]["length"]["duration_s"], 2.0);
        assert_eq!(entry["cpu_s_per_1000_events"], 0.25);
        assert_eq!(entry["counts"]["missing"], 0);
        assert_eq!(entry["processes"][0]["name"], "relay");
    }

    #[test]
    fn numbers_have_as_many_digits_as_mean_something() {
        let shown = [0.4567, 9.994, 12.345, 123.45, 24_700.0].map(three_digits);
        assert_eq!(shown, ["0.46", "9.99", "12.3", "123", "24700"]);
    }
}
