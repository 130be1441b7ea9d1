//! An operation as a command to try it with.

use serde_json::Value;

use super::{pretty, text, ways_to_write};

/// Longest body that stays on one line, in bytes.
const LINE_BYTES_MAX: usize = 48;

/// The command, with what the operation's parameters have as examples.
pub(super) fn command(method: &str, path: &str, operation: &Value) -> String {
    let parameters = || operation["parameters"].as_array().into_iter().flatten();
    let example = |parameter: &Value| {
        parameter["schema"]["examples"][0]
            .as_str()
            .map(str::to_owned)
    };
    let path = parameters()
        .filter(|parameter| parameter["in"] == "path")
        .filter_map(|parameter| Some((text(&parameter["name"]), example(parameter)?)))
        .fold(path.to_owned(), |path, (name, id)| {
            path.replace(&format!("{{{name}}}"), &id)
        });
    let mut words = vec![format!("curl \"$ZYVEN_API_URL{path}\"")];
    let body = ways_to_write(&operation["requestBody"]).next();
    if method != "GET" && !(method == "POST" && body.is_some()) {
        words.push(format!("-X {method}"));
    }
    words.push("-H \"Authorization: Bearer $ZYVEN_API_KEY\"".to_owned());
    let headers = parameters().filter(|parameter| parameter["in"] == "header");
    for (name, value) in
        headers.filter_map(|header| Some((text(&header["name"]), example(header)?)))
    {
        words.push(format!("-H {}", quoted(&format!("{name}: {value}"))));
    }
    if let Some((media_type, content)) = body {
        words.push(format!(
            "-H {}",
            quoted(&format!("Content-Type: {media_type}"))
        ));
        words.push(format!("-d {}", quoted(&written(&content["example"]))));
    }
    words.join(" \\\n  ")
}

fn written(body: &Value) -> String {
    let line = body.to_string();
    if line.len() <= LINE_BYTES_MAX {
        line
    } else {
        pretty(body)
    }
}

/// As one word of a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_has_what_the_operation_takes() {
        let operation = json!({
            "parameters": [
                { "in": "path", "name": "id", "schema": { "examples": ["ep_1"] } },
                { "in": "query", "name": "limit", "schema": { "examples": [1] } },
                { "in": "header", "name": "A", "schema": { "examples": ["b"] } },
                { "in": "header", "name": "without", "schema": {} },
            ],
            "requestBody": { "content": { "application/json": { "example": { "reason": "it's" } } } },
        });
        assert_eq!(
            command("PATCH", "/v1/x/{id}", &operation),
            "curl \"$ZYVEN_API_URL/v1/x/ep_1\" \\\n  -X PATCH \\\n  -H \"Authorization: Bearer $ZYVEN_API_KEY\" \\\n  \
             -H 'A: b' \\\n  -H 'Content-Type: application/json' \\\n  -d '{\"reason\":\"it'\\''s\"}'"
        );
        let deletion = command("DELETE", "/v1/x", &json!({}));
        assert!(deletion.contains("-X DELETE"), "{deletion}");
        let reading = command("GET", "/v1/x", &json!({}));
        assert!(!reading.contains("-X"), "{reading}");
    }
}
