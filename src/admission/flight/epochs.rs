use crate::sync::{AtomicU64, Ordering};

/// The number of slots for projects, selected by a hash of their names. Projects in one slot share
/// an epoch, which only means that they share fewer results.
const SLOTS: usize = 64;

/// Counts the writes that have ended. A query that arrives after a write must not get a result from
/// before it.
///
/// A write in SQL affects its project. Other writes affect all projects, because Kylin's paths
/// seldom name the project. A write counts before its client gets the response. Until then no
/// client knows of it, so a query may get an older result.
#[derive(Debug)]
pub(crate) struct Epochs {
    all: AtomicU64,
    projects: [AtomicU64; SLOTS],
}

/// A group of projects that share an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProjectSlot(u8);

impl ProjectSlot {
    /// Returns the slot of a project. Kylin ignores the case of its name.
    pub(crate) fn of(project: &str) -> Self {
        // Only the nodes know the case of non-ASCII letters, so all names that contain any share a
        // slot.
        if !project.is_ascii() {
            return ProjectSlot(0);
        }
        let hash = project
            .bytes()
            .fold(0_u32, |hash, byte| (hash ^ u32::from(byte.to_ascii_uppercase())).wrapping_mul(0x0100_0193));
        ProjectSlot(mix(hash) as u8 % SLOTS as u8)
    }
}

/// Makes each bit of the hash depend on each bit of the last character (the finalizer of
/// MurmurHash3).
fn mix(mut hash: u32) -> u32 {
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

impl Epochs {
    pub(super) fn new() -> Self {
        Epochs { all: AtomicU64::new(0), projects: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Returns the epoch of a project. It differs from an earlier one if a write has ended since.
    pub(crate) fn current(&self, project: ProjectSlot) -> u64 {
        // Neither count decreases, so the sum is unchanged only if both are.
        self.all.load(Ordering::SeqCst).wrapping_add(self.slot(project).load(Ordering::SeqCst))
    }

    /// Counts a write to one project, or to all.
    pub(crate) fn raise(&self, project: Option<ProjectSlot>) {
        project.map_or(&self.all, |project| self.slot(project)).fetch_add(1, Ordering::SeqCst);
    }

    fn slot(&self, ProjectSlot(slot): ProjectSlot) -> &AtomicU64 {
        &self.projects[usize::from(slot) % SLOTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that differ in a digit, as those of projects often do.
    #[test]
    fn similar_names_are_in_different_slots() {
        let slots = |names: Vec<String>| {
            let slots = names.iter().map(|name| ProjectSlot::of(name).0);
            slots.collect::<std::collections::HashSet<u8>>().len()
        };
        for (one, other) in [("sales_2024", "sales_2025"), ("p1", "p2"), ("p2", "p3"), ("p1", "p3"), ("a", "b")] {
            assert_ne!(ProjectSlot::of(one), ProjectSlot::of(other), "{one} {other}");
        }
        // 64 names in random slots have 40.6 of them on average.
        for prefix in ["p", "sales_", "project-", "x"] {
            for suffix in ["", "_test"] {
                let count = slots((0..64).map(|n| format!("{prefix}{n}{suffix}")).collect());
                assert!(count >= 32, "{prefix}{suffix}: {count}");
            }
        }
        assert_eq!(ProjectSlot::of("sales_2024"), ProjectSlot::of("SALES_2024"));
    }

    #[test]
    fn a_write_raises_the_epoch_of_its_project_or_of_all() {
        let epochs = Epochs::new();
        let [p, q] = ["learn_kylin", "other"].map(ProjectSlot::of);
        assert_eq!(p, ProjectSlot::of("LEARN_kylin"));
        assert_ne!(p, q);
        let before = [p, q].map(|project| epochs.current(project));
        epochs.raise(Some(p));
        let between = [p, q].map(|project| epochs.current(project));
        assert!(between[0] > before[0] && between[1] == before[1]);
        epochs.raise(None);
        assert!(epochs.current(p) > between[0] && epochs.current(q) > between[1]);
    }
}
