//! A child process on its own core, and its use of CPU time and memory.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The core of the load generator and the node.
pub const OTHER_CORE: &str = "0";

/// The cores of a front end: its own core, or all cores if it has several threads.
pub fn front_cores(threads: usize) -> &'static str {
    if threads == 1 { "1" } else { "0,1" }
}

pub struct Process(Child);

/// The resources that a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time, as the scheduler counts it.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
}

impl Process {
    /// Starts `program` on `core`. Its output goes to files in `folder`.
    pub fn start(core: &str, program: &str, args: &[&str], env: &[(&str, &str)], folder: &Path) -> Self {
        let name = Path::new(program).file_name().unwrap().to_string_lossy().into_owned();
        let file = |kind| fs::File::create(folder.join(format!("{name}.{kind}"))).unwrap();
        let child = Command::new("taskset")
            .args(["-c", core, program])
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .unwrap_or_else(|error| panic!("taskset {program}: {error} (Debian: util-linux)"));
        Process(child)
    }

    /// Waits until the process accepts connections at `address`.
    pub fn ready(&mut self, address: SocketAddr, folder: &Path) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline || self.0.try_wait().unwrap().is_some() {
                let logs = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
                let logs = logs.filter(|path| path.extension().is_some_and(|kind| kind == "err" || kind == "log"));
                let logs: Vec<_> = logs.map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
                panic!("nothing listens at {address}: {}", logs.join("\n"));
            }
            std::thread::yield_now();
        }
    }

    /// `taskset` replaces itself with the program, so its process id becomes the program's. The
    /// workers of nginx are its children.
    pub fn usage(&self) -> Usage {
        std::iter::once(self.0.id())
            .chain(self.children())
            .map(usage_of)
            .fold(Usage::default(), |all, one| Usage { cpu: all.cpu + one.cpu, resident: all.resident + one.resident })
    }

    fn children(&self) -> Vec<u32> {
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|id| id.parse().ok()).collect()
    }
}

fn usage_of(id: u32) -> Usage {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).unwrap().flatten();
    let nanos = tasks.filter_map(|task| {
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    Usage { cpu: Duration::from_nanos(nanos.sum()), resident: kib * 1024 }
}

impl Drop for Process {
    fn drop(&mut self) {
        let children = self.children();
        _ = self.0.kill();
        for id in children {
            _ = Command::new("kill").args(["-9", &id.to_string()]).status();
        }
        _ = self.0.wait();
    }
}

/// Returns a port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
