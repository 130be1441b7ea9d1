//! The nouns and rules of Zyven, and nothing that has an effect.
//!
//! # The cast
//!
//! A *tenant* owns everything. Its *API keys* publish *events*: facts that never change once
//! they are committed. An event goes to every *endpoint* whose *patterns* and *channels* match, and
//! each pair (event, endpoint) is a *delivery*, the only thing with a [`lifecycle`]. While a
//! delivery is unfinished it owns exactly one *outbox row*. A *ticket* in Redis points to that row
//! and is never more than a hint. A dispatcher that takes a ticket gets a *lease* on the row, makes
//! one *attempt*, and the attempt's [`retry::Outcome`] becomes a [`retry::Verdict`]: delivered, retry
//! later, or *dead letter*. A *replay* sends a dead letter back to the start as a new *generation* of
//! the same delivery. Requests are signed with an endpoint's *secrets*, and carry its [`credential`]s
//! besides. What befalls deliveries and endpoints becomes *operational events* for those endpoints that
//! ask for them ([`event::EventType::is_operational`]). A *view link* is a statement of a key: whoever shows
//! it may see, and perhaps replay, what the key may, for a while.
//!
//! # Promises
//!
//! - Everything here is a function of its arguments. Time, chance and rows are the caller's.
//! - What has been parsed here ([`event::EventType`], [`target::EndpointUrl`], …) needs no second
//!   look anywhere else.
//!
//! # Architecture invariant
//!
//! No runtime, no database, no queue, no HTTP client: this crate's dependencies compute. Rules that
//! exist in SQL as well ([`lifecycle`], [`event::Pattern`] matching, [`id::DeliveryId::derive`]) are
//! compared with their twin by tests in the store crate.

pub mod address;
pub mod api_key;
pub mod credential;
pub mod event;
pub mod filter;
pub mod handshake;
pub mod id;
pub mod lease;
pub mod lifecycle;
pub mod payload;
pub mod retry;
pub mod secret_box;
pub mod signature;
pub mod target;
pub mod view_link;
