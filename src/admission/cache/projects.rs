//! The projects whose builds are followed.

use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;

use crate::admission::flight::ProjectSlot;
use crate::clock::as_millis;

/// The maximum number of projects. Further projects are not cached, because a node is asked about
/// each one.
const MAX_PROJECTS: usize = 64;

/// How long a project is followed after its last query.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a node's list of jobs is valid: the interval, plus some seconds for the next response.
pub(super) const MAX_CHECK_AGE: Duration = Duration::from_secs(15);

/// How long nothing is stored after data has changed. Nodes learn of each other's changes seconds
/// later, and return old results until then.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// A project. Queries and checks change its state. Times are in milliseconds on the clock of the
/// cache.
pub(crate) struct Project {
    pub(super) name: Box<str>,
    pub(super) slot: ProjectSlot,
    state: Mutex<ProjectState>,
}

#[derive(Default)]
struct ProjectState {
    /// The last job in the last check; `None` before the first check.
    last_change: Option<String>,
    /// The time at which the last successful check began.
    checked: Option<u64>,
    used: u64,
    /// The epoch that the last query or check has seen.
    epoch: u64,
    settled_at: u64,
}

/// How a query may use the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    /// Whether it may get an entry, because builds are followed.
    pub(super) get: bool,
    /// Whether its result may be stored.
    pub(super) store: bool,
}

impl Project {
    fn new(name: &str, epoch: u64, now: u64) -> Self {
        let settled_at = if epoch == 0 { now } else { now + as_millis(SETTLE_TIME) };
        let state = ProjectState { used: now, epoch, settled_at, ..ProjectState::default() };
        Project { name: name.into(), slot: ProjectSlot::of(name), state: Mutex::new(state) }
    }

    /// Returns how a query that arrives in this epoch may use the cache.
    pub(super) fn allows(&self, epoch: u64, now: u64) -> Allowed {
        let mut state = self.state.lock();
        state.used = now;
        state.see(epoch, now);
        let is_followed = state.checked.is_some_and(|checked| now - checked.min(now) <= as_millis(MAX_CHECK_AGE));
        Allowed { get: is_followed, store: is_followed && now >= state.settled_at }
    }

    /// Records the result of a check that began at `began`. Returns whether the project has changed
    /// since the last check.
    pub(super) fn check(&self, last_change: String, began: u64) -> bool {
        let mut state = self.state.lock();
        state.checked = state.checked.max(Some(began));
        let before = state.last_change.replace(last_change);
        before.is_some() && before != state.last_change
    }

    /// Sets the initial epoch.
    pub(super) fn begin_at(&self, epoch: u64) {
        self.state.lock().epoch = epoch;
    }

    /// Records the current epoch. If it has changed, nothing is stored for a while.
    pub(super) fn see(&self, epoch: u64, now: u64) {
        self.state.lock().see(epoch, now);
    }

    fn is_unused(&self, now: u64) -> bool {
        self.state.lock().used + as_millis(UNUSED_TIMEOUT) < now
    }
}

impl ProjectState {
    fn see(&mut self, epoch: u64, now: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.settled_at = now + as_millis(SETTLE_TIME);
        }
    }
}

/// The projects by name, in upper case, because Kylin ignores case.
#[derive(Default)]
pub(super) struct Projects(Mutex<AHashMap<Box<str>, Arc<Project>>>);

impl Projects {
    pub(super) fn get(&self, name: &str) -> Option<Arc<Project>> {
        self.0.lock().get(name.to_ascii_uppercase().as_str()).cloned()
    }

    /// Begins to follow a project. Returns `None` if it is already followed, or too many are.
    pub(super) fn follow(&self, name: &str, epoch: u64, now: u64) -> Option<Arc<Project>> {
        let mut projects = self.0.lock();
        let key = name.to_ascii_uppercase();
        if projects.contains_key(key.as_str()) || projects.len() >= MAX_PROJECTS {
            return None;
        }
        let project = Arc::new(Project::new(name, epoch, now));
        projects.insert(key.into(), Arc::clone(&project));
        Some(project)
    }

    /// Removes unused projects, and returns the others.
    pub(super) fn in_use(&self, now: u64) -> Vec<Arc<Project>> {
        let mut projects = self.0.lock();
        projects.retain(|_, project| !project.is_unused(now));
        projects.values().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Allowed = Allowed { get: true, store: true };
    const NOTHING: Allowed = Allowed { get: false, store: false };

    #[test]
    fn a_project_is_cached_while_its_builds_are_followed_and_not_right_after_a_change() {
        let project = Project::new("p", 0, 0);
        assert_eq!(project.allows(0, 0), NOTHING);
        assert!(!project.check("a".into(), 1_000), "the first check shows no change");
        assert_eq!(project.allows(0, 1_000), ALL);
        assert_eq!(project.allows(0, 16_000), ALL);
        assert_eq!(project.allows(0, 16_001), NOTHING);
        assert!(!project.check("a".into(), 20_000) && project.check("b".into(), 30_000));
        assert_eq!(project.allows(1, 30_000), Allowed { get: true, store: false });
        assert_eq!(project.allows(1, 39_999), Allowed { get: true, store: false });
        assert_eq!(project.allows(1, 40_000), ALL);
        assert_eq!(Project::new("p", 7, 0).allows(7, 9_999), NOTHING);
    }

    #[test]
    fn there_are_few_projects_and_unused_ones_leave() {
        let projects = Projects::default();
        for number in 0..MAX_PROJECTS {
            assert!(projects.follow(&number.to_string(), 0, 0).is_some());
        }
        assert!(projects.follow("0", 0, 0).is_none() && projects.follow("more", 0, 0).is_none());
        projects.get("7").unwrap().allows(0, 100_000);
        assert_eq!(projects.in_use(120_000).len(), MAX_PROJECTS);
        assert_eq!(projects.in_use(120_001).len(), 1);
        assert!(projects.follow("more", 0, 0).is_some() && projects.get("0").is_none());
    }
    #[test]
    fn the_case_of_a_project_makes_no_difference() {
        let projects = Projects::default();
        projects.follow("Learn_Kylin", 0, 0);
        assert!(projects.follow("learn_kylin", 0, 0).is_none());
        for name in ["LEARN_KYLIN", "learn_kylin", "Learn_Kylin"] {
            assert_eq!(&*projects.get(name).unwrap().name, "Learn_Kylin");
        }
    }
}
