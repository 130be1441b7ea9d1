//! What the stack costs: CPU time and memory of its processes, as the kernel counts them.
//!
//! A *member* is one process with all its descendants, because PostgreSQL is a family: backends come
//! and go, and what a finished one has used is found with the postmaster that waited for it.
//!
//! Only Linux tells these things this way; elsewhere they are unknown.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How often memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);
/// Looks at a family until nobody left it meanwhile, at most this often.
const LOOKS_MAX: usize = 8;

/// One process of the stack, with its descendants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) pid: u32,
}

/// The processes that are counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Stack {
    pub(super) members: Vec<Member>,
    units: Units,
}

/// What the kernel counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Units {
    ticks_per_s: u64,
    page_bytes: u64,
}

impl Default for Units {
    /// What nearly every Linux uses.
    fn default() -> Self {
        Self {
            ticks_per_s: 100,
            page_bytes: 4_096,
        }
    }
}

/// CPU time used since each member was started, in ticks; `None`: it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    ticks: Vec<Option<u64>>,
    ticks_per_s: u64,
}

/// The part of `/proc/PID/stat` that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own_ticks: u64,
    /// Of descendants that have ended and were waited for.
    waited_ticks: u64,
    started_ticks: u64,
}

impl Stack {
    /// The processes that the local stack's scripts have noted in their folder, and those named
    /// explicitly. What does not run is left out.
    pub(super) fn find(folder: &Path, named: &[Member]) -> Self {
        let mut members: BTreeMap<String, u32> = noted(folder)
            .into_iter()
            .filter(|(_, pid)| stat(*pid).is_some())
            .collect();
        members.extend(named.iter().map(|member| (member.name.clone(), member.pid)));
        Self {
            members: members
                .into_iter()
                .map(|(name, pid)| Member { name, pid })
                .collect(),
            units: units(),
        }
    }

    /// The process that runs this.
    pub(super) fn this_process() -> Self {
        let member = Member {
            name: "bench".to_owned(),
            pid: std::process::id(),
        };
        Self {
            members: vec![member],
            units: units(),
        }
    }

    /// CPU time up to now.
    pub(super) fn sample(&self) -> Sample {
        Sample {
            ticks: self
                .members
                .iter()
                .map(|member| family_ticks(member.pid))
                .collect(),
            ticks_per_s: self.units.ticks_per_s,
        }
    }

    /// Resident memory of each member, in bytes. What a family shares is counted once.
    pub(super) fn memory_bytes(&self) -> Vec<u64> {
        self.members
            .iter()
            .map(|member| {
                let statm = |pid| fs::read_to_string(format!("/proc/{pid}/statm")).ok();
                let family = family(member.pid);
                let pages = family.iter().filter_map(|pid| parse_statm(&statm(*pid)?));
                family_pages(pages) * self.units.page_bytes
            })
            .collect()
    }
}

impl Sample {
    /// CPU seconds of each member since an earlier sample; `None` for members that have ended.
    pub(super) fn since(&self, earlier: &Self) -> Vec<Option<f64>> {
        self.ticks
            .iter()
            .zip(&earlier.ticks)
            .map(|(now, before)| {
                let ticks = (*now)?.saturating_sub((*before)?);
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ticks")]
                let seconds = ticks as f64 / self.ticks_per_s as f64;
                Some(seconds)
            })
            .collect()
    }

    /// The same of all members together; `None` if there are none, or one has ended: a sum without
    /// it would flatter.
    pub(super) fn total_since(&self, earlier: &Self) -> Option<f64> {
        let parts = self.since(earlier);
        if parts.is_empty() {
            return None;
        }
        parts.into_iter().sum()
    }
}

/// CPU time that everything on this machine has used since it was started, in seconds.
pub(super) fn machine_cpu_s() -> Option<f64> {
    let busy = parse_busy(&fs::read_to_string("/proc/stat").ok()?)?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ticks")]
    let seconds = busy as f64 / units().ticks_per_s as f64;
    Some(seconds)
}

/// Looks at memory once a second, on a thread of its own, until it is stopped or dropped.
pub(super) struct MemoryWatch {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Vec<u64>>,
}

impl MemoryWatch {
    pub(super) fn start(stack: Stack) -> Self {
        let (stop, stopped) = mpsc::channel();
        // Ends when `stop` speaks or is dropped.
        let thread = std::thread::spawn(move || {
            let mut peaks = stack.memory_bytes();
            while stopped.recv_timeout(MEMORY_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                for (peak, now) in peaks.iter_mut().zip(stack.memory_bytes()) {
                    *peak = now.max(*peak);
                }
            }
            peaks
        });
        Self { stop, thread }
    }

    /// The most that each member had at once, in bytes.
    pub(super) fn stop(self) -> Vec<u64> {
        // Without a receiver the thread is at its end anyway.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_default()
    }
}

/// What the scripts of the local stack note: `run/NAME.pid` with process id and start time for each
/// service, and where the servers keep their own notes.
fn noted(folder: &Path) -> Vec<(String, u32)> {
    let mut noted = Vec::new();
    for entry in fs::read_dir(folder.join("run"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        let (Some(name), true) = (name, path.extension().is_some_and(|kind| kind == "pid")) else {
            continue;
        };
        // The receiver for trying Zyven out is no part of the stack.
        if name == "echo" {
            continue;
        }
        if let Some(pid) = fs::read_to_string(&path)
            .ok()
            .and_then(|note| still_running(&note))
        {
            noted.push((name.to_owned(), pid));
        }
    }
    for (name, place) in [("postgres", "data/postmaster.pid"), ("redis", "pid")] {
        let home = fs::read_to_string(folder.join(format!("{name}-folder")));
        let note = home.and_then(|home| fs::read_to_string(PathBuf::from(home.trim()).join(place)));
        if let Some(pid) = note.ok().and_then(|note| first_number(&note)) {
            noted.push((name.to_owned(), pid));
        }
    }
    noted
}

/// The process of a note "PID START …", unless that id belongs to a later process by now.
fn still_running(note: &str) -> Option<u32> {
    let pid = first_number(note)?;
    let noted_start = note.split_whitespace().nth(1);
    let start = stat(pid)?.started_ticks.to_string();
    (noted_start.is_none_or(|noted| noted == start)).then_some(pid)
}

fn first_number(text: &str) -> Option<u32> {
    text.split_whitespace().next()?.parse().ok()
}

/// CPU time of a process and all its descendants, dead or alive.
///
/// A descendant that ends between two looks has moved its time to its parent, and would be counted
/// twice or not at all; so the look is repeated until the waited-for times stood still.
fn family_ticks(pid: u32) -> Option<u64> {
    let mut total = 0;
    for _ in 0..LOOKS_MAX {
        let before = stat(pid)?;
        let family = family(pid);
        total = family
            .iter()
            .filter_map(|pid| stat(*pid))
            .map(|stat| stat.own_ticks + stat.waited_ticks)
            .sum();
        if stat(pid)?.waited_ticks == before.waited_ticks {
            break;
        }
    }
    Some(total)
}

/// A process and its living descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(pid) = family.get(next).copied() {
        family.extend(children(pid));
        next += 1;
    }
    family
}

fn children(pid: u32) -> Vec<u32> {
    // Children belong to the thread that made them.
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        match fs::read_to_string(task.path().join("children")) {
            Ok(children) => found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            ),
            // Not every kernel is built with that file.
            Err(_) => return children_by_search(pid),
        }
    }
    found
}

fn children_by_search(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent))
        .collect()
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// See proc(5): the name, field 2, may contain anything, so fields are counted from its end.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // `number` as in proc(5); the first one here is field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(field(4)?).ok()?,
        own_ticks: field(14)? + field(15)?,
        waited_ticks: field(16)? + field(17)?,
        started_ticks: field(22)?,
    })
}

/// The first line, see proc(5): user, nice, system, idle, waiting for a disk, interrupts, and further
/// ones that are busy in all but name. Guests are part of user and nice already.
fn parse_busy(text: &str) -> Option<u64> {
    const COUNTED: usize = 8;
    const IDLE: std::ops::RangeInclusive<usize> = 3..=4;
    let ticks = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let ticks = ticks.take(COUNTED).enumerate();
    ticks
        .filter(|(field, _)| !IDLE.contains(field))
        .map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum()
}

/// Pages that are resident, and how many of these are shared.
fn parse_statm(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_whitespace().skip(1).map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

/// Private pages of all, and the largest shared part once: an estimate, because nobody tells cheaply
/// who shares what with whom.
fn family_pages(pages: impl Iterator<Item = (u64, u64)>) -> u64 {
    let (private, shared) = pages.fold((0, 0), |(private, shared), (resident, its_shared)| {
        (
            private + resident.saturating_sub(its_shared),
            its_shared.max(shared),
        )
    });
    private + shared
}

/// The kernel tells every process its units in the auxiliary vector.
fn units() -> Units {
    fs::read("/proc/self/auxv").map_or_else(|_| Units::default(), |vector| parse_auxv(&vector))
}

/// Pairs of native words, see getauxval(3).
fn parse_auxv(vector: &[u8]) -> Units {
    const AT_PAGESZ: usize = 6;
    const AT_CLKTCK: usize = 17;
    const WORD: usize = size_of::<usize>();
    let mut units = Units::default();
    for pair in vector.chunks_exact(2 * WORD) {
        let (key, value) = pair.split_at(WORD);
        let word = |bytes: &[u8]| {
            bytes
                .try_into()
                .map(usize::from_ne_bytes)
                .unwrap_or_default()
        };
        match (word(key), word(value) as u64) {
            (AT_PAGESZ, page_bytes @ 1..) => units.page_bytes = page_bytes,
            (AT_CLKTCK, ticks_per_s @ 1..) => units.ticks_per_s = ticks_per_s,
            _ => {}
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "4242 (a b) c)) S 17 4242 4242 0 -1 4194560 907 1 0 0 \
        120 30 400 50 20 0 1 0 987654 226000896 1234 18446744073709551615";

    #[test]
    fn a_process_may_be_called_anything() {
        let expected = Stat {
            parent: 17,
            own_ticks: 150,
            waited_ticks: 450,
            started_ticks: 987_654,
        };
        assert_eq!(parse_stat(LINE), Some(expected));
        assert_eq!(parse_stat("4242 (short) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    fn sample(ticks: &[Option<u64>]) -> Sample {
        Sample {
            ticks: ticks.to_vec(),
            ticks_per_s: 100,
        }
    }

    #[test]
    fn seconds_are_differences_of_ticks() {
        let (before, after) = (sample(&[Some(100), Some(5)]), sample(&[Some(350), Some(5)]));
        assert_eq!(after.since(&before), [Some(2.5), Some(0.0)]);
        assert_eq!(after.total_since(&before), Some(2.5));
    }

    #[test]
    fn a_member_that_has_ended_makes_the_sum_unknown() {
        let (before, after) = (sample(&[Some(100), Some(5)]), sample(&[Some(350), None]));
        assert_eq!(after.since(&before), [Some(2.5), None]);
        assert_eq!(after.total_since(&before), None);
        assert_eq!(sample(&[]).total_since(&sample(&[])), None);
    }

    #[test]
    fn a_machine_is_busy_when_it_is_not_idle_or_waiting() {
        let text = "cpu  10 20 30 9000 500 4 5 6 7 7\ncpu0 1 2 3\n";
        assert_eq!(parse_busy(text), Some(10 + 20 + 30 + 4 + 5 + 6));
        assert_eq!(parse_busy("intr 1\n"), None);
    }

    #[test]
    fn shared_memory_counts_once() {
        assert_eq!(parse_statm("9000 300 200 1 0 2 0\n"), Some((300, 200)));
        assert_eq!(
            family_pages([(300, 200), (250, 220), (10, 10)].into_iter()),
            100 + 30 + 220
        );
        assert_eq!(family_pages(std::iter::empty()), 0);
    }

    #[test]
    fn units_come_from_the_auxiliary_vector() {
        let words: [usize; 8] = [6, 16_384, 99, 1, 17, 250, 0, 0];
        let vector: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(
            parse_auxv(&vector),
            Units {
                ticks_per_s: 250,
                page_bytes: 16_384
            }
        );
        assert_eq!(parse_auxv(&[]), Units::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn descendants_are_counted_while_they_live_and_after() {
        let mut child = std::process::Command::new("sh")
            .args([
                "-c",
                "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo; read -r _",
            ])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("sh");
        let stack = Stack::this_process();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().expect("piped"));
        std::io::BufRead::read_line(&mut output, &mut line).expect("the child is done counting");
        let childs_own = stat(child.id()).expect("it waits for input").own_ticks;
        assert!(childs_own > 0);
        let living = family_ticks(stack.members[0].pid).expect("this process");
        assert!(living >= childs_own);
        drop(child.stdin.take());
        child.wait().expect("it ends");
        let ended = family_ticks(stack.members[0].pid).expect("this process");
        assert!(ended >= living, "{ended} < {living}");
    }

    #[test]
    fn a_note_about_an_earlier_process_of_the_same_id_is_not_believed() {
        let this = std::process::id();
        let Some(stat) = stat(this) else {
            return; // not Linux
        };
        assert_eq!(
            still_running(&format!("{this} {} x\n", stat.started_ticks)),
            Some(this)
        );
        assert_eq!(
            still_running(&format!("{this} {} x\n", stat.started_ticks + 1)),
            None
        );
        assert_eq!(still_running(&format!("{this}\n")), Some(this));
        assert_eq!(still_running("\n"), None);
    }
}
