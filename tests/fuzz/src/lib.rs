//! What must hold for every parser of untrusted bytes, whatever the bytes are.
//!
//! One function per parser. It panics if a property is broken, and returns otherwise, whether the bytes were
//! accepted or not. Two runners share these functions:
//!
//! - `make test` runs each on its seeds (`fuzz/seeds/<name>`) and on some thousand mutations of them, the same ones each time, on
//!   the stable toolchain.
//! - `make fuzz` runs each under libFuzzer, for as long as you like; that needs the nightly toolchain.
//!
//! # To add a parser
//!
//! Write its function in a module here, list it in [`TARGETS`], give it seeds, and let `fuzz/fuzz_targets/<name>.rs` and
//! `fuzz/Cargo.toml` name it. A test compares the four. An input that libFuzzer found becomes another seed.

mod addresses;
mod heads;
mod payloads;
mod urls;
mod view_links;

/// A parser and its properties.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Also the name of its folder of seeds and of its libFuzzer program.
    pub name: &'static str,
    /// Panics if a property is broken.
    pub check: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "endpoint_url",
        check: urls::endpoint_url,
    },
    Target {
        name: "authority",
        check: urls::authority,
    },
    Target {
        name: "cidr_list",
        check: addresses::cidr_list,
    },
    Target {
        name: "address",
        check: addresses::address,
    },
    Target {
        name: "connect_head",
        check: heads::connect_head,
    },
    Target {
        name: "proxy_answer",
        check: heads::proxy_answer,
    },
    Target {
        name: "payload",
        check: payloads::payload,
    },
    Target {
        name: "view_link",
        check: view_links::view_link,
    },
];

/// The target of this name.
///
/// # Panics
///
/// If there is none.
pub fn target(name: &str) -> Target {
    let found = TARGETS.into_iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("no target is named {name}"))
}
