//! Lists the files of `sql/migrations`, so that adding a migration is adding a file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    // Asked when it runs: the script may have been built in another checkout.
    let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo");
    let folder = Path::new(&crate_folder).join("../../sql/migrations");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("sql/migrations is part of the checkout")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    let mut list = String::from("&[\n");
    for path in files {
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a migration's name is ASCII");
        let path = path.display();
        writeln!(
            list,
            "    ({name:?}, include_str!({:?})),",
            path.to_string()
        )
        .expect("writing to a string");
    }
    list.push(']');
    let target = Path::new(&std::env::var("OUT_DIR").expect("set by cargo")).join("migrations.rs");
    std::fs::write(target, list).expect("OUT_DIR is writable");
}
