//! The resources of a process, as the kernel counts them.

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The current value (`VmRSS`).
    pub(crate) resident: u64,
    /// The maximum so far (`VmHWM`).
    pub(crate) peak: u64,
}

impl Memory {
    /// The memory of the process with this id.
    ///
    /// All tests of the binary share one process. So a test with a bound on memory runs the
    /// measured code in its own process.
    ///
    /// # Panics
    /// Panics if there is no such process.
    pub(crate) fn of(pid: u32) -> Self {
        let path = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            kib.unwrap_or_else(|| panic!("{path} has no {key}")) * 1024
        };
        Self { resident: bytes("VmRSS"), peak: bytes("VmHWM") }
    }

    /// The memory of this process.
    #[allow(dead_code, reason = "for tests/memory.rs")]
    pub(crate) fn of_this_process() -> Self {
        Self::of(std::process::id())
    }
}
