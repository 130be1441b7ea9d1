//! What a command is given beside its arguments: files and standard input.

use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value};

use crate::failure::Failure;

/// More than the API takes in one request.
const INPUT_BYTES_MAX: u64 = 16 << 20;

/// A file's bytes; those of standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::Usage(format!("{} cannot be read: {error}", path.display()))
    };
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin()
            .take(INPUT_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(cannot)?;
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(cannot)?;
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length > INPUT_BYTES_MAX) {
        let mib = INPUT_BYTES_MAX >> 20;
        return Err(Failure::Usage(format!(
            "{} has more than {mib} MiB",
            path.display()
        )));
    }
    Ok(bytes)
}

/// The JSON object in a file.
pub(crate) fn object(path: &Path) -> Result<Map<String, Value>, Failure> {
    serde_json::from_slice(&read(path)?).map_err(|error| {
        Failure::Usage(format!("{} is not a JSON object: {error}", path.display()))
    })
}
