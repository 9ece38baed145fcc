//! The only folder with `unsafe`: small safe wrappers over what pgrx leaves raw.
//!
//! Each wrapper names the Postgres source file whose rules it follows.
#![allow(unsafe_code)]

pub mod activity;
pub mod asked;
pub mod called;
pub mod catalog;
pub mod copy;
pub mod enums;
pub mod extension;
pub mod guc;
pub mod hooks;
pub mod identity;
pub mod import;
pub mod insert;
pub mod json;
pub mod jsonb;
pub mod latch;
pub mod later;
pub mod limit;
pub mod lock;
pub mod parcel;
pub mod password;
#[cfg(test)]
pub mod poll;
pub mod portal;
pub mod reason;
pub mod recorder;
pub mod rewrite;
pub mod rows;
pub mod secret;
pub mod select;
pub mod session;
pub mod shmem;
pub mod signals;
pub mod spi;
pub mod sql;
pub mod storage;
pub mod stored;
pub mod subxact;
pub mod trojan;
pub mod utility;
mod walkers;
pub mod watch;
pub mod worker;
