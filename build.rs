//! Keeps the section that cargo-pgrx reads the SQL entities from.
//!
//! cargo-pgrx would say this to every crate through RUSTFLAGS, and so compile all of them a second time beside
//! `cargo test` and `cargo clippy`; CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND (in the Makefile) stops it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,--no-gc-sections");
    }
}
