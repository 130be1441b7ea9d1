//! Metrics of one name, told apart by labels.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Most combinations of label values in one family. What comes after is counted under [`OTHER`]: a scrape
/// stays small even if somebody labels by what customers send.
pub const SERIES_MAX: usize = 256;

/// The label values of everything beyond [`SERIES_MAX`].
const OTHER: &str = "other";

/// Metrics of one name, told apart by the values of `LABELS` labels. Clones share them.
#[derive(Clone)]
pub struct Family<M, const LABELS: usize>(Arc<Series<M>>);

impl<M: Clone, const LABELS: usize> Family<M, LABELS> {
    pub(super) fn of(series: Arc<Series<M>>) -> Self {
        Self(series)
    }

    /// The metric with these label values, in the order of the label names.
    pub fn with(&self, values: [&str; LABELS]) -> M {
        if let Some(metric) = self.0.find(&values) {
            return metric;
        }
        self.0.add(&values)
    }
}

impl<M, const LABELS: usize> fmt::Debug for Family<M, LABELS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").finish_non_exhaustive()
    }
}

/// The metrics of a family. A list, because searching a few dozen short texts is as quick as hashing them,
/// and needs no copy of the key.
pub(super) struct Series<M> {
    /// One more, at zero.
    make: Box<dyn Fn() -> M + Send + Sync>,
    list: RwLock<Vec<(Vec<Box<str>>, M)>>,
}

impl<M: Clone> Series<M> {
    pub(super) fn new(make: impl Fn() -> M + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            list: RwLock::default(),
        }
    }

    fn find(&self, values: &[&str]) -> Option<M> {
        find(
            &self.list.read().unwrap_or_else(PoisonError::into_inner),
            values,
        )
    }

    fn add(&self, values: &[&str]) -> M {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let others = vec![OTHER; values.len()];
        let values = if list.len() < SERIES_MAX {
            values
        } else {
            &others
        };
        // Somebody else may have been quicker.
        if let Some(metric) = find(&list, values) {
            return metric;
        }
        let metric = (self.make)();
        let key = values.iter().map(|value| Box::from(*value)).collect();
        list.push((key, metric.clone()));
        metric
    }

    /// All of them, by label values.
    pub(super) fn sorted(&self) -> Vec<(Vec<Box<str>>, M)> {
        let mut list = self
            .list
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        list.sort_by(|(left, _), (right, _)| left.cmp(right));
        list
    }
}

fn find<M: Clone>(list: &[(Vec<Box<str>>, M)], values: &[&str]) -> Option<M> {
    let same = |key: &[Box<str>]| key.iter().map(|value| &**value).eq(values.iter().copied());
    list.iter()
        .find(|(key, _)| same(key))
        .map(|(_, metric)| metric.clone())
}
