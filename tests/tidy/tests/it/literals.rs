//! What stays in one place: SQL in the store, Redis keys in the queue, the environment in the runtime.

use std::path::PathBuf;

use crate::tree::{files, read, shown};

/// Rust sources outside of tests, without their unit tests.
fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    ["shared", "services"]
        .iter()
        .flat_map(|folder| files(folder, "rs"))
        .filter(|path| path.components().any(|part| part.as_os_str() == "src"))
        .map(|path| {
            let text = read(&path);
            let end = text.find("#[cfg(test)]").unwrap_or(text.len());
            let text = text[..end].to_owned();
            (path, text)
        })
}

/// String literals of a source, roughly: what stands between quotation marks, comments left out.
fn literals(source: &str) -> Vec<String> {
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut literals = Vec::new();
    let mut current: Option<String> = None;
    let mut characters = code.chars().peekable();
    while let Some(character) = characters.next() {
        match (&mut current, character) {
            (None, '\'') => {
                // A character literal may be a quotation mark; a lifetime has no end.
                let mut ahead = characters.clone();
                let first = ahead.next();
                let skip = match (first, ahead.next(), ahead.next()) {
                    (Some('\\'), _, Some('\'')) => 3,
                    (Some(_), Some('\''), _) => 2,
                    _ => 0,
                };
                for _ in 0..skip {
                    characters.next();
                }
            }
            (None, '"') => current = Some(String::new()),
            (Some(_), '"') => literals.extend(current.take()),
            (Some(text), '\\') => {
                text.push(character);
                text.extend(characters.next());
            }
            (Some(text), other) => text.push(other),
            (None, _) => {}
        }
    }
    literals
}

#[test]
fn sql_is_in_the_store_only() {
    const STATEMENTS: [&str; 7] = [
        "SELECT ",
        "INSERT INTO ",
        "UPDATE ",
        "DELETE FROM ",
        "CREATE TABLE ",
        "ALTER ROLE ",
        "TRUNCATE ",
    ];
    for (path, source) in sources() {
        let path = shown(&path);
        // The testkit makes databases, which is SQL by nature.
        if path.starts_with("shared/store/") || path.starts_with("shared/testkit/") {
            continue;
        }
        for literal in literals(&source) {
            let found = STATEMENTS
                .iter()
                .find(|s| literal.trim_start().starts_with(**s));
            assert!(found.is_none(), "{path} contains SQL: {literal:.60}");
        }
    }
}

#[test]
fn redis_keys_are_in_the_queue_only() {
    const KEYS: [&str; 6] = ["{z", ":lane:", ":leased", ":ring", ":epoch", ":bell"];
    const COMMANDS: [&str; 6] = ["ZADD", "ZREM", "BLPOP", "RPUSH", "EVALSHA", "HINCRBY"];
    for (path, source) in sources() {
        let path = shown(&path);
        if path.starts_with("shared/queue/") {
            continue;
        }
        for literal in literals(&source) {
            let found = KEYS.iter().chain(&COMMANDS).find(|key| {
                literal.starts_with("{z") && literal.contains("}:")
                    || COMMANDS.contains(key) && literal == **key
                    || key.starts_with(':') && literal.ends_with(**key)
            });
            assert!(
                found.is_none(),
                "{path} names a Redis key or command: {literal}"
            );
        }
    }
}

#[test]
fn the_environment_is_read_in_the_runtime_only() {
    for (path, source) in sources() {
        let path = shown(&path);
        // The testkit is told by scripts/test-services.sh where the servers are.
        if path.starts_with("shared/runtime/") || path.starts_with("shared/testkit/") {
            continue;
        }
        for call in ["env::var(", "env::var_os(", "env::vars"] {
            assert!(!source.contains(call), "{path} reads the environment");
        }
    }
}

#[test]
fn sources_do_not_grow_beyond_what_a_reader_holds_in_mind() {
    const LINES_MAX: usize = 600;
    for (path, source) in sources() {
        let lines = source.lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines; cut it at a natural joint",
            shown(&path)
        );
    }
}

#[test]
fn literals_are_found() {
    let source = "let a = \"SELECT 1\"; let b = '\"'; // \"no\"\nlet c = \"x\\\"y\";";
    assert_eq!(literals(source), ["SELECT 1", "no", "x\\\"y"]);
}
