//! What arrives at the receiver: judged, entered, and answered as the receiver's mood has it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use uuid::Uuid;
use zyven_testkit::{Answer, ReceivedRequest};

use super::Pages;
use crate::dice::Dice;
use crate::event::EventSource;

/// How the receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// 200 at once.
    Well,
    /// 200 after this time, which is well within the endpoint's timeout.
    Slow(Duration),
    /// Every request with this status.
    Failing(u16),
    /// Reads requests and says nothing.
    Hanging,
    /// Reads requests and resets their connections.
    Resetting,
    /// Reads requests and closes their connections.
    Closing,
    /// 200 after this time, which the dispatcher may not wait for.
    Late(Duration),
    /// One request in three is failed, reset, closed or answered after this time.
    Mixed(Duration),
}

/// A request, as it was received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) at: SystemTime,
    /// By its place in the ledger's list.
    pub(super) endpoint: usize,
    pub(super) webhook_id: Option<Uuid>,
    /// `zyven-attempt`
    pub(super) attempt: i32,
    pub(super) treatment: Treatment,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    /// Processed, and answered 200 at once.
    Taken,
    /// Processed, and answered 200 later.
    TakenLate,
    /// Not processed.
    Failed,
    /// Answered 400, because events of its kind always are.
    Refused,
}

impl Pages {
    pub(super) fn arrive(&mut self, request: &ReceivedRequest, at: SystemTime) -> Answer {
        let place = self
            .endpoints
            .iter()
            .position(|one| one.path == request.path);
        let number = EventSource::number_of(&request.body);
        let (Some(place), Some(number)) = (place, number) else {
            self.altered
                .add(|| format!("a request to {} with a strange body", request.path));
            return Answer::status(200);
        };
        if !self.events.contains_key(&number)
            || self.source.event(number).payload.as_bytes() != request.body
        {
            self.altered
                .add(|| format!("the body of event {number} at {}", request.path));
        }
        let secret = &self.endpoints[place].secret;
        if !is_signed(request, secret) {
            self.bad_signatures
                .add(|| format!("event {number} at {}", request.path));
        }
        let attempt = request.header("zyven-attempt").parse().unwrap_or_default();
        let (treatment, answer) = self.treat(number, attempt);
        let arrival = Arrival {
            at,
            endpoint: place,
            webhook_id: uuid_of(request.header("webhook-id")),
            attempt,
            treatment,
        };
        self.events
            .entry(number)
            .or_default()
            .arrivals
            .push(arrival);
        answer
    }

    fn treat(&self, number: u64, attempt: i32) -> (Treatment, Answer) {
        if self.source.is_refused(number) {
            return (Treatment::Refused, Answer::status(400));
        }
        let mood = match self.mood {
            Mood::Mixed(late) => {
                let mut dice =
                    Dice::of(self.source.seed ^ u64::from(attempt.unsigned_abs()), number);
                match dice.below(15) {
                    0 => Mood::Failing(500),
                    1 => Mood::Failing(503),
                    2 => Mood::Resetting,
                    3 => Mood::Closing,
                    4 => Mood::Late(late),
                    _ => Mood::Well,
                }
            }
            mood => mood,
        };
        match mood {
            Mood::Well | Mood::Mixed(_) => (Treatment::Taken, Answer::status(200)),
            Mood::Slow(time) => (Treatment::Taken, Answer::status(200).after(time)),
            Mood::Failing(status) => (Treatment::Failed, Answer::status(status)),
            Mood::Hanging => (Treatment::Failed, Answer::hang()),
            Mood::Resetting => (Treatment::Failed, Answer::reset()),
            Mood::Closing => (Treatment::Failed, Answer::close()),
            Mood::Late(late) => (Treatment::TakenLate, Answer::status(200).after(late)),
        }
    }
}

fn uuid_of(webhook_id: &str) -> Option<Uuid> {
    webhook_id.strip_prefix("evt_")?.parse().ok()
}

/// Standard Webhooks, implemented a second time: one of the signatures must be ours.
fn is_signed(request: &ReceivedRequest, secret: &str) -> bool {
    let key = secret
        .strip_prefix("whsec_")
        .and_then(|key| STANDARD.decode(key).ok());
    let Some(mut mac) = key.and_then(|key| Hmac::<Sha256>::new_from_slice(&key).ok()) else {
        return false;
    };
    for part in ["webhook-id", "webhook-timestamp"] {
        mac.update(request.header(part).as_bytes());
        mac.update(b".");
    }
    mac.update(&request.body);
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    let mut signatures = request.header("webhook-signature").split(' ');
    signatures.any(|signature| signature == expected)
}
