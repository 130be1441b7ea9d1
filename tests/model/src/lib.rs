//! The delivery protocol as a model, every state of which is visited.
//!
//! Tests with real servers try some of the ways in which things can go wrong. A model tries all of them, in a
//! small system: each step that anybody can take, in each order, with a death before and after each. What holds in every
//! state then holds by exhaustion, for that size; and what goes wrong with three requests and two rows
//! usually needs no more than that.
//!
//! # Two models
//!
//! | | From | To | Transitions | Who acts |
//! |---|---|---|---|---|
//! | [`hand_over`] | an event on its way in | a ticket | T0, T1 | writers, relay, Redis as far as the relay believes in it |
//! | [`delivery`] | an outbox row | its end | T2 to T8, release, unclaim | dispatchers, operators, clocks |
//!
//! They meet at the outbox row. The first says that each row is offered, the second that whatever is offered,
//! in whatever order and however often, comes to one end.
//!
//! # Redis
//!
//! In [`delivery`] there is none. A dispatcher may be offered any ticket at any moment: that is every Redis
//! there can be, one that loses, repeats, reorders and invents tickets included, one that was told of a
//! completion twice, too. What holds there mentions nothing that Redis holds; that is invariant 7. For
//! liveness, which does depend on Redis, every content that it may have is tried in every state.
//!
//! # What can go wrong
//!
//! Dispatchers, relay and PostgreSQL are killed at any point. PostgreSQL then forgets what was committed
//! asynchronously and is not on disk. Answers are lost; statements run again; statements go on running
//! whose client is gone. Leases end while their owner works. Clocks fall behind by as much as is allowed for.
//!
//! # That the checks can fail
//!
//! A [`mutant::Mutant`] is a protocol with one rule changed. For each one, `tests/it/mutants.rs` says which
//! invariant it breaks, and the checker tells the shortest story of how.
//!
//! # That the models say what the code says
//!
//! They do not read it. But each step names the statements and functions it stands for, with the guards they must
//! contain ([`bridge`]), and a test looks them up. A statement of the protocol that no step stands for
//! fails that test as well.
//!
//! # What is deliberately absent
//!
//! Payloads, lanes, limits, order within a key, partitions and retention. Numbers of attempts: after each failure
//! both a retry and a dead letter follow. Lengths of waits: any wait may be over at any time. Batches: a statement
//! is atomic for each row, and rows of one batch do not look at each other. Failover to a standby that
//! lacks commits (C16), which loses acknowledged events, as ARCHITECTURE.md says. Beats: any dispatcher may be taken
//! for dead at any moment, and begins nothing from then on, as its last beat is too old by its own clocks. A request that is still read
//! by its endpoint after the dispatcher's deadline for it.

pub mod bridge;
pub mod check;
pub mod delivery;
pub mod hand_over;
pub mod mutant;
