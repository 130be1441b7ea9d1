//! "Did you mean …?"

/// The known name nearest to an unknown one, if it is near enough to be meant.
pub(super) fn nearest<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A third of the name, without what all names share, may be wrong.
    let distance_max = unknown.len().saturating_sub(super::PREFIX.len()) / 3;
    known
        .into_iter()
        .map(|name| (distance(unknown, name), name))
        .filter(|(distance, _)| *distance <= distance_max.max(1))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's: how many characters to insert, delete or replace to turn one into the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    // From the empty prefix of `left` to every prefix of `right`.
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (left, right, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("LISTEN", "LISTEN", 0),
            ("LISTN", "LISTEN", 1),
        ] {
            assert_eq!(distance(left, right), expected);
            assert_eq!(distance(right, left), expected);
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["ZYVEN_INGEST_LISTEN", "ZYVEN_PROBE_LISTEN", "ZYVEN_LOG"];
        for (unknown, expected) in [
            ("ZYVEN_INGEST_LISTN", Some("ZYVEN_INGEST_LISTEN")),
            ("ZYVEN_PROBES_LISTEN", Some("ZYVEN_PROBE_LISTEN")),
            ("ZYVEN_LOGS", Some("ZYVEN_LOG")),
            ("ZYVEN_DATABASE", None),
            ("ZYVEN_", None),
        ] {
            assert_eq!(nearest(unknown, known), expected, "{unknown}");
        }
    }
}
