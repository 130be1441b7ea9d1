//! What is measured: one scenario, or the suite.

use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::arguments::{Args, ScenarioKind, Switch};

/// One scenario with all its numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) load: Load,
    /// Endpoints that get each event.
    pub(super) fan_out: usize,
    /// Events whose first attempt is answered 503, by each endpoint.
    pub(super) fail_first: Share,
    /// Events per second for an endpoint that never answers, beside the measured ones.
    pub(super) dead_rate: Option<f64>,
    /// Events per request; `None`: one, and not as a batch.
    pub(super) batch_events: Option<usize>,
    pub(super) payload_bytes: usize,
    pub(super) length: Length,
    #[serde(rename = "warm_up_s", serialize_with = "as_seconds")]
    pub(super) warm_up: Duration,
    pub(super) idempotency_keys: bool,
}

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(super) enum Load {
    /// Each connection sends its next request when the last one was answered.
    Closed { connections: usize },
    /// Events are sent at fixed times, whatever becomes of earlier ones.
    Open { events_per_s: f64 },
    /// Nothing is sent: what the stack costs when it has nothing to do.
    Idle,
}

/// When a scenario has sent enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Length {
    #[serde(rename = "duration_s", serialize_with = "as_seconds")]
    For(Duration),
    Events(u64),
}

/// A part of all events, in ten-thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(into = "f64")]
pub(super) struct Share(u32);

impl Share {
    pub(super) const NONE: Self = Self(0);
    const WHOLE: u32 = 10_000;

    /// Whether an event belongs to the part. The same events in every run, scattered evenly.
    pub(super) fn includes(self, sequence: u64) -> bool {
        // Fibonacci hashing: the upper bits of this product are spread evenly even for numbers that
        // follow each other.
        let scattered = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        scattered % u64::from(Self::WHOLE) < u64::from(self.0)
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        Self::from(share.0) / Self::from(Share::WHOLE)
    }
}

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be a share from 0% to 100%, such as 10% or 0.5%";
        let percent: f64 = text
            .strip_suffix('%')
            .and_then(|number| number.trim_end().parse().ok())
            .ok_or(RULE)?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(RULE);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 10,000, see above"
        )]
        let parts = (percent * 100.0).round() as u32;
        Ok(Self(parts))
    }
}

/// The scenarios of the suite, in their order. The pair that is compared (`open-100`,
/// `open-100-dead`) stands together, because the speed of a machine drifts. What leaves work behind
/// comes late.
pub(super) const SUITE: [&str; 10] = [
    "idle",
    "closed-1",
    "closed-32",
    "closed-128",
    "open-400",
    "fan-out-5",
    "failing-10",
    "batch-100",
    "open-100",
    "open-100-dead",
];

/// Everything the arguments ask for, in order.
pub(super) fn plans(args: &Args) -> Vec<Plan> {
    let Some(names) = &args.suite else {
        return vec![single(args)];
    };
    SUITE
        .iter()
        .filter(|name| {
            names
                .iter()
                .any(|wanted| wanted == "all" || wanted == *name)
        })
        .map(|name| of_suite(name, args))
        .collect()
}

fn single(args: &Args) -> Plan {
    let load = match args.scenario {
        ScenarioKind::Closed => Load::Closed {
            connections: args.connections,
        },
        ScenarioKind::Open => Load::Open {
            events_per_s: args.rate,
        },
        ScenarioKind::Idle => Load::Idle,
    };
    let mut name = match load {
        Load::Closed { connections } => format!("closed-{connections}"),
        Load::Open { events_per_s } => format!("open-{events_per_s}"),
        Load::Idle => "idle".to_owned(),
    };
    for (is_set, suffix) in [
        (args.fan_out > 1, format!("-fan-out-{}", args.fan_out)),
        (args.fail_first != Share::NONE, "-failing".to_owned()),
        (args.dead_endpoint, "-dead".to_owned()),
        (args.batch.is_some(), "-batch".to_owned()),
    ] {
        if is_set {
            name.push_str(&suffix);
        }
    }
    Plan {
        fan_out: args.fan_out,
        fail_first: args.fail_first,
        dead_rate: args.dead_endpoint.then_some(args.dead_rate),
        batch_events: args.batch,
        ..plain(&name, load, args)
    }
}

fn of_suite(name: &str, args: &Args) -> Plan {
    let closed = |connections| Load::Closed { connections };
    let open = |events_per_s| Load::Open { events_per_s };
    match name {
        "idle" => plain(name, Load::Idle, args),
        "closed-1" => plain(name, closed(1), args),
        "closed-128" => plain(name, closed(128), args),
        "open-100" => plain(name, open(100.0), args),
        "open-400" => plain(name, open(400.0), args),
        "open-100-dead" => Plan {
            dead_rate: Some(args.dead_rate),
            ..plain(name, open(100.0), args)
        },
        "fan-out-5" => Plan {
            fan_out: 5,
            ..plain(name, closed(32), args)
        },
        "failing-10" => Plan {
            fail_first: Share(1_000),
            ..plain(name, closed(32), args)
        },
        "batch-100" => Plan {
            batch_events: Some(100),
            ..plain(name, closed(8), args)
        },
        // "closed-32": names are checked when arguments are parsed.
        _ => plain(name, closed(32), args),
    }
}

fn plain(name: &str, load: Load, args: &Args) -> Plan {
    // Nothing is sent when idle, so no number of events ends it.
    let events = args.events.filter(|_| load != Load::Idle);
    Plan {
        name: name.to_owned(),
        load,
        fan_out: 1,
        fail_first: Share::NONE,
        dead_rate: None,
        batch_events: None,
        payload_bytes: args.payload_bytes,
        length: events.map_or(Length::For(args.duration), Length::Events),
        warm_up: args.warm_up,
        idempotency_keys: args.idempotency_keys == Switch::On,
    }
}

fn as_seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &str) -> Vec<Plan> {
        plans(
            &Line::try_parse_from(line.split(' '))
                .expect("valid arguments")
                .args,
        )
    }

    #[test]
    fn a_share_is_read_as_a_percentage_and_nothing_else() {
        for (text, parts) in [("0%", 0), ("0.01%", 1), ("10%", 1_000), ("100 %", 10_000)] {
            assert_eq!(text.parse(), Ok(Share(parts)), "{text}");
        }
        for text in ["", "10", "%", "-1%", "100.1%", "NaN%", "ten%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_includes_as_many_as_it_says() {
        for (share, expected) in [
            (Share(0), 0..=0),
            (Share(1_000), 9_800..=10_200),
            (Share(10_000), 100_000..=100_000),
        ] {
            let included = (0..100_000)
                .filter(|sequence| share.includes(*sequence))
                .count();
            assert!(expected.contains(&included), "{share:?}: {included}");
        }
    }

    #[test]
    fn the_suite_is_all_of_it_or_the_part_that_is_named() {
        let names = |line| {
            parsed(line)
                .into_iter()
                .map(|plan| plan.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names("bench --suite"), SUITE);
        assert_eq!(
            names("bench --suite=open-400,closed-1"),
            ["closed-1", "open-400"]
        );
        assert!(Line::try_parse_from(["bench", "--suite=unheard-of"]).is_err());
    }

    #[test]
    fn a_single_scenario_is_named_after_what_is_special_about_it() {
        let plans = parsed("bench --scenario open --rate 250 --fan-out 3 --dead-endpoint");
        assert_eq!(plans[0].name, "open-250-fan-out-3-dead");
        assert_eq!(plans[0].dead_rate, Some(100.0));
    }
}
